"""Reliability, expected calibration error and Brier score: by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from exreid.metrics.reliability import brier_score, expected_calibration_error, reliability


def _pairs(seed=0):
    rng = np.random.default_rng(seed)
    prob_P = rng.random(500)
    return prob_P, rng.random(500) < prob_P**2, rng.uniform(0.1, 4, 500)


def test_brier_equals_scikit_learn():
    prob_P, same_P, weight_P = _pairs()
    assert brier_score(prob_P, same_P) == pytest.approx(brier_score_loss(same_P, prob_P))
    weighed = brier_score_loss(same_P, prob_P, sample_weight=weight_P)
    assert brier_score(prob_P, same_P, weight_P=weight_P) == pytest.approx(weighed)


def test_the_diagram_equals_scikit_learn():
    prob_P, same_P, _ = _pairs()
    observed, stated = calibration_curve(same_P, prob_P, n_bins=7)
    diagram = reliability(prob_P, same_P, bins=7)
    assert diagram.observed_B == pytest.approx(observed)
    assert diagram.stated_B == pytest.approx(stated)
    assert diagram.weight_B.sum() == 500


def test_the_calibration_error_by_hand():
    # Bins [0, 0.5) and [0.5, 1]: |0.5 - 0.2| of weight 3, |1 - 0.75| of weight 2.
    prob_P, same_P = np.array([0.1, 0.25, 0.5, 1.0]), np.array([1, 0, 1, 1])
    weight_P = np.array([1.5, 1.5, 1.0, 1.0])
    error = expected_calibration_error(prob_P, same_P, weight_P=weight_P, bins=2)
    assert error == pytest.approx((3 * (0.5 - 0.175) + 2 * 0.25) / 5)


def test_believable_probabilities_have_a_small_error_and_wrong_ones_a_large_one():
    rng = np.random.default_rng(0)
    prob_P = rng.random(20_000)
    same_P = rng.random(20_000) < prob_P
    assert expected_calibration_error(prob_P, same_P) < 0.02
    assert expected_calibration_error(prob_P**3, same_P) > 0.2


def test_an_empty_bin_counts_nothing():
    diagram = reliability(np.array([0.05, 1.0]), np.array([0, 1]))
    assert np.isnan(diagram.observed_B[1:9]).all()
    assert diagram.observed_B[[0, 9]].tolist() == [0, 1]


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="calibrate"):
        brier_score(np.array([1.2]), np.array([True]))
    with pytest.raises(ValueError, match="some pairs"):
        expected_calibration_error(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="bin"):
        reliability(np.array([0.2]), np.array([True]), bins=0)


def test_bins_of_equally_many_pairs():
    rng = np.random.default_rng(0)
    prob_P = rng.random(1000) ** 6
    same_P, weight_P = rng.random(1000) < prob_P, rng.uniform(0.5, 3, 1000)
    diagram = reliability(prob_P, same_P, weight_P=weight_P, equal_count=True)
    order = np.argsort(prob_P)
    for b, part in enumerate(np.split(order, 10)):
        assert diagram.weight_B[b] == pytest.approx(weight_P[part].sum())
        stated = np.average(prob_P[part], weights=weight_P[part])
        assert diagram.stated_B[b] == pytest.approx(stated)
    tied = reliability(np.full(50, 0.25), np.arange(50) < 10, equal_count=True)
    assert np.nansum(tied.weight_B) == 50
    assert tied.observed_B[tied.weight_B > 0].tolist() == [0.2]
