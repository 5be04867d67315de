"""Re-ranking the best candidates: the pairs to score, and the ranking by their new scores.

Letters: Q queries, B candidates of each query's shortlist, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exreid.records import Ranking, RetrievalSide


def shortlist_pairs(ranking: Ranking, shortlist: int) -> tuple[np.ndarray, np.ndarray]:
    """Query and gallery index (int32) of each query with its best ``shortlist`` candidates.

    >>> side = RetrievalSide(("a", "b", "c"), np.arange(3), np.array([0, 1, 0]), np.full(3, -1))
    >>> from exreid.metrics.ranking import rank_scores
    >>> ranking = rank_scores(np.float32([[9, 5, 5], [4, 9, 6], [2, 3, 9]]), side, side)
    >>> [index.tolist() for index in shortlist_pairs(ranking, 1)]
    [[0, 1, 2], [1, 2, 1]]
    """
    index_QB = _shortlist(ranking, shortlist)
    query_P, place_P = np.nonzero(index_QB >= 0)
    return query_P.astype(np.int32), index_QB[query_P, place_P]


def rerank_shortlist(
    ranking: Ranking,
    gallery: RetrievalSide,
    shortlist: int,
    *score_keys_P: np.ndarray,
) -> Ranking:
    """The ranking with each query's shortlist in the order of new scores.

    Each of ``score_keys_P`` has a number for each pair of `shortlist_pairs`, in its order. A higher
    first key comes first, of equal ones the higher second key, and so on; of pairs that are equal
    in all, the gallery image with the smaller index. The last key is the score that the ranking
    keeps. Candidates beyond the shortlist keep their ranks, below all of it, so that the ranks of
    all positives remain exact; the score of those positives is NaN.
    """
    if not score_keys_P:
        raise ValueError("re-ranking needs one score at least.")
    index_QB = _shortlist(ranking, shortlist)
    query_P, place_P = np.nonzero(index_QB >= 0)
    index_P = index_QB[query_P, place_P]
    for key_P in score_keys_P:
        if key_P.shape != query_P.shape or not np.all(np.isfinite(key_P)):
            raise ValueError(f"one finite score for each of the {len(query_P)} pairs is needed.")
    falling = [-key_P.astype(np.float64) for key_P in score_keys_P]
    order_P = np.lexsort((index_P, *reversed(falling), query_P))
    new_QB = np.full(index_QB.shape, -1, np.int32)
    score_QB = np.full(index_QB.shape, np.nan, np.float32)
    # Pairs are by query already, so that sorting within queries keeps each query's places.
    new_QB[query_P, place_P] = index_P[order_P]
    score_QB[query_P, place_P] = score_keys_P[-1][order_P]
    rank, score = _positive_ranks(ranking, new_QB, score_QB)
    order, query = _by_rank(ranking, rank)
    return Ranking(
        candidate_index_QK=new_QB,
        candidate_score_QK=score_QB,
        candidate_count_Q=ranking.candidate_count_Q,
        positive_offset_Q1=ranking.positive_offset_Q1,
        positive_index_P=ranking.positive_index_P[order],
        positive_rank_P=rank[order],
        positive_score_P=score[order],
        identity_rank_Q=_identity_ranks(
            ranking.identity_rank_Q,
            gallery.identity_N[new_QB],
            (new_QB >= 0).sum(axis=1),
            query,
            rank[order],
        ),
    )


def in_turn(lists: Sequence[np.ndarray], gallery: int) -> np.ndarray:
    """Scores that rank a gallery of so many images by several lists in turn, float64 (Q, G).

    Each list has the gallery indices of each query's candidates, best first, -1 at the end. The
    first of the first list comes first, then the first of the second, and so on; an image counts
    where it is first met.

    >>> scores = in_turn([np.array([[4, 0, 1]]), np.array([[4, 2, 0]])], 5)
    >>> np.argsort(-scores).tolist()
    [[4, 0, 2, 1, 3]]
    """
    last = len(lists) * gallery
    turn_QG = np.full((len(lists[0]), gallery), last)
    for number, index_QK in enumerate(lists):
        query, place = np.nonzero(index_QK >= 0)
        turns = len(lists) * place + number
        np.minimum.at(turn_QG, (query, index_QK[query, place]), turns)
    return (last - turn_QG).astype(np.float64)


def _shortlist(ranking: Ranking, shortlist: int) -> np.ndarray:
    kept = ranking.candidate_index_QK.shape[1]
    short = ranking.candidate_count_Q > kept
    if shortlist < 1 or (shortlist > kept and np.any(short)):
        raise ValueError(f"a shortlist of {shortlist} needs a ranking that keeps as many: {kept}.")
    return ranking.candidate_index_QK[:, :shortlist]


def _positive_ranks(
    ranking: Ranking, new_QB: np.ndarray, score_QB: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank and score of each positive, in the old ranking's order."""
    counts_Q = np.diff(ranking.positive_offset_Q1)
    query_P = np.repeat(np.arange(len(counts_Q)), counts_Q)
    rank_P = ranking.positive_rank_P.copy()
    score_P = np.full(len(rank_P), np.nan, np.float32)
    listed_Q = (new_QB >= 0).sum(axis=1)
    inside = np.flatnonzero(rank_P <= listed_Q[query_P])
    for start in range(0, len(inside), 65536):
        part = inside[start : start + 65536]
        same = new_QB[query_P[part]] == ranking.positive_index_P[part, None]
        place = same.argmax(axis=1)
        rank_P[part] = place + 1
        score_P[part] = score_QB[query_P[part], place]
    return rank_P, score_P


def _by_rank(ranking: Ranking, rank_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by query, then by rank; and each positive's query."""
    counts_Q = np.diff(ranking.positive_offset_Q1)
    query_P = np.repeat(np.arange(len(counts_Q)), counts_Q)
    return np.lexsort((rank_P, query_P)), query_P


def _identity_ranks(
    old_rank_Q: np.ndarray,
    identity_QB: np.ndarray,
    listed_Q: np.ndarray,
    query_P: np.ndarray,
    rank_P: np.ndarray,
) -> np.ndarray:
    """The rank of each query's identity, from the identities in the new order; each query has
    ``listed_Q`` candidates in it.

    Where no positive is on the shortlist it does not change: the images before the first one are
    the same, in another order.
    """
    rank_Q = old_rank_Q.copy()
    for place in np.flatnonzero(np.diff(query_P, prepend=-1)):
        query, best = int(query_P[place]), int(rank_P[place])
        if best <= listed_Q[query]:
            rank_Q[query] = 1 + len(np.unique(identity_QB[query, : best - 1]))
    return rank_Q
