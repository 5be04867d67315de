from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exreid.metrics import ranking as ranking_module
from exreid.metrics.ranking import (
    concatenate_rankings,
    index_gallery,
    rank_block,
    rank_scores,
    side_slice,
)
from exreid.records import Ranking, RetrievalSide
from tests.reference.naive_retrieval import naive_ranking


def make_side(position, identity, encounter=None) -> RetrievalSide:
    position = np.asarray(position, np.int64)
    encounter = np.full(len(position), -1) if encounter is None else encounter
    return RetrievalSide(
        tuple(f"image{p}" for p in position),
        position,
        np.asarray(identity, np.int32),
        np.asarray(encounter, np.int32),
    )


def random_sides(rng, q, g, *, identities=4, encounters=5, overlap=True):
    """Two sides of one table, which may share images."""
    n = q + g
    identity, encounter = rng.integers(0, identities, n), rng.integers(-1, encounters, n)
    places = [np.sort(rng.choice(n, size, replace=False)) for size in (q, g)]
    if not overlap:
        places = [np.arange(g, n), np.arange(g)]
    return [make_side(p, identity[p], encounter[p]) for p in places]


def assert_same_ranking(one: Ranking, other: Ranking) -> None:
    for field in fields(Ranking):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype, field.name
        assert a.tobytes() == b.tobytes(), field.name


def assert_equals_naive(ranking: Ranking, scores_QG, queries, gallery, exclude, keep) -> None:
    rows = naive_ranking(scores_QG, queries, gallery, exclude)
    assert ranking.candidate_index_QK.shape == (len(queries), min(keep, len(gallery)))
    for q, row in enumerate(rows):
        kept = row["candidates"][:keep]
        padding = [-1] * (ranking.candidate_index_QK.shape[1] - len(kept))
        assert ranking.candidate_index_QK[q].tolist() == kept + padding
        found = ranking.candidate_score_QK[q]
        assert found[: len(kept)].tolist() == [scores_QG[q, i] for i in kept]
        assert np.isnan(found[len(kept) :]).all()
        assert ranking.candidate_count_Q[q] == len(row["candidates"])
        span = slice(ranking.positive_offset_Q1[q], ranking.positive_offset_Q1[q + 1])
        got = zip(
            ranking.positive_index_P[span].tolist(),
            ranking.positive_rank_P[span].tolist(),
            ranking.positive_score_P[span].tolist(),
            strict=True,
        )
        assert list(got) == row["positives"]
        assert ranking.identity_rank_Q[q] == row["identity_rank"]
    assert ranking.positive_offset_Q1[-1] == len(ranking.positive_rank_P)


SCORES = {
    "many ties": lambda rng, shape: rng.integers(0, 4, shape),
    "all equal": lambda rng, shape: np.zeros(shape),
    "signed zeros": lambda rng, shape: rng.choice([-0.0, 0.0, 1.0], shape),
    "no ties": lambda rng, shape: rng.standard_normal(shape),
    "one outlier": lambda rng, shape: np.where(rng.random(shape) < 0.1, 1e30, rng.random(shape)),
    "widest": lambda rng, shape: rng.choice([-3.4e38, 0.0, 1.0, 3.4e38], shape),
    "smallest": lambda rng, shape: rng.integers(-3, 4, shape) * 1e-45,
    "close": lambda rng, shape: 1 + rng.integers(0, 3, shape) * np.spacing(np.float32(1)),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("exclude", ["image", "encounter"])
@pytest.mark.parametrize(("q", "g"), [(30, 40), (1, 25), (25, 1), (1, 1), (0, 5), (5, 0)])
def test_equals_the_full_sort(kind, exclude, q, g):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        queries, gallery = random_sides(rng, q, g, overlap=seed % 2 == 0)
        scores_QG = SCORES[kind](rng, (q, g)).astype(np.float32)
        for keep in (1, 3, 1000):
            ranking = rank_scores(scores_QG, queries, gallery, exclude=exclude, keep=keep)
            assert_equals_naive(ranking, scores_QG, queries, gallery, exclude, keep)


@pytest.mark.parametrize("kind", ["no ties", "many ties", "one outlier"])
def test_equals_the_full_sort_with_more_images_than_buckets(kind):
    rng = np.random.default_rng(5)
    queries, gallery = random_sides(rng, 6, 40_000, identities=300, encounters=4)
    scores_QG = SCORES[kind](rng, (6, 40_000)).astype(np.float32)
    ranking = rank_scores(scores_QG, queries, gallery, exclude="encounter", keep=50)
    identity_of = gallery.identity_N
    for q in range(6):
        left = np.ones(40_000, bool)
        left[gallery.position_N == queries.position_N[q]] = False
        if queries.encounter_N[q] >= 0:
            left[gallery.encounter_N == queries.encounter_N[q]] = False
        index = np.flatnonzero(left)
        order = index[np.lexsort((index, -scores_QG[q, index]))]
        assert ranking.candidate_index_QK[q].tolist() == order[:50].tolist()
        rank = 1 + np.flatnonzero(identity_of[order] == queries.identity_N[q])
        span = slice(ranking.positive_offset_Q1[q], ranking.positive_offset_Q1[q + 1])
        assert ranking.positive_rank_P[span].tolist() == rank.tolist()
        ahead = len(np.unique(identity_of[order[: rank[0] - 1]]))
        assert ranking.identity_rank_Q[q] == 1 + ahead


def test_by_hand():
    gallery = make_side([0, 1, 2, 3, 4], [7, 8, 7, 9, 8], [0, 0, 1, 2, -1])
    queries = make_side([2, 9], [7, 5], [1, -1])
    scores = np.array([[3, 5, 9, 5, 3], [1, 1, 1, 1, 1]], np.float32)
    ranking = rank_scores(scores, queries, gallery)
    assert ranking.candidate_index_QK.tolist() == [[1, 3, 0, 4, -1], [0, 1, 2, 3, 4]]
    assert ranking.candidate_count_Q.tolist() == [4, 5]
    assert ranking.positive_rank_P.tolist() == [3]  # image 0 ties with image 4 and wins
    assert ranking.identity_rank_Q.tolist() == [3, 0]


def test_unknown_encounters_exclude_nothing():
    gallery, query = make_side([0, 1], [1, 2], [-1, -1]), make_side([2], [1], [-1])
    ranking = rank_scores(np.ones((1, 2), np.float32), query, gallery, exclude="encounter")
    assert ranking.candidate_count_Q.tolist() == [2]


def test_empty_candidates():
    gallery, query = make_side([0, 1], [1, 1], [3, 3]), make_side([1], [1], [3])
    ranking = rank_scores(np.ones((1, 2), np.float32), query, gallery, exclude="encounter")
    assert ranking.candidate_count_Q.tolist() == [0]
    assert ranking.candidate_index_QK.tolist() == [[-1, -1]]
    assert ranking.identity_rank_Q.tolist() == [0]
    assert len(ranking.positive_rank_P) == 0


def test_scores_are_not_changed():
    rng = np.random.default_rng(0)
    queries, gallery = random_sides(rng, 5, 9)
    scores = rng.random((5, 9), dtype=np.float32)
    before = scores.copy()
    scores.flags.writeable = False
    rank_scores(scores, queries, gallery, exclude="encounter")
    assert np.array_equal(scores, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_names_the_query(bad):
    gallery, queries = make_side([0, 1, 2], [1, 1, 2]), make_side([5, 6], [1, 2])
    scores = np.ones((2, 3), np.float32)
    scores[1, 1] = bad
    with pytest.raises(ValueError, match="'image6'.*not finite"):
        rank_scores(scores, queries, gallery)


def test_wrong_arguments():
    side = make_side([0, 1], [1, 1])
    scores = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="keep"):
        rank_scores(scores, side, side, keep=0)
    with pytest.raises(ValueError, match="float32"):
        rank_scores(scores.astype(np.int64), side, side)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        rank_scores(scores[:1], side, side)
    with pytest.raises(ValueError, match="burst"):
        rank_scores(scores, side, side, exclude="burst")
    with pytest.raises(ValueError, match="at least one"):
        concatenate_rankings([])


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_blocks_put_together_are_the_whole(step):
    rng = np.random.default_rng(3)
    queries, gallery = random_sides(rng, 23, 31)
    scores = rng.integers(0, 5, (23, 31)).astype(np.float32)
    index = index_gallery(gallery, exclude="encounter")
    parts = [
        rank_block(scores[s : s + step], side_slice(queries, s, s + step), index, keep=6)
        for s in range(0, 23, step)
    ]
    whole = rank_scores(scores, queries, gallery, exclude="encounter", keep=6)
    assert_same_ranking(concatenate_rankings(parts), whole)


def test_the_number_of_buckets_changes_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    queries, gallery = random_sides(rng, 20, 300)
    scores = rng.integers(0, 50, (20, 300)).astype(np.float32)
    expected = rank_scores(scores, queries, gallery, keep=9)
    for buckets in (3, 10, 5000):
        monkeypatch.setattr(ranking_module, "MIN_BUCKETS", buckets)
        monkeypatch.setattr(ranking_module, "MAX_BUCKETS", buckets)
        assert_same_ranking(rank_scores(scores, queries, gallery, keep=9), expected)


cases = st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(cases)
def test_gallery_order_changes_nothing_without_ties(case):
    q, g, seed = case
    rng = np.random.default_rng(seed)
    queries, gallery = random_sides(rng, q, g, overlap=False)
    scores = rng.permutation(q * g).reshape(q, g).astype(np.float32)
    order = rng.permutation(g)
    shuffled = make_side(gallery.position_N, gallery.identity_N[order], gallery.encounter_N[order])
    one = rank_scores(scores, queries, gallery, exclude="encounter")
    other = rank_scores(scores[:, order], queries, shuffled, exclude="encounter")
    assert one.positive_rank_P.tolist() == other.positive_rank_P.tolist()
    assert one.identity_rank_Q.tolist() == other.identity_rank_Q.tolist()
    assert one.positive_index_P.tolist() == order[other.positive_index_P].tolist()
    kept = other.candidate_index_QK
    assert one.candidate_index_QK.tolist() == np.where(kept < 0, -1, order[kept]).tolist()


@settings(max_examples=60, deadline=None)
@given(cases)
def test_a_worse_image_of_another_identity_changes_no_rank(case):
    q, g, seed = case
    rng = np.random.default_rng(seed)
    queries, gallery = random_sides(rng, q, g)
    scores = rng.integers(0, 4, (q, g)).astype(np.float32)
    larger = make_side(
        np.append(gallery.position_N, 1000),
        np.append(gallery.identity_N, 99),
        np.append(gallery.encounter_N, -1),
    )
    one = rank_scores(scores, queries, gallery)
    more = np.concatenate([scores, np.full((q, 1), -1, np.float32)], axis=1)
    other = rank_scores(more, queries, larger)
    assert one.positive_rank_P.tolist() == other.positive_rank_P.tolist()
    assert one.identity_rank_Q.tolist() == other.identity_rank_Q.tolist()
    assert (other.candidate_count_Q == one.candidate_count_Q + 1).all()


@settings(max_examples=60, deadline=None)
@given(cases)
def test_a_rising_function_of_the_scores_changes_nothing(case):
    q, g, seed = case
    rng = np.random.default_rng(seed)
    queries, gallery = random_sides(rng, q, g)
    scores = rng.integers(-3, 4, (q, g)).astype(np.float32)
    one = rank_scores(scores, queries, gallery)
    other = rank_scores(scores**3 * 7 + 2, queries, gallery)
    for name in ("candidate_index_QK", "positive_index_P", "positive_rank_P", "identity_rank_Q"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@pytest.mark.parametrize("size", [1e-300, 1.0, 3.4e38])
def test_float64_scores_of_any_size_are_ranked_exactly(size):
    rng = np.random.default_rng(12)
    q, g = 5, 200
    scores = (rng.integers(-50, 51, (q, g)) / 50) * size
    queries, gallery = (
        make_side(np.arange(g, g + q), np.zeros(q)),
        make_side(np.arange(g), np.zeros(g)),
    )
    ranking = rank_scores(scores, queries, gallery, keep=g)
    expected = [np.lexsort((np.arange(g), -row)).tolist() for row in scores]
    assert ranking.candidate_index_QK.tolist() == expected


def test_a_float64_score_beyond_float32_is_refused():
    queries, gallery = make_side([3], [0]), make_side([0, 1], [0, 0])
    with pytest.raises(ValueError, match="'image3'.*beyond a float32"):
        rank_scores(np.array([[1.0, 1e39]]), queries, gallery)
