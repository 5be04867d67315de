"""Bootstraps over identities: the point estimate inside, and honest where images are not."""

import numpy as np
import pytest

from exreid.metrics import uncertainty
from exreid.metrics.ranking import rank_scores
from exreid.metrics.retrieval import QueryValues, average_values, identity_sums, query_values
from exreid.metrics.uncertainty import bootstrap_intervals
from tests.metrics.test_ranking import random_sides


def _values(value_Q, average="queries"):
    counted_Q = ~np.isnan(value_Q)
    return QueryValues(np.where(counted_Q, value_Q, 0.0), counted_Q, average)


def _simulated(random, identities, per_identity):
    ability_I = np.clip(random.normal(0.6, 0.3, identities), 0, 1)
    identity_Q = np.repeat(np.arange(identities), per_identity)
    return (random.random(len(identity_Q)) < ability_I[identity_Q]).astype(float), identity_Q


def test_intervals_over_identities_cover_and_over_images_do_not():
    random = np.random.default_rng(0)
    truth = np.clip(random.normal(0.6, 0.3, 200_000), 0, 1).mean()
    covered = {"identities": 0, "images": 0}
    trials = 200
    for _ in range(trials):
        value_Q, identity_Q = _simulated(random, 40, 15)
        for kind, group_Q in (("identities", identity_Q), ("images", np.arange(len(value_Q)))):
            values = {"top_1": _values(value_Q)}
            low, high = bootstrap_intervals(values, group_Q, resamples=300)["top_1"]
            covered[kind] += low <= truth <= high
    assert 0.90 <= covered["identities"] / trials <= 0.99
    assert covered["images"] / trials < 0.80


def test_a_query_without_a_positive_leaves_the_denominator():
    values = {"m": _values(np.array([1.0, np.nan, 1.0, np.nan]))}
    assert bootstrap_intervals(values, np.array([0, 0, 1, 1])) == {"m": (1.0, 1.0)}


def test_one_identity_has_no_interval():
    assert bootstrap_intervals({"m": _values(np.array([1.0, 0.0]))}, np.array([3, 3])) == {}


def test_balanced_values_weigh_identities_equally():
    value_Q = np.array([1.0] * 9 + [0.0])
    identity_Q = np.array([0] * 9 + [1])
    values = {"b": _values(value_Q, "identities"), "q": _values(value_Q)}
    intervals = bootstrap_intervals(values, identity_Q, resamples=500, level=0.2, seed=1)
    assert intervals["b"] == pytest.approx((0.5, 0.5))
    assert intervals["q"] == pytest.approx((0.9, 0.9))


def _table(seed=0):
    """All metrics of a small retrieval in which some queries have no positive."""
    rng = np.random.default_rng(seed)
    queries, gallery = random_sides(rng, 200, 60, identities=50)
    scores_QG = rng.integers(0, 6, (200, 60)).astype(np.float32)
    ranking = rank_scores(scores_QG, queries, gallery)
    return query_values(ranking), queries.identity_N


def test_equals_a_bootstrap_that_copies_the_queries_of_each_drawn_identity():
    table, identity_Q = _table()
    identities, resamples, seed = np.unique(identity_Q), 50, 7
    drawn_RI = np.random.default_rng(seed).integers(
        0, len(identities), size=(resamples, len(identities))
    )
    naive = {name: [] for name in table}
    for drawn_I in drawn_RI:
        query_lists = [np.flatnonzero(identity_Q == identities[i]) for i in drawn_I]
        copy_N = np.repeat(np.arange(len(drawn_I)), [len(queries) for queries in query_lists])
        again = np.concatenate(query_lists)
        copies = {
            name: QueryValues(values.value_Q[again], values.counted_Q[again], values.average)
            for name, values in table.items()
        }
        for name, number in average_values(copies, copy_N).items():
            naive[name].append(number)
    intervals = bootstrap_intervals(table, identity_Q, resamples=resamples, seed=seed)
    assert set(intervals) == set(table)
    for name, interval in intervals.items():
        assert interval == pytest.approx(np.quantile(naive[name], [0.025, 0.975]), rel=1e-12)


def test_drawing_each_identity_once_gives_the_metric_itself(monkeypatch):
    table, identity_Q = _table()
    monkeypatch.setattr(uncertainty, "_identity_weights", lambda count, *_: [np.ones((3, count))])
    intervals = bootstrap_intervals(table, identity_Q)
    for name, number in average_values(table, identity_Q).items():
        assert intervals[name] == pytest.approx((number, number), rel=1e-12)


def test_the_seed_decides_and_the_memory_does_not(monkeypatch):
    table, identity_Q = _table()
    intervals = bootstrap_intervals(table, identity_Q, resamples=300)
    assert intervals == bootstrap_intervals(table, identity_Q, resamples=300)
    assert intervals != bootstrap_intervals(table, identity_Q, resamples=300, seed=1)
    monkeypatch.setattr(uncertainty, "MAX_DRAWS", 7 * len(np.unique(identity_Q)))
    fewer_at_a_time = bootstrap_intervals(table, identity_Q, resamples=300)
    for name, interval in intervals.items():
        assert fewer_at_a_time[name] == pytest.approx(interval, rel=1e-12)


def test_intervals_hold_the_metric_and_widen_with_the_level():
    table, identity_Q = _table()
    narrow = bootstrap_intervals(table, identity_Q, level=0.5)
    wide = bootstrap_intervals(table, identity_Q, level=0.99)
    for name, number in average_values(table, identity_Q).items():
        assert wide[name][0] <= narrow[name][0] <= number <= narrow[name][1] <= wide[name][1]
    assert wide["mAP"][0] < narrow["mAP"][0] < narrow["mAP"][1] < wide["mAP"][1]


def test_a_metric_that_one_identity_counts_for_has_no_interval():
    value_Q, every_Q = np.array([1.0, 0.0, 1.0]), np.ones(3, bool)
    table = {
        "mAP": QueryValues(value_Q, every_Q),
        "mAP_with_positive": QueryValues(value_Q, np.array([True, True, False])),
    }
    assert list(bootstrap_intervals(table, np.array([3, 3, 8]))) == ["mAP"]
    assert bootstrap_intervals({}, np.zeros(0, int)) == {}


def test_resamples_without_a_counted_query_are_passed_over():
    identity_Q = np.arange(60)
    values = QueryValues(np.ones(60), identity_Q < 2)
    assert bootstrap_intervals({"m": values}, identity_Q, resamples=40) == {"m": (1.0, 1.0)}


def test_wrong_arguments():
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_intervals({}, np.zeros(0, int), resamples=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_intervals({}, np.zeros(0, int), level=95)


def test_identity_sums_leave_out_the_queries_that_do_not_count():
    values = _values(np.array([0.5, np.nan, 1.0, np.nan, 0.25]))
    sums = identity_sums(values, np.array([5, 5, 2, 9, 5]))
    assert [array.tolist() for array in sums] == [[2, 5], [1.0, 0.75], [1, 2]]
