"""The work plan of pair matching: which pairs go together, so that few features travel.

Letters: P pairs, M images of one side of a tile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from math import isqrt
from typing import Protocol, TypeVar

import numpy as np
import torch

from exreid.errors import MatchingError
from exreid.records import LocalFeatures, PairEvidence

log = logging.getLogger(__name__)


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
    """The evidence of each pair; half of the pairs after the other where the features of all do not
    fit a GPU's memory. MatchingError where those of one pair do not."""
    try:
        return matcher.score(queries, gallery, pair_P2)
    except torch.OutOfMemoryError as error:
        if len(pair_P2) == 1:
            raise MatchingError(
                "the GPU's memory does not hold one pair of images. Lower benchmark.local_top_k, "
                "or give each actor a whole GPU (ray.gpus_per_worker=1)."
            ) from error
    torch.cuda.empty_cache()
    log.warning("A tile's features do not fit the GPU's memory: its pairs are matched in parts.")
    # By gallery image: each half then needs about half of the features.
    order_P = np.argsort(pair_P2[:, 1], kind="stable")
    parts = []
    for place_P in np.array_split(order_P, 2):
        query_M, query_P = np.unique(pair_P2[place_P, 0], return_inverse=True)
        gallery_M, gallery_P = np.unique(pair_P2[place_P, 1], return_inverse=True)
        rows_P2 = np.stack([query_P, gallery_P], axis=1).astype(np.int32)
        parts.append(score_tile(matcher, queries.take(query_M), gallery.take(gallery_M), rows_P2))
    back_P = np.argsort(order_P)
    columns = (
        np.concatenate([getattr(part, column.name) for part in parts])[back_P]
        for column in fields(PairEvidence)
    )
    return PairEvidence(*columns)


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
