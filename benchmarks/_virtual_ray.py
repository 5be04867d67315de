"""The few calls of Ray that the matching's driver makes, in virtual time: for many actors.

The driver's own code (`exreid.distributed.match`) runs as it is; what an actor does is a length of
time, and so is what a call costs the driver. Time passes only where something takes some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from exreid.distributed import match


@dataclass(frozen=True)
class Costs:
    """Seconds of the driver's time, and of an actor's besides its matching."""

    tile_s: float
    """The driver's, for each tile: handing it out and taking its evidence in."""
    pair_s: float
    """The driver's, for each pair: planning, and keeping its evidence."""
    image_s: float
    """An actor's, for each image of a tile: reading its features."""
    start_s: float
    """Until an actor is up."""


@dataclass(eq=False)
class _Reference:
    at_s: float
    value: Any


class VirtualRay:
    """Stands in for the module ``ray`` in the driver's code."""

    def __init__(self, costs: Costs, pair_s: float) -> None:
        self.costs, self.pair_s, self.now_s = costs, pair_s, 0.0
        self.driver_s = 0.0
        """Time in which the driver was at work."""

    def work(self, seconds: float) -> None:
        """The driver is busy for so long."""
        self.now_s += seconds
        self.driver_s += seconds

    def remote(self, **options: Any) -> Callable[[type], Any]:
        """As a decorator of an actor's class."""
        return lambda actor: SimpleNamespace(remote=lambda *arguments: self._actor())

    def _actor(self) -> Any:
        up_s = self.now_s + self.costs.start_s
        free = [up_s]

        def run(
            method: str, query_M: np.ndarray, gallery_M: np.ndarray, pair_P2: np.ndarray
        ) -> _Reference:
            self.work(self.costs.tile_s)
            images_s = self.costs.image_s * (len(query_M) + len(gallery_M))
            busy_s = images_s + self.pair_s * len(pair_P2)
            free[0] = max(free[0], self.now_s) + busy_s
            return _Reference(free[0], (None, busy_s))

        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: _Reference(up_s, None)),
            run=SimpleNamespace(remote=run),
        )

    def wait(
        self, references: list[_Reference], num_returns: int, timeout: float
    ) -> tuple[list[_Reference], list[_Reference]]:
        """The one that is finished first, once it is."""
        first = min(references, key=lambda reference: reference.at_s)
        self.now_s = max(self.now_s, min(first.at_s, self.now_s + timeout))
        return ([first], []) if first.at_s <= self.now_s else ([], references)

    def put(self, value: Any) -> Any:
        """What all actors are given."""
        return value

    def get(self, reference: _Reference) -> Any:
        """Its value."""
        return reference.value

    def available_resources(self) -> dict[str, float]:
        """No machine joins."""
        return {"CPU": 0.0}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The driver's code with this in place of Ray and of its clock."""
        clock = SimpleNamespace(monotonic=lambda: self.now_s, perf_counter=lambda: self.now_s)
        with patch.multiple(match, ray=self, time=clock, kill_actor=lambda actor: None):
            yield
