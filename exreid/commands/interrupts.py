"""SIGINT and SIGTERM during a command: the first signal ends it in order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_end_the_run() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt, the second ends the process with exit code 1.

    Outside the main thread no signal can be caught: there it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def end(number: int, frame: object) -> None:
        if seen:
            os._exit(1)
        seen.append(number)
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\nStopping; once more to stop at once.\n")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
