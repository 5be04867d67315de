"""Exact ranking in tiles against the full score matrix with a full sort: time and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from _report import Report, arguments, interleaved_s, peak_mib

from exreid.matching.cosine import GALLERY_BLOCK, QUERY_BLOCK, rank_by_cosine
from exreid.metrics.retrieval import average_precision
from exreid.records import Ranking, RetrievalSide

DIMENSIONS = 768
QUICK_SIZES_QG = ((500, 2_000), (1_000, 10_000), (1_000, 30_000))
SIZES_QG = (*QUICK_SIZES_QG, (4_000, 40_000), (10_000, 100_000))
IMAGES_PER_IDENTITY = 10
NAIVE_BYTES_PER_PAIR = 25
"""The scores, their negatives, the order, the identities in that order and the matches."""
NAIVE_LIMIT_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Case:
    """Random vectors around one centre per identity."""

    query_QD: np.ndarray
    gallery_GD: np.ndarray
    queries: RetrievalSide
    gallery: RetrievalSide


def make_case(query_count: int, gallery_count: int) -> Case:
    """Queries stand behind the gallery in the table, and share its identities."""
    random = np.random.default_rng(0)
    total = query_count + gallery_count
    identity_count = max(1, gallery_count // IMAGES_PER_IDENTITY)
    identity_N = random.integers(0, identity_count, total).astype(np.int32)
    centre_ID = random.standard_normal((identity_count, DIMENSIONS), dtype=np.float32)

    def vectors(identity_N: np.ndarray) -> np.ndarray:
        noise_ND = random.standard_normal((len(identity_N), DIMENSIONS), dtype=np.float32)
        for start in range(0, len(noise_ND), 1000):
            noise_ND[start : start + 1000] += 0.3 * centre_ID[identity_N[start : start + 1000]]
        return noise_ND

    def side(start: int, stop: int) -> RetrievalSide:
        place = np.arange(start, stop)
        ids = tuple(f"image {p}" for p in place)
        return RetrievalSide(ids, place, identity_N[start:stop], np.full(len(place), -1))

    gallery_GD = vectors(identity_N[:gallery_count])
    query_QD = vectors(identity_N[gallery_count:])
    return Case(query_QD, gallery_GD, side(gallery_count, total), side(0, gallery_count))


def tiles(case: Case) -> Ranking:
    """What the package does."""
    return rank_by_cosine(case.query_QD, case.gallery_GD, case.queries, case.gallery)


def full_sort(case: Case, dtype: type = np.float32) -> np.ndarray:
    """The whole matrix, sorted; the average precision of each query (it excludes nothing).

    Timed in float32, which is what scripts do and twice as fast, though it swaps near ties.
    """
    query_QD: np.ndarray = case.query_QD.astype(dtype)
    gallery_GD: np.ndarray = case.gallery_GD.astype(dtype)
    query_QD /= np.linalg.norm(query_QD, axis=1, keepdims=True)
    gallery_GD /= np.linalg.norm(gallery_GD, axis=1, keepdims=True)
    scores_QG = query_QD @ gallery_GD.T
    order_QG = np.argsort(-scores_QG, axis=1, kind="stable")
    match_QG = case.gallery.identity_N[order_QG] == case.queries.identity_N[:, None]
    place_P = np.nonzero(match_QG)[1]
    count_Q = match_QG.sum(axis=1)
    offset_Q1 = np.concatenate([[0], np.cumsum(count_Q)])
    return average_precision(offset_Q1, place_P + 1)


def product_alone(case: Case) -> None:
    """The matrix product in the same blocks, of whatever fits: the floor for any ranking."""
    scores_BG = np.empty((QUERY_BLOCK, GALLERY_BLOCK), np.float64)
    for row in range(0, len(case.query_QD), QUERY_BLOCK):
        block_BD = case.query_QD[row : row + QUERY_BLOCK].astype(np.float64)
        for column in range(0, len(case.gallery_GD), GALLERY_BLOCK):
            block_GD = case.gallery_GD[column : column + GALLERY_BLOCK].astype(np.float64)
            np.matmul(block_BD, block_GD.T, out=scores_BG[: len(block_BD), : len(block_GD)])


def main() -> None:
    """Measure each size, the smallest first."""
    options = arguments(__doc__ or "")
    report = Report(f"Cosine ranking of {DIMENSIONS} numbers per image")
    for query_count, gallery_count in QUICK_SIZES_QG if options.quick else SIZES_QG:
        measure(make_case(query_count, gallery_count), report, options.quick)
    report.show(options.json)


def measure(case: Case, report: Report, quick: bool) -> None:
    """The rows of one size; the full sort where its matrices fit."""
    pairs = len(case.query_QD) * len(case.gallery_GD)
    ways: dict[str, Callable[[], object]] = {
        "tiles": lambda: tiles(case),
        "product alone": lambda: product_alone(case),
    }
    if pairs * NAIVE_BYTES_PER_PAIR <= NAIVE_LIMIT_BYTES:
        ways["full sort"] = lambda: full_sort(case)
        check(case)
    repeats = 5 if quick or pairs < 10**8 else 3
    seconds = interleaved_s(ways, repeats)
    name = f"{len(case.query_QD):,} x {len(case.gallery_GD):,}"
    for way in ways:
        ratio = seconds[way] / seconds["tiles"]
        report.add(f"{name}, {way}", seconds[way], "s", "tiles", ratio)
    tiles_mib = peak_mib(lambda: tiles(case))
    report.add(f"{name}, tiles, memory above the features", tiles_mib, "MiB")
    if "full sort" in ways:
        sort_mib = peak_mib(ways["full sort"])
        label = f"{name}, full sort, memory above the features"
        report.add(label, sort_mib, "MiB", "tiles", sort_mib / tiles_mib)


def check(case: Case) -> None:
    """In float64 both ways find the same, to the last bits of a mean."""
    ranking = tiles(case)
    ours_Q = average_precision(ranking.positive_offset_Q1, ranking.positive_rank_P)
    if not np.allclose(ours_Q, full_sort(case, np.float64), rtol=0, atol=1e-12):
        raise SystemExit("The tiles and the full sort disagree: the figures would mean nothing.")


if __name__ == "__main__":
    main()
