"""Groups of new animals against scikit-learn, scipy and plain search."""

import itertools

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from exreid.metrics.grouping import (
    adjusted_rand_index,
    cluster_new,
    clusters_at_cuts,
    drawn_rand_index,
)


@pytest.mark.parametrize("seed", range(30))
def test_ari_equals_scikit_learn(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 60))
    truth_N, group_N = random.integers(0, random.integers(1, 9, 2)[:, None], (2, count))
    assert adjusted_rand_index(truth_N, group_N) == pytest.approx(
        adjusted_rand_score(truth_N, group_N), abs=1e-12
    )


def test_ari_of_many_images_does_not_overflow():
    truth_N = np.arange(400_000) % 3
    group_N = np.arange(400_000) // 200_000
    assert adjusted_rand_index(truth_N, group_N) == pytest.approx(
        adjusted_rand_score(truth_N, group_N), abs=1e-12
    )
    assert abs(adjusted_rand_index(truth_N, group_N)) < 1e-4


def _sparse(seed, count=25, levels=None, share=0.6):
    random = np.random.default_rng(seed)
    pair_P2 = np.stack(np.triu_indices(count, 1), axis=1)
    pair_P2 = pair_P2[random.random(len(pair_P2)) < share]
    probability_P = random.random(len(pair_P2))
    if levels is not None:
        probability_P = np.round(probability_P * levels) / levels
    return pair_P2, probability_P


@pytest.mark.parametrize("seed", range(20))
def test_average_linkage_equals_scipy(seed):
    count, threshold = 25, 0.45
    pair_P2, probability_P = _sparse(seed)
    probability_NN = np.zeros((count, count))
    probability_NN[pair_P2[:, 0], pair_P2[:, 1]] = probability_P
    distance = 1 - probability_NN[np.triu_indices(count, 1)]
    expected = fcluster(linkage(distance, "average"), 1 - threshold, "distance")
    found = cluster_new(np.arange(count), pair_P2, probability_P, threshold=threshold)
    assert 1 < len(np.unique(expected)) < count
    assert adjusted_rand_index(found, expected) == 1.0


@pytest.mark.parametrize("seed", range(10))
def test_no_order_changes_the_partition_even_with_many_ties(seed):
    random = np.random.default_rng(seed)
    pair_P2, probability_P = _sparse(seed, levels=3, share=0.3)
    expected = cluster_new(np.arange(25), pair_P2, probability_P, threshold=0.5)
    row_of = random.permutation(25)
    shuffled = random.permutation(len(pair_P2))
    turned_P2 = row_of[pair_P2[shuffled]][:, ::-1]
    found = cluster_new(np.argsort(row_of), turned_P2, probability_P[shuffled], threshold=0.5)
    assert adjusted_rand_index(found[row_of], expected) == 1.0
    first = np.unique(found, return_index=True)[1]
    assert np.all(np.diff(first) > 0)


def test_a_tie_goes_to_the_smaller_positions():
    pair_P2, probability_P = np.array([[0, 1], [1, 2]]), np.array([0.8, 0.8])
    early = cluster_new(np.array([0, 1, 2]), pair_P2, probability_P, threshold=0.5)
    late = cluster_new(np.array([9, 1, 2]), pair_P2, probability_P, threshold=0.5)
    assert early.tolist() == [0, 0, 1]
    assert late.tolist() == [0, 1, 1]


def test_without_pairs_each_image_is_an_animal():
    none = np.empty((0, 2), int)
    assert cluster_new(np.arange(3), none, np.empty(0), threshold=0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("pairs", "probability", "threshold", "message"),
    [
        ([[0, 1]], [0.9], 0.0, "above 0"),
        ([[0, 0]], [0.9], 0.5, "itself"),
        ([[0, 1], [1, 0]], [0.9, 0.9], 0.5, "twice"),
        ([[0, 3]], [0.9], 0.5, "places"),
        ([[0, 1]], [np.nan], 0.5, "from 0 to 1"),
    ],
)
def test_pairs_that_cannot_be_meant(pairs, probability, threshold, message):
    with pytest.raises(ValueError, match=message):
        cluster_new(np.arange(3), np.array(pairs), np.array(probability), threshold=threshold)


@pytest.mark.parametrize("seed", range(10))
def test_a_resample_counts_all_pairs_but_those_of_an_animal_with_its_copies(seed):
    random = np.random.default_rng(seed)
    truth_N, group_N = random.integers(0, 6, 30), random.integers(0, 4, 30)
    statistic = drawn_rand_index(truth_N, group_N)
    assert statistic(np.ones(30)) == pytest.approx(adjusted_rand_score(truth_N, group_N))
    weight_I = random.integers(0, 4, 6).astype(float)
    drawn = [
        (animal, copy, group)
        for animal, group in zip(truth_N, group_N, strict=True)
        for copy in range(int(weight_I[animal]))
    ]
    counts = np.zeros(4)
    for one, two in itertools.combinations(drawn, 2):
        if one[0] == two[0] and one[1] != two[1]:
            continue
        counts += [1, one[0] == two[0], one[2] == two[2], one[0] == two[0] and one[2] == two[2]]
    every, truth, group, both = counts
    chance = truth * group / every
    expected = (both - chance) / ((truth + group) / 2 - chance)
    assert statistic(weight_I[truth_N]) == pytest.approx(expected)


def test_resamples_without_pairs_and_with_equal_partitions():
    statistic = drawn_rand_index(np.array([0, 0, 1]), np.array([7, 7, 3]))
    assert statistic(np.array([2.0, 2.0, 1.0])) == 1.0
    assert np.isnan(statistic(np.zeros(3)))


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(5))
def test_all_cuts_at_once_are_those_one_by_one(seed, levels):
    pair_P2, probability_P = _sparse(seed, levels=levels, share=0.4)
    cuts = [0.05, 0.2, 0.25, 0.3, 0.5, 0.75, 1.0]
    found = dict(clusters_at_cuts(np.arange(25), pair_P2, probability_P, cuts))
    assert list(found) == sorted(cuts, reverse=True)
    for cut in cuts:
        one = cluster_new(np.arange(25), pair_P2, probability_P, threshold=cut)
        assert found[cut].tolist() == one.tolist()
    assert len({len(np.unique(group)) for group in found.values()}) > 3
