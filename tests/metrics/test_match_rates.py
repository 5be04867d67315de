"""From matches to animals, against enumerations, naive twins, and numbers worked out by hand."""

from itertools import combinations, permutations

import numpy as np
import pytest

from exreid.metrics.partitions import pairwise
from exreid.metrics.population import (
    abundance_bias,
    animals_so_far,
    count_flanks,
    decided_rates,
    grouped_rates,
    mean_animals_so_far,
    rates_of_share,
    share_estimate,
)

LEFT, RIGHT = frozenset(("left",)), frozenset(("right",))


def test_the_mean_curve_is_that_over_every_order_of_the_captures():
    captures = [0, 0, 0, 1, 1, 2]
    every = [[len(set(order[: n + 1])) for n in range(6)] for order in set(permutations(captures))]
    assert mean_animals_so_far(np.array([3, 2, 1])) == pytest.approx(np.mean(every, axis=0))


def test_the_mean_curve_of_many_captures_ends_at_all_animals():
    counts = np.array([4000, 1, 1, 900])
    curve = mean_animals_so_far(counts)
    assert curve[0] == pytest.approx(1)
    assert curve[-1] == pytest.approx(4)
    assert np.all(np.diff(curve) > -1e-9)


def test_animals_so_far_counts_each_animal_once():
    assert animals_so_far(np.array([2, 2, 0, 2, 1, 0])).tolist() == [1, 1, 2, 2, 3, 3]


def test_the_bias_is_that_of_petersens_estimate():
    """100 and 100 animals on two visits, 50 of them the same: 200 animals. 10 of the 50 matches are
    missed, and 5 wrong ones are made: 100 x 100 / 45."""
    assert 200 * (1 + abundance_bias(10 / 50, 5 / 45)) == pytest.approx(100 * 100 / 45)


def test_one_flank_animals_count_between_the_larger_number_and_the_sum():
    flanks = count_flanks([LEFT] * 5 + [RIGHT] * 3 + [LEFT | RIGHT] * 7 + [frozenset()])
    assert (flanks.left, flanks.right, flanks.both, flanks.unknown) == (5, 3, 7, 1)
    assert (flanks.low, flanks.high) == (7 + 1 + 5, 7 + 1 + 5 + 3)


def test_flanks_are_read_in_any_case_and_other_viewpoints_say_none():
    flanks = count_flanks([frozenset(("Left",)), frozenset(("R",)), frozenset(("front", "back"))])
    assert (flanks.left, flanks.right, flanks.unknown) == (1, 1, 1)


def test_the_rates_of_decisions_by_hand():
    known = np.array([1, 1, 1, 1, 0, 0], bool)
    named = np.array([1, 1, 1, 0, 1, 0], bool)
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    rates = decided_rates(known, named, right, np.array([0, 0, 1, 1, 2, 3]))
    assert rates.missed.value == pytest.approx(2 / 4)  # one called by a wrong name, one called new
    assert rates.wrong.value == pytest.approx(2 / 4)
    assert rates.bias.value == pytest.approx(4 / 4 - 1)
    assert rates.missed.low <= rates.missed.value <= rates.missed.high


def test_decisions_without_a_named_animal_have_no_rates():
    none = np.zeros(3, bool)
    assert decided_rates(~none, none, none, np.arange(3)) is None


def test_a_mistake_that_was_never_seen_is_not_called_impossible():
    every = np.ones(8, bool)
    rates = decided_rates(every, every, every, np.repeat(np.arange(4), 2))
    assert rates.wrong.value == 0
    assert rates.wrong.high == pytest.approx(share_estimate(0, 4).high)
    assert rates.wrong.high > 0.3


@pytest.mark.parametrize("seed", range(5))
def test_the_rates_of_groups_are_those_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    truth, group = rng.integers(0, 5, 20), rng.integers(0, 6, 20)
    pairs = list(combinations(range(20), 2))
    same = np.array([truth[a] == truth[b] for a, b in pairs])
    together = np.array([group[a] == group[b] for a, b in pairs])
    rates = grouped_rates(truth, group)
    assert rates.missed.value == pytest.approx(1 - (same & together).sum() / same.sum())
    assert rates.wrong.value == pytest.approx((~same & together).sum() / together.sum())
    precision, recall = pairwise(truth, group)
    assert rates.bias.value == pytest.approx(precision / recall - 1)
    assert rates.missed.low < rates.missed.value < rates.missed.high


def test_the_share_of_known_animals_follows_from_the_share_called_known():
    """Of 1000 photographs 600 are of known animals; 0.7 of these are recognised, and 0.1 of the
    others pass: 460 are called known, and the estimate is 600 / 460 of what it would be."""
    rates = rates_of_share(0.7, 0.1, 1000, 0.46)
    assert rates.bias.value == pytest.approx(600 / 460 - 1)
    assert rates.bias.low < rates.bias.value < rates.bias.high


def test_a_gallery_that_passes_as_many_as_it_recognises_says_nothing_of_abundance():
    assert rates_of_share(0.5, 0.5, 100, 0.5).bias is None
    assert rates_of_share(0.5, 0.05, 100, None).bias is None
