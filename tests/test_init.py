"""exreid init: what it guesses, and that the commands that it prints work as they are pasted."""

import shlex
import shutil
import subprocess

import pandas as pd
import pytest
import yaml
from PIL import Image

from exreid.cli import main
from exreid.data.masks import decode_mask
from exreid.data.synthetic import METADATA_FILE, write_dataset

FAST = [
    *("ray.num_actors=0", "benchmark.local_size=96", "benchmark.local_top_k=32"),
    *("benchmark.candidate_k=2", "benchmark.open_set.enabled=false"),
    "benchmark.bootstrap_resamples=0",
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("init") / "drawn"
    write_dataset(folder, identities=4, images_per_identity=4, seed=3, workers=1)
    return folder


def _printed(out):
    return [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  exreid ")]


def test_a_table_of_ones_own_is_guessed(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn, tmp_path / "lynx" / "pictures")
    table = pd.read_csv(drawn / METADATA_FILE)
    names = {"path": "File", "unique_name": "Animal", "encounter": "visit", "date": "Date Time"}
    own = table[list(names)].rename(columns=names)
    own.to_csv(tmp_path / "lynx" / "list.csv", index=False)
    (tmp_path / "lynx" / "pictures" / METADATA_FILE).unlink()
    assert main(["init", "lynx"]) == 0
    dataset = yaml.safe_load((tmp_path / "lynx.yaml").read_text())["dataset"]
    assert dataset == {
        "root": str(tmp_path / "lynx" / "pictures"),
        "metadata_file": str(tmp_path / "lynx" / "list.csv"),
        "path_col": "File",
        "label_col": "Animal",
        "encounter_cols": ["visit"],
        "date_col": "Date Time",
        "make_split": "time_aware",
    }
    assert len(_printed(capsys.readouterr().out)) == 3
    assert main(["init", "lynx"]) == 2, "what is there is not overwritten"


def test_the_commands_that_are_printed_work(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv(drawn / METADATA_FILE)
    for path, animal in zip(table["path"], table["unique_name"], strict=True):
        place = tmp_path / "my lynx" / animal / path.rpartition("/")[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn / path, place)
    assert main(["init", "my lynx"]) == 0
    out = capsys.readouterr().out
    assert "16 photographs of 4 animals" in out
    for words in _printed(out):
        assert main([*words, *FAST] if words[0] != "validate" else words) == 0, words


def _with_masks(drawn, folder):
    """A folder for each animal with photographs, and their masks in masks/."""
    table = pd.read_csv(drawn / METADATA_FILE)
    for row in table.itertuples():
        name = f"{row.unique_name}-{row.path.rpartition('/')[2]}"
        place = folder / row.unique_name / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn / row.path, place)
        mask = folder / "masks" / name.replace(".jpg", ".png")
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(decode_mask(row.mask, (512, 384))).save(mask)
    return table


def test_masks_beside_the_animals_folders_are_found_and_cropped_to(
    drawn, tmp_path, monkeypatch, capsys
):
    """Truth: the probe of the table with the same masks."""
    monkeypatch.chdir(tmp_path)
    table = _with_masks(drawn, tmp_path / "lynx")
    assert main(["init", "lynx"]) == 0
    dataset = yaml.safe_load((tmp_path / "lynx.yaml").read_text())["dataset"]
    assert dataset == {"root": str(tmp_path / "lynx"), "crop": "mask"}
    assert "masks/ has masks, of 16 of the 16 photographs" in capsys.readouterr().out
    fast = [*FAST, "dataset.image_size=64", "output.root=out"]
    assert main(["probe", "--config", "lynx.yaml", *fast, "output.run_id=folders"]) == 0
    paths = [f"{r.unique_name}/{r.unique_name}-{r.path.rpartition('/')[2]}"
             for r in table.itertuples()]  # fmt: skip
    visits = pd.read_csv(tmp_path / "out/benchmark_runs/folders/split.csv")
    table.assign(path=paths)[["path", "unique_name", "mask"]].to_csv("t.csv", index=False)
    keys = ["dataset.root=lynx", f"dataset.metadata_file={tmp_path}/t.csv", "dataset.crop=mask",
            "dataset.make_split=closed_set", "output.run_id=table"]  # fmt: skip
    assert main(["probe", *keys, *fast]) == 0
    both = [
        pd.read_parquet(f"out/benchmark_runs/{run}/rankings.parquet").set_index(
            ["query_id", "gallery_id"]
        )["score"]
        for run in ("folders", "table")
    ]
    assert len(visits) == 16
    same = pd.concat(both, axis=1, keys=["folders", "table"]).dropna()
    assert len(same) > 10
    assert (same["folders"] == same["table"]).all()


def test_masks_beside_a_table_are_told_with_the_command_that_takes_them(
    drawn, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    table = _with_masks(drawn, tmp_path / "lynx")
    (tmp_path / "lynx" / "photos").mkdir()
    for name in table["unique_name"].unique():
        (tmp_path / "lynx" / name).rename(tmp_path / "lynx" / "photos" / name)
    paths = [f"photos/{r.unique_name}/{r.unique_name}-{r.path.rpartition('/')[2]}"
             for r in table.itertuples()]  # fmt: skip
    table.assign(path=paths)[["path", "unique_name"]].to_csv("lynx/metadata.csv", index=False)
    assert main(["init", "lynx"]) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "has masks of 16 photographs" in line)
    words = shlex.split(line.partition(": exreid ")[2])
    assert main(words) == 0
    assert pd.read_parquet("masked.parquet")["mask"].notna().all()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "identify" in script
    assert "encounter-minutes" in script
    if shutil.which(shell):
        file = tmp_path / "completion"
        file.write_text(script)
        subprocess.run([shell, "-n", str(file)], check=True)
