"""Scoring a list of pairs: known evidence is read from the store, the rest is matched in tiles.

Letters: P pairs, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exreid.matching.tiles import Tile, plan_tiles
from exreid.records import PairEvidence
from exreid.storage.pair_store import PairStore, image_words, pair_words

RunTiles = Callable[[Iterator[Tile]], Iterable[tuple[Tile, PairEvidence]]]
"""Matches tiles, in this process or others, and yields them as they finish, in any order."""


@dataclass(frozen=True)
class ScoredPairs:
    """The evidence of a list of pairs."""

    evidence: PairEvidence
    """One entry a pair, in order; zeros where ``missing_P``."""
    missing_P: np.ndarray
    """bool: pairs whose tile was given up."""
    known: int
    """Pairs that had been matched before."""
    words_P2: np.ndarray
    """uint64: each pair's key in its store; see `exreid.storage.pair_store`."""


def score_pairs(
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    query_keys: Sequence[str],
    gallery_keys: Sequence[str],
    store: PairStore | None,
    run: RunTiles,
    pairs_per_tile: int,
    on_progress: Callable[[int], object] = lambda count: None,
) -> ScoredPairs:
    """The evidence of each pair (query index, gallery index), matched at most once.

    ``query_keys`` and ``gallery_keys`` are the keys of the images' features (see
    `exreid.storage.pair_store`). Each finished tile is in the store before the next is matched:
    after a kill, the same call continues with the unfinished ones.
    """
    words_P2 = pair_words(words_at(query_keys, query_P), words_at(gallery_keys, gallery_P))
    if store is None:
        known_P, zeros = np.zeros(len(query_P), bool), np.zeros(len(query_P), np.int32)
        evidence = PairEvidence(zeros, zeros.astype(np.float64), zeros.copy())
    else:
        known_P, evidence = store.find(words_P2)
    known = int(known_P.sum())
    on_progress(known)
    place_M = np.flatnonzero(~known_P)
    tiles = plan_tiles(query_P[place_M], gallery_P[place_M], pairs_per_tile=pairs_per_tile)
    try:
        for tile, matched in run(tiles) if len(place_M) else ():
            place = place_M[tile.place_P]
            if store is not None:
                store.append(words_P2[place], matched)
            for name in PairEvidence.__dataclass_fields__:
                getattr(evidence, name)[place] = getattr(matched, name)
            known_P[place] = True
            on_progress(len(place))
    finally:
        if store is not None:
            store.publish()
    return ScoredPairs(evidence, ~known_P, known, words_P2)


def words_at(keys: Sequence[str], index_P: np.ndarray) -> np.ndarray:
    """The words of the images of P pairs; only keys that are asked for are hashed, each once."""
    index_M, row_P = np.unique(index_P, return_inverse=True)
    return image_words([keys[i] for i in index_M])[row_P]
