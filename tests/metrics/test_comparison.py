"""Differences between methods: paired, honest about clusters, blind to the order of rows."""

import numpy as np
import pytest

from exreid.metrics.comparison import group_averages, holm, paired_differences
from exreid.metrics.retrieval import QueryValues, average_values


def _runs(seed, gain=0.0, identities=30, spread=0.3):
    """Two methods whose success varies by animal, each animal with several alike queries."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, identities)
    identity_Q = np.repeat(np.arange(identities), sizes)
    every_Q = np.ones(len(identity_Q), bool)
    chance = [np.clip(0.5 + spread * rng.normal(size=identities) + g, 0, 1) for g in (0, gain)]
    return identity_Q, *(
        {"top_1": QueryValues((rng.random(len(every_Q)) < c[identity_Q]) * 1.0, every_Q)}
        for c in chance
    )


def test_the_difference_is_that_of_the_metrics_and_rows_may_stand_in_any_order():
    identity_Q, base, other = _runs(0, gain=0.2)
    found = paired_differences(base, other, identity_Q)["top_1"]
    values = [average_values(table, identity_Q)["top_1"] for table in (base, other)]
    assert found.value == pytest.approx(values[1] - values[0])
    order = np.random.default_rng(1).permutation(len(identity_Q))
    mixed = [
        {"top_1": QueryValues(t["top_1"].value_Q[order], t["top_1"].counted_Q[order])}
        for t in (base, other)
    ]
    again = paired_differences(*mixed, identity_Q[order])["top_1"]
    assert again.value == pytest.approx(found.value)
    assert again.interval == pytest.approx(found.interval)
    assert again.p_value == found.p_value


def test_the_interval_covers_and_the_test_keeps_its_size_on_clustered_queries():
    covered, rejected, count = 0, 0, 300
    for seed in range(count):
        identity_Q, base, other = _runs(seed)
        found = paired_differences(base, other, identity_Q, resamples=300, seed=seed)["top_1"]
        covered += found.interval[0] <= 0 <= found.interval[1]
        rejected += found.p_value <= 0.05
    # True coverage of a percentile interval on 30 clusters is a little below 95%.
    assert 0.89 <= covered / count <= 0.985
    assert rejected / count <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / count)
    powerful = [
        paired_differences(b, o, i, resamples=300)["top_1"].p_value
        for i, b, o in (_runs(seed, gain=0.3, identities=60) for seed in range(10))
    ]
    assert np.median(powerful) < 0.05


def test_equal_methods_and_metrics_of_one_run_alone():
    identity_Q, base, _ = _runs(0)
    found = paired_differences(base, {**base, "mAP": base["top_1"]}, identity_Q)
    assert set(found) == {"top_1"}
    assert found["top_1"].p_value == 1
    assert found["top_1"].interval == (0, 0)


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.9]) == pytest.approx([0.03, 0.04, 0.9])
    assert holm([0.6, 0.5]) == [1.0, 1.0]


def test_groups_have_intervals_from_two_animals_on():
    values = QueryValues(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4, bool))
    found = group_averages(values, np.array([0, 1, 2, 2]), ["a", "a", "b", "b"])
    assert found["a"] == (2, 2, 0.5, (0.0, 1.0))
    assert found["b"] == (2, 1, 1.0, None)
