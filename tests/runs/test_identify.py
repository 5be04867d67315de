"""Identifying photographs as a user does: the probe's answers, and everything told."""

import csv
import json
import re
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from exreid.cli import main
from exreid.commands import identify_answers
from exreid.config.io import load_config, with_overrides
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.errors import ConfigError, GalleryError
from exreid.gallery.folder import StoredGallery
from exreid.gallery.opening import open_gallery
from exreid.gallery.photo_table import PhotoOptions
from exreid.gallery.swap import new_folder
from exreid.gallery.write import write_checksums
from exreid.openset import quality
from exreid.runs.gallery_build import build_gallery
from exreid.runs.identify import run_identify
from exreid.runs.probe import run_probe
from tests.run_schema import published_record

SMALL = [
    *("dataset.image_size=96", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.open_set.enabled=true"),
    *("benchmark.local_top_k=32", "benchmark.local_size=96", "benchmark.calibration.pairs=60"),
    *("benchmark.open_set.queries=60", "dataset.split_col=split-time_open"),
    *("benchmark.calibration.exclude=image", "benchmark.open_set.false_match_rate=0.3"),
]
PAIRS = ["benchmark.candidate_k=4", "benchmark.open_set.queries=24"]
METHODS = {
    "cosine": ["benchmark.method=cosine"],
    "local_lightglue": ["benchmark.method=local_lightglue", *PAIRS],
    "local_index": ["benchmark.method=local_index", "benchmark.open_set.queries=24"],
    "wildfusion": [
        *("benchmark.method=wildfusion", *PAIRS, "benchmark.shortlist=both"),
        *("benchmark.fusion.local_index=true", "benchmark.fusion.weights=listwise"),
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identify") / "data"
    write_dataset(folder, identities=8, images_per_identity=8, seed=5, workers=2)
    return folder


@pytest.fixture(scope="module")
def metadata(data):
    return pd.read_csv(next(data.glob("*Real.csv")), dtype=str)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module", autouse=True)
def _decides():
    """Galleries of eight animals at 96 pixels are poor: here they decide all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(quality.FLOORS, "usable", quality.Floor(0.0, 0.0, 0.0))
        yield


def _config(data, out, method="cosine", *more):
    overrides = [f"dataset.root={data}", f"output.root={out}", *SMALL, *METHODS[method], *more]
    return load_config(ProbeConfig, None, overrides)


def _identify(given, gallery, out, options=None, on_error="skip"):
    overrides = [f"output.root={out}", "ray.num_actors=0", f"dataset.on_error={on_error}"]
    config = with_overrides(gallery.config, overrides, ("output.", "ray.", "dataset."))
    return run_identify(given, gallery, config, options or PhotoOptions())


@pytest.fixture(scope="module")
def cosine(data, out):
    return build_gallery(_config(data, out), out / "cosine", split="train").gallery


@pytest.mark.parametrize("method", list(METHODS))
def test_answers_are_the_probes_to_the_last_bit(method, data, metadata, out):
    config = _config(data, out, method)
    probe, _ = run_probe(config)
    gallery = build_gallery(config, out / f"same-{method}", split="train").gallery
    test = metadata[metadata["split-time_open"] == "test"]
    photos = [data / path for path in test["path"]]
    folder, found = _identify(
        photos, gallery, out, PhotoOptions(metadata=next(data.glob("*Real.csv")))
    )
    assert found.counts["answered"] == len(test)
    full = {path.rpartition("/")[2]: path for path in test["path"]}

    def ours(name):
        rows = pd.read_parquet(folder / f"{name}.parquet")
        ids = rows["query_id"].str.rpartition("/")[2].map(full)
        return rows.assign(query_id=ids)

    depth = 4 if "benchmark.candidate_k=4" in METHODS[method] else 100
    theirs = pd.read_parquet(probe / "rankings.parquet")
    theirs = theirs[theirs["rank"] <= min(depth, len(gallery))]
    both = theirs.merge(ours("rankings"), on=["query_id", "rank"], suffixes=("", "_here"))
    assert len(both) == len(theirs) == len(ours("rankings")) > 0
    assert (both["gallery_id"] == both["gallery_id_here"]).all()
    assert np.array_equal(both["score"], both["score_here"])
    assert both["is_match_here"].isna().all()
    files = {"open_set": ["leader", "score", "margin", "known_probability", "decision"]}
    files["answers"] = ["identity", "score", "best_gallery_id", "images"]
    files["new_animals"] = ["group", "group_photos", "known_probability"]
    if method == "wildfusion":
        files["fusion"] = [
            c for c in pd.read_parquet(probe / "fusion.parquet") if not c.endswith("_id")
        ]
    for name, columns in files.items():
        on = {name: ["query_id"] for name in ("open_set", "new_animals")}
        on["answers"] = ["query_id", "rank"]
        keys = on.get(name, ["query_id", "gallery_id"])
        theirs = pd.read_parquet(probe / f"{name}.parquet")
        both = theirs.merge(ours(name), on=keys, suffixes=("", "_here"))
        assert len(both) == len(theirs) > 0
        for column in [column for column in columns if column not in keys]:
            one, other = both[column], both[f"{column}_here"]
            if column == "group":  # numbered by first appearance, and paths stand in another order
                one, other = (pd.Series(pd.factorize(groups)[0]) for groups in (one, other))
            assert one.equals(other.astype(one.dtype)), (name, column)
    bars = [json.loads((run / "open_set.json").read_text())["bar"] for run in (probe, folder)]
    assert bars[0] == bars[1]
    told = [published_record(run)["quality"] for run in (probe, folder)]
    assert told[0] == told[1]
    assert told[0]["level"] == "usable"
    # What nobody knows is empty, and where the pictures are is told.
    assert ours("queries")["identity"].isna().all()
    places = pd.read_parquet(folder / "photos.parquet")
    assert set(places["image_id"]) >= set(
        pd.read_parquet(folder / "rankings.parquet")["gallery_id"]
    )
    for row in places.groupby("side").head(3).to_dict("records"):
        with Image.open(f"{row['root']}/{row['path']}") as picture:
            assert picture.width > 100


@pytest.fixture
def night(data, metadata, tmp_path):
    """One night: two cameras, EXIF times, a damaged file, one that is known already."""
    test = metadata[metadata["split-time_open"] == "test"]["path"].tolist()
    times = ["2024:05:01 22:00:00", "2024:05:01 22:06:00", "2024:05:01 23:30:00", None]
    for place, (path, time) in enumerate(zip(test, times, strict=False)):
        folder = tmp_path / "night" / ("cam1" if place < 3 else "visit_7")
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.open(data / path)
        exif = Image.Exif()
        if time:
            exif.get_ifd(0x8769)[0x9003] = time
        image.save(folder / f"IMG_{place}.jpg", exif=exif, quality=95)
    (tmp_path / "night/cam1/IMG_8.jpg").write_bytes(b"\xff\xd8 no photograph")
    whole = (tmp_path / "night/cam1/IMG_0.jpg").read_bytes()
    (tmp_path / "night/cam1/IMG_9.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "night/notes.txt").write_text("full moon")
    train = metadata[metadata["split-time_open"] == "train"]["path"].iloc[0]
    shutil.copy(data / train, tmp_path / "night/cam1/IMG_5.jpg")
    return tmp_path / "night"


def test_a_night_is_told_photograph_by_photograph(night, cosine, metadata, out, capsys):
    assert main(["identify", str(night), "--gallery", str(cosine.folder), f"output.root={out}",
                 "--csv", str(night.parent / "night.csv"), "output.run_id=night"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    train = metadata[metadata["split-time_open"] == "train"].iloc[0]
    assert "7 photographs, 4 answered" in shown
    assert f"cam1/IMG_5.jpg = {train['unique_name']}: {train['path']}" in shown
    assert "cam1/IMG_8.jpg: not an image" in shown
    assert "1 other file in the folders is not a photograph." in shown
    assert "Encounters: 2 by time, 1 by folder name" in shown
    rows = list(csv.DictReader((night.parent / "night.csv").open()))
    assert [row["photo"] for row in rows if row["status"] == "answered"] == [
        *("cam1/IMG_0.jpg", "cam1/IMG_1.jpg", "cam1/IMG_2.jpg", "visit_7/IMG_3.jpg")
    ]
    assert [row["visit"] for row in rows[:4]] == [
        *("cam1 2024-05-01 22:00:00", "cam1 2024-05-01 22:00:00"),
        *("cam1 2024-05-01 23:30:00", "visit_7"),
    ]
    assert {row["decision"] for row in rows[:4]} <= {"known", "new", "unsure"}
    assert all(0 < float(row["probability"]) < 1 for row in rows[:4])
    for row in rows[:4]:
        named = {"known": row["nearest_known"], "unsure": ""}
        assert row["animal"] == named.get(row["decision"], row["animal"])
        assert row["decision"] != "new" or re.fullmatch(r"new \d+", row["animal"])
        assert f"{100 * float(row['probability']):.0f}%" in row["answer"]
        assert row["nearest_known"] in row["answer"]
        assert row["answer"] in shown
    for row in rows[:4]:
        assert float(row["next_probability"] or 0) <= float(row["probability"])
        assert float(row["next_probability"] or 0) + float(row["probability"]) <= 1
    assert "no rate" not in shown
    assert sorted(row["photo"] for row in rows if row["status"] == "unreadable") == [
        *("cam1/IMG_8.jpg", "cam1/IMG_9.jpg")
    ]
    rejected = pd.read_csv(out / "identifications/night/rejected.csv")
    assert sorted(rejected["path"]) == ["cam1/IMG_8.jpg", "cam1/IMG_9.jpg"]
    result = published_record(out / "identifications/night")
    assert (result["kind"], result["status"]) == ("identify", "completed")
    assert result["counts"]["in_gallery"] == 1


def test_a_copied_identification_finds_its_card_and_its_gallery(
    night, cosine, out, tmp_path, capsys
):
    folder, _ = _identify([night], cosine, out)
    sent = tmp_path / "sent"
    assert main(["report", str(folder), "--out", str(tmp_path / "before"), "--workers", "1"]) == 0
    every = len(pd.read_parquet(tmp_path / "before" / "pictures.parquet"))
    for name, source in {"run": folder, "card": night, "gallery": cosine.folder}.items():
        shutil.copytree(source, sent / name)
    night.rename(tmp_path / "moved")
    places = pd.read_parquet(sent / "run" / "photos.parquet")
    places.loc[places["side"] == "gallery", "root"] = str(tmp_path / "gone")
    places.to_parquet(sent / "run" / "photos.parquet")
    report = ["report", str(sent / "run"), "--workers", "1"]
    assert main(report) == 1
    assert re.search("with --root FOLDER, .*--gallery FOLDER", capsys.readouterr().err)

    def shown(*more):
        assert main([*report, *more]) == 0
        pictures = pd.read_parquet(sent / "run" / "report" / "pictures.parquet")
        return len(pictures), "give its folder with --gallery" in capsys.readouterr().err

    card = ["--root", str(sent / "card")]
    answered = (places["side"] == "query").sum()
    assert shown(*card) == (answered, True)
    assert every > answered
    assert shown(*card, "--gallery", str(sent / "gallery")) == (every, False)


def test_a_report_needs_no_pictures_of_candidates_that_are_not_kept(night, data, out, tmp_path):
    config = _config(data, out, "wildfusion", "benchmark.keep_candidates=2")
    gallery = build_gallery(config, tmp_path / "few", split="train").gallery
    folder, _ = _identify([night], gallery, out)
    places = pd.read_parquet(folder / "photos.parquet")
    assert set(pd.read_parquet(folder / "rankings.parquet")["rank"]) == {1, 2}
    assert main(["report", str(folder), "--out", str(tmp_path / "pages"), "--workers", "1"]) == 0
    pictures = pd.read_parquet(tmp_path / "pages" / "pictures.parquet")
    assert len(pictures) == places["side"].isin(["query", "gallery"]).sum()


def test_json_says_the_same_as_the_files(night, cosine, out, capsys):
    arguments = ["identify", str(night), "--gallery", str(cosine.folder), "--json"]
    assert main([*arguments, "--encounter-minutes", "120", f"output.root={out}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [visit["photos"] for visit in found["visits"]] == [3, 1]
    photo = found["photos"][0]
    answers = pd.read_parquet(f"{found['run']}/answers.parquet")
    mine = answers[answers["query_id"] == photo["photo"]]
    assert [one["animal"] for one in photo["animals"]] == mine["identity"].tolist()
    assert [one["probability"] for one in photo["animals"]] == mine["probability"].tolist()
    assert mine["probability"].is_monotonic_decreasing
    visits = pd.read_parquet(f"{found['run']}/encounters.parquet").set_index("encounter")
    for visit in found["visits"]:
        assert visits.loc[visit["visit"], "leader"] == visit["animal"]
        photos = [p for p in found["photos"] if p["visit"] == visit["visit"]]
        assert visit["animal"] in {photo["leader"] for photo in photos}
        assert visit["decision"] in {"known", "new", "unsure"}
        assert 0 < visit["probability"] < 1
        if len(photos) == 1:
            assert visit["probability"] == photos[0]["probability"]
            assert visit["decision"] == photos[0]["decision"]


def test_a_gallery_that_can_promise_nothing_says_so_wherever_it_answers(night, data, out, capsys):
    keys = ["benchmark.open_set.false_match_rate=0.05", "benchmark.open_set.group_nearest=0"]
    config = _config(data, out, "cosine", *keys)
    gallery = build_gallery(config, out / "few", split="train").gallery
    told = "No false-match rate is promised: 5% needs 19 animals"
    arguments = ["identify", str(night), "--gallery", str(gallery.folder), f"output.root={out}"]
    assert main([*arguments, "--csv", str(night.parent / "few.csv"), "--report"]) == 0
    shown = capsys.readouterr().out
    assert told in shown.replace("\n", " ")
    rows = list(csv.DictReader((night.parent / "few.csv").open()))
    assert shown.count(told) == 1
    for row in rows:
        if row["status"] == "answered":
            decided = "known" if float(row["probability"]) > 0.5 else "new"
            assert row["decision"] == decided
            assert row["animal"] == (row["nearest_known"] if decided == "known" else ""), (
                "no groups"
            )
    run = shown.rpartition("Written to ")[2].strip()
    pages = {name: Path(run, "report", f"{name}.html").read_text() for name in ("index", "trust")}
    assert all(told in page for page in pages.values())
    assert "stated share of new animals" not in pages["trust"]
    assert main([*arguments, "--json"]) == 0
    assert told in json.loads(capsys.readouterr().out)["reason"]
    assert main(["gallery", "info", str(gallery.folder)]) == 0
    assert told in capsys.readouterr().out


def test_a_poor_gallery_shows_the_nearest_animals_and_decides_nothing(
    night, data, out, monkeypatch, capsys
):
    monkeypatch.setitem(quality.FLOORS, "usable", quality.Floor(0.25, 0.35, 0.7))
    built = build_gallery(_config(data, out), out / "poor", split="train")
    assert built.gallery.quality.level == "poor"
    arguments = ["identify", str(night), "--gallery", str(out / "poor"), f"output.root={out}"]
    screen = Console(highlight=False, force_terminal=True, no_color=True, width=80, file=StringIO())
    monkeypatch.setattr(identify_answers, "OUT", screen)
    assert main([*arguments, "--csv", str(out / "poor.csv"), "output.run_id=poor"]) == 0
    lines = re.sub(r"\x1b\[\d*m", "", screen.file.getvalue()).splitlines()
    assert next(line for line in lines if line.startswith("photo")).split() == ["photo", "answer"]
    sentences = [line for line in lines if not line.startswith(("  ", "Written to"))]
    assert max(map(len, sentences)) <= 80, "sentences are wrapped between words"
    shown = " ".join(line.strip() for line in lines)
    assert "This gallery cannot tell these animals apart." in shown
    assert "Known and new are not told apart." in shown
    together = [line for line in lines if "photographs together)" in line]
    assert together
    assert all("Nearest: " in line and "No known" not in line for line in together)
    rows = [row for row in csv.DictReader((out / "poor.csv").open()) if row["time"] or row["visit"]]
    assert {row["decision"] for row in rows} == {"not decided"}
    assert all(row["animal"] == "" and row["answer"].startswith("Nearest: ") for row in rows)
    run = out / "identifications" / "poor"
    assert published_record(run)["quality"]["level"] == "poor"
    assert not {"known", "new", "called_new", "new_animals"} & set(published_record(run)["counts"])
    assert pd.read_parquet(run / "open_set.parquet")["decision"].isna().all()
    assert not (run / "open_set.json").exists()


def test_a_second_call_needs_no_backbone(night, cosine, out, monkeypatch):
    (night / "cam1" / "IMG_9.jpg").unlink()  # damaged: it is tried again each time
    first = _identify([night], cosine, out)
    monkeypatch.setattr("exreid.models.backbones.build_backbone", None)
    second = _identify([night], cosine, out)
    counts = second[1].counts
    assert (counts["images_cached"], counts["images_extracted"]) == (counts["answered"], 0)
    rows = [pd.read_parquet(folder / "rankings.parquet") for folder, _ in (first, second)]
    pd.testing.assert_frame_equal(*rows)


def test_unreadable_photographs_stop_the_run_when_asked_to(night, cosine, out, capsys):
    code = main(["identify", str(night), "--gallery", str(cosine.folder), f"output.root={out}",
                 "--on-error", "raise"])  # fmt: skip
    assert code == 1
    assert "IMG_8.jpg" in capsys.readouterr().err
    bad = night / "cam1" / "IMG_8.jpg"
    code = main(["identify", str(bad), "--gallery", str(cosine.folder), f"output.root={out}"])
    assert code == 1
    assert "0 answered" in capsys.readouterr().out


def test_masks_come_from_images_or_from_the_table(data, metadata, out, tmp_path):
    config = _config(data, out, "cosine", "dataset.no_background=true")
    gallery = build_gallery(config, out / "masked", split="train").gallery
    row = metadata[metadata["split-time_open"] == "test"].iloc[0]
    photo = data / row["path"]
    by_table = PhotoOptions(metadata=next(data.glob("*Real.csv")))
    expected = pd.read_parquet(_identify([photo], gallery, out, by_table)[0] / "rankings.parquet")
    from exreid.data.masks import decode_mask

    with Image.open(photo) as image:
        mask_HW = decode_mask(row["mask"], image.size)
    Image.fromarray((mask_HW * 255).astype(np.uint8)).save(tmp_path / f"{photo.stem}.png")
    found = _identify([photo], gallery, out, PhotoOptions(masks=tmp_path))[0] / "rankings.parquet"
    assert pd.read_parquet(found)["score"].equals(expected["score"])
    with pytest.raises(Exception, match="has no mask"):
        _identify([photo], gallery, out, on_error="raise")


def test_what_the_gallery_fixes_cannot_be_set(cosine, data, capsys):
    code = main(["identify", str(data), "--gallery", str(cosine.folder), "model.type=dinov2-small"])
    assert code == 2
    assert "model.type: cannot be set here" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="benchmark.method"):
        with_overrides(cosine.config, ["benchmark.method=cosine"], ("output.",))


def test_a_gallery_that_is_replaced_while_photographs_are_answered_is_read_again(
    cosine, night, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "gallery"
    shutil.copytree(cosine.folder, folder)
    vectors, swaps = StoredGallery.vectors, []

    def swapping(self, number):
        if not swaps:
            swaps.append(1)
            with new_folder(folder, lambda _: None) as temporary:
                shutil.copytree(cosine.folder, temporary, dirs_exist_ok=True)
                np.save(temporary / "global-0.npy", cosine.vectors(0)[:, ::-1])
                write_checksums(temporary)
        return vectors(self, number)

    monkeypatch.setattr(StoredGallery, "vectors", swapping)
    arguments = ["identify", str(night), "--gallery", str(folder), f"output.root={tmp_path}"]
    assert main(arguments) == 0
    assert "was replaced while it was read" in capsys.readouterr().err


def test_another_backbone_here_is_an_error_that_says_what_differs(cosine, night, out, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(cosine.folder, copy)
    manifest = json.loads((copy / "gallery.json").read_text())
    manifest["features"]["global-0"]["weights"] = "0" * 16
    manifest["features"]["global-0"]["device"] = "cuda"
    (copy / "gallery.json").write_text(json.dumps(manifest))
    write_checksums(copy)
    with pytest.raises(GalleryError, match="weights: '0000000000000000' in the gallery") as error:
        _identify([night], open_gallery(copy), out)
    assert "device" not in str(error.value)


@pytest.mark.parametrize("card", ["none/such", "empty"])
def test_a_card_without_photographs_leaves_no_run_folder(cosine, tmp_path, capsys, card):
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / card), "--gallery", str(cosine.folder)]
    assert main(["identify", *arguments, f"output.root={tmp_path / 'out'}"]) == 1
    assert str(tmp_path / card) in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("result.json"))
