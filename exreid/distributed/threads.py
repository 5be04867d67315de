"""Work in a thread, while the main thread waits and still receives signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
ENDS_WITHIN_S = 20.0
"""Seconds that abandoned work has to end."""


def beside_main(
    work: Callable[[], T],
    *,
    limit_s: float | None = None,
    every_s: float = 20.0,
    on_wait: Callable[[float], object] = lambda waited_s: None,
    on_abandoned: Callable[[threading.Thread], object] = lambda thread: None,
    stay: bool = False,
) -> T:
    """What ``work`` returns or raises, run in a thread of its own while the main thread waits.

    Signals are caught in the main thread, and not while it is within one of Ray's own calls, some
    of which never return once the cluster is dead. A thread that is left behind ends with the
    process. Outside the main thread the work is done directly. With ``limit_s``, TimeoutError after
    that many seconds; ``on_wait`` is called every ``every_s`` with the seconds waited so far.
    ``on_abandoned`` is called with the thread when a signal's exception ends the wait before the
    work: a thread within one of Ray's calls while ``ray.shutdown`` runs can crash the process. With
    ``stay`` the thread lives as long as the process: Linux ends processes that are to die with
    their parent once the thread that started them ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.set_exception(error)
        if stay:
            threading.Event().wait()

    thread = threading.Thread(target=run, daemon=True, name="beside-main")
    try:
        thread.start()
        _wait_for(outcome, limit_s, every_s, on_wait)
    except BaseException:
        if thread.ident is not None:  # a signal may come before it has started
            on_abandoned(thread)
        raise
    return outcome.result()


def _wait_for(
    outcome: Future[T],
    limit_s: float | None,
    every_s: float,
    on_wait: Callable[[float], object],
) -> None:
    start_s = time.monotonic()
    while not outcome.done():
        waited_s = time.monotonic() - start_s
        if limit_s is None:
            wait([outcome])
        elif waited_s >= limit_s:
            raise TimeoutError(f"no answer in {limit_s:g} s")
        elif not wait([outcome], timeout=max(0.01, min(every_s, limit_s - waited_s))).done:
            on_wait(time.monotonic() - start_s)
