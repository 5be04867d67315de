"""Work that the main thread waits for, and can be called away from."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def beside_main(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, run in a thread of its own while the main thread waits.

    Signals are caught in the main thread, and not while it is within one of Ray's own calls, some
    of which never return once the cluster is dead. A thread that is left behind ends with the
    process. Outside the main thread the work is done there and then.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    box: queue.Queue[tuple[T, None] | tuple[None, BaseException]] = queue.Queue()

    def run() -> None:
        try:
            box.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            box.put((None, error))

    threading.Thread(target=run, daemon=True, name="beside-main").start()
    result, error = box.get()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
