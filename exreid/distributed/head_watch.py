"""A cluster whose head dies takes its drivers with it: Ray waits for a minute and then ends the
process from C++, without a word. This notices before, and raises an error in the main thread."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from exreid.errors import ClusterLostError

EVERY_S = 2.0
LOST_AFTER_S = 15.0
"""Seconds without an answer after which the head counts as dead; Ray's own limit is 60."""
CLEAN_UP_S = 20.0
"""Seconds that a run then has to tidy up: whatever asks Ray for something waits for ever."""
_lost = threading.Event()


def head_is_lost() -> bool:
    """Whether the head was found dead: no call to Ray returns any more."""
    return _lost.is_set()


def kill_actor(actor: Any) -> None:
    """ray.kill, unless the head is dead: nobody would hear it, and the call would not return."""
    if not head_is_lost():
        ray.kill(actor)


@contextmanager
def head_watched() -> Iterator[None]:
    """Raise ClusterLostError in the block once the head of the cluster no longer answers.

    Outside the main thread, where no signal can be caught, the block is run as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _lost.clear()
    watch = HeadWatch(ray.get_runtime_context().gcs_address)
    before = signal.signal(signal.SIGUSR2, watch.raise_lost)
    watch.start()
    try:
        yield
    except Exception as error:
        if _lost.is_set() or not watch.answers():
            # Nor say goodbye when this process ends: Ray would wait for an answer.
            atexit.register(_exit_failed)
            raise watch.error() from error
        raise
    finally:
        watch.ended.set()
        signal.signal(signal.SIGUSR2, before)


class HeadWatch(threading.Thread):
    """Knocks at the head's door."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True, name="watch-head")
        self.address = address
        self.ended = threading.Event()

    def run(self) -> None:
        """Until the head is lost, or nobody needs it any more."""
        last_s = time.monotonic()
        while not self.ended.wait(EVERY_S):
            if self.answers():
                last_s = time.monotonic()
            elif time.monotonic() - last_s > LOST_AFTER_S:
                _lost.set()
                # Ray's waits look for signals; nothing else would wake them.
                signal.pthread_kill(_main_id(), signal.SIGUSR2)
                if not self.ended.wait(CLEAN_UP_S):
                    os.write(2, f"exreid: {self.error()}\n".encode())
                    os._exit(1)
                return

    def answers(self) -> bool:
        """Whether the head takes a connection: a busy one does so too."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY_S).close()
        except OSError:
            return False
        return True

    def raise_lost(self, *unused: Any) -> None:
        """What the signal does, in the main thread."""
        if not self.ended.is_set():
            raise self.error()

    def error(self) -> ClusterLostError:
        """What happened, and what to do."""
        return ClusterLostError(
            f"the Ray cluster at {self.address} answers no more: its head is dead, or cannot be "
            "reached. What was finished is kept. Start the cluster again, then the same command "
            "with the same output.run_id."
        )


def _exit_failed() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _main_id() -> int:
    ident = threading.main_thread().ident
    assert ident is not None
    return ident
