"""What a process that dies without a word can no longer do itself, done by a small one that stays.

Ray's C++ side ends a driver on the spot when the raylet of its machine dies, and nobody can catch
SIGKILL. The sentry, a child with nothing but the standard library, then says what happened, notes
it in the runs' ``result.json``, and ends those of Ray's processes that stay behind.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROC = Path("/proc")
LOOK_EVERY_S = 0.5
TRACK_EVERY_S = 5.0
KNOCK_S = 2.0
ALONE_S = 10.0
"""Seconds for Ray's processes to end by themselves once their driver is gone; they mostly do."""
KILL_AFTER_S = 3.0
DONE, SILENT = "done\n", "silent\n"

Started = dict[int, str]
"""Processes by id, with the time of their start: ids are given anew."""

_noted: list[Path] = []


@contextmanager
def noting_death(file: Path) -> Iterator[None]:
    """A death within the block is noted in this ``result.json``."""
    _noted.append(file)
    try:
        yield
    finally:
        _noted.remove(file)


class Sentry:
    """The driver's side: starts the other process, and sends it away again."""

    def __init__(self) -> None:
        """Before Ray is started, which may end the process at once."""
        self.before = children(os.getpid())
        orders = {
            "driver": os.getpid(),
            "before": self.before,
            "runs": [str(file) for file in _noted],
            "alone_s": ALONE_S,
        }
        self.process: Any = None
        with suppress(OSError):
            self.process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(orders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )

    def watch(self) -> None:
        """Ray is up: what this process has started since then, it has started for Ray."""
        own = {} if self.process is None else {self.process.pid}
        new = children(os.getpid()).items()
        started = {pid: start for pid, start in new if pid not in {*self.before, *own}}
        self._send(json.dumps(started) + "\n")

    def silence(self) -> None:
        """Whatever ends this process now has been told; the rest is still to be done."""
        self._send(SILENT)

    def dismiss(self) -> None:
        """All is well."""
        self._send(DONE)
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(KNOCK_S)

    def _send(self, line: str) -> None:
        if self.process is not None:
            with suppress(OSError):
                self.process.stdin.write(line)
                self.process.stdin.flush()


def children(of: int) -> Started:
    """The processes that this one has started; none where there is no /proc."""
    return {pid: started for pid, (parent, started) in _processes().items() if parent == of}


def answers(address: str, timeout_s: float = KNOCK_S) -> bool:
    """Whether HOST:PORT takes a connection: a busy process does so too."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start of each process that runs."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            # The name in brackets may hold anything.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[int(folder.name)] = (int(fields[1]), fields[19])
    return found


class Lines:
    """Lines out of a pipe, as they come."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.rest = pipe, b""

    def within(self, seconds: float) -> list[str]:
        """Those that come within so many seconds, or none."""
        if select.select([self.pipe], [], [], seconds)[0]:
            data = os.read(self.pipe, 2**16)
            if not data:  # its other end is closed; whoever held it follows
                time.sleep(0.05)
            self.rest += data
        *whole, self.rest = self.rest.split(b"\n")
        return [line.decode() + "\n" for line in whole]


@dataclass
class _DriverWatch:
    """What the other process knows."""

    driver: int
    before: Started
    """The driver's children from before Ray."""
    started: Started = field(default_factory=dict)
    """Processes of Ray's."""
    starting: bool = True
    silent: bool = False

    def stand(self, orders: Lines) -> bool:
        """Until the driver is gone; False where it sent us away."""
        tracked_s = 0.0
        while os.getppid() == self.driver:
            for line in orders.within(LOOK_EVERY_S):
                if line == DONE:
                    return False
                if line == SILENT:
                    self.silent = True
                else:
                    self.started = {int(pid): start for pid, start in json.loads(line).items()}
                    self.starting = False
            if self.starting or time.monotonic() - tracked_s > TRACK_EVERY_S:
                self.track()
                tracked_s = time.monotonic()
        return True

    def track(self) -> None:
        """Forget the processes that have ended, and add what the others have started."""
        there = _processes()
        self.started = {
            pid: start for pid, start in self.started.items() if there.get(pid, (0, ""))[1] == start
        }
        above = {self.driver} if self.starting else set()
        known = {*self.before, os.getpid()}
        grown = True
        while grown:
            above |= set(self.started)
            new = {p: s for p, (up, s) in there.items() if up in above and p not in known}
            grown = not new.keys() <= self.started.keys()
            self.started |= new

    def clear(self, alone_s: float) -> None:
        """End what stays behind."""
        self.starting = False  # the driver's id may be given anew
        for kill, wait_s in ((0, alone_s), (signal.SIGTERM, KILL_AFTER_S), (signal.SIGKILL, 0.0)):
            for pid in self.started:
                with suppress(OSError):
                    os.kill(pid, kill)  # 0 does nothing
            end_s = time.monotonic() + wait_s
            while self.started and time.monotonic() < end_s:
                time.sleep(LOOK_EVERY_S)
                self.track()
            if not self.started:
                return


def _note(file: Path, text: str) -> None:
    """The run did not come to its end: unless another process is at work on it by now."""
    import fcntl

    with (file.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("status") != "running":
            return
        content |= {"status": "failed", "error": text, "error_type": "Killed"}
        temporary = file.with_name(f".{file.name}.sentry.tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from exreid.storage import mirror

    mirror.publish(file)


def main() -> None:
    """The other process."""
    orders = json.loads(sys.argv[1])
    watch = _DriverWatch(orders["driver"], {int(p): s for p, s in orders["before"].items()})
    if not watch.stand(Lines(0)):
        return
    text = (
        "this process was ended from outside: killed, or memory was full, or Ray's own process on "
        "this machine, the raylet, died."
    )
    if watch.starting:
        text = "this process was ended while Ray started: the machine is busy, or its memory full."
    text += " What was finished is kept: run the same command again."
    if not watch.silent:
        with suppress(OSError):
            os.write(2, f"exreid: {text}\n".encode())
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # who reads it need not wait for the rest
    for file in orders["runs"]:
        with suppress(Exception):  # no one is left to hear of it
            _note(Path(file), text)
    watch.clear(orders["alone_s"])


if __name__ == "__main__":
    main()
