"""How runs tell whoever shows it what they are at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

Progress = Callable[[str, int], Callable[[int], object]]
"""Given a stage's name and its total, gives the function that counts it on."""


def no_progress(stage: str, total: int) -> Callable[[int], object]:
    """Counts nothing."""
    return lambda count: None


@contextmanager
def timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that a stage takes to those that it took before."""
    start = time.perf_counter()
    yield
    timings_s[stage] = round(timings_s.get(stage, 0.0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class RunLog:
    """What the steps of one run tell."""

    progress: Progress = no_progress
    verbose: bool = False
    """Whether Ray's own output is shown."""
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each step, summed over its calls."""

    def timed(self, step: str) -> AbstractContextManager[None]:
        """Note the seconds that a step takes."""
        return timed(self.timings_s, step)
