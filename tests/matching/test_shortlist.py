"""Re-ranking the best candidates against a full sort of all of them."""

import numpy as np
import pytest

from exreid.matching.shortlist import rerank_shortlist, shortlist_pairs
from exreid.metrics.ranking import rank_scores
from exreid.records import RetrievalSide


def _sides(random, queries, gallery, *, identities=6):
    def side(count, first):
        return RetrievalSide(
            tuple(f"{first + i}" for i in range(count)),
            np.arange(first, first + count),
            random.integers(0, identities, count).astype(np.int32),
            np.full(count, -1, np.int32),
        )

    return side(queries, 0), side(gallery, 1000)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keys", [1, 2])
def test_it_equals_a_full_sort_with_the_rest_below(seed, keys):
    random = np.random.default_rng(seed)
    queries, gallery = _sides(random, 7, 23)
    scores = random.integers(0, 5, (7, 23)).astype(np.float32)
    shortlist = int(random.integers(1, 24))
    ranking = rank_scores(scores, queries, gallery, keep=23)
    query_P, gallery_P = shortlist_pairs(ranking, shortlist)
    new_P = [random.integers(0, 3, len(query_P)).astype(np.float64) for _ in range(keys)]
    got = rerank_shortlist(ranking, gallery, shortlist, *new_P)
    for q in range(7):
        old = ranking.candidate_index_QK[q].tolist()
        key = {int(g): [k[p] for k in new_P] for p, g in enumerate(gallery_P) if query_P[p] == q}
        order = sorted(old[:shortlist], key=lambda g: ([-v for v in key[g]], g)) + old[shortlist:]
        assert got.candidate_index_QK[q].tolist() == order[:shortlist]
        assert got.candidate_score_QK[q].tolist() == [key[g][-1] for g in order[:shortlist]]
        same = [g for g in order if gallery.identity_N[g] == queries.identity_N[q]]
        start, stop = got.positive_offset_Q1[q : q + 2]
        assert got.positive_index_P[start:stop].tolist() == same
        assert got.positive_rank_P[start:stop].tolist() == [order.index(g) + 1 for g in same]
        inside = got.positive_rank_P[start:stop] <= shortlist
        assert np.array_equal(np.isnan(got.positive_score_P[start:stop]), ~inside)
        names = list(dict.fromkeys(gallery.identity_N[order].tolist()))
        rank = names.index(queries.identity_N[q]) + 1 if same else 0
        assert got.identity_rank_Q[q] == rank


def test_queries_with_few_candidates_keep_their_gaps():
    side = RetrievalSide(tuple("abc"), np.arange(3), np.array([0, 0, 1]), np.array([1, 1, -1]))
    scores = np.array([[9, 8, 1], [7, 9, 2], [1, 2, 9]], np.float32)
    ranking = rank_scores(scores, side, side, exclude="encounter", keep=3)
    query_P, gallery_P = shortlist_pairs(ranking, 2)
    assert (query_P.tolist(), gallery_P.tolist()) == ([0, 1, 2, 2], [2, 2, 1, 0])
    got = rerank_shortlist(ranking, side, 2, np.array([4.0, 5.0, 1.0, 3.0]))
    assert got.candidate_index_QK.tolist() == [[2, -1], [2, -1], [0, 1]]
    assert np.isnan(got.candidate_score_QK[0, 1])


def test_what_it_refuses():
    queries, gallery = _sides(np.random.default_rng(0), 2, 5)
    ranking = rank_scores(np.zeros((2, 5), np.float32), queries, gallery, keep=3)
    with pytest.raises(ValueError, match="keeps as many: 3"):
        shortlist_pairs(ranking, 4)
    with pytest.raises(ValueError, match="finite"):
        rerank_shortlist(ranking, gallery, 2, np.array([1.0, np.nan, 0.0, 0.0]))
    with pytest.raises(ValueError, match="one score"):
        rerank_shortlist(ranking, gallery, 2)
