"""A Ray head of a test's own, and ``ray job submit`` to it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import children, free_ports

ROOT = Path(__file__).parents[1]
START_S, JOB_S = 300, 900


@dataclass(frozen=True)
class Head:
    """A head that is up."""

    ray: str
    environment: dict[str, str]

    def submit(self, *command, timeout_s=JOB_S):
        """``ray job submit --working-dir . -- COMMAND``, run to its end."""
        words = [self.ray, "job", "submit", "--working-dir", ".", "--", *command]
        end = time.monotonic() + START_S
        while True:
            done = subprocess.run(
                words,
                cwd=ROOT,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
            # The head answers before the agent that starts jobs is there.
            if "No available agent" not in done.stderr or time.monotonic() > end:
                return done
            time.sleep(1)


@contextmanager
def ray_head(folder, environment=()):
    """A head with two CPUs, its log in ``folder``, and ``environment`` for its jobs."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    if ray is None:
        pytest.skip("there is no ray command beside this Python")
    port, dashboard, client, agent, metrics = free_ports(5)
    settings = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    settings |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{settings['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": str(START_S),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        **dict(environment),
    }
    command = (
        f"start --head --block --num-cpus=2 --num-gpus=0 --node-ip-address=127.0.0.1 --port={port} "
    )
    command += f"--dashboard-host=127.0.0.1 --dashboard-port={dashboard} "
    command += f"--dashboard-agent-listen-port={agent} --metrics-export-port={metrics} "
    command += f"--ray-client-server-port={client} --object-store-memory=300000000"
    # Jobs go to the head that is noted in this folder: another test's, were it Ray's usual one.
    # Its name is short, since a socket's path has 107 characters at most.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command += f" --temp-dir={temporary}"
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [ray, *command.split()], env=settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for_jobs(settings, process, folder / "head.log")
        yield Head(ray, settings)
    finally:
        # Asked to end, it would take half a minute.
        for pid in [process.pid, *children(process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_jobs(environment, process, log):
    """Asked as ``ray job list`` asks, which takes a second of a CPU each time."""
    address, token = (environment[f"RAY_{name}"] for name in ("API_SERVER_ADDRESS", "AUTH_TOKEN"))
    jobs = urllib.request.Request(f"{address}/api/jobs/")
    jobs.add_header("Authorization", f"Bearer {token}")
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(jobs, timeout=10):
            return
        time.sleep(0.2)
    raise AssertionError(f"the head did not start:\n{log.read_text()[-3000:]}")
