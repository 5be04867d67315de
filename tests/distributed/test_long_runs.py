"""Runs over Ray that are ended by a signal, or by the death of the cluster's head."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from exreid.training.history import read_history
from tests.processes import children, free_ports, is_alive, start, until, wait

pytestmark = [pytest.mark.slow, pytest.mark.ray]

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
SMALL = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"),
    *("validation.fraction=0.4", "train.epochs=2000"),
]
SPACE = "tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}"


def _environment():
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    settings = {
        "USAGE_STATS_ENABLED": "0",
        "worker_niceness": "0",
        "raylet_start_wait_time_s": "300",
    }
    return {**kept, **{f"RAY_{name}": text for name, text in settings.items()}, **TOKEN}


def _start(command, *arguments):
    return start(command, *arguments, env=_environment())


_wait = partial(wait, seconds=800, every_s=0.1)


def _gone(pids):
    return until(lambda: not any(is_alive(pid) for pid in pids))


def _status(folder):
    return json.loads((folder / "result.json").read_text())["status"]


@pytest.mark.timeout(1800)
def test_a_signal_ends_ray_train_and_its_workers(dataset, tmp_path):
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL]
    process = _start("finetune", *arguments, "ray.num_workers=2", "output.run_id=r")
    run = tmp_path / "results" / "r"
    _wait(lambda: len(read_history(run)) >= 3, process)
    started = children(process.pid)
    assert any("raylet" in name for name in started.values())
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1, said
    assert "output.run_id=r" in said
    assert "Traceback" not in said
    assert _status(run) == "interrupted"
    assert _gone(started), "workers are left"
    assert not (run / ".ray_train").exists()


@pytest.mark.timeout(1800)
def test_a_death_of_the_raylet_is_told_and_leaves_no_process(dataset, tmp_path):
    """That of the process itself: `test_chaos.py`."""
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL]
    process = _start("finetune", *arguments, "ray.num_workers=1", "output.run_id=r")
    run = tmp_path / "results" / "r"
    _wait(lambda: len(read_history(run)) >= 2, process)
    started = children(process.pid)
    (raylet,) = [pid for pid, name in started.items() if name == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "the raylet, " in said
    assert "Traceback" not in said
    assert _gone(started), "processes are left"
    assert _status(run) == "failed"


@pytest.mark.timeout(1800)
def test_a_signal_ends_a_sweep_over_ray(dataset, tmp_path):
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL, SPACE]
    process = _start("tune", *arguments, "tune.num_samples=2", "output.run_id=s")
    folder = tmp_path / "sweeps" / "s"
    trials = [folder / "trials" / "000", folder / "trials" / "001"]
    _wait(lambda: any(len(read_history(trial)) >= 3 for trial in trials), process)
    started = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1, said
    assert "output.run_id=s" in said
    assert _status(folder) == "interrupted"
    begun = [trial for trial in trials if (trial / "result.json").exists()]
    assert {_status(trial) for trial in begun} == {"interrupted"}
    assert _gone(started), "workers are left"


@pytest.fixture
def head():
    """A Ray head of its own: its address, and the process ids of its parts by name."""
    (port,) = free_ports(1)
    ray = Path(sys.executable).with_name("ray")
    command = "start --head --block --num-cpus=2 --num-gpus=0 --node-ip-address=127.0.0.1 "
    command += f"--port={port} --include-dashboard=false --object-store-memory=200000000"
    process = subprocess.Popen(
        [str(ray), *command.split()],
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    started = {}
    try:
        _wait(lambda: "raylet" in children(process.pid).values(), process)
        started = children(process.pid)
        yield f"127.0.0.1:{port}", started
    finally:
        for pid in [process.pid, *started, *children(process.pid)]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(1800)
def test_a_killed_driver_and_a_dead_head_are_told_and_what_was_finished_is_kept(
    dataset, tmp_path, head
):
    address, parts = head
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL, "output.run_id=r"]
    over_ray = [*arguments, "ray.num_workers=1", f"ray.address={address}"]
    run = tmp_path / "results" / "r"
    process = _start("finetune", *over_ray)
    _wait(lambda: len(read_history(run)) >= 3, process)
    process.kill()
    _, said = process.communicate(timeout=200)
    assert "exreid: this process was ended" in said
    assert _status(run) == "failed"
    killed = read_history(run)
    process = _start("finetune", *over_ray)
    _wait(lambda: len(read_history(run)) > len(killed) + 1, process)
    assert read_history(run)[: len(killed)] == killed
    (gcs,) = (pid for pid, name in parts.items() if name.startswith("gcs_server"))
    os.kill(gcs, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    said = said.replace("\n", " ")
    # Ray may name its machine otherwise than the user did.
    port = address.rpartition(":")[2]
    assert f":{port} answers no more" in said
    assert "output.run_id=r" in said
    assert _status(run) == "failed"
    history = read_history(run)
    assert len(history) >= 3
    last = len(history) + 1
    # The rest needs no cluster; another number of epochs would be another config.
    process = _start("finetune", *arguments, "ray.num_workers=0")
    _wait(lambda: len(read_history(run)) > last, process)
    assert read_history(run)[: len(history)] == history
    process.kill()
    process.wait()
