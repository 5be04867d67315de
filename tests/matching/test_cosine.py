"""The tiles of `rank_by_cosine`: the same bits whatever their size and whatever else is there."""

import numpy as np
import pytest

from exreid.matching.cosine import GALLERY_BLOCK, QUERY_BLOCK, rank_by_cosine
from exreid.metrics.ranking import rank_scores
from tests.metrics.test_ranking import assert_equals_naive, assert_same_ranking, make_side


def vectors_and_sides(seed, q, g, d, identities=8, encounters=6):
    rng = np.random.default_rng(seed)
    identity, encounter = rng.integers(0, identities, q + g), rng.integers(-1, encounters, q + g)
    vectors = rng.standard_normal((q + g, d)).astype(np.float32)
    place_Q, place_G = np.arange(g, g + q), np.arange(g)
    return (
        vectors[g:],
        vectors[:g],
        make_side(place_Q, identity[place_Q], encounter[place_Q]),
        make_side(place_G, identity[place_G], encounter[place_G]),
    )


def scores_by_gallery_index(ranking, g) -> np.ndarray:
    """The kept scores as a matrix, NaN for candidates that were left out."""
    scores_QG = np.full((ranking.query_count, g), np.nan, np.float32)
    for q, (index_K, score_K) in enumerate(
        zip(ranking.candidate_index_QK, ranking.candidate_score_QK, strict=True)
    ):
        scores_QG[q, index_K[index_K >= 0]] = score_K[index_K >= 0]
    return scores_QG


@pytest.mark.parametrize("exclude", ["image", "encounter"])
@pytest.mark.parametrize(("q", "g"), [(1, 1), (1, 9), (9, 1), (40, 30), (0, 4), (4, 0)])
def test_small_whole_numbers_are_ranked_as_the_full_sort_does(q, g, exclude):
    # Each vector points along an axis: all cosines are exactly -1, 0 or 1, so nearly all tie.
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(1, q, g, 4)
    axes_QD, axes_GD = (
        3 * np.sign(v) * (np.abs(v) == np.abs(v).max(axis=1, keepdims=True, initial=0))
        for v in (query_QD, gallery_GD)
    )
    ranking = rank_by_cosine(axes_QD, axes_GD, queries, gallery, exclude=exclude, keep=1000)
    scores_QG = scores_by_gallery_index(ranking, g)
    assert_equals_naive(ranking, np.nan_to_num(scores_QG), queries, gallery, exclude, 1000)
    known = ~np.isnan(scores_QG)
    assert np.array_equal(scores_QG[known], (axes_QD @ axes_GD.T)[known] / 9)


@pytest.mark.parametrize("tile_bytes", [1, 5 * 2**20, 9 * 2**20, 2**30])
@pytest.mark.parametrize("d", [1, 5, 96])
def test_the_tile_size_changes_no_bit(tile_bytes, d):
    q, g = 2 * QUERY_BLOCK + 30, 700
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(2, q, g, d)
    one = rank_by_cosine(query_QD, gallery_GD, queries, gallery, exclude="encounter", keep=20)
    other = rank_by_cosine(
        query_QD, gallery_GD, queries, gallery, exclude="encounter", keep=20, tile_bytes=tile_bytes
    )
    assert_same_ranking(one, other)


@pytest.mark.parametrize("d", [1, 2, 3, 33, 384, 768])
def test_equal_vectors_tie_wherever_they_stand(d):
    q, g = QUERY_BLOCK + 7, GALLERY_BLOCK + 905
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(3, q, g, d)
    edges = [0, 1, 15, 16, 2047, 2048, GALLERY_BLOCK - 1, GALLERY_BLOCK, GALLERY_BLOCK + 1, g - 1]
    gallery_GD[edges] = gallery_GD[0]
    same_queries = [0, 1, 100, QUERY_BLOCK - 1, QUERY_BLOCK, q - 1]
    query_QD[same_queries] = query_QD[0]
    ranking = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=g)
    scores_QG = scores_by_gallery_index(ranking, g)
    assert not np.isnan(scores_QG).any()
    assert (scores_QG[:, edges] == scores_QG[:, :1]).all()
    for row in ranking.candidate_index_QK:
        place = np.argsort(row)[edges]
        assert (np.diff(place) == 1).all() if d > 1 else (np.diff(place) > 0).all()
    assert (scores_QG[same_queries] == scores_QG[0]).all()


@pytest.mark.parametrize("more", [1, GALLERY_BLOCK])
def test_a_larger_gallery_changes_no_score(more):
    g = 300
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(4, 20, g + more, 64)
    small = make_side(*(column[:g] for column in (gallery.position_N, gallery.identity_N)))
    keep = g + more
    one = rank_by_cosine(query_QD, gallery_GD[:g], queries, small, keep=keep)
    other = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=keep)
    before, after = scores_by_gallery_index(one, g), scores_by_gallery_index(other, g + more)
    assert before.tobytes() == after[:, :g].tobytes()


@pytest.mark.parametrize("d", [33, 768])
def test_a_query_scores_alone_as_it_does_among_others(d):
    # A plain product of one row takes another path in the BLAS, and other last bits.
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(10, 20, 500, d)
    together = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=500)
    for q in (0, 7, 19):
        one = slice(q, q + 1)
        alone = make_side(queries.position_N[one], queries.identity_N[one])
        ranking = rank_by_cosine(query_QD[one], gallery_GD, alone, gallery, keep=500)
        kept = together.candidate_score_QK[one]
        assert ranking.candidate_score_QK.tobytes() == kept.tobytes()


def test_agrees_with_the_plain_product_in_float64():
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(5, 50, 400, 48)
    unit_QD, unit_GD = (
        v / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)
        for v in (query_QD, gallery_GD)
    )
    expected = rank_scores(unit_QD @ unit_GD.T, queries, gallery)
    ranking = rank_by_cosine(query_QD * 3, gallery_GD / 7, queries, gallery)
    assert ranking.positive_score_P == pytest.approx(expected.positive_score_P, abs=1e-6)
    assert np.array_equal(ranking.positive_rank_P, expected.positive_rank_P)
    assert np.array_equal(ranking.candidate_index_QK, expected.candidate_index_QK)


def test_candidates_closer_than_a_float32_can_tell_stand_in_their_true_order():
    # Cosines 1 - 2e-9 n: as float32 all of them are 1, and the table's order would win.
    turn_G = np.sqrt(4e-9 * np.arange(50, 0, -1))
    gallery_GD = np.stack([np.ones(50), turn_G], axis=1).astype(np.float32)
    queries = make_side(np.array([50]), np.array([0]))
    gallery = make_side(np.arange(50), np.arange(50))
    ranking = rank_by_cosine(np.array([[1, 0]], np.float32), gallery_GD, queries, gallery)
    assert ranking.candidate_index_QK[0].tolist() == list(range(49, -1, -1))
    assert len(np.unique(ranking.candidate_score_QK)) < 10
    assert ranking.positive_rank_P.tolist() == [50]


def test_the_length_of_a_vector_may_be_extreme():
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(6, 4, 30, 8)
    expected = rank_by_cosine(query_QD, gallery_GD, queries, gallery)
    power = np.float32(2.0) ** np.arange(-60, 60, 4, dtype=np.float32)[:, None]
    ranking = rank_by_cosine(query_QD * np.float32(2**90), gallery_GD * power, queries, gallery)
    assert_same_ranking(ranking, expected)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_a_vector_without_a_direction_names_its_image(bad, side):
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(7, 6, 9, 4)
    vectors, images = (query_QD, queries) if side == "query" else (gallery_GD, gallery)
    vectors[3] = bad
    with pytest.raises(ValueError, match=f"'{images.image_ids[3]}'"):
        rank_by_cosine(query_QD, gallery_GD, queries, gallery)


def test_wrong_shapes():
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(8, 3, 5, 4)
    with pytest.raises(ValueError, match="same model"):
        rank_by_cosine(query_QD[:, :2], gallery_GD, queries, gallery)
    with pytest.raises(ValueError, match="gallery vectors"):
        rank_by_cosine(query_QD, gallery_GD[:2], queries, gallery)


def test_the_vectors_are_not_changed_and_progress_adds_up_to_the_queries():
    q = QUERY_BLOCK + 3
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(9, q, 12, 4)
    before, done = query_QD.copy(), []
    query_QD.flags.writeable = gallery_GD.flags.writeable = False
    rank_by_cosine(query_QD, gallery_GD, queries, gallery, tile_bytes=1, on_progress=done.append)
    assert np.array_equal(query_QD, before)
    assert done == [QUERY_BLOCK, 3]
