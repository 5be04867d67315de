"""Bootstraps over identities: the point estimate inside, and honest where images are not."""

import numpy as np
import pytest

from exreid.metrics.retrieval import QueryValues
from exreid.metrics.uncertainty import bootstrap_intervals


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
