"""A sweep as a user runs it: its trials, its files, its test, its resume and its failures."""

import json
import signal
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from PIL import Image

from exreid.cli import main
from exreid.config.sweep import load_sweep
from exreid.errors import StorageError
from exreid.runs import tune_trial
from exreid.runs.tune import run_tune
from tests.run_schema import published_record

SMALL = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"),
    *("train.epochs=2", "validation.fraction=0.4", "ray.num_workers=0"),
]
SPACE = "tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}, loss.scale: {choice: [8, 64]}}"


def _arguments(dataset, out, *more):
    return [f"dataset.root={dataset}", f"output.root={out}", *SMALL, SPACE, *more]


def _trials(folder):
    return json.loads((folder / "sweep.json").read_text())["trials"]


@pytest.fixture(scope="module")
def sweep(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    arguments = _arguments(dataset, out, "output.run_id=s", "tune.num_samples=2")
    return out, arguments, run_tune(load_sweep(None, arguments))


def test_a_sweep_leaves_its_files_and_they_agree(sweep):
    out, _, done = sweep
    folder = out / "sweeps" / "s"
    assert done.folder == folder
    table = pd.read_csv(folder / "trials.csv", dtype={"trial": str})
    assert table["validation_mAP"].is_monotonic_decreasing
    assert (table.loc[0, "trial"], len(table)) == (done.best.name, 2)
    for row in table.itertuples():
        run = folder / "trials" / row.trial
        written = published_record(run)
        assert written["status"] == "completed"
        assert written["metrics"]["mAP"] == row.validation_mAP
        assert written["counts"]["images_decoded"] == 0, "all decoded before, and shared"
        snapshot = yaml.safe_load((run / "config.snapshot.yaml").read_text())
        assert snapshot["optimizer"]["lr"] == table.loc[row.Index, "optimizer.lr"]
        assert snapshot["wandb"]["group"] == "s"
    first = table[table["baseline"] == 1].iloc[0]
    assert (first["trial"], first["optimizer.lr"], first["loss.scale"]) == ("000", 0.0003, 64)
    assert Image.open(folder / "parallel_coordinates.png").size == (845, 624)


def test_the_best_config_is_one_that_finetune_takes_and_gives_its_number_again(sweep, tmp_path):
    _, _, done = sweep
    best = done.folder / "best.yaml"
    assert main(["finetune", "--config", str(best), f"output.root={tmp_path}"]) == 0
    (run,) = (path for path in (tmp_path / "results").iterdir() if path.is_dir())
    again = json.loads((run / "result.json").read_text())["metrics"]["mAP"]
    assert again == pytest.approx(done.best.score, abs=1e-6)


def test_the_test_is_the_best_trials_and_no_trial_saw_a_query_of_it(sweep, dataset):
    out, _, done = sweep
    metadata = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    test = set(metadata.loc[metadata["split-time_closed"] == "test", "path"])
    for trial in done.trials:
        split = pd.read_csv(done.folder / "trials" / trial.name / "split.csv")
        assert test.isdisjoint(split["image_id"])
    assert set(pd.read_parquet(done.folder / "test" / "queries.parquet")["query_id"]) == test
    checkpoint = done.folder / "trials" / done.best.name / "checkpoint-best.pth"
    probe = [f"dataset.root={dataset}", f"output.root={out}", *SMALL[:2], "ray.num_actors=0"]
    probe += ["model.type=timm:test_vit", f"model.checkpoint={checkpoint}", "output.run_id=again"]
    assert main(["probe", *probe]) == 0
    again = json.loads((out / "benchmark_runs" / "again" / "result.json").read_text())
    written = published_record(done.folder)
    assert written["status"] == "completed"
    assert written["counts"]["test_measured"] == "once, after the sweep"
    for name, value in again["metrics"].items():
        assert written["metrics"][f"test_{name}"] == value
    assert written["metrics"]["validation_mAP"] == done.best.score


def test_a_finished_sweep_is_left_alone(sweep, capsys):
    _, arguments, _ = sweep
    assert main(["tune", *arguments]) == 2
    assert "completed run" in capsys.readouterr().err.replace("\n", " ")


KILLED = """
import os, signal, sys
from exreid.cli import main
from exreid.pipeline.sweep import SweepStudy
report = SweepStudy.report
def dies_in_the_second_trial(study, number, epoch, score):
    stop = report(study, number, epoch, score)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return stop
SweepStudy.report = dies_in_the_second_trial
main(sys.argv[1:])
"""


def test_a_killed_driver_goes_on_and_gives_what_an_uncut_sweep_gives(sweep, dataset, tmp_path):
    more = ["output.run_id=s", "tune.num_samples=3", "train.epochs=4", "tune.scheduler=none"]
    arguments = _arguments(dataset, tmp_path, *more)
    folder = tmp_path / "sweeps" / "s"
    killed = subprocess.run([sys.executable, "-c", KILLED, "tune", *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    cut = _trials(folder)
    assert [trial["state"] for trial in cut] == ["completed", "running"]
    assert list(cut[1]["scores"]) == ["1"]
    kept = (folder / "trials" / "000" / "result.json").stat().st_mtime_ns
    assert main(["tune", *arguments]) == 0
    assert (folder / "trials" / "000" / "result.json").stat().st_mtime_ns == kept
    trials = _trials(folder)
    assert [trial["state"] for trial in trials] == ["completed"] * 3
    assert [trial["values"] for trial in trials[:2]] == [trial["values"] for trial in cut]
    assert sorted(map(int, trials[1]["scores"])) == [1, 2, 3, 4]
    # The first trials of the shorter sweep were drawn from the same seeds.
    assert trials[1]["values"] == sweep[2].trials[1].values


def test_a_failing_trial_is_reported_and_costs_itself_alone(dataset, tmp_path, monkeypatch, capsys):
    plain = tune_trial.run_finetune

    def failing(config, **options):
        if config.output.run_id == "001":
            raise MemoryError("this trial is out of luck")
        return plain(config, **options)

    monkeypatch.setattr(tune_trial, "run_finetune", failing)
    more = ["output.run_id=s", "tune.num_samples=3", "train.epochs=1", "tune.test=false"]
    assert main(["tune", *_arguments(dataset, tmp_path, *more)]) == 0
    printed = capsys.readouterr().out
    assert "Trial 001 failed: this trial is out of luck" in printed
    states = [trial["state"] for trial in _trials(tmp_path / "sweeps" / "s")]
    assert states == ["completed", "failed", "completed"]
    result = json.loads((tmp_path / "sweeps" / "s" / "result.json").read_text())
    assert (result["counts"]["trials_failed"], result["counts"]["test_measured"]) == (
        1,
        "not at all",
    )
    assert not any(name.startswith("test_") for name in result["metrics"])

    def full(config, **options):
        if config.output.run_id == "000":
            return plain(config, **options)
        raise StorageError("the disk is full")

    monkeypatch.setattr(tune_trial, "run_finetune", full)
    arguments = _arguments(dataset, tmp_path, *more[1:], "output.run_id=full")
    assert main(["tune", *arguments]) == 1
    assert "output.run_id=full" in capsys.readouterr().err
    assert [trial["state"] for trial in _trials(tmp_path / "sweeps" / "full")] == [
        "completed",
        "running",
    ]
    monkeypatch.setattr(tune_trial, "run_finetune", plain)
    assert main(["tune", *arguments]) == 0, "once there is room again"


def test_a_sweep_of_probes_is_judged_within_the_database(dataset, tmp_path, capsys):
    arguments = [
        *(f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL[:2]),
        *("model.type=efficientnet-lite0", "ray.num_actors=0", "output.run_id=p"),
        *("tune.run=probe", "tune.search=grid", "tune.metric=mAP", "validation.fraction=0.4"),
        "tune.space={dataset.no_background: {grid: [false, true]}}",
    ]
    assert main(["tune", *arguments]) == 0
    folder = tmp_path / "sweeps" / "p"
    metadata = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str).set_index("path")
    split = metadata["split-time_closed"]
    for trial in ("000", "001"):
        run = folder / "trials" / trial
        rankings = pd.read_parquet(run / "rankings.parquet")
        asked, found = set(rankings["query_id"]), set(rankings["gallery_id"])
        assert (split[[*asked, *found]] == "train").all(), "the test is not touched"
        visits = metadata["source"] + metadata["encounter"]
        assert set(visits[list(asked)]).isdisjoint(visits[list(found)])
    scores = {trial["number"]: trial["score"] for trial in _trials(folder)}
    best = max(scores, key=scores.get)
    config = yaml.safe_load((folder / "best.yaml").read_text())
    assert config["dataset"]["no_background"] == [False, True][best]
    assert set(pd.read_parquet(folder / "test" / "queries.parquet")["query_id"]) == set(
        split[split == "test"].index
    )
    assert main(["probe", "--config", str(folder / "best.yaml")]) == 0
    (run,) = (path for path in (tmp_path / "benchmark_runs").iterdir() if path.is_dir())
    again = json.loads((run / "result.json").read_text())["metrics"]
    written = json.loads((folder / "result.json").read_text())["metrics"]
    assert all(written[f"test_{name}"] == value for name, value in again.items())
