"""Exporting a real identification, probe and gallery, as a user does, and reading them again."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import fsspec
import pandas as pd
import pytest

from exreid.cli import main
from exreid.data.imports.read import import_source
from exreid.data.synthetic import METADATA_FILE, write_dataset
from exreid.openset import quality
from exreid.report.review_sources import read_review
from exreid.storage.files import temporary_beside

SMALL = [
    *("dataset.image_size=96", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.open_set.enabled=true"),
    *("benchmark.open_set.queries=16", "dataset.split_col=split-time_open"),
    *("benchmark.open_set.false_match_rate=0.3", "benchmark.method=local_lightglue"),
    *("benchmark.candidate_k=4", "benchmark.local_top_k=48", "benchmark.local_size=160"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set with two animals in each photograph, its gallery, an identification and a probe
    of its test photographs; the identification has one photograph of the gallery's too."""
    folder = tmp_path_factory.mktemp("export")
    data = folder / "data"
    write_dataset(data, identities=6, images_per_identity=4, seed=5, animals_per_photo=2,
                  image_wh_px=(192, 144))  # fmt: skip
    keys = [f"dataset.root={data}", f"output.root={folder}", *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        # A gallery of eight animals at 96 pixels is poor: here it decides all the same.
        patch.setitem(quality.FLOORS, "usable", quality.Floor(0.0, 0.0, 0.0))
        gallery = str(folder / "known.gallery")
        assert main(["gallery", "build", "--out", gallery, "--split", "train", *keys]) == 0
        table = pd.read_csv(data / METADATA_FILE, dtype=str)
        test = sorted(set(table[table["split-time_open"] == "test"]["path"]))
        test.append(table[table["split-time_open"] == "train"]["path"].iloc[0])  # is known already
        asked = [str(data / path) for path in test]
        where = ["--metadata", str(data / METADATA_FILE), f"output.root={folder}"]
        ask = ["identify", *asked, "--gallery", gallery, *where, "ray.num_actors=0"]
        assert main([*ask, "output.run_id=card"]) == 0
        assert main(["probe", *keys, "benchmark.method=cosine", "output.run_id=probe"]) == 0
    return folder


@pytest.fixture(scope="module")
def said(world):
    """What the identification told, by image: its animal's name, the new one's, or None."""
    rows = pd.read_csv(world / "identifications" / "card" / "identifications.csv", dtype=str)
    assert {"known", "new", "unsure"} == set(rows["decision"].dropna())  # all are seen here
    there = rows["status"] == "in gallery"
    assert there.sum() == 2
    names = {}
    told = rows["animal"].where(~there, rows["note"].str.partition(":")[0])
    for photo, animal in zip(rows["photo"], told, strict=True):
        new = re.fullmatch(r"new (\d+)", str(animal))
        names[photo] = f"new_{int(new[1]):02d}" if new else animal
    return {photo: None if pd.isna(name) else name for photo, name in names.items()}


@pytest.fixture(scope="module")
def boxes(world):
    """The box of each image, by its path's end and its place from the left."""
    rows = pd.read_csv(world / "data" / METADATA_FILE, dtype=str)
    rows["left"] = [json.loads(box)[0] for box in rows["bbox"]]
    rows["n"] = rows.groupby("path")["left"].rank().astype(int)
    end = rows["path"].str.removeprefix("CzechLynx/synthetic_south/")
    return {
        f"{path}#{n}": json.loads(box)
        for path, n, box in zip(end, rows["n"], rows["bbox"], strict=True)
    }


def _export(world, what, to, out, *more):
    assert main(["export", str(world / what), "--to", to, "--out", str(out), *more]) == 0
    return out


def _read(made, boxes, path_of=lambda row: row["path"]):
    """What an import gives: name and box by image, the images told by their boxes."""
    found = {}
    for _, row in made.cells.iterrows():
        path, box = path_of(row), json.loads(row["bbox"])
        ids = [f"{path}#{n}" for n in (1, 2)]
        (image,) = [one for one in ids if boxes[one] == pytest.approx(box, abs=0.01)]
        found[image] = None if pd.isna(row["unique_name"]) else row["unique_name"]
    return found


CARD = "identifications/card"


@pytest.mark.parametrize("to", ["coco", "camtrap-dp"])
def test_an_identification_comes_back_whole(world, said, boxes, tmp_path, to):
    """Only known animals have a name, and each its own box."""
    out = _export(world, CARD, to, tmp_path / "new" / "out")
    root = str(world / "data" / "CzechLynx" / "synthetic_south")
    source = out / "annotations.json" if to == "coco" else out
    found = _read(import_source(str(source), root), boxes)
    known = {image: name if name and "new" not in name else None for image, name in said.items()}
    assert found == known


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_a_table_for_people_comes_back(world, said, boxes, tmp_path, name):
    out = _export(world, CARD, "table", tmp_path / name)
    root = str(world / "data" / "CzechLynx" / "synthetic_south")
    assert _read(import_source(str(out), root, what="table"), boxes) == said


def test_wildbook_gets_photographs_that_it_can_take(world, said, boxes, tmp_path):
    out = _export(world, CARD, "wildbook", tmp_path / "out")
    photographs = out / "photographs"
    assert all(re.fullmatch(r"[A-Za-z0-9. ]+", file.name) for file in photographs.iterdir())
    made = import_source(str(out / "wildbook-1.xlsx"), str(photographs))
    found = _read(made, boxes, lambda row: row["Encounter.otherCatalogNumbers"].partition("#")[0])
    known = {image: name if name and "new" not in name else None for image, name in said.items()}
    assert found == known
    assert set(made.cells["Encounter.state"]) == {"unapproved"}
    table = pd.read_csv(world / "data" / METADATA_FILE, dtype=str)
    asked = table["path"].isin(
        {f"CzechLynx/synthetic_south/{image.partition('#')[0]}" for image in said}
    )
    assert made.cells["encounter"].nunique() == table[asked]["encounter"].nunique()


def test_a_folder_for_each_animal(world, said, tmp_path):
    out = _export(world, CARD, "folders", tmp_path / "out")
    wanted = {(name or "unmatched", image.partition("#")[0].rpartition("/")[2])
              for image, name in said.items()}  # fmt: skip
    assert {(file.parent.name, file.name) for file in out.glob("*/*")} == wanted
    linked = _export(world, CARD, "folders", tmp_path / "links", "--links")
    files = [*linked.glob("*/*")]
    assert len(files) == len(wanted)
    assert all(file.is_symlink() and file.resolve().is_file() for file in files)


def test_a_gallery_needs_its_photographs(world, boxes, tmp_path, capsys):
    words = ["export", str(world / "known.gallery"), "--to", "coco", "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "Name the folder of its photographs with --root" in capsys.readouterr().err
    root = world / "data"
    assert main([*words, "--root", str(root)]) == 0
    table = pd.read_csv(root / METADATA_FILE, dtype=str)
    table = table[table["split-time_open"] == "train"]
    made = import_source(str(tmp_path / "o" / "annotations.json"), str(root)).cells
    columns = ["path", "unique_name"]
    assert sorted(made[columns].to_numpy().tolist()) == sorted(table[columns].to_numpy().tolist())
    # Masks as they came, to the letter of their counts.
    assert {json.loads(mask)["counts"] for mask in made["mask"]} == {
        json.loads(mask)["counts"] for mask in table["mask"]
    }


def test_a_probe_gives_its_answers(world, tmp_path):
    run = world / "benchmark_runs" / "probe"
    rows = pd.read_csv(_export(world, "benchmark_runs/probe", "table", tmp_path / "t.csv"))
    decided = pd.read_parquet(run / "open_set.parquet")
    assert rows["nearest known"].tolist() == decided["leader"].tolist()
    sure = decided["known_probability"] > 0.5
    known = (decided["decision"] == "known") & sure
    assert (rows["decision"] == "known").tolist() == known.tolist()
    assert rows["animal"][known].tolist() == decided["leader"][known].tolist()


def test_where_a_gallery_cannot_tell_no_animal_is_named(world, tmp_path):
    run = tmp_path / "poor"
    shutil.copytree(world / "identifications" / "card", run)
    result = json.loads((run / "result.json").read_text())
    result["quality"]["level"] = "poor"
    (run / "result.json").write_text(json.dumps(result))
    rows = pd.read_csv(_export(tmp_path, "poor", "table", tmp_path / "t.csv"))
    assert set(rows["decision"]) == {"not decided", "in gallery"}
    assert rows["animal"][rows["decision"] == "not decided"].isna().all()
    assert rows["nearest known"].notna().all()


def test_new_animals_are_never_called_like_a_known_one(world, said, tmp_path):
    run = tmp_path / "again"
    shutil.copytree(world / "identifications" / "card", run)
    for name, column in (("open_set", "leader"), ("answers", "identity")):
        table = pd.read_parquet(run / f"{name}.parquet")
        table[column] = table[column].replace("lynx_0001", "new_03")
        table.to_parquet(run / f"{name}.parquet")
    rows = pd.read_csv(_export(tmp_path, "again", "table", tmp_path / "t.csv"))
    assert set(rows["animal"][rows["decision"] == "known"]) <= {"new_03", "lynx_0000", "lynx_0002"}
    new = rows["animal"][rows["decision"] == "new"]
    assert set(new) == {f"new_{number:02d}" for number in range(4, 4 + new.nunique())}


def test_photographs_that_the_gallery_has_are_exported_alone(world, boxes, tmp_path):
    gallery, data = str(world / "known.gallery"), world / "data"
    table = pd.read_csv(data / METADATA_FILE, dtype=str)
    path = table[table["split-time_open"] == "train"]["path"].iloc[0]
    ask = ["identify", str(data / path), "--gallery", gallery, "--metadata",
           str(data / METADATA_FILE), f"output.root={tmp_path}", "output.run_id=same"]  # fmt: skip
    assert main([*ask, "ray.num_actors=0"]) == 0
    out = _export(tmp_path, "identifications/same", "table", tmp_path / "t.csv")
    rows = pd.read_csv(out)
    names = table[table["path"] == path]["unique_name"]
    assert sorted(rows["animal"]) == sorted(names)
    assert set(rows["decision"]) == {"in gallery"}


def test_a_run_is_found_by_its_id(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    assert main(["export", "card", "--to", "table", "--out", str(tmp_path / "t.csv")]) == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere", "--to", "coco", "--out", "o"], 2, "no run of that id in identifications"),
        (["data", "--to", "coco", "--out", "o"], 2, "is neither a run nor a gallery"),
        (["card", "--to", "folders", "--out", "data"], 2, "--out data: has other files"),
        (["card", "--to", "table", "--out", "t.ods"], 2, "writes a .csv file or a .xlsx file"),
        (["card", "--to", "folders", "--out", "t.zip"], 2, "--to folders writes a folder"),
        (["card", "--to", "coco", "--out", "o", "--links"], 2, "copies no photographs"),
        (["card", "--to", "coco", "--out", "o", "--root", "known.gallery"], 1,
         "are not below known.gallery. If they have moved, name their folder with --root"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told(world, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(world)
    before = sorted(world.iterdir())
    assert main(["export", *words]) == code
    assert says in capsys.readouterr().err
    assert sorted(world.iterdir()) == before


def test_what_ends_in_between_leaves_nothing(world, tmp_path, monkeypatch, capsys):
    """The disk is full at the third photograph."""
    copied = []

    def copy(source, target):
        copied.append(target)
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        target.write_bytes(b"")

    monkeypatch.setattr("exreid.runs.export.shutil.copy2", copy)
    out = tmp_path / "o"
    assert main(["export", str(world / CARD), "--to", "folders", "--out", str(out)]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_what_a_killed_export_left_goes_with_the_next(world, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    name = temporary_beside(tmp_path / "o").name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    (tmp_path / name / "Zita").mkdir(parents=True)
    _export(world, CARD, "coco", tmp_path / "o")
    assert [*tmp_path.iterdir()] == [tmp_path / "o"]


def test_photographs_behind_a_url(world, tmp_path):
    memory = fsspec.filesystem("memory")
    for file in (world / "data" / "CzechLynx").rglob("*.jpg"):
        memory.pipe(f"/card/{file.relative_to(world / 'data').as_posix()}", file.read_bytes())
    words = ["export", str(world / "known.gallery"), "--to", "folders", "--root", "memory://card"]
    assert main([*words, "--out", str(tmp_path / "o")]) == 0
    table = pd.read_csv(world / "data" / METADATA_FILE, dtype=str)
    table = table[table["split-time_open"] == "train"]
    found = {(file.parent.name, file.read_bytes()) for file in (tmp_path / "o").glob("*/*")}
    assert found == {
        (name, (world / "data" / path).read_bytes())
        for name, path in zip(table["unique_name"], table["path"], strict=True)
    }
    assert main([*words, "--links", "--out", str(tmp_path / "p")]) == 2


def test_a_run_without_answers_is_told(world, tmp_path, capsys):
    run = tmp_path / "failed"
    shutil.copytree(world / "identifications" / "card", run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"status": "failed"}))
    words = ["export", str(run), "--to", "coco", "--out", str(tmp_path / "o")]
    assert main(words) == 1
    assert "is 'failed', not completed" in capsys.readouterr().err
    (run / "result.json").write_text(json.dumps(result))
    (run / "answers.parquet").unlink()
    assert main(words) == 1
    assert "answers.parquet: is missing" in capsys.readouterr().err
    (run / "photos.parquet").unlink()
    result["counts"]["answered"] = 0
    (run / "result.json").write_text(json.dumps(result))
    assert main(words) == 1
    assert "answered no photograph" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_population_of_an_identification_a_probe_and_a_gallery(world, said, tmp_path, capsys):
    """The animals are those that were told; a photograph with two animals has two captures."""
    out = tmp_path / "card"
    card = str(world / "identifications" / "card")
    assert main(["population", card, "--out", str(out), "--quiet"]) == 0
    captures = pd.read_csv(out / "captures.csv")
    assert set(captures["animal"]) == set(said.values()) - {None}
    assert captures["photographs"].sum() == sum(name is not None for name in said.values())
    text = " ".join(capsys.readouterr().out.split())
    assert "No person has confirmed them" in text
    assert "not counted" in text
    assert main(["population", str(world / "benchmark_runs" / "probe"), "--out", str(out)]) == 0
    assert "among the queries" in capsys.readouterr().out
    gallery = str(world / "known.gallery")
    assert main(["population", gallery]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["population", gallery, "--out", str(tmp_path / "g"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    table = pd.read_csv(world / "data" / METADATA_FILE, dtype=str)
    known = table[table["split-time_open"] == "train"]
    assert told["animals"] == known["unique_name"].nunique()
    counted = pd.read_csv(tmp_path / "g" / "captures.csv").groupby("animal")["photographs"].sum()
    assert counted.to_dict() == known["unique_name"].value_counts().to_dict()


def test_of_a_reviewed_identification_only_what_people_confirmed_is_counted(
    world, tmp_path, capsys
):
    folder = tmp_path / "card"
    shutil.copytree(world / "identifications" / "card", folder)
    run = read_review(folder)
    state = run.state()
    question = run.question(state, "me")
    run.answer(question, "same", who="me", seconds=1.0)
    (animal,) = {run.known[one] for one in (question.first, question.second) if one in run.known}
    (visit,) = {question.first, question.second} - set(run.known)
    assert main(["population", str(folder), "--quiet"]) == 0
    captures = pd.read_csv(folder / "population" / "captures.csv")
    photos = pd.read_parquet(folder / "photos.parquet")
    known = photos[photos["side"] == "in gallery"]["identity"].tolist()
    assert sorted(captures["animal"]) == sorted([animal, *known])
    assert captures["photographs"].sum() == len(run.photos_of[visit]) + len(known)
    text = " ".join(capsys.readouterr().out.split())
    assert (
        f"Only what people confirmed is counted: 1 of {len(run.subject.visits) - len(run.known)}"
        in text
    )
    assert "(not confirmed)" in text
