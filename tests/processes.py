"""The command line in processes of its own, what these start, and waiting for what they do."""

import subprocess
import sys
import time
from pathlib import Path


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


def children(pid):
    """Process ids of all that a process started, and of what those started, by name."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = file.read_text()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :]
        parents[int(file.parent.name)] = (int(rest.split()[1]), name)
    found, more = {}, [pid]
    while more:
        parent = more.pop()
        own = {child: name for child, (of, name) in parents.items() if of == parent}
        found |= own
        more.extend(own)
    return found


def is_alive(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] != "Z"
