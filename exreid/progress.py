"""How runs tell whoever shows it what they are at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, int], Callable[[int], Any]]
"""Given a stage's name and its total, gives the function that counts it on."""


def no_progress(stage: str, total: int) -> Callable[[int], Any]:
    """Counts nothing."""
    return lambda count: None


@contextmanager
def timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds that a stage takes."""
    start = time.perf_counter()
    yield
    timings_s[stage] = round(time.perf_counter() - start, 3)
