"""Parts of a gallery that are searched by FAISS (Douze et al. 2024): of all descriptors, only those
in the cells nearest to a query's are looked at.

A segment has some thousand images. k-means divides their descriptors among cells; they are kept
with 4 bits a number (a product quantizer with one part for each number, whose sums the processor's
vector instructions look up: André et al. 2015), and never change. What is found are candidates:
their distances are computed from the stored descriptors, and the best images are compared wholly
(`exreid.pipeline.local_index`). So a search may miss a neighbour, and never invents one.

Letters: Q queries, R images of the segment, K keypoints, C candidates of a keypoint, P pairs,
L descriptor length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from exreid.errors import CacheError
from exreid.features.local_extraction import as_record
from exreid.matching.local_index import RIGHT_ANGLE, NearestImages, nearest_of, squared_of
from exreid.matching.segment_files import opened, write_segment
from exreid.matching.tiles import PairMatcher
from exreid.records import LocalFeatures
from exreid.storage.files import checksum

if TYPE_CHECKING:
    import faiss

AVAILABLE = sys.platform != "darwin"
"""On a Mac, FAISS and PyTorch crash in one process: each brings its own OpenMP."""
CELLS_A_PROBE = 16
"""For each keypoint one cell in so many is looked at."""
CELLS_A_DEEP_PROBE = 4
"""The same for the keypoints that decide between images that score alike."""
BITS = 4
"""Of each number of a descriptor."""
TRAINED_ON = 40
"""Descriptors for each cell that the cells are learned from."""
ROUNDS = 6
"""Of k-means."""
AT_A_TIME = 256
"""Images that are added at a time."""
ROWS_AT_A_TIME = 8192
"""Candidates whose distances are computed at a time."""


def build_segment(
    matcher: PairMatcher,
    queries: LocalFeatures,
    gallery: LocalFeatures,
    pair_P2: np.ndarray,
    *,
    keys: Sequence[str],
    folder: Path,
) -> Path:
    """Write the segment of these images into the folder; returns its ``.json``. It is asked as a
    matcher is, so that actors can build it: ``pair_P2`` are here the (row, index of its key)."""
    import faiss

    del matcher, queries
    keypoints, length = gallery.descriptors_NKL.shape[1:]
    real_RK = np.arange(keypoints) < gallery.count_N[:, None]
    real = np.flatnonzero(real_RK)
    cells = cells_of(len(real))
    if len(real) > TRAINED_ON * cells:
        drawn = np.random.default_rng(0).choice(len(real), TRAINED_ON * cells, replace=False)
        real = real[np.sort(drawn)]
    real = np.resize(real, max(len(real), 2**BITS))
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(length), length, cells, length, BITS, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual = False
    index.cp.niter, index.cp.seed, index.cp.min_points_per_centroid = ROUNDS, 0, 1
    index.pq.cp.min_points_per_centroid = 1
    index.train(_of_length_1(gallery.descriptors_NKL.reshape(-1, length)[real]))
    levels_L16 = np.sort(faiss.vector_to_array(index.pq.centroids).reshape(length, -1), axis=1)
    faiss.copy_array_to_vector(levels_L16.reshape(-1), index.pq.centroids)
    head = faiss.serialize_index(faiss.IndexIVFPQFastScan(index)).tobytes()
    sums = []
    for start in range(0, len(gallery), AT_A_TIME):
        part = gallery.take(np.arange(start, min(start + AT_A_TIME, len(gallery))))
        rows = np.flatnonzero(real_RK[start : start + AT_A_TIME])
        added = _of_length_1(part.descriptors_NKL.reshape(-1, length)[rows])
        index.add_sa_codes(_codes(index, added, levels_L16), start * keypoints + rows)
        sums += [checksum([record.tobytes()]) for record in as_record(part)]
    own = [keys[i] for i in pair_P2[:, 1]]
    described = {"keypoints": keypoints, "keys": own, "sums": sums}
    return write_segment(faiss.IndexIVFPQFastScan(index), head, folder, own, described)


def _codes(
    index: faiss.IndexIVFPQ, descriptors_NL: np.ndarray, levels_L16: np.ndarray
) -> np.ndarray:
    """As ``index.sa_encode``, uint8: the cell, and the nearest of each number's 16 levels, which
    rise. FAISS compares a number with all of them, and takes 8 times as long."""
    _, cell_N1 = index.quantizer.search(descriptors_NL, 1)
    cell_NB = cell_N1.astype("<u8").view(np.uint8)[:, : index.coarse_code_size()]
    values_NL = torch.from_numpy(descriptors_NL)
    code_NL = torch.zeros(values_NL.shape, dtype=torch.uint8)
    for border_L in torch.from_numpy((levels_L16[:, 1:] + levels_L16[:, :-1]) / 2).T:
        code_NL += values_NL > border_L
    code_NL = torch.nn.functional.pad(code_NL, (0, code_NL.shape[1] % 2))
    code_NB = code_NL[:, 0::2] | (code_NL[:, 1::2] << BITS)
    return np.concatenate([cell_NB, code_NB.numpy()], axis=1)


def cells_of(descriptors: int) -> int:
    """The number of cells, the power of two nearest to the root of twice the descriptors.

    >>> [cells_of(count) for count in (0, 130_000, 2_000_000)]
    [1, 512, 2048]
    """
    return int(2 ** round(float(np.log2(max(2 * descriptors, 1)) / 2)))


def _of_length_1(descriptors_NL: np.ndarray) -> np.ndarray:
    """float32."""
    values_NL = descriptors_NL.astype(np.float32)
    length_N1 = np.linalg.norm(values_NL, axis=1, keepdims=True)
    return np.ascontiguousarray(values_NL / np.maximum(length_N1, 1e-12))


def search_segment(
    matcher: PairMatcher,
    queries: LocalFeatures,
    gallery: LocalFeatures,
    pair_P2: np.ndarray,
    *,
    segment: Path,
    images: int,
    keep: int,
    only: np.ndarray | None = None,
) -> NearestImages:
    """Candidates among the ``images`` of a segment: for each query's keypoints the ``keep`` nearest
    descriptors that are found, by the 4 bits; images are rows of the segment. It is asked as a
    matcher is: ``pair_P2`` are here the (query, row) that are left out, and ``gallery`` is empty.
    Of ``only`` these keypoints, where there are any, in more cells (`CELLS_A_DEEP_PROBE`).
    """
    import faiss

    del matcher, gallery
    index = opened(segment)
    faiss.omp_set_num_threads(torch.get_num_threads())
    keypoints = queries.descriptors_NKL.shape[1]
    parts = []
    for q, count in enumerate(queries.count_N.tolist()):
        own = np.arange(count) if only is None else only
        cells_a_probe = CELLS_A_PROBE if only is None else CELLS_A_DEEP_PROBE
        options = {"nprobe": -(-index.nlist // cells_a_probe)}
        out = pair_P2[pair_P2[:, 0] == q, 1]
        if len(out):
            answers_RK = np.ones((images, keypoints), bool)
            answers_RK[out] = False
            bits = np.packbits(answers_RK.reshape(-1), bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        params = faiss.SearchParametersIVF(**options)
        asked = _of_length_1(queries.descriptors_NKL[q, own])
        similarity_KC, number_KC = index.search(asked, keep, params=params)
        if number_KC.size and number_KC.max() >= images * keypoints:
            raise CacheError(f"{segment}: names images that it does not have. Delete this file.")
        image_KC = np.where(number_KC < 0, -1, number_KC // keypoints)
        parts.append(_padded(similarity_KC, image_KC, number_KC % keypoints, own, keypoints))
    return NearestImages.joined(parts)


def _padded(
    similarity_KC: np.ndarray,
    image_KC: np.ndarray,
    keypoint_KC: np.ndarray,
    own_K: np.ndarray,
    keypoints: int,
) -> NearestImages:
    """The candidates of these of one query's keypoints, among none of the others."""
    shape = (1, keypoints, image_KC.shape[1])
    squared, image = np.full(shape, RIGHT_ANGLE), np.full(shape, -1, np.int32)
    keypoint = np.full(shape, -1, np.int16)
    found_KC = image_KC >= 0
    squared_KC = 2.0 - 2.0 * similarity_KC.astype(np.float64)
    squared[0, own_K] = np.where(found_KC, squared_KC, RIGHT_ANGLE)
    image[0, own_K] = image_KC
    keypoint[0, own_K] = np.where(found_KC, keypoint_KC, -1)
    return NearestImages(squared, image, keypoint)


def with_exact_distances(
    queries: LocalFeatures,
    candidates: NearestImages,
    descriptors_of: Callable[[int], np.ndarray],
    keep: int,
) -> NearestImages:
    """The ``keep`` nearest images of the candidates, each once, by the distances of the stored
    descriptors; ``descriptors_of`` returns those of an image, float16 (K, L)."""
    query_M, own_M, place_M = np.nonzero(candidates.image_QKC >= 0)
    image_M = candidates.image_QKC[query_M, own_M, place_M]
    keypoint_M = candidates.keypoint_QKC[query_M, own_M, place_M]
    length = queries.descriptors_NKL.shape[2]
    other_ML = np.zeros((len(image_M), length), np.float16)
    order_M = np.argsort(image_M, kind="stable")
    images, start = np.unique(image_M[order_M], return_index=True)
    for image, mine in zip(images.tolist(), np.split(order_M, start[1:]), strict=True):
        other_ML[mine] = descriptors_of(image)[keypoint_M[mine]]
    squared_M = np.empty(len(image_M))
    for first in range(0, len(image_M), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        own_ML = queries.descriptors_NKL[query_M[rows], own_M[rows]]
        squared_M[rows] = squared_of(own_ML, other_ML[rows][:, None])[:, 0]
    squared = np.full(candidates.squared_QKC.shape, RIGHT_ANGLE)
    squared[query_M, own_M, place_M] = squared_M
    near = NearestImages(squared, candidates.image_QKC, candidates.keypoint_QKC)
    near = nearest_of([near], near.image_QKC.shape[2])
    image_QKC = near.image_QKC.copy()
    for place in range(1, image_QKC.shape[2]):  # each image by its nearest descriptor
        seen_QK = (image_QKC[:, :, :place] == image_QKC[:, :, place, None]).any(axis=2)
        image_QKC[seen_QK, place] = -1
    squared = np.where(image_QKC < 0, RIGHT_ANGLE, near.squared_QKC)
    return nearest_of([NearestImages(squared, image_QKC, near.keypoint_QKC)], keep)
