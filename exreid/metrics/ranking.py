"""From scores to a `Ranking`: exclusions, the tie rule and exact ranks, in one place.

Candidates of a query are the gallery images except the image itself and, on request, those of
its encounter. A higher score comes first; of equal scores the image with the smaller place in the
table does, which is the smaller gallery index, since sides are in the table's order.

Letters: B queries of one block, G gallery images, U buckets of scores, W wanted candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from exreid.records import Ranking, RetrievalSide

Exclude = Literal["image", "encounter"]

MIN_BUCKETS, MAX_BUCKETS = 1024, 16384
BLOCK = 256
"""Queries that are ranked at a time."""


@dataclass(frozen=True)
class CodeGroups:
    """The images of each code: those of ``code_C[c]`` are the entries ``offset_C1[c]`` up
    to (not including) ``offset_C1[c + 1]`` of ``index_N``, by rising index."""

    code_C: np.ndarray
    offset_C1: np.ndarray
    index_N: np.ndarray

    def members(self, code: int) -> np.ndarray:
        """The indices of the images with this code; empty for an unknown one.

        >>> group_by_code(np.array([7, 3, 7, -1])).members(7)
        array([0, 2], dtype=int32)
        """
        place = int(np.searchsorted(self.code_C, code))
        if place == len(self.code_C) or self.code_C[place] != code:
            return self.index_N[:0]
        return self.index_N[self.offset_C1[place] : self.offset_C1[place + 1]]


@dataclass(frozen=True)
class GalleryIndex:
    """A gallery with the look-ups that each query needs, built once for all of them."""

    gallery: RetrievalSide
    identities: CodeGroups
    encounters: CodeGroups
    """Empty when encounters are not excluded."""
    slot_G: np.ndarray
    """The identity as a number from 0 without gaps."""


class _RankedRow(NamedTuple):
    """The ranking of one query, best first; see `Ranking` for the fields."""

    candidate_index: np.ndarray
    candidate_count: int
    positive_index: np.ndarray
    positive_rank: np.ndarray
    identity_rank: int


def group_by_code(code_N: np.ndarray) -> CodeGroups:
    """Group images by code; negative codes, which mean "unknown", belong to no group."""
    index_N = np.argsort(code_N, kind="stable").astype(np.int32)
    index_N = index_N[np.searchsorted(code_N[index_N], 0) :]
    code_C, start_C = np.unique(code_N[index_N], return_index=True)
    return CodeGroups(code_C, np.append(start_C, len(index_N)), index_N)


def index_gallery(gallery: RetrievalSide, *, exclude: Exclude = "image") -> GalleryIndex:
    """Prepare a gallery for `rank_block`.

    ``exclude="image"`` takes the query's own image out of its candidates, ``"encounter"`` also
    all images of the query's encounter, where that is known.
    """
    if exclude not in ("image", "encounter"):
        raise ValueError(f"exclude must be 'image' or 'encounter', not {exclude!r}.")
    known = gallery.encounter_N if exclude == "encounter" else gallery.encounter_N[:0]
    identities = group_by_code(gallery.identity_N)
    slot_G = np.searchsorted(identities.code_C, gallery.identity_N).astype(np.int32)
    return GalleryIndex(gallery, identities, group_by_code(known), slot_G)


def rank_block(
    scores_BG: np.ndarray, queries: RetrievalSide, index: GalleryIndex, *, keep: int
) -> Ranking:
    """Rank the gallery for each query of a block of float32 or float64 scores, higher first.

    At most ``keep`` candidates of each query are kept; the ranks of all its positives are exact,
    however deep. A score that is not finite, or too large for the float32
    that rankings are stored in, is an error.
    """
    _check_block(scores_BG, queries, index, keep)
    own_B = places_in(index.gallery, queries.position_N)
    # Two buffers for all rows: fresh ones of this size cost more than the work on them.
    scaled_G = np.empty(len(index.gallery), np.float32)
    bucket_G = np.empty(len(index.gallery), np.intp)
    rows = []
    for b in range(len(queries)):
        _fill_buckets(scores_BG[b], queries.image_ids[b], scaled_G, bucket_G)
        bucket_G[index.encounters.members(int(queries.encounter_N[b]))] = 0
        if own_B[b] >= 0:
            bucket_G[own_B[b]] = 0
        positive = index.identities.members(int(queries.identity_N[b]))
        rows.append(_rank_row(scores_BG[b], bucket_G, positive, index.slot_G, keep))
    return _assemble(rows, scores_BG, keep)


def rank_scores(
    scores_QG: np.ndarray,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude = "image",
    keep: int = 100,
) -> Ranking:
    """Rank a whole score matrix at once; see `rank_block` for larger ones.

    >>> side = RetrievalSide(("a", "b", "c"), np.arange(3), np.array([0, 1, 0]), np.full(3, -1))
    >>> scores = np.array([[9, 5, 5], [4, 9, 6], [2, 3, 9]], dtype=np.float32)
    >>> ranking = rank_scores(scores, side, side, keep=2)
    >>> ranking.candidate_index_QK.tolist()
    [[1, 2], [2, 0], [1, 0]]
    >>> ranking.positive_rank_P.tolist(), ranking.identity_rank_Q.tolist()
    ([2, 2], [2, 0, 2])
    """
    return rank_block(scores_QG, queries, index_gallery(gallery, exclude=exclude), keep=keep)


def concatenate_rankings(rankings: Sequence[Ranking]) -> Ranking:
    """One ranking for the queries of several, in their order; all against one gallery."""
    if not rankings:
        raise ValueError("no ranking to concatenate: give at least one, which may be empty.")
    ends = np.cumsum([0, *(part.positive_offset_Q1[-1] for part in rankings)])
    offsets = [part.positive_offset_Q1[1:] + end for part, end in zip(rankings, ends, strict=False)]
    joined = {
        name: np.concatenate([getattr(part, name) for part in rankings])
        for name in Ranking.__dataclass_fields__
        if name != "positive_offset_Q1"
    }
    return Ranking(positive_offset_Q1=np.concatenate([np.zeros(1, np.int64), *offsets]), **joined)


def blocks(side: RetrievalSide, size: int = BLOCK) -> Iterator[RetrievalSide]:
    """The images of a side, some at a time; an empty one is one block."""
    for start in range(0, max(len(side), 1), size):
        yield side_slice(side, start, min(start + size, len(side)))


def side_slice(side: RetrievalSide, start: int, stop: int) -> RetrievalSide:
    """The images ``start`` up to (not including) ``stop`` of a side."""
    return RetrievalSide(
        side.image_ids[start:stop],
        side.position_N[start:stop],
        side.identity_N[start:stop],
        side.encounter_N[start:stop],
    )


def excluded_images(queries: RetrievalSide, q: int, index: GalleryIndex) -> np.ndarray:
    """The gallery indices that may not answer this query: its own image, and its encounter's
    where the index excludes those."""
    own = places_in(index.gallery, queries.position_N[q : q + 1])
    together = index.encounters.members(int(queries.encounter_N[q]))
    return np.union1d(own[own >= 0], together)


def _check_block(
    scores_BG: np.ndarray, queries: RetrievalSide, index: GalleryIndex, keep: int
) -> None:
    if keep < 1:
        raise ValueError(f"keep must be at least 1 candidate, not {keep}.")
    wanted = (len(queries), len(index.gallery))
    if scores_BG.shape != wanted or scores_BG.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"scores must be float32 or float64 of shape {wanted} (queries, gallery images), "
            f"not {scores_BG.dtype} of shape {scores_BG.shape}."
        )


def places_in(side: RetrievalSide, position_M: np.ndarray) -> np.ndarray:
    """The index in the side of the images at these table positions, -1 where it does not have
    them."""
    if len(side) == 0:
        return np.full(len(position_M), -1)
    place_M = np.minimum(np.searchsorted(side.position_N, position_M), len(side) - 1)
    return np.where(side.position_N[place_M] == position_M, place_M, -1)


def _fill_buckets(
    score_G: np.ndarray, query_id: str, scaled_G: np.ndarray, bucket_G: np.ndarray
) -> None:
    """A bucket from 1 to U - 1 for each score, never smaller for a larger score."""
    if len(score_G) == 0:
        return
    low, high = score_G.min(), score_G.max()
    largest = np.finfo(np.float32).max
    if not (-largest <= low and high <= largest):
        raise ValueError(
            f"query '{query_id}': a score is not finite, or beyond a float32 (lowest {low}, "
            f"highest {high}). "
            "Scores must be numbers: look at the features of this query and of the gallery."
        )
    if float(high) - float(low) > float(np.finfo(np.float32).max):
        score_G, low, high = score_G / 4, low / 4, high / 4
    span = max(float(high) - float(low), 1e-30)
    np.subtract(score_G, low, out=scaled_G, casting="same_kind")
    scaled_G *= np.float32((_bucket_count(len(score_G)) - 2) / span)
    scaled_G += 1
    np.copyto(bucket_G, scaled_G, casting="unsafe")


def _bucket_count(gallery_count: int) -> int:
    return min(max(gallery_count, MIN_BUCKETS), MAX_BUCKETS)


def _rank_row(
    score_G: np.ndarray, bucket_G: np.ndarray, positive: np.ndarray, slot_G: np.ndarray, keep: int
) -> _RankedRow:
    """Rank one query's candidates: those in a bucket of 1 or more; 0 has the excluded images.

    Sorting a row costs more than its share of the matrix product. Counting the scores of each
    bucket does not, and then only the buckets with a positive or one of the best ``keep`` are
    sorted; of the others the number of scores above is enough.
    """
    count_U = np.bincount(bucket_G, minlength=_bucket_count(len(score_G)))
    excluded_count = int(count_U[0])
    positive = positive[bucket_G[positive] > 0]
    wanted_U = (len(score_G) - np.cumsum(count_U)) < keep
    wanted_U[bucket_G[positive]] = True
    wanted_U[0] = False
    wanted = np.flatnonzero(wanted_U[bucket_G])
    wanted = wanted[np.argsort(-score_G[wanted], kind="stable")]

    count_U[wanted_U] = 0
    skipped_U = count_U.sum() - np.cumsum(count_U)
    identity_rank, positive_place = 0, np.zeros(0, np.int64)
    if len(positive):
        positive_place = np.flatnonzero(slot_G[wanted] == slot_G[positive[0]])
        best = positive_place[0]
        ahead = wanted[:best]
        if skipped_U[bucket_G[wanted[best]]]:
            above = np.flatnonzero(bucket_G > bucket_G[wanted[best]])
            ahead = np.concatenate([above, ahead])
        identity_rank = 1 + _distinct(slot_G[ahead])
    positive = wanted[positive_place]
    return _RankedRow(
        candidate_index=wanted[: min(keep, len(score_G) - excluded_count)],
        candidate_count=len(score_G) - excluded_count,
        positive_index=positive,
        positive_rank=positive_place + 1 + skipped_U[bucket_G[positive]],
        identity_rank=identity_rank,
    )


def _distinct(slot_N: np.ndarray) -> int:
    """The number of different values, which are 0 or more."""
    if len(slot_N) == 0:
        return 0
    seen = np.zeros(int(slot_N.max()) + 1, bool)
    seen[slot_N] = True
    return int(np.count_nonzero(seen))


def _assemble(rows: list[_RankedRow], scores_BG: np.ndarray, keep: int) -> Ranking:
    """The rows of a block as one `Ranking`."""
    shape = (len(rows), min(keep, scores_BG.shape[1]))
    candidate_index_BK = np.full(shape, -1, np.int32)
    candidate_score_BK = np.full(shape, np.nan, np.float32)
    for b, row in enumerate(rows):
        kept = row.candidate_index
        candidate_index_BK[b, : len(kept)] = kept
        candidate_score_BK[b, : len(kept)] = scores_BG[b, kept]
    offset = np.cumsum([0, *(len(row.positive_index) for row in rows)], dtype=np.int64)
    index_P = np.concatenate([np.zeros(0, np.int32), *(row.positive_index for row in rows)])
    query_P = np.repeat(np.arange(len(rows)), np.diff(offset))
    return Ranking(
        candidate_index_QK=candidate_index_BK,
        candidate_score_QK=candidate_score_BK,
        candidate_count_Q=np.array([row.candidate_count for row in rows], np.int64),
        positive_offset_Q1=offset,
        positive_index_P=index_P.astype(np.int32),
        positive_rank_P=np.concatenate(
            [np.zeros(0, np.int64), *(row.positive_rank for row in rows)]
        ),
        positive_score_P=scores_BG[query_P, index_P],
        identity_rank_Q=np.array([row.identity_rank for row in rows], np.int64),
    )
