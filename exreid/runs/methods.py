"""What a probe fuses: methods that score pairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from exreid.metrics.ranking import Exclude


class ScorePairs(Protocol):
    """Raw scores of pairs of table positions, float64; NaN for a pair not worth a full look."""

    def __call__(
        self, first_P: np.ndarray, second_P: np.ndarray, /, *, all_pairs: bool, exclude: Exclude
    ) -> np.ndarray:
        """``all_pairs``: none is left out. ``exclude``: what a first image may not be answered
        with, for scores that depend on its other candidates."""


@dataclass(frozen=True)
class Method:
    """One of the methods that are fused."""

    name: str
    kind: Literal["global", "local"]
    score: ScorePairs
    rounds: Callable[[], AbstractContextManager[None]] = nullcontext
    """Open while many small lists of pairs are scored."""
