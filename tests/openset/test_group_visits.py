"""Visits grouped into animals: planted animals are found, and the number of animals is covered."""

from itertools import product

import numpy as np
import pytest

from exreid.errors import CalibrationError
from exreid.openset.fit_grouping import (
    NamedAnimals,
    NamedPairs,
    VisitGrouping,
    count_animals,
    fit_visit_grouping,
    groups_of_animals,
)
from exreid.openset.group_visits import VisitPairs, best_pairs, group_visits


def _planted(animals, visits, seed, overlap=0.0, listed=1.0):
    """Each visit has one image; pairs of one animal score around 0.8, others around 0.2."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(animals), visits)
    first, second = np.triu_indices(len(identity), 1)
    same = identity[first] == identity[second]
    score = np.where(same, 0.8 - overlap, 0.2 + overlap) + rng.normal(0, 0.1, len(same))
    pair = np.stack([first, second], axis=1)
    order = rng.permutation(len(pair))[: int(listed * len(pair))]
    return identity, VisitPairs(pair[order], pair[order], score[order])


def _fitted_grouping(animals=8, visits=4, seed=0, overlap=0.0):
    identity, pairs = _planted(animals, visits, seed, overlap, listed=0.9)
    ones = np.ones(len(identity), np.int64)
    own = np.arange(len(identity))
    return fit_visit_grouping([NamedPairs("planted", pairs, identity, ones, own)], seed=0)


def test_the_best_pair_of_each_two_visits_is_kept():
    rng = np.random.default_rng(4)
    visit = rng.integers(0, 5, 20)
    pair = np.array(
        [(i, j) for i, j in product(range(20), repeat=2) if i < j and rng.random() < 0.6]
    )
    score = rng.integers(0, 6, len(pair)) / 6  # with ties
    best = {}
    for (i, j), value in sorted(zip(map(tuple, pair.tolist()), score, strict=True)):
        a, b = (i, j) if visit[i] < visit[j] else (j, i)
        key = (visit[a], visit[b])
        if visit[a] != visit[b] and (key not in best or (value, -a, -b) > best[key]):
            best[key] = (value, -a, -b)
    found = best_pairs(pair, score, visit)
    assert [tuple(row) for row in found.visit_P2] == sorted(best)
    for key, image, value in zip(sorted(best), found.image_P2, found.score_P, strict=True):
        assert best[key] == (value, -image[0], -image[1])


def test_planted_animals_are_found_by_what_others_taught():
    grouping = _fitted_grouping(seed=0)
    identity, pairs = _planted(animals=12, visits=3, seed=9)
    probability = grouping.curve.apply(pairs.score_P)
    group = group_visits(pairs, probability, grouping.cut, np.arange(len(identity)))
    assert group.tolist() == identity.tolist()


def test_animals_of_one_photograph_are_never_in_one_group():
    pairs = VisitPairs(np.array([[0, 2], [1, 2]]), np.zeros((2, 2), int), np.zeros(2))
    group = group_visits(pairs, np.array([0.9, 0.8]), 0.3, np.array([7, 7, 8]))
    assert group.tolist() == [0, 1, 0]


def test_scores_that_say_nothing_are_refused():
    with pytest.raises(CalibrationError, match=r"planted: pairs of one animal score no higher"):
        _fitted_grouping(overlap=0.35)


def test_a_grouping_is_read_as_it_was_written():
    grouping = _fitted_grouping()
    again = VisitGrouping.from_json(grouping.as_json())
    assert again.curve == grouping.curve
    assert again.cut == grouping.cut
    assert again.sets[0].visits_I.tolist() == grouping.sets[0].visits_I.tolist()
    with pytest.raises(CalibrationError, match="not a saved grouping of visits"):
        VisitGrouping.from_json({"cut": 0.5})


def test_the_interval_covers_the_number_of_animals():
    """Animals are seen 1 to 6 times, and each visit after the first is missed with chance 0.1."""
    rng = np.random.default_rng(1)

    def drawn(animals):
        visits = rng.integers(1, 7, animals)
        groups = 1 + rng.binomial(visits - 1, 0.1)
        return visits, groups

    covered = narrow = 0
    for seed in range(30):
        known, (visits, groups) = NamedAnimals("", *drawn(30)), drawn(40)
        low, high = count_animals(int(groups.sum()), int(visits.sum()), [known], seed)
        covered += low <= 40 <= high
        narrow += high - low <= 30
    assert covered >= 25  # 28.5 are expected; 24 or fewer once in two hundred
    assert narrow >= 15


def test_of_animals_that_split_nothing_groups_are_the_animals():
    whole = NamedAnimals("", np.array([3, 4, 5]), np.ones(3))
    assert count_animals(17, 60, [whole], seed=0) == (17, 17)
    seen_once = NamedAnimals("", np.ones(3, np.int64), np.ones(3))
    assert count_animals(17, 60, [seen_once], seed=0) is None


def test_groups_are_shared_out_among_their_animals():
    visits, groups = groups_of_animals(np.array([4, 4, 9, 9]), np.array([0, 1, 1, 1]))
    assert visits.tolist() == [2, 2]
    assert groups.tolist() == pytest.approx([1 + 1 / 3, 2 / 3])
    assert groups.sum() == pytest.approx(2)
