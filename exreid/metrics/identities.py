"""From candidate images to animals: identity scores, leaders and margins, pooled encounters.

All work on the kept candidates of each query, best first, as `exreid.records.Ranking` has them. An
animal with none among them is ranked below; where it needs a number, that is the score of the last
kept candidate, which it cannot pass.

Letters: Q queries, K candidates, G gallery images, A animals named for one query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from exreid.records import Ranking

IdentityScore = Literal["max", "mean_top"]


@dataclass(frozen=True)
class IdentityAnswer:
    """The animals among one query's candidates, best first; of equal scores the one whose best
    image comes first."""

    identity_A: np.ndarray
    """int32 codes."""
    score_A: np.ndarray
    """float64."""
    best_A: np.ndarray
    """int32 gallery index of each one's best image."""
    images_A: np.ndarray
    """int64: its images among the candidates."""


@dataclass(frozen=True)
class TopIdentities:
    """The leading animal of each query, and how far it leads."""

    identity_Q: np.ndarray
    """int32; -1 for a query without candidates."""
    score_Q: np.ndarray
    """float64; of a query without candidates minus infinity."""
    margin_Q: np.ndarray
    """float64: the distance to the next animal's best image, or to the last candidate."""


def identity_answers(
    ranking: Ranking, identity_G: np.ndarray, *, how: IdentityScore = "max", top: int = 3
) -> Iterator[IdentityAnswer]:
    """Each query's animals. ``max``: by their best image. ``mean_top``: by the mean of their best
    ``top`` images, or of all where they have fewer.

    >>> ranking = _ranking([[0, 1, 2]], [[0.9, 0.8, 0.7]])
    >>> [a.identity_A.tolist() for a in identity_answers(ranking, np.array([5, 6, 6]))]
    [[5, 6]]
    """
    if top < 1:
        raise ValueError(f"the mean of the best images needs one at least, not {top}.")
    for index_K, score_K in zip(
        ranking.candidate_index_QK, ranking.candidate_score_QK, strict=True
    ):
        kept = index_K >= 0
        index, score = index_K[kept], score_K[kept].astype(np.float64)
        code_A, first_A, place = np.unique(
            identity_G[index], return_index=True, return_inverse=True
        )
        images_A = np.bincount(place, minlength=len(code_A))
        score_A = score[first_A]
        if how == "mean_top":
            by_animal = np.argsort(place, kind="stable")
            start_A = np.concatenate([[0], np.cumsum(images_A)[:-1]]).astype(np.int64)
            nth = np.arange(len(place)) - start_A[place[by_animal]]
            chosen = by_animal[nth < top]
            total_A = np.bincount(place[chosen], score[chosen], minlength=len(code_A))
            score_A = total_A / np.minimum(images_A, top)
        # The best image's place alone orders "max": ranks may rest on more than the score.
        keys = (first_A,) if how == "max" else (first_A, -score_A)
        order = np.lexsort(keys)
        yield IdentityAnswer(
            code_A[order].astype(np.int32), score_A[order], index[first_A[order]], images_A[order]
        )


def top_identities(
    ranking: Ranking, identity_G: np.ndarray, *, without_Q: np.ndarray | None = None
) -> TopIdentities:
    """The leading animal of each query; ``without_Q`` is an animal that is taken out of each
    query's candidates first, as if the gallery did not have it.

    >>> ranking = _ranking([[0, 1, 2]], [[0.9, 0.75, 0.5]])
    >>> leading = top_identities(ranking, np.array([5, 6, 7]))
    >>> leading.identity_Q.tolist(), leading.margin_Q.round(2).tolist()
    ([5], [0.15])
    >>> top_identities(ranking, np.array([5, 6, 7]), without_Q=np.array([5])).identity_Q.tolist()
    [6]
    """
    count = ranking.query_count
    identity_Q = np.full(count, -1, np.int32)
    score_Q, margin_Q = np.full(count, -np.inf), np.zeros(count)
    for q in range(count):
        index = ranking.candidate_index_QK[q]
        index = index[index >= 0]
        if len(index) == 0:
            continue
        score = ranking.candidate_score_QK[q, : len(index)].astype(np.float64)
        code = identity_G[index]
        allowed = np.ones(len(code), bool) if without_Q is None else code != without_Q[q]
        place = np.flatnonzero(allowed)
        if len(place) == 0:
            # The next animal is below the last candidate.
            score_Q[q] = score[-1]
            continue
        first = place[0]
        others = place[code[place] != code[first]]
        after = score[others[0]] if len(others) else score[-1]
        identity_Q[q], score_Q[q] = code[first], score[first]
        margin_Q[q] = max(score[first] - after, 0.0)
    return TopIdentities(identity_Q, score_Q, margin_Q)


def told_apart(ranking: Ranking, identity_G: np.ndarray, photo_Q: np.ndarray) -> Ranking:
    """The ranking where the queries of one photograph (equal codes) name different animals: the
    query with the best score keeps its first animal, which leaves the others' candidates; and so
    on among these. For queries without known truth: exact ranks of positives stay as they are.

    >>> both = _ranking([[0, 1], [0, 1]], [[0.9, 0.2], [0.8, 0.5]])
    >>> told_apart(both, np.array([7, 8]), np.array([3, 3])).candidate_index_QK.tolist()
    [[0, -1], [1, -1]]
    """
    index_QK = ranking.candidate_index_QK.copy()
    score_QK = ranking.candidate_score_QK.copy()
    code_U, count_U = np.unique(photo_Q, return_counts=True)
    for code in code_U[count_U > 1].tolist():
        open_N = np.flatnonzero(photo_Q == code)
        open_N = open_N[index_QK[open_N, 0] >= 0]
        while len(open_N):
            first = open_N[np.argmax(score_QK[open_N, 0])]
            animal = identity_G[index_QK[first, 0]]
            for other in np.flatnonzero((photo_Q == code) & (np.arange(len(photo_Q)) != first)):
                kept_K = index_QK[other] >= 0
                kept = np.flatnonzero(kept_K & (identity_G[index_QK[other]] != animal))
                index, score = index_QK[other, kept], score_QK[other, kept]
                index_QK[other], score_QK[other] = -1, np.nan
                index_QK[other, : len(kept)], score_QK[other, : len(kept)] = index, score
            open_N = open_N[(open_N != first) & (index_QK[open_N, 0] >= 0)]
    return replace(ranking, candidate_index_QK=index_QK, candidate_score_QK=score_QK)


def pool_encounters(
    ranking: Ranking, identity_G: np.ndarray, group_Q: np.ndarray
) -> Iterator[tuple[int, np.ndarray, IdentityAnswer]]:
    """One answer for all photos of one visit: group code, its query indices, its animals.

    An animal's score is the mean over the photos of its best image's score in each; in a photo
    that has no image of it among the candidates, that photo's last kept score. Animals that lead
    one of the photos come before all others: a visit's answer is the answer of one of its photos.
    Queries of a negative group are passed over.
    """
    for group in np.unique(group_Q[group_Q >= 0]).tolist():
        members = np.flatnonzero(group_Q == group)
        index_MK = ranking.candidate_index_QK[members]
        score_MK = ranking.candidate_score_QK[members].astype(np.float64)
        photo, place = np.nonzero(index_MK >= 0)
        index, score = index_MK[photo, place], score_MK[photo, place]
        code_A, animal = np.unique(identity_G[index], return_inverse=True)
        count_M = np.bincount(photo, minlength=len(members))
        last_M = np.where(count_M > 0, score_MK[np.arange(len(members)), count_M - 1], 0.0)
        best_MA = np.repeat(last_M[:, None], len(code_A), axis=1)
        np.maximum.at(best_MA, (photo, animal), score)
        score_A = best_MA.mean(axis=0)
        order = np.lexsort((index, -score, animal))
        first_A = order[np.searchsorted(animal[order], np.arange(len(code_A)))]
        best_A, images_A = index[first_A], np.bincount(animal, minlength=len(code_A))
        leads_A = np.isin(code_A, identity_G[index[place == 0]])
        sort_A = np.lexsort((best_A, -score_A, ~leads_A))
        answer = IdentityAnswer(
            code_A[sort_A].astype(np.int32), score_A[sort_A], best_A[sort_A], images_A[sort_A]
        )
        yield group, members, answer


def _ranking(index_QK: list[list[int]], score_QK: list[list[float]]) -> Ranking:
    """A ranking of candidates alone, for examples."""
    index = np.array(index_QK, np.int32)
    count = len(index)
    zeros = np.zeros(0, np.int64)
    return Ranking(
        index,
        np.array(score_QK, np.float32),
        np.count_nonzero(index >= 0, axis=1),
        np.zeros(count + 1, np.int64),
        zeros.astype(np.int32),
        zeros,
        zeros.astype(np.float32),
        np.zeros(count, np.int64),
    )
