"""How runs tell whoever shows it what they are at; durations and numbers in words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

WATCH, STAGES = "exreid.watch", "exreid.watch.stages"
"""The loggers (level INFO) of a run's lines. Commands show them; in a program that uses exreid they
are silent until its logging asks for them."""

Progress = Callable[[str, int], Callable[[int], object]]
"""Given a stage's name and its total, gives the function that counts it on."""


def no_progress(stage: str, total: int) -> Callable[[int], object]:
    """Counts nothing."""
    return lambda count: None


def tell(text: str, **numbers: object) -> None:
    """A line for whoever watches a run; ``numbers`` are for programs that read the log."""
    logging.getLogger(WATCH).info("%s", text, extra={"numbers": numbers})


def tell_stage(stage: str, done: int, total: int, *, seconds: float, ended: bool) -> None:
    """A line about a stage: how far it is, how fast, and how long it still takes at that rate."""
    per_s = done / seconds if seconds > 0 else 0.0
    rate = f"{per_s:.3g} per second" if per_s < 1000 else f"{per_s:,.0f} per second"
    if ended:
        counted = f"{done:,}" if done == total else f"{done:,} of {total:,}"
        text = f"{stage}: {counted} in {duration(seconds)}, {rate}."
    elif done:
        left = duration((total - done) / per_s)
        text = f"{stage}: {done:,} of {total:,}, {rate}, about {left} left."
    else:
        text = f"{stage}: none of {total:,} yet, after {duration(seconds)}."
    numbers = {"stage": stage, "done": done, "total": total, "per_second": round(per_s, 3)}
    logging.getLogger(STAGES).info("%s", text, extra={"numbers": numbers})


def duration(seconds: float) -> str:
    """Seconds in words of two units at most.

    >>> duration(0.31), duration(75), duration(7384)
    ('0.3 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def counted(count: int, one: str, several: str = "") -> str:
    """A number of things; ``several`` is the plural where it is no added s.

    >>> counted(1, "photograph"), counted(1200, "query", "queries")
    ('1 photograph', '1,200 queries')
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


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
