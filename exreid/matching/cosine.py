"""Ranking by the cosine of embeddings, in tiles: the full score matrix never exists.

The last bits of a matrix product depend on its shape, and a last bit decides a tie. So every
product here has one fixed shape, on a grid that starts at the first query and the first gallery
image and is padded with zeros at its ends: the score of a pair depends on nothing but its two
vectors, neither on the size of the tiles nor on the rest of the gallery.

Scores are float64: of 100,000 candidates some hundred are closer than a float32 can tell, and
rounding would decide which of them comes first. The vectors keep their type; only one block of them
at a time is made float64.

Letters: B queries of one tile, Q queries, G gallery images, D vector length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exreid.metrics.ranking import (
    Exclude,
    concatenate_rankings,
    index_gallery,
    rank_block,
    side_slice,
)
from exreid.records import Ranking, RetrievalSide

QUERY_BLOCK = 256
GALLERY_BLOCK = 4096
TILE_BYTES = 96 * 2**20
CHUNK_ROWS = 4096


def rank_by_cosine(
    query_vectors_QD: np.ndarray,
    gallery_vectors_GD: np.ndarray,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    exclude: Exclude = "image",
    keep: int = 100,
    tile_bytes: int = TILE_BYTES,
    on_progress: Callable[[int], object] | None = None,
) -> Ranking:
    """Rank the gallery for each query by the cosine of their vectors.

    The vectors need not be normalised; one that is zero or not finite is an error that names
    its image. A tile of scores takes about ``tile_bytes``, and at least what one grid row of
    `QUERY_BLOCK` queries needs. ``on_progress`` gets the number of queries of each finished tile.

    >>> side = RetrievalSide(("a", "b", "c"), np.arange(3), np.array([0, 1, 0]), np.full(3, -1))
    >>> vectors = np.array([[1, 0], [0, 3], [2, 2]], dtype=np.float32)
    >>> ranking = rank_by_cosine(vectors, vectors, side, side)
    >>> ranking.candidate_index_QK.tolist()
    [[2, 1, -1], [2, 0, -1], [0, 1, -1]]
    >>> ranking.positive_rank_P.tolist()
    [1, 1]
    """
    query_norm_Q, gallery_norm_G = checked_lengths(
        query_vectors_QD, gallery_vectors_GD, queries, gallery
    )
    index = index_gallery(gallery, exclude=exclude)
    gallery_rows = _padded(len(gallery), GALLERY_BLOCK)
    tile = _tile_rows(len(queries), gallery_rows, tile_bytes)
    scores_BG = np.empty((tile, gallery_rows), np.float64)
    parts = []
    for start in range(0, max(len(queries), 1), tile):
        part = side_slice(queries, start, start + tile)
        unit_BD = _unit_block(query_vectors_QD, query_norm_Q, start, tile)
        for column in range(0, gallery_rows, GALLERY_BLOCK):
            unit_GD = _unit_block(gallery_vectors_GD, gallery_norm_G, column, GALLERY_BLOCK)
            _fill_scores(unit_BD, unit_GD, scores_BG[:, column : column + GALLERY_BLOCK])
        parts.append(rank_block(scores_BG[: len(part), : len(gallery)], part, index, keep=keep))
        if on_progress is not None:
            on_progress(len(part))
    return concatenate_rankings(parts)


def cosine_of_pairs(
    vectors_ND: np.ndarray, first_P: np.ndarray, second_P: np.ndarray
) -> np.ndarray:
    """The cosine of each pair of rows, float64; a pair's score depends on nothing but its two.

    >>> vectors = np.array([[1, 0], [0, 3], [2, 2]], dtype=np.float32)
    >>> cosine_of_pairs(vectors, np.array([0, 0]), np.array([1, 2])).round(4).tolist()
    [0.0, 0.7071]
    """
    cosine_P = np.empty(len(first_P))
    for start in range(0, len(first_P), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        first = vectors_ND[first_P[rows]].astype(np.float64)
        second = vectors_ND[second_P[rows]].astype(np.float64)
        lengths = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
        cosine_P[rows] = (first * second).sum(axis=1) / lengths
    return cosine_P


def checked_lengths(
    query_vectors_QD: np.ndarray,
    gallery_vectors_GD: np.ndarray,
    queries: RetrievalSide,
    gallery: RetrievalSide,
) -> tuple[np.ndarray, np.ndarray]:
    """The length of each query's and each gallery image's vector, float64; ValueError for vectors
    that cannot be ranked, see `rank_by_cosine`."""
    _check_vectors(query_vectors_QD, queries, "query")
    _check_vectors(gallery_vectors_GD, gallery, "gallery")
    if query_vectors_QD.shape[1] != gallery_vectors_GD.shape[1]:
        raise ValueError(
            f"queries have {query_vectors_QD.shape[1]} numbers each, gallery images "
            f"{gallery_vectors_GD.shape[1]}: extract both with the same model."
        )
    return _vector_lengths(query_vectors_QD, queries), _vector_lengths(gallery_vectors_GD, gallery)


def _check_vectors(vectors_ND: np.ndarray, side: RetrievalSide, name: str) -> None:
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(side):
        raise ValueError(
            f"{name} vectors must be a matrix with one row for each of the {len(side)} images, "
            f"not of shape {vectors_ND.shape}."
        )


def _vector_lengths(vectors_ND: np.ndarray, side: RetrievalSide) -> np.ndarray:
    """float64; ValueError for a vector that has no direction."""
    norm_N = np.empty(len(vectors_ND))
    for start in range(0, len(vectors_ND), CHUNK_ROWS):
        chunk_ND = vectors_ND[start : start + CHUNK_ROWS].astype(np.float64, order="C")
        norm_N[start : start + len(chunk_ND)] = np.sqrt(np.square(chunk_ND).sum(axis=1))
    bad_N = np.flatnonzero(~(np.isfinite(norm_N) & (norm_N > 0)))
    if len(bad_N):
        raise ValueError(
            f"image '{side.image_ids[bad_N[0]]}' has a vector of length {norm_N[bad_N[0]]}, so it "
            "has no direction to compare. Look at the image and at the model's output for it, or "
            "leave the image out."
        )
    return norm_N


def _unit_block(vectors_ND: np.ndarray, norm_N: np.ndarray, start: int, rows: int) -> np.ndarray:
    """float64 vectors of length 1 from row ``start`` on, with zeros up to ``rows``."""
    unit_ND = np.zeros((rows, vectors_ND.shape[1]))
    chunk_ND = vectors_ND[start : start + rows]
    np.divide(chunk_ND, norm_N[start : start + rows, None], out=unit_ND[: len(chunk_ND)])
    return unit_ND


def _padded(count: int, block: int) -> int:
    """The next multiple of ``block``, at least one.

    >>> _padded(0, 4), _padded(4, 4), _padded(5, 4)
    (4, 4, 8)
    """
    return block * max(1, -(-count // block))


def _tile_rows(query_count: int, padded_gallery_count: int, tile_bytes: int) -> int:
    """The rows of a tile: whole blocks of queries, and no more than there are queries for."""
    blocks = max(1, tile_bytes // (8 * QUERY_BLOCK * padded_gallery_count))
    return min(blocks * QUERY_BLOCK, _padded(query_count, QUERY_BLOCK))


def _fill_scores(unit_BD: np.ndarray, unit_GD: np.ndarray, scores_BG: np.ndarray) -> None:
    """Write the products of one gallery block into ``scores_BG``, by blocks of one shape."""
    for row in range(0, len(unit_BD), QUERY_BLOCK):
        rows = slice(row, row + QUERY_BLOCK)
        np.matmul(unit_BD[rows], unit_GD.T, out=scores_BG[rows])
