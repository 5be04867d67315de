"""The work plan of pair matching: which pairs go together, so that few features travel.

Letters: P pairs, M images of one side of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Protocol, TypeVar

import numpy as np

from exreid.records import LocalFeatures, PairEvidence


class PairMatcher(Protocol):
    """Scores pairs of images by their local features; no pair's score depends on another."""

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """The evidence of the pairs (row of ``queries``, row of ``gallery``), int32 (P, 2)."""


@dataclass(frozen=True)
class Tile:
    """Some pairs, and their images."""

    number: int
    place_P: np.ndarray
    """int64: the pairs' indices in the whole list of pairs."""
    query_M: np.ndarray
    """The query indices, each once, rising."""
    gallery_M: np.ndarray
    """The gallery indices, each once, rising."""
    pair_P2: np.ndarray
    """int32: each pair as places in ``query_M`` and ``gallery_M``."""


Answer = TypeVar("Answer")
Ask = Callable[[PairMatcher, LocalFeatures, LocalFeatures, np.ndarray], Answer]
"""Asks a matcher about the pairs of a tile; a function that can be sent to an actor."""


def score_tile(
    matcher: PairMatcher, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
) -> PairEvidence:
    """The evidence of each pair."""
    return matcher.score(queries, gallery, pair_P2)


FeaturesOf = Callable[[np.ndarray], LocalFeatures]
"""Returns the local features of the images at these indices of one side."""


def plan_tiles(
    query_P: np.ndarray, gallery_P: np.ndarray, *, pairs_per_tile: int
) -> Iterator[Tile]:
    """Cut pairs into tiles of at most ``pairs_per_tile``.

    The pairs of a few neighbouring queries follow each other, by gallery image: all pairs of two
    sets become nearly square tiles, and queries that share candidates share their features.
    The plan depends on the set of pairs alone, not on their order.

    >>> [tile.pair_P2.tolist() for tile in plan_tiles(np.array([0, 0, 1]), np.array([7, 5, 5]),
    ...                                               pairs_per_tile=4)]
    [[[0, 0], [1, 0], [0, 1]]]
    """
    if pairs_per_tile < 1:
        raise ValueError(f"a tile holds one pair at least, not {pairs_per_tile}.")
    rows = max(1, isqrt(pairs_per_tile))
    row_P = np.unique(query_P, return_inverse=True)[1]
    order_P = np.lexsort((query_P, gallery_P, row_P // rows))
    for number, start in enumerate(range(0, len(order_P), pairs_per_tile)):
        place_P = order_P[start : start + pairs_per_tile]
        query_M, query_place_P = np.unique(query_P[place_P], return_inverse=True)
        gallery_M, gallery_place_P = np.unique(gallery_P[place_P], return_inverse=True)
        pair_P2 = np.stack([query_place_P, gallery_place_P], axis=1).astype(np.int32)
        yield Tile(number, place_P, query_M, gallery_M, pair_P2)


def match_in_process(
    tiles: Iterator[Tile],
    matcher: PairMatcher,
    ask: Ask[Answer],
    *,
    queries: FeaturesOf,
    gallery: FeaturesOf,
) -> Iterator[tuple[Tile, Answer]]:
    """The plain twin of the distributed matching: tile after tile, in this process."""
    for tile in tiles:
        yield tile, ask(matcher, queries(tile.query_M), gallery(tile.gallery_M), tile.pair_P2)
