"""The command line in processes of its own, and waiting for what they do."""

import subprocess
import sys
import time


def start(command, *arguments, env=None):
    """`exreid COMMAND` in a session of its own; its stderr can be read."""
    return subprocess.Popen(
        [sys.executable, "-m", "exreid.cli", command, *arguments],
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def wait(happened, process, seconds=500, *, every_s=0.02):
    """Until it has happened; AssertionError once the process has ended or it takes too long."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not come that far"
        assert process.poll() is None, process.stderr.read()
        time.sleep(every_s)
