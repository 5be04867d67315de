"""What a command shows while it runs, where there is no terminal: lines, warnings, a log file."""

import json
import logging
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from exreid.cli import main
from exreid.commands import terminal
from exreid.commands.terminal import StageLines
from exreid.data.synthetic import write_dataset
from tests.processes import until

SMALL = ["dataset.image_size=32"]


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """A data set with one file twice in its gallery, of which every probe warns."""
    root = tmp_path_factory.mktemp("doubled")
    table = pd.read_csv(write_dataset(root, identities=3, images_per_identity=4, seed=3))
    first, second = table.loc[table["split-time_closed"] == "train", "path"].iloc[:2]
    (root / second).write_bytes((root / first).read_bytes())
    return root


def _words(root, out, *more):
    return [
        *("probe", f"dataset.root={root}", f"output.root={out}", "ray.num_actors=0"),
        *("output.run_id=r", "benchmark.bootstrap_resamples=0", *SMALL, *more),
    ]


def test_warnings_are_said_again_under_the_result_and_in_its_file(doubled, tmp_path, capsys):
    assert main(_words(doubled, tmp_path, "--log-file", str(tmp_path / "log"))) == 0
    out, err = capsys.readouterr()
    written = json.loads((tmp_path / "benchmark_runs/r/result.json").read_text())
    [warning] = [text for text in written["warnings"] if "a file of the same side" in text]
    assert err.count(warning) == 2
    assert err.rindex(warning) > err.rindex("Warning"), "the last block is that of the warnings"
    assert "Extracting features: 12 in " in err
    assert "Extracting features" not in out
    lines = (tmp_path / "log").read_text().splitlines()
    assert sum(warning in line for line in lines) == 1
    assert all(line.startswith("20") for line in lines), "each line has its time"
    assert not logging.getLogger().handlers or logging.getLogger("exreid.watch").level == 0


def test_quiet_leaves_the_result_and_the_warnings(doubled, tmp_path, capsys):
    assert main(_words(doubled, tmp_path, "--quiet")) == 0
    out, err = capsys.readouterr()
    assert "top_1" in out
    assert "Extracting" not in err
    assert err.count("a file of the same side") == 1


def test_quiet_still_warns_where_the_command_fails(doubled, tmp_path, capsys):
    assert main(_words(doubled, tmp_path, "--quiet", "model.checkpoint=/none/such.pth")) == 1
    err = capsys.readouterr().err
    assert err.count("a file of the same side") == 1
    assert err.splitlines()[-1].startswith("exreid: /none/such.pth")


def test_programs_read_a_json_object_a_line(doubled, tmp_path, capsys):
    assert main(_words(doubled, tmp_path, "--log-json")) == 0
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [extracted] = [record for record in records if record.get("stage") == "Extracting features"]
    assert (extracted["done"], extracted["total"], extracted["level"]) == (12, 12, "info")
    assert any(record["level"] == "warning" for record in records)


def test_a_log_file_that_cannot_be_written_is_a_mistake_of_the_user(tmp_path, capsys):
    assert main(["metrics", str(tmp_path), "--log-file", str(tmp_path)]) == 2
    assert f"--log-file {tmp_path}" in capsys.readouterr().err


def test_a_long_stage_is_told_of_until_it_ends(caplog):
    caplog.set_level(logging.INFO, logger="exreid.watch")
    lines = StageLines(every_s=0.05)
    with lines.told():
        count = lines.start("Matching", 10)
        count(4)
        assert until(lambda: "Matching: 4 of 10, " in caplog.text)
        count(6)
        assert until(lambda: "At work for " in caplog.text.partition("Matching: 10 in ")[2])
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("Matching: 4 of 10, ") and "left" in text for text in texts)
    [ended] = [i for i, text in enumerate(texts) if text.startswith("Matching: 10 in ")]
    assert not any(text.startswith("Matching") for text in texts[ended + 1 :])


def test_a_stage_that_ends_early_says_how_far_it_came(caplog):
    caplog.set_level(logging.INFO, logger="exreid.watch")
    lines = StageLines()
    with lines.told():
        lines.start("Finding keypoints", 9)(3)
        lines.start("Ranking", 2)(2)
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0].startswith("Finding keypoints: 3 of 9 in ")
    assert texts[1].startswith("Ranking: 2 in ")


def test_a_table_that_is_too_wide_is_printed_in_parts_with_every_word(monkeypatch):
    screen = Console(width=80, file=StringIO())
    monkeypatch.setattr(terminal, "OUT", screen)
    names = [f"a_metric_with_a_name_{i}" for i in range(7)]

    def part(columns):
        table = Table(box=None)
        for name in ("method", *columns):
            table.add_column(name)
        table.add_row("cosine", *("17.2" for _ in columns))
        return table

    terminal.show_in_parts(names, part)
    lines = screen.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [word for line in lines for word in line.split() if "metric" in word] == names
    assert sum("cosine" in line for line in lines) == 3
