"""`ray job submit -- python jobs/probe.py`, against a Ray head that was started for it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_S, JOB_S = 90, 240


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The environment in which ``ray job submit`` finds a head with two CPUs."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    if ray is None:
        pytest.skip("there is no ray command beside this Python")
    folder = tmp_path_factory.mktemp("head")
    port, dashboard, client, agent, metrics = _free_ports(5)
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    command = (
        f"start --head --block --num-cpus=2 --num-gpus=0 --node-ip-address=127.0.0.1 --port={port} "
    )
    command += f"--dashboard-host=127.0.0.1 --dashboard-port={dashboard} "
    command += f"--dashboard-agent-listen-port={agent} --metrics-export-port={metrics} "
    command += f"--ray-client-server-port={client} --object-store-memory=300000000"
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [ray, *command.split()], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for_jobs(ray, environment, process, folder / "head.log")
        yield ray, environment
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_for_jobs(ray, environment, process, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        listed = subprocess.run(
            [ray, "job", "list"], env=environment, capture_output=True, check=False
        )
        if listed.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError(f"the head did not start:\n{log.read_text()[-3000:]}")


def _submit(head, *arguments):
    ray, environment = head
    command = [ray, "job", "submit", "--working-dir", ".", "--", "python", "jobs/probe.py"]
    end = time.monotonic() + START_S
    while True:
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=JOB_S,
            check=False,
        )
        # The head answers before the agent that starts jobs is there.
        if "No available agent" not in done.stderr or time.monotonic() > end:
            return done
        time.sleep(1)


@pytest.mark.timeout(START_S + 2 * JOB_S)
def test_a_submitted_probe_and_its_exit_codes(head, dataset, tmp_path):
    arguments = [
        "--config",
        "configs/probe.yaml",
        f"dataset.root={dataset}",
        f"output.root={tmp_path}",
        "output.run_id=submitted",
        "dataset.image_size=64",
        "benchmark.bootstrap_resamples=0",
    ]
    done = _submit(head, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "benchmark_runs/submitted/result.json").read_text())
    assert result["status"] == "completed"
    assert result["counts"]["images_extracted"] == 36
    assert "top_1" in done.stdout
    wrong = _submit(head, "dataset.rot=x")
    assert wrong.returncode != 0
    assert "dataset.root" in wrong.stdout + wrong.stderr
