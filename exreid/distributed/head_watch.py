"""Notices that the cluster's head or this machine's raylet is dead, and raises an error in the main
thread.

Ray itself waits for a minute after the head's death, and then ends the process from C++ without a
message; after the raylet's death some calls wait for ever.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.actor import ActorHandle

from exreid.distributed.sentry import answers
from exreid.distributed.threads import beside_main
from exreid.errors import ClusterLostError

CONNECT_EVERY_S = 2.0
LOST_AFTER_S = 15.0
"""Seconds without an answer after which the head counts as dead; Ray's own limit is 60."""
CLEAN_UP_S = 20.0
"""Seconds that a run then has to tidy up: a call to Ray would wait for ever."""
_lost = threading.Event()


def head_is_lost() -> bool:
    """Whether the head was found dead: no call to Ray returns any more."""
    return _lost.is_set()


def kill_actor(actor: ActorHandle) -> None:
    """ray.kill, unless the head is dead: the call would not return."""
    if not head_is_lost():
        ray.kill(actor)


@contextmanager
def head_watched(
    find_raylet: Callable[[], str | None] = lambda: None,
    *,
    on_told: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Raise ClusterLostError in the block once the head of the cluster, or the raylet of this
    machine, no longer answers; ``find_raylet`` asks the head for its HOST:PORT. ``on_told`` is
    called after that was printed and the process ends: Ray may end it on the spot until then.

    Outside the main thread, where no signal can be caught, the block is run as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _lost.clear()
    watch = HeadWatch(ray.get_runtime_context().gcs_address, on_told)
    before = signal.signal(signal.SIGUSR2, watch.raise_lost)
    watch.start()
    try:
        # A head that dies now answers nobody: this one too has to be called away.
        watch.raylet = beside_main(find_raylet)
        yield
    except Exception as error:
        if _lost.is_set() or not watch.answers():
            # Ray's own exit handlers would wait for an answer.
            atexit.register(exit_failed)
            atexit.register(on_told)  # what is registered last is called first
            raise watch.error() from error
        raise
    finally:
        watch.ended.set()
        signal.signal(signal.SIGUSR2, before)


class HeadWatch(threading.Thread):
    """Connects to the head and to this machine's raylet, again and again."""

    def __init__(self, head: str, on_told: Callable[[], object]) -> None:
        super().__init__(daemon=True, name="watch-head")
        self.head, self.on_told = head, on_told
        self.raylet: str | None = None
        self.raylet_lost = False
        self.ended = threading.Event()

    def run(self) -> None:
        """Until one of them is lost, or the block has ended."""
        last_s = time.monotonic()
        while not self.ended.wait(CONNECT_EVERY_S):
            if self.answers():
                last_s = time.monotonic()
            elif time.monotonic() - last_s > LOST_AFTER_S:
                _lost.set()
                # Only a signal interrupts Ray's waits.
                signal.pthread_kill(_main_id(), signal.SIGUSR2)
                if not self.ended.wait(CLEAN_UP_S):
                    os.write(2, f"exreid: {self.error()}\n".encode())
                    self.on_told()
                    os._exit(1)
                return

    def answers(self) -> bool:
        """Whether both take a connection."""
        self.raylet_lost = self.raylet is not None and not answers(self.raylet)
        return not self.raylet_lost and answers(self.head)

    def raise_lost(self, *unused: object) -> None:
        """The handler of the signal, in the main thread."""
        if not self.ended.is_set():
            raise self.error()

    def error(self) -> ClusterLostError:
        """What happened, and what to do."""
        if self.raylet_lost and answers(self.head):
            return ClusterLostError(
                "Ray's own process on this machine, the raylet, has died: often memory was full. "
                "What was finished is kept. Run the same command again with the same output.run_id."
            )
        return ClusterLostError(
            f"the Ray cluster at {self.head} answers no more: its head is dead, or cannot be "
            "reached. What was finished is kept. Start the cluster again, then the same command "
            "with the same output.run_id."
        )


def exit_failed() -> None:
    """Leave the process at once, with exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _main_id() -> int:
    ident = threading.main_thread().ident
    assert ident is not None
    return ident
