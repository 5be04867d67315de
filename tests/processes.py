"""The command line in processes of its own, what these start, and waiting for what they do."""

import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
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
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(every_s)


def until(happened, seconds=120):
    """Whether it happens within these seconds; it is not waited for any longer."""
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)
    return happened()


def free_ports(count):
    """Ports of this machine that nobody has, for a server that starts in some seconds.

    Not those that the system gives to whoever asks for any: on a busy machine another process would
    have it by then. Ray's workers take theirs below 20,000.
    """
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as opened, suppress(OSError):
            opened.bind(("127.0.0.1", port))
            ports += [] if port in ports else [port]
    return ports


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
