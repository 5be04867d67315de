"""A small process that tidies up after a driver that was killed.

Ray's C++ side ends a driver at once when the raylet of its machine dies, and nobody can catch
SIGKILL. The sentry, a child with nothing but the standard library, then prints what happened, notes
it in the runs' ``result.json``, and ends the processes of Ray that are left.
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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PROC = Path("/proc")
ROOT = Path(__file__).parents[2]
MARK = "EXREID_SENTRY"
"""The environment variable by which all that Ray starts for a driver is known."""
LOOK_EVERY_S = 0.5
CONNECT_WITHIN_S = 2.0
ALONE_S = 10.0
"""Seconds for Ray's processes to end by themselves once their driver is gone; they mostly do."""
KILL_AFTER_S = 3.0
LOCK_WITHIN_S = 2.0
"""Seconds in which the run's lock must come free: on a busy machine, threads of a driver that is
said to be gone may hold its files a moment longer."""
STARTED, DONE, SILENT = "started\n", "done\n", "silent\n"

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
    """The driver's side: starts the other process, and ends it again."""

    def __init__(self) -> None:
        """To be called before Ray is started, which may end the process at once."""
        self.mark = uuid.uuid4().hex
        orders = {
            "driver": os.getpid(),
            "mark": self.mark,
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

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Processes that Ray starts in the block are ended when the driver is gone."""
        os.environ[MARK] = self.mark
        try:
            yield
        finally:
            del os.environ[MARK]
        self._send(STARTED)

    def silence(self) -> None:
        """The user knows why this process ends: the sentry prints nothing, but tidies up."""
        self._send(SILENT)

    def dismiss(self) -> None:
        """All is well, and Ray is shut down: what it leaves behind is ended soon."""
        self._send(DONE)

    def _send(self, line: str) -> None:
        if self.process is not None:
            with suppress(OSError):
                self.process.stdin.write(line)
                self.process.stdin.flush()


def children(of: int) -> set[int]:
    """The processes that this one has started; none where there is no /proc."""
    return {pid for pid, parent in _parents().items() if parent == of}


def answers(address: str, timeout_s: float = CONNECT_WITHIN_S) -> bool:
    """Whether HOST:PORT takes a connection: a busy process does so too."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def _parents() -> dict[int, int]:
    """The parent of each process that runs."""
    return {pid: parent for (pid, _), parent in _processes().items()}


def _processes() -> dict[tuple[int, str], int]:
    """The parent of each process that runs. A process is its number and its time of start, since
    numbers come again."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            # The name in brackets may have any characters.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents[int(folder.name), fields[19]] = int(fields[1])
    return parents


class Started:
    """The processes that Ray has started for a driver: those with its mark, and their children.

    Neither says it for long: a process that changes its title may lose its environment in /proc,
    and a raylet that dies leaves its children to the system. So they are looked for all the time,
    and remembered.
    """

    def __init__(self, mark: str) -> None:
        self.sought = f"{MARK}={mark}".encode()
        self.known: set[tuple[int, str]] = set()

    def running(self) -> list[int]:
        """Those that run."""
        parents = _processes()
        self.known &= parents.keys()
        self.known |= {process for process in parents.keys() - self.known if self._marked(process)}
        while True:
            known = {pid for pid, _ in self.known}
            new = {process for process, parent in parents.items() if parent in known} - self.known
            if not new:
                return sorted(known)
            self.known |= new

    def _marked(self, process: tuple[int, str]) -> bool:
        with suppress(OSError):
            return self.sought in (PROC / str(process[0]) / "environ").read_bytes()
        return False


class Lines:
    """Lines out of a pipe, as they come."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.rest = pipe, b""

    def within(self, seconds: float) -> list[str]:
        """Those that come within this many seconds, or none."""
        if select.select([self.pipe], [], [], seconds)[0]:
            data = os.read(self.pipe, 2**16)
            if not data:  # its other end is closed; whoever held it follows
                time.sleep(0.05)
            self.rest += data
        *whole, self.rest = self.rest.split(b"\n")
        return [line.decode() + "\n" for line in whole]


def _heard(driver: int, orders: Lines, started: Started) -> set[str]:
    """The driver's messages, once it is gone or has sent `DONE`."""
    heard: set[str] = set()
    while os.getppid() == driver and DONE not in heard:
        started.running()
        heard.update(orders.within(LOOK_EVERY_S))
    return heard.union(orders.within(0.0))


def _clear(started: Started, alone_s: float) -> None:
    """End the processes that are left."""
    for kill, wait_s in ((0, alone_s), (signal.SIGTERM, KILL_AFTER_S), (signal.SIGKILL, 0.0)):
        for pid in started.running():
            with suppress(OSError):
                os.kill(pid, kill)  # 0 does nothing
        end_s = time.monotonic() + wait_s
        while (left := started.running()) and time.monotonic() < end_s:
            time.sleep(LOOK_EVERY_S)
        if not left:
            return


def _note(file: Path, text: str) -> bool:
    """Note the failure in ``result.json``, unless another process is working on the run by now.
    Whether it was noted."""
    with (file.parent / ".lock").open("a") as lock:
        _take(lock)
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("status") != "running":
            return False
        content |= {"status": "failed", "error": text, "error_type": "Killed"}
        temporary = file.with_name(f".{file.name}.sentry.tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
    return True


def _take(lock: IO[str]) -> None:
    """BlockingIOError where another process keeps it."""
    import fcntl

    end_s = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)


def _publish(file: Path) -> None:
    """Mirror it, where its run is mirrored; the import takes seconds."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from exreid.storage import mirror

    mirror.publish(file)


def main() -> None:
    """The other process."""
    orders = json.loads(sys.argv[1])
    started = Started(orders["mark"])
    heard = _heard(orders["driver"], Lines(0), started)
    if DONE in heard:
        # Without a head, Ray's agents take a minute to end by themselves.
        _clear(started, orders["alone_s"])
        return
    text = (
        "this process was ended from outside: killed, or memory was full, or Ray's own process on "
        "this machine, the raylet, died."
    )
    if STARTED not in heard:
        text = "this process was ended while Ray started: the machine is busy, or its memory full."
    text += " What was finished is kept: run the same command again."
    if SILENT not in heard:
        with suppress(OSError):
            os.write(2, f"exreid: {text}\n".encode())
    noted = []
    for file in map(Path, orders["runs"]):
        with suppress(Exception):  # no one is left to hear of it
            if _note(file, text):
                noted.append(file)
    # Who waits for the last word finds it in result.json, and need not wait for the rest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for file in noted:
        with suppress(Exception):
            _publish(file)
    _clear(started, orders["alone_s"])


if __name__ == "__main__":
    main()
