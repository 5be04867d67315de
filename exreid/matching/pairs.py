"""Scoring a list of pairs: what was matched before is looked up, the rest goes out in tiles.

Letters: P pairs, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exreid.matching.tiles import Tile, plan_tiles
from exreid.records import PairEvidence
from exreid.storage.pair_store import PairStore, image_words, pair_words

RunTiles = Callable[[Iterator[Tile]], Iterable[tuple[Tile, PairEvidence]]]
"""Matches tiles, here or elsewhere, and gives them back as they finish, in any order."""


@dataclass(frozen=True)
class ScoredPairs:
    """What became of a list of pairs."""

    evidence: PairEvidence
    """Of each pair in order; zeros where ``missing_P``."""
    missing_P: np.ndarray
    """bool: pairs whose tile was given up."""
    known: int
    """Pairs that had been matched before."""


def score_pairs(
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    query_keys: Sequence[str],
    gallery_keys: Sequence[str],
    store: PairStore | None,
    run: RunTiles,
    pairs_per_tile: int,
    on_progress: Callable[[int], Any] = lambda count: None,
) -> ScoredPairs:
    """The evidence of each pair (query index, gallery index), matched at most once.

    ``query_keys`` and ``gallery_keys`` say what the images' features are (see
    `exreid.storage.pair_store`). Each finished tile is in the store before the next is looked at:
    after a kill, the same call goes on with the unfinished ones.
    """
    words_P2 = pair_words(image_words(query_keys)[query_P], image_words(gallery_keys)[gallery_P])
    if store is None:
        known_P, evidence = np.zeros(len(query_P), bool), _no_evidence(len(query_P))
    else:
        known_P, evidence = store.find(words_P2)
    known = int(known_P.sum())
    on_progress(known)
    place_M = np.flatnonzero(~known_P)
    tiles = plan_tiles(query_P[place_M], gallery_P[place_M], pairs_per_tile=pairs_per_tile)
    try:
        for tile, found in run(tiles) if len(place_M) else ():
            place = place_M[tile.place_P]
            if store is not None:
                store.append(words_P2[place], found)
            for name in PairEvidence.__dataclass_fields__:
                getattr(evidence, name)[place] = getattr(found, name)
            known_P[place] = True
            on_progress(len(place))
    finally:
        if store is not None:
            store.publish()
    return ScoredPairs(evidence, ~known_P, known)


def _no_evidence(count: int) -> PairEvidence:
    return PairEvidence(np.zeros(count, np.int32), np.zeros(count), np.zeros(count, np.int32))


def best_of_each_query(
    query_P: np.ndarray,
    score_P: np.ndarray,
    position_P: np.ndarray,
    *,
    share: float,
    least: int,
    count_Q: np.ndarray | None = None,
    decided_sd: float | None = None,
    decided_by_P: np.ndarray | None = None,
) -> np.ndarray:
    """Which pairs are among the best of their query: bool (P,).

    Of a query with n pairs those are ``ceil(share * n)``, or ``least`` where that is more; of
    equal scores the smaller position stands first. ``count_Q`` gives n where a query had more pairs
    than are left. With ``decided_sd`` none of them may lie further below the query's best score s
    than so many times sqrt(s), the standard deviation of a number of events with mean s: where the
    leader is decided, the others need no further look. Those scores are ``decided_by_P`` where they
    are not ``score_P``.

    >>> best_of_each_query(np.array([0, 0, 0, 1]), np.array([1.0, 3.0, 3.0, 0.0]),
    ...                    np.array([4, 5, 6, 4]), share=0.3, least=1)
    array([False,  True, False,  True])
    >>> best_of_each_query(np.zeros(3, int), np.array([25.0, 16.0, 14.0]), np.arange(3),
    ...                    share=1.0, least=3, decided_sd=2.0)
    array([ True,  True, False])
    """
    order_P = np.lexsort((position_P, -score_P, query_P))
    left_Q = np.bincount(query_P, minlength=1)
    start_Q = np.concatenate([[0], np.cumsum(left_Q)[:-1]])
    query_of = query_P[order_P]
    place_P = np.arange(len(order_P)) - start_Q[query_of]
    count_Q = left_Q if count_Q is None else count_Q
    wanted_Q = np.maximum(np.ceil(share * count_Q - 1e-9), least)
    go_on_P = place_P < wanted_Q[query_of]
    if decided_sd is not None:
        by_P = score_P if decided_by_P is None else decided_by_P
        leader_Q = np.zeros(len(left_Q))
        np.maximum.at(leader_Q, query_P, by_P)
        lag_P = (leader_Q[query_P] - by_P)[order_P]
        go_on_P &= lag_P <= decided_sd * np.sqrt(leader_Q[query_of])
    chosen = np.zeros(len(order_P), bool)
    chosen[order_P] = go_on_P
    return chosen


def standardised(query_P: np.ndarray, score_P: np.ndarray) -> np.ndarray:
    """Scores as standard deviations from the mean of their query's pairs; 0 where all are equal.

    >>> standardised(np.array([0, 0, 1, 1]), np.array([1.0, 3.0, 5.0, 5.0])).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    count_Q = np.maximum(np.bincount(query_P, minlength=1), 1)
    mean_Q = np.bincount(query_P, score_P, minlength=1) / count_Q
    off_P = score_P - mean_Q[query_P]
    spread_Q = np.sqrt(np.bincount(query_P, off_P**2, minlength=1) / count_Q)
    return off_P / np.where(spread_Q > 0, spread_Q, 1.0)[query_P]
