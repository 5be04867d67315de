"""`rank_by_cosine` with the products on a GPU: the same ranks, decided by the CPU's numbers.

A GPU sums a product in an order of its own, and its last bits with it. So it only chooses: the
scores that can be among the best of a query, and for each image of the query's animal how many
scores are above its own. Every score is within `product_error` of the exact cosine, whatever the
order of the sum. What is nearer to each other than that allows is computed again on the CPU, in
float64 and in one order of summation that depends on nothing but the two vectors; those numbers are
published, and decide.

The products are float64 as well. Many cards are slow in it, but float32 leaves some 200 of 100,000
images too near to each image of the animal to tell, and a CPU takes longer to compute those again.

Letters: B queries of one tile, Q queries, G gallery images, D vector length, P images of the tile's
animals (positives), M pairs that are computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from exreid.matching.cosine import checked_lengths, rank_by_cosine
from exreid.metrics.ranking import (
    Exclude,
    GalleryIndex,
    concatenate_rankings,
    excluded_images,
    index_gallery,
    side_slice,
)
from exreid.models.device import deterministic, in_parts, on_device, whole_fp32
from exreid.records import Ranking, RetrievalSide

log = logging.getLogger(__name__)

TILE_SCORES = 2**26
"""Scores of one tile: 512 MiB as float64, and about as much for what is found in them."""
GALLERY_ROWS = 2**14
"""Gallery images that are multiplied at a time."""
PAIRS_AT_A_TIME = 512
"""Pairs that are computed again at a time: more leave the CPU's cache."""
MANY = 0.25
"""Where a larger share of a tile's scores is to be computed again, or to be kept, all are computed
on the CPU."""


@dataclass(frozen=True)
class _Sides:
    """Vectors, their lengths, and who is who."""

    query_QD: np.ndarray
    query_length_Q: np.ndarray
    gallery_GD: np.ndarray
    gallery_length_G: np.ndarray
    index: GalleryIndex
    keep: int

    def cosine(self, query_M: np.ndarray, gallery_M: np.ndarray) -> np.ndarray:
        """The number that is published: float64, each pair's by itself."""
        cosine_M = np.empty(len(query_M))
        for start in range(0, len(query_M), PAIRS_AT_A_TIME):
            rows = slice(start, start + PAIRS_AT_A_TIME)
            q, g = query_M[rows], gallery_M[rows]
            product = self.query_QD[q].astype(np.float64)
            product *= self.gallery_GD[g]
            lengths = self.query_length_Q[q] * self.gallery_length_G[g]
            cosine_M[rows] = product.sum(axis=1) / lengths
        return cosine_M


def rank_on_device(
    query_vectors_QD: np.ndarray,
    gallery_vectors_GD: np.ndarray,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    device: torch.device,
    exclude: Exclude = "image",
    keep: int = 100,
    dtype: torch.dtype = torch.float64,
    on_progress: Callable[[int], object] | None = None,
) -> Ranking:
    """`rank_by_cosine` with the products on this device.

    Scores differ from those by 2 `product_error` at most, the error of both sums (2e-13 for 768
    numbers). So does the order of candidates that are as near as that, unless their vectors are
    equal; those stand in the table's order. ``dtype`` is the products', and changes speed alone.
    """
    query_length_Q, gallery_length_G = checked_lengths(
        query_vectors_QD, gallery_vectors_GD, queries, gallery
    )
    plain = partial(
        rank_by_cosine,
        gallery_vectors_GD=gallery_vectors_GD,
        gallery=gallery,
        exclude=exclude,
        keep=keep,
    )
    if len(queries) == 0 or keep > MANY * len(gallery):
        return plain(query_vectors_QD, queries=queries, on_progress=on_progress)
    index = index_gallery(gallery, exclude=exclude)
    sides = _Sides(
        *(query_vectors_QD, query_length_Q, gallery_vectors_GD, gallery_length_G),
        *(index, keep),
    )

    def ranked(start: int, rows: slice) -> Ranking:
        rows = slice(start + rows.start, start + rows.stop)
        part = side_slice(queries, rows.start, rows.stop)
        return _rank_tile(sides, on_card, part, rows) or plain(query_vectors_QD[rows], queries=part)

    parts: list[Ranking] = []
    tile = max(1, TILE_SCORES // len(gallery))
    try:
        on_card = _Gallery(gallery_vectors_GD, gallery_length_G, index, device, dtype)
        for start in range(0, len(queries), tile):
            end = min(start + tile, len(queries))
            parts += in_parts(partial(ranked, start), end - start, what="queries")
            if on_progress is not None:
                on_progress(end - start)
    except torch.OutOfMemoryError:
        log.warning("The gallery's vectors do not fit the GPU's memory: the CPU ranks the rest.")
        torch.cuda.empty_cache()
        done = sum(part.query_count for part in parts)
        rest = side_slice(queries, done, len(queries))
        parts.append(plain(query_vectors_QD[done:], queries=rest, on_progress=on_progress))
    return concatenate_rankings(parts)


def product_error(length: int, dtype: torch.dtype) -> float:
    """The most that the product of two vectors of length 1, rounded to this type, is off.

    Sums of D products in any order err by at most D u / (1 - D u) times the sum of their absolute
    values (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), which is at most 1 here;
    u is half the type's spacing at 1. Rounding both vectors, and what is done with the result, adds
    less than 8 u.

    >>> product_error(768, torch.float64) < 1e-13, product_error(768, torch.float32) < 1e-4
    (True, True)
    """
    unit = torch.finfo(dtype).eps / 2
    return (length + 8) * unit / (1 - (length + 8) * unit)


class _Gallery:
    """The gallery on the device."""

    def __init__(
        self,
        vectors_GD: np.ndarray,
        length_G: np.ndarray,
        index: GalleryIndex,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype = device, dtype
        # As they come: as float64 they would take twice the memory.
        self.vectors_GD = on_device(vectors_GD, device)
        self.length_G = on_device(length_G, device)
        self.slot_G = on_device(index.slot_G.astype(np.int64), device)
        self.slots = len(index.identities.code_C)
        # A score is compared with another one, and both with the CPU's.
        exact = product_error(vectors_GD.shape[1], torch.float64)
        self.near = 2 * (product_error(vectors_GD.shape[1], dtype) + exact)

    def scores(self, unit_BD: np.ndarray) -> torch.Tensor:
        """(B, G), of float64 query vectors of length 1."""
        unit = on_device(unit_BD, self.device).to(self.dtype)
        scores_BG = torch.empty(
            (len(unit), len(self.vectors_GD)), dtype=self.dtype, device=self.device
        )
        for start in range(0, len(self.vectors_GD), GALLERY_ROWS):
            rows = slice(start, start + GALLERY_ROWS)
            block = self.vectors_GD[rows].double() / self.length_G[rows, None]
            torch.matmul(unit, block.to(self.dtype).T, out=scores_BG[:, rows])
        return scores_BG


@deterministic(False)
@whole_fp32()
@torch.inference_mode()
def _rank_tile(
    sides: _Sides, gallery: _Gallery, queries: RetrievalSide, rows: slice
) -> Ranking | None:
    """The ranking of the queries of these rows; None where too many scores would be computed
    again.

    Nothing that is published depends on an order: torch's deterministic mode, which refuses sums of
    whole numbers too, is left for it.
    """
    unit_BD = sides.query_QD[rows] / sides.query_length_Q[rows, None]
    scores_BG = gallery.scores(unit_BD)
    out_of = [excluded_images(queries, b, sides.index) for b in range(len(queries))]
    positives = [
        np.setdiff1d(sides.index.identities.members(int(code)), out)
        for code, out in zip(queries.identity_N, out_of, strict=True)
    ]
    out_row, out_column = _flat(out_of, gallery.device)
    scores_BG[out_row, out_column] = -torch.inf
    least_B = scores_BG.topk(sides.keep, dim=1).values[:, -1] - gallery.near
    chosen = (scores_BG >= least_B[:, None]) & (scores_BG > -torch.inf)
    limit = MANY * scores_BG.numel()
    if chosen.count_nonzero() > limit:
        return None
    chosen_b, chosen_g = (places.cpu().numpy() for places in chosen.nonzero(as_tuple=True))
    positive_b, positive_g = _flat(positives, gallery.device)
    above_P, near_p, near_g = _around(scores_BG, positive_b, positive_g, gallery.near)
    if len(near_p) > limit:
        return None
    positive = positive_b.cpu().numpy(), positive_g.cpu().numpy()
    cosine_P = sides.cosine(rows.start + positive[0], positive[1])
    cosine_M = sides.cosine(rows.start + positive[0][near_p], near_g)
    ahead_M = cosine_M > cosine_P[near_p]
    ahead_M |= (cosine_M == cosine_P[near_p]) & (near_g < positive[1][near_p])
    rank_P = 1 + above_P + np.bincount(near_p[ahead_M], minlength=len(above_P))
    order_P = np.lexsort((rank_P, positive[0]))
    first_P = order_P[np.unique(positive[0][order_P], return_index=True)[1]]
    first_of_P = np.isin(near_p, first_P) & ahead_M
    before = positive[0][near_p[first_of_P]], near_g[first_of_P]
    identity_rank_B = _identity_ranks(scores_BG, gallery, positive, first_P, before)
    candidate_count_B = len(sides.gallery_GD) - np.array([len(out) for out in out_of], np.int64)
    index_BK, score_BK = _best(
        chosen_b, chosen_g, sides.cosine(rows.start + chosen_b, chosen_g), len(queries), sides.keep
    )
    counts = np.bincount(positive[0], minlength=len(queries))
    return Ranking(
        candidate_index_QK=index_BK,
        candidate_score_QK=score_BK,
        candidate_count_Q=candidate_count_B,
        positive_offset_Q1=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        positive_index_P=positive[1][order_P].astype(np.int32),
        positive_rank_P=rank_P[order_P].astype(np.int64),
        positive_score_P=cosine_P[order_P],
        identity_rank_Q=identity_rank_B,
    )


def _flat(
    gallery_of_B: list[np.ndarray], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of gallery indices, one for each query, as pairs."""
    row = np.repeat(np.arange(len(gallery_of_B)), [len(some) for some in gallery_of_B])
    column = np.concatenate([np.zeros(0, np.int64), *gallery_of_B]).astype(np.int64)
    return on_device(row, device), on_device(column, device)


def _around(
    scores_BG: torch.Tensor, row_P: torch.Tensor, column_P: torch.Tensor, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many scores of its query are above each positive's beyond doubt, and the pairs
    (positive, gallery image) that are in doubt, itself among them."""
    above, first, second = [np.zeros(0, np.int64)], [], []
    step = max(1, TILE_SCORES // 4 // scores_BG.shape[1])
    for start in range(0, len(row_P), step):
        part = slice(start, start + step)
        gap_PG = scores_BG[row_P[part]] - scores_BG[row_P[part], column_P[part]][:, None]
        above.append((gap_PG > near).sum(dim=1).cpu().numpy())
        p, g = (gap_PG.abs() <= near).nonzero(as_tuple=True)
        first.append(start + p.cpu().numpy())
        second.append(g.cpu().numpy())
    none = np.zeros(0, np.int64)
    return np.concatenate(above), np.concatenate([none, *first]), np.concatenate([none, *second])


def _identity_ranks(
    scores_BG: torch.Tensor,
    gallery: _Gallery,
    positive: tuple[np.ndarray, np.ndarray],
    first_P: np.ndarray,
    before: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """One more than the number of animals ahead of each query's own, 0 without a positive;
    ``first_P`` are the best positives, ``before`` the pairs near to them that are ahead."""
    rank_B = np.zeros(len(scores_BG), np.int64)
    if len(first_P) == 0:
        return rank_B
    row, column = (on_device(places[first_P], gallery.device) for places in positive)
    ahead_BG = torch.zeros_like(scores_BG, dtype=torch.bool)
    ahead_BG[row] = scores_BG[row] - scores_BG[row, column][:, None] > gallery.near
    ahead_BG[tuple(on_device(places, gallery.device) for places in before)] = True
    seen_BI = torch.zeros((len(scores_BG), gallery.slots), dtype=torch.int32, device=gallery.device)
    seen_BI.scatter_add_(1, gallery.slot_G.expand(len(scores_BG), -1), ahead_BG.int())
    animals_B = seen_BI.count_nonzero(dim=1).cpu().numpy()
    with_one = positive[0][first_P]
    rank_B[with_one] = 1 + animals_B[with_one]
    return rank_B


def _best(
    row_M: np.ndarray, column_M: np.ndarray, cosine_M: np.ndarray, rows: int, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``keep`` best of each row: gallery indices and scores, as a `Ranking` has them."""
    order = np.lexsort((column_M, -cosine_M, row_M))
    row_M = row_M[order]
    place_M = np.arange(len(row_M)) - np.searchsorted(row_M, row_M)
    kept = place_M < keep
    index_BK = np.full((rows, keep), -1, np.int32)
    score_BK = np.full((rows, keep), np.nan, np.float32)
    index_BK[row_M[kept], place_M[kept]] = column_M[order][kept]
    score_BK[row_M[kept], place_M[kept]] = cosine_M[order][kept]
    return index_BK, score_BK
