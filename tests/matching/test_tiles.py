"""Every pair stands in one tile, and features travel little."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exreid.errors import MatchingError
from exreid.matching.tiles import match_in_process, plan_tiles, score_tile
from tests.matching.fakes import EqualDescriptors, random_features


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), unique=True, max_size=120),
    st.integers(1, 50),
)
def test_each_pair_stands_in_one_tile(pairs, size):
    query_P, gallery_P = np.array(pairs, np.int32).reshape(-1, 2).T
    tiles = list(plan_tiles(query_P, gallery_P, pairs_per_tile=size))
    assert [tile.number for tile in tiles] == list(range(-(-len(pairs) // size)))
    places = np.concatenate([np.zeros(0, int), *(tile.place_P for tile in tiles)])
    assert sorted(places) == list(range(len(pairs)))
    for tile in tiles:
        assert len(tile.place_P) <= size
        assert (tile.query_M[tile.pair_P2[:, 0]] == query_P[tile.place_P]).all()
        assert (tile.gallery_M[tile.pair_P2[:, 1]] == gallery_P[tile.place_P]).all()
        assert (np.diff(tile.query_M) > 0).all()
        assert (np.diff(tile.gallery_M) > 0).all()


def test_all_pairs_of_two_sets_make_square_tiles():
    query_P, gallery_P = (a.ravel() for a in np.mgrid[:32, :48])
    for tile in plan_tiles(query_P, gallery_P, pairs_per_tile=256):
        assert (len(tile.query_M), len(tile.gallery_M)) == (16, 16)


def test_the_plan_does_not_depend_on_the_order_of_the_pairs():
    random = np.random.default_rng(0)
    pairs = random.permutation(np.stack(np.mgrid[:9, :11], -1).reshape(-1, 2))
    plans = []
    for order in (np.arange(99), random.permutation(99)):
        query_P, gallery_P = pairs[order].T
        tiles = plan_tiles(query_P, gallery_P, pairs_per_tile=10)
        plans.append([(t.query_M[t.pair_P2[:, 0]], t.gallery_M[t.pair_P2[:, 1]]) for t in tiles])
    for ours, theirs in zip(*plans, strict=True):
        assert np.array_equal(ours, theirs)


def test_an_empty_tile_is_refused():
    with pytest.raises(ValueError, match="one pair"):
        next(plan_tiles(np.zeros(1, int), np.zeros(1, int), pairs_per_tile=0))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_evidence_does_not_depend_on_the_tiles(size):
    queries, gallery = random_features(9, seed=1), random_features(12, seed=2)
    query_P, gallery_P = (a.ravel() for a in np.mgrid[:9, :12])
    counts = np.full(len(query_P), -1)
    tiles = plan_tiles(query_P, gallery_P, pairs_per_tile=size)
    for tile, evidence in match_in_process(
        tiles, EqualDescriptors(), score_tile, queries=queries.take, gallery=gallery.take
    ):
        counts[tile.place_P] = evidence.match_count_P
    whole = EqualDescriptors().score(queries, gallery, np.stack([query_P, gallery_P], 1))
    assert np.array_equal(counts, whole.match_count_P)
    assert counts.max() > 0


@pytest.mark.parametrize("most", [2, 5, 13, 21])
def test_a_tile_that_does_not_fit_the_memory_is_matched_in_parts(most, caplog):
    queries, gallery = random_features(9, seed=1), random_features(12, seed=2)
    pair_P2 = np.random.default_rng(0).permutation(np.stack(np.mgrid[:9, :12], -1).reshape(-1, 2))

    class Small(EqualDescriptors):
        def score(self, queries, gallery, pair_P2):
            if len(queries) + len(gallery) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().score(queries, gallery, pair_P2)

    parts = score_tile(Small(), queries, gallery, pair_P2)
    whole = EqualDescriptors().score(queries, gallery, pair_P2)
    assert whole.match_count_P.any()
    for column in ("match_count_P", "confidence_sum_P", "inlier_count_P"):
        assert np.array_equal(getattr(parts, column), getattr(whole, column))
    # The same words for each part: they are told once.
    assert len({record.getMessage() for record in caplog.records}) == (most < 21)
    most = 1
    with pytest.raises(MatchingError, match="local_top_k"):
        score_tile(Small(), queries, gallery, pair_P2)
