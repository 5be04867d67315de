"""Cosine ranking and metrics against the naive twin, with ties, exclusions and odd sizes."""

import numpy as np
import pytest

from exreid.matching.cosine import rank_by_cosine
from exreid.metrics.ranking import rank_scores
from exreid.metrics.retrieval import retrieval_metrics
from exreid.records import RetrievalSide
from tests.reference.full_sort import naive_metrics, naive_queries

TOP_K = (1, 3, 10)


def _sides(random, query_count, gallery_count, identities, overlap):
    total = query_count + gallery_count
    places = random.permutation(total)
    query = np.sort(places[:query_count])
    gallery = np.arange(total) if overlap else np.sort(places[query_count:])
    identity = random.integers(0, identities, total).astype(np.int32)
    encounter = random.integers(-1, 6, total).astype(np.int32)
    ids = np.array([f"image {i}" for i in range(total)])
    return [
        RetrievalSide(tuple(ids[side]), side, identity[side], encounter[side])
        for side in (query, gallery)
    ]


@pytest.mark.parametrize("exclude", ["image", "encounter"])
@pytest.mark.parametrize(
    ("queries", "gallery", "identities", "overlap"),
    [(30, 80, 6, False), (25, 40, 60, True), (1, 1, 1, False), (4, 3, 2, True)],
)
def test_ranks_and_metrics_equal_the_naive_twin_with_many_ties(
    queries, gallery, identities, overlap, exclude
):
    random = np.random.default_rng(queries + gallery)
    query_side, gallery_side = _sides(random, queries, gallery, identities, overlap)
    scores_QG = random.integers(0, 5, (len(query_side), len(gallery_side))).astype(np.float32)
    ranking = rank_scores(scores_QG, query_side, gallery_side, exclude=exclude, keep=7)
    found = naive_queries(scores_QG, query_side, gallery_side, exclude)
    for q, (ordered, ranks, identity_rank) in enumerate(found):
        start, stop = ranking.positive_offset_Q1[q : q + 2]
        assert ranking.positive_rank_P[start:stop].tolist() == ranks
        kept = ranking.candidate_index_QK[q]
        assert kept[kept >= 0].tolist() == ordered[:7]
        assert ranking.candidate_count_Q[q] == len(ordered)
        assert ranking.identity_rank_Q[q] == identity_rank
    metrics = retrieval_metrics(ranking, query_side.identity_N, top_k=TOP_K)
    expected = naive_metrics(found, query_side.identity_N, TOP_K)
    assert metrics == pytest.approx(expected, abs=1e-12)


def _same(a, b):
    return all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for x, y in ((vars(a)[name], vars(b)[name]) for name in vars(a))
    )


def test_the_tile_size_changes_no_bit():
    random = np.random.default_rng(0)
    queries, gallery = _sides(random, 150, 700, 20, False)
    query_QD = random.normal(size=(150, 33)).astype(np.float32)
    gallery_GD = random.normal(size=(700, 33)).astype(np.float32)
    whole = rank_by_cosine(query_QD, gallery_GD, queries, gallery)
    tiny = rank_by_cosine(query_QD, gallery_GD, queries, gallery, tile_bytes=1)
    assert _same(whole, tiny)


def test_cosine_equals_float64_from_the_same_vectors():
    random = np.random.default_rng(1)
    queries, gallery = _sides(random, 60, 300, 15, False)
    query_QD = random.normal(size=(60, 64)).astype(np.float32)
    gallery_GD = random.normal(size=(300, 64)).astype(np.float32)
    ranking = rank_by_cosine(query_QD, gallery_GD, queries, gallery)
    unit_QD, unit_GD = (
        v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)
        for v in (query_QD, gallery_GD)
    )
    found = naive_queries(unit_QD @ unit_GD.T, queries, gallery)
    expected = naive_metrics(found, queries.identity_N, TOP_K)
    metrics = retrieval_metrics(ranking, queries.identity_N, top_k=TOP_K)
    assert metrics == pytest.approx(expected, abs=1e-12)


def test_identical_gallery_vectors_tie_wherever_they_stand():
    random = np.random.default_rng(2)
    queries, gallery = _sides(random, 3, 4500, 9, False)
    gallery_GD = random.normal(size=(4500, 48)).astype(np.float32)
    twins = [0, 17, 1023, 4095, 4096, 4499]
    gallery_GD[twins] = gallery_GD[0]
    query_QD = np.repeat(gallery_GD[:1], 3, axis=0)
    ranking = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=6)
    assert ranking.candidate_index_QK[0].tolist() == twins
    assert len(np.unique(ranking.candidate_score_QK[0])) == 1
