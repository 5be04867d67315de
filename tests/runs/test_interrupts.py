"""Runs that are ended from outside: by signals, by a full disk, by storage that goes away."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import ClusterLostError, StorageError
from exreid.runs import probe as probe_module
from exreid.runs.probe import run_probe
from exreid.training import checkpoint
from exreid.training.history import read_history
from tests.processes import start, wait
from tests.run_schema import published_record

SMALL = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"),
    *("validation.fraction=0.4", "ray.num_workers=0"),
]
SPACE = "tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}"
PROBE = ["dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"]


def _start(command, dataset, out, *arguments):
    return start(command, f"dataset.root={dataset}", f"output.root={out}", *arguments)


def _status(folder):
    return published_record(folder)["status"]


def _run_again(said):
    """The arguments of the command that was printed."""
    (line,) = (line for line in said.splitlines() if line.strip().startswith("exreid "))
    return shlex.split(line)[1:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_in_order_and_the_printed_command_goes_on(
    dataset, tmp_path, number
):
    process = _start("finetune", dataset, tmp_path, *SMALL, "train.epochs=300")
    runs = tmp_path / "results"

    def trained():
        return any(len(read_history(run)) >= 3 for run in runs.glob("*/"))

    wait(trained, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    (run,) = runs.glob("*/")
    assert _status(run) == "interrupted"
    kept = torch.load(run / "checkpoint-latest-full.pth", weights_only=True)["epoch"]
    assert kept >= 2
    again = _run_again(said)
    assert again[-1] == f"output.run_id={run.name}"
    if number == signal.SIGTERM:
        # The same training, shortened by its own file: it goes on and does not begin anew.
        assert main([*again[:-1], "train.epochs=3", again[-1]]) == 2, "another config"
        process = subprocess.Popen([sys.executable, "-m", "exreid.cli", *again])
        wait(lambda: len(read_history(run)) > kept + 1, process)
        process.send_signal(number)
        assert process.wait(100) == 1
        assert [row.epoch for row in read_history(run)][: kept + 2] == list(range(kept + 2))


def test_a_signal_ends_a_sweep_and_the_same_command_goes_on(dataset, tmp_path):
    arguments = [*SMALL, SPACE, "tune.num_samples=2", "train.epochs=30", "tune.test=false"]
    process = _start("tune", dataset, tmp_path, *arguments, "output.run_id=s")
    folder = tmp_path / "sweeps" / "s"
    wait(lambda: len(read_history(folder / "trials" / "000")) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert (_status(folder), _status(folder / "trials" / "000")) == ("interrupted", "interrupted")
    before = read_history(folder / "trials" / "000")
    assert main(_run_again(said)) == 0
    assert read_history(folder / "trials" / "000")[: len(before)] == before
    assert _status(folder) == "completed"


def test_a_second_signal_forces_the_end(tmp_path):
    code = """
import sys, time
from exreid.cli import signals_end_the_run
with signals_end_the_run():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1


def test_an_interrupted_probe_goes_on_with_what_the_cache_holds(
    dataset, tmp_path, monkeypatch, capsys
):
    plain = probe_module.write_tables

    def interrupted(*unused):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(probe_module, "write_tables", interrupted)
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *PROBE]
    assert main(["probe", *arguments]) == 1
    (run,) = (tmp_path / "benchmark_runs").glob("*/")
    assert _status(run) == "interrupted"
    again = _run_again(capsys.readouterr().err)
    monkeypatch.setattr(probe_module, "write_tables", plain)
    assert main(again) == 0
    written = json.loads((run / "result.json").read_text())
    assert (written["status"], written["counts"]["images_extracted"]) == ("completed", 0)
    assert main(again) == 2, "completed"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("this needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_a_training_and_loses_no_finished_epoch(dataset, small_disk, capsys):
    arguments = [f"dataset.root={dataset}", f"output.root={small_disk}", *SMALL]
    arguments += ["train.epochs=3", "output.run_id=r", "output.save_every=1"]
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2**20))
    # Room for the decoded images, and for some checkpoints of a first epoch.
    code = main(["finetune", *arguments])
    said = capsys.readouterr().err.replace("\n", " ")
    assert code == 1, said
    assert "the disk is full" in said
    assert "output.run_id=r" in said
    run = small_disk / "results" / "r"
    assert not list(run.glob(".*.tmp*")), "half-written files are gone"
    for file in run.glob("*.pth"):
        torch.load(file, weights_only=True)
    assert _status(run) == "failed"
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(["finetune", *arguments]) == 0
    assert [row.epoch for row in read_history(run)] == [0, 1, 2, 3]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_keeps_the_one_before(
    dataset, tmp_path, monkeypatch, capsys
):
    plain, written = checkpoint.torch.save, []

    def save(content, file):
        if Path(file).name.startswith(".checkpoint-latest") and content["epoch"] == 2:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device", str(file))
        written.append(Path(file).name)
        plain(content, file)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL]
    arguments += ["train.epochs=3", "output.run_id=r"]
    assert main(["finetune", *arguments]) == 1
    assert "the disk is full" in capsys.readouterr().err
    run = tmp_path / "results" / "r"
    kept = torch.load(run / "checkpoint-latest-full.pth", weights_only=True)
    assert kept["epoch"] == 1
    monkeypatch.undo()
    assert main(["finetune", *arguments]) == 0
    assert [row.epoch for row in read_history(run)] == [0, 1, 2, 3]


def test_storage_that_goes_away_is_named(dataset, tmp_path, monkeypatch):
    config = load_config(
        ProbeConfig, None, [f"dataset.root={dataset}", f"output.root={tmp_path}", *PROBE]
    )

    def stale(file, table):
        raise OSError(116, "Stale file handle", str(file))

    monkeypatch.setattr(probe_module, "write_table", stale)
    says = r"rankings.parquet \(output.root\): Stale file handle.*can be reached"
    with pytest.raises(StorageError, match=says):
        run_probe(config)
    (run,) = (tmp_path / "benchmark_runs").glob("*/")
    assert _status(run) == "failed"


def test_an_output_root_that_cannot_be_made_is_named(dataset, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path / 'file'}", *PROBE]
    assert main(["probe", *arguments]) == 1
    assert "Check output.root" in capsys.readouterr().err.replace("\n", " ")


def test_what_had_computed_nothing_gives_its_run_id_to_the_corrected_command(
    dataset, tmp_path, capsys
):
    wrong = [f"dataset.root={dataset}", f"output.root={tmp_path}", *PROBE, "output.run_id=r"]
    wrong += ["dataset.make_split=closed_set", "dataset.query_split_value=nobody"]
    assert main(["probe", *wrong]) == 1
    run = tmp_path / "benchmark_runs" / "r"
    assert (_status(run), (run / "split.csv").exists()) == ("failed", True)
    assert "To go on" not in capsys.readouterr().err
    right = wrong[:-2]
    assert main(["probe", *right]) == 0
    assert _status(run) == "completed"
    assert not (run / "split.csv").exists(), "it was the other command's"
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert main(["probe", *wrong]) == 2, "it is there already"
    assert main(["probe", *right, "seed=5"]) == 2
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


def test_what_another_config_has_finished_is_not_written_over(dataset, tmp_path, monkeypatch):
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *PROBE, "output.run_id=r"]
    monkeypatch.setattr(probe_module, "measure", _interrupt)
    assert main(["probe", *arguments]) == 1
    monkeypatch.undo()
    written = (tmp_path / "benchmark_runs" / "r" / "answers.parquet").read_bytes()
    assert main(["probe", *arguments, "seed=5"]) == 2
    assert (tmp_path / "benchmark_runs" / "r" / "answers.parquet").read_bytes() == written


def _interrupt(*unused, **also_unused):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("stage", "goes_on"), [("read_images", False), ("check_leaks", False), ("write_tables", True)]
)
@pytest.mark.parametrize("ends", [_interrupt, "dies"])
def test_to_go_on_is_proposed_where_something_was_finished(
    dataset, tmp_path, monkeypatch, capsys, stage, goes_on, ends
):
    def dies(*unused, **also_unused):
        raise ClusterLostError("the Ray cluster went away")

    monkeypatch.setattr(probe_module, stage, dies if ends == "dies" else ends)
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *PROBE, "output.run_id=r"]
    assert main(["probe", *arguments]) == 1
    said = capsys.readouterr().err
    assert ("To go on from there" in said) == goes_on, said
    if goes_on:
        assert main(["probe", *arguments, "benchmark.cache=off", "output.run_id=s"]) == 1
        assert "To go on" not in capsys.readouterr().err, "nothing is kept without a cache"
