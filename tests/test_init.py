"""exreid init: what it guesses, and that the commands that it prints work as they are pasted."""

import shlex
import shutil
import subprocess

import pandas as pd
import pytest
import yaml

from exreid.cli import main
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
