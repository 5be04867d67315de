"""Calibrations: against scikit-learn, strictly increasing everywhere, kept to the last bit."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from exreid.calibration.curves import Calibration, fit_calibration
from exreid.calibration.isotonic import isotonic_means
from exreid.calibration.logistic import fit_logistic, sigmoid
from exreid.errors import CalibrationError

KINDS = ("isotonic", "logistic", "beta")
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _pairs(seed=0, count=400, decimals=1):
    rng = np.random.default_rng(seed)
    same_P = rng.random(count) < 0.3
    score_P = np.round(rng.normal(same_P * 1.5, 1.0), decimals)
    return score_P, same_P, rng.uniform(0.5, 3, count)


def _with_one_more(score_P, same_P, weight_P):
    """Scikit-learn's steps, each with one pair more of either answer; then its steps again. What
    the pair weighs: the mean of the ten of its answer that scored nearest."""
    level_P = IsotonicRegression().fit(score_P, same_P, weight_P).predict(score_P)
    rising = np.argsort(score_P, kind="stable")
    score_P, same_P, weight_P, level_P = (x[rising] for x in (score_P, same_P, weight_P, level_P))
    smoothed_P = np.empty(len(score_P))
    for level in np.unique(level_P):
        step = level_P == level
        low, high = score_P[step].min(), score_P[step].max()
        same = [w for s, y, w in zip(score_P, same_P, weight_P, strict=True) if y and s >= low]
        other = [
            w for s, y, w in zip(score_P, same_P, weight_P, strict=True) if not y and s <= high
        ]
        if len(same) < 10:
            same = weight_P[same_P][-10:]
        if len(other) < 10:
            other = weight_P[~same_P][:10]
        one, two, whole = np.mean(same[:10]), np.mean(other[-10:]), weight_P[step].sum()
        smoothed_P[step] = (weight_P[step & same_P].sum() + one) / (whole + one + two)
    return IsotonicRegression(out_of_bounds="clip").fit(score_P, smoothed_P, weight_P)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_isotonic_equals_scikit_learn_with_one_pair_more_up_to_the_tilt(decimals):
    score_P, same_P, weight_P = _pairs(decimals=decimals)
    # Pairs of one score in the order that the fit has them: it says which are the ten nearest.
    order_P = np.lexsort((weight_P, same_P, score_P))
    score_P, same_P, weight_P = score_P[order_P], same_P[order_P], weight_P[order_P]
    fitted = fit_calibration(score_P, same_P, weight_P=weight_P)
    reference = _with_one_more(score_P, same_P, weight_P)
    asked = np.concatenate([score_P, np.linspace(-8, 8, 1001)])
    assert np.abs(fitted.apply(asked) - reference.predict(asked)).max() < 1.1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 29, 400])
def test_no_probability_is_surer_than_its_pairs_support(kind, count):
    # Told apart without an error: all above 0.5 show one animal.
    score_P = np.concatenate([np.linspace(0, 0.4, 400), np.linspace(0.6, 1, count)])
    fitted = fit_calibration(score_P, score_P > 0.5, kind=kind)
    asked_N = np.linspace(-3, 4, 1001)
    prob_N = fitted.apply(asked_N)
    assert np.all(np.diff(prob_N) > 0)
    assert prob_N.max() <= (count + 1) / (count + 2) + 1e-4
    assert prob_N.min() >= 1 / 402 - 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_that_was_not_seen_weighs_what_its_like_do(kind):
    # 30 pairs of one animal, each for itself; those of two animals stand for 100 each, the ten that
    # score highest for 5: an eleventh of those may be among the 30.
    score_P = np.arange(130.0)
    weight_P = np.repeat([100.0, 5.0, 1.0], [90, 10, 30])
    fitted = fit_calibration(score_P, score_P >= 100, kind=kind, weight_P=weight_P)
    top = fitted.apply(np.array([129.0]))[0]
    assert top <= 31 / 36 + 1e-4
    if kind == "isotonic":
        assert top == pytest.approx(31 / 36, abs=2e-4)
    assert fitted.apply(np.array([0.0]))[0] >= 1 / (9050 + 1 + 100) - 1e-6


def test_the_surest_answers_of_few_pairs_hold_on_new_ones():
    # 600 pairs of scores that say little: what is stated of the highest was too much.
    rng = np.random.default_rng(0)
    stated, right = [], []
    for _ in range(200):
        same_P, new_P = rng.random(600) < 0.1, rng.random(600) < 0.1
        fitted = fit_calibration(rng.normal(same_P * 1.0), same_P)
        prob_P = fitted.apply(rng.normal(new_P * 1.0))
        best_P = prob_P >= np.quantile(prob_P, 0.99)
        stated.append(prob_P[best_P].mean())
        right.append(new_P[best_P].mean())
    # Without a pair more of either: 0.67 stated, 0.53 right.
    assert np.mean(stated) < np.mean(right) + 0.1


def test_isotonic_means_equal_scikit_learn():
    rng = np.random.default_rng(3)
    for _ in range(50):
        mean_M, weight_M = rng.normal(0.5, 0.2, 30).clip(0, 1), rng.uniform(0.1, 5, 30)
        reference = IsotonicRegression().fit(np.arange(30), mean_M, weight_M)
        reference = reference.predict(np.arange(30))
        assert isotonic_means(mean_M, weight_M) == pytest.approx(reference, abs=1e-12)


def test_logistic_equals_scikit_learn_on_platt_targets():
    score_P, same_P, weight_P = _pairs()
    positives, negatives = weight_P[same_P].sum(), weight_P[~same_P].sum()
    target_P = np.where(same_P, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Soft targets as two weighted rows each, since scikit-learn takes hard ones.
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        np.tile(score_P, 2)[:, None],
        np.repeat([1, 0], len(score_P)),
        np.concatenate([weight_P * target_P, weight_P * (1 - target_P)]),
    )
    asked = np.linspace(score_P.min(), score_P.max(), 200)
    fitted = fit_calibration(score_P, same_P, kind="logistic", weight_P=weight_P)
    reference = np.clip(model.predict_proba(asked[:, None])[:, 1], *fitted.knot_prob_M)
    assert np.abs(fitted.apply(asked) - reference).max() < 1e-5
    assert 0 < fitted.knot_prob_M[0] < 0.01
    assert 0.98 < fitted.knot_prob_M[1] < 1


def test_beta_finds_the_curve_that_made_the_answers():
    rng = np.random.default_rng(1)
    score_P = np.concatenate([[0.0, 1.0], rng.random(100_000)])
    truth_P = sigmoid(0.7 * np.log(score_P + 1e-6) - 2.0 * np.log(1 - score_P + 1e-6) - 1.0)
    fitted = fit_calibration(score_P, rng.random(len(score_P)) < truth_P, kind="beta")
    inside = np.linspace(0.02, 0.98, 99)
    truth = sigmoid(0.7 * np.log(inside) - 2.0 * np.log(1 - inside) - 1.0)
    assert np.abs(fitted.apply(inside) - truth).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    fitted_on=st.lists(st.tuples(float32s, st.booleans()), min_size=3, max_size=30),
    asked=st.lists(float32s, min_size=1, max_size=30),
)
def test_strictly_increasing_over_float32_neighbours(kind, fitted_on, asked):
    score_P = np.array([1.0, 2.0, *(score for score, _ in fitted_on)])
    same_P = np.array([True, False, *(same for _, same in fitted_on)])
    fitted = fit_calibration(score_P, same_P, kind=kind)
    limit = np.finfo(np.float32).max
    near = np.array([*asked, *score_P, limit, -limit, 0.0], np.float32)
    asked_N = np.unique(np.concatenate([near, *_neighbours(near)]))
    prob_N = fitted.apply(asked_N)
    assert np.all(np.diff(prob_N) > 0)
    assert prob_N[0] > 0
    assert prob_N[-1] < 1


def _neighbours(score_N):
    limit = np.finfo(np.float32).max
    for end in (-limit, limit):
        one = np.nextafter(score_N, end)
        yield one
        yield np.nextafter(one, end)


@pytest.mark.parametrize("kind", KINDS)
def test_strictly_increasing_with_many_fitted_scores(kind):
    rng = np.random.default_rng(0)
    same_P = rng.random(60_000) < 0.1
    score_P = np.tanh(rng.normal(same_P * 3.0, 0.5)).astype(np.float32)
    fitted = fit_calibration(score_P, same_P, kind=kind)
    start_N = np.concatenate([score_P[:2000], rng.normal(0, 1e-4, 2000), rng.normal(0, 2, 2000)])
    start_N = np.concatenate([start_N, [0, 1, -1, 1e-30, 1e-38, 1e-44, 50]]).astype(np.float32)
    asked_N = np.unique(np.concatenate([start_N, *_neighbours(start_N)]))
    assert np.all(np.diff(fitted.apply(asked_N)) > 0)


def test_the_saturated_ends_keep_the_order_of_cosines_far_closer_than_float32():
    rng = np.random.default_rng(0)
    score_P = np.sort(rng.uniform(-1, 1, 5000))
    fitted = fit_calibration(score_P, score_P > 0)
    asked_N = 0.95 + 1e-10 * np.arange(1000)
    prob_N = fitted.apply(asked_N)
    assert np.all(np.diff(prob_N) > 0)
    assert np.all(prob_N > 0.9994)
    assert len(np.unique(prob_N.astype(np.float32))) < 20, "so a float32 cast would tie them"


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(-20, 20), min_size=2, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_isotonic_depends_on_the_order_of_scores_alone(scores, seed):
    rng = np.random.default_rng(seed)
    score_P = np.array([-21, 21, *scores], float)
    same_P = np.array([False, True, *(rng.random(len(scores)) < 0.4)])
    curved_P = np.cbrt(score_P) + 5
    straight = fit_calibration(score_P, same_P).apply(score_P)
    curved = fit_calibration(curved_P, same_P).apply(curved_P)
    assert np.array_equal(straight, curved)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_pairs_changes_no_bit(kind):
    score_P, same_P, weight_P = _pairs()
    order_P = np.random.default_rng(1).permutation(len(score_P))
    fitted = fit_calibration(score_P, same_P, kind=kind, weight_P=weight_P)
    shuffled = fit_calibration(
        score_P[order_P], same_P[order_P], kind=kind, weight_P=weight_P[order_P]
    )
    assert fitted == shuffled


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_three_is_three_pairs_but_for_what_was_not_seen(kind):
    score_P, same_P, _ = _pairs(count=60)
    weight_P = np.where(same_P, 3.0, 1.0)
    copies_P = np.repeat(np.arange(60), weight_P.astype(int))
    weighed = fit_calibration(score_P, same_P, kind=kind, weight_P=weight_P)
    copied = fit_calibration(score_P[copies_P], same_P[copies_P], kind=kind)
    # One pair more of an answer is one of its weight: of three pairs, or of one.
    assert weighed.apply(score_P) == pytest.approx(copied.apply(score_P), abs=0.2)
    inside_P = (copied.apply(score_P) > 0.3) & (copied.apply(score_P) < 0.7)
    assert weighed.apply(score_P)[inside_P] == pytest.approx(
        copied.apply(score_P)[inside_P], abs=0.1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_json_keeps_every_bit(kind):
    score_P, same_P, weight_P = _pairs(decimals=14)
    fitted = fit_calibration(score_P / 3, same_P, kind=kind, weight_P=weight_P)
    again = Calibration.from_json(json.loads(json.dumps(fitted.as_json())))
    assert again == fitted
    assert again.fingerprint == fitted.fingerprint
    assert np.array_equal(again.apply(score_P), fitted.apply(score_P))
    other = fit_calibration(score_P / 3 + 1e-9, same_P, kind=kind, weight_P=weight_P)
    assert other.fingerprint != fitted.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_say_the_opposite_give_a_level_curve_that_still_ranks(kind):
    score_P, same_P, _ = _pairs()
    fitted = fit_calibration(-score_P, same_P, kind=kind)
    assert fitted.is_level
    assert fitted.apply(np.array([-1.0, 1.0])) == pytest.approx(same_P.mean(), abs=0.01)
    assert np.diff(fitted.apply(np.array([-1.0, 1.0])))[0] > 0
    assert not fit_calibration(score_P, same_P, kind=kind).is_level


@pytest.mark.parametrize("kind", KINDS)
def test_perfectly_separated_scores(kind):
    score_P = np.arange(20.0)
    prob_P = fit_calibration(score_P, score_P >= 10, kind=kind).apply(score_P)
    assert np.all(prob_P[:4] < 0.2)
    assert np.all(prob_P[-4:] > 0.8)
    assert prob_P[9] < 0.5 < prob_P[10]
    assert np.all((prob_P > 0) & (prob_P < 1))


def test_a_score_that_is_missing_stays_missing():
    score_P, same_P, _ = _pairs()
    prob_QK = fit_calibration(score_P, same_P).apply(np.array([[0.5, np.nan], [np.nan, 2.0]]))
    assert np.isnan(prob_QK).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_pairs_are_errors_that_say_what_to_do(kind):
    with pytest.raises(CalibrationError, match="score 2.0.*Leave this method out"):
        fit_calibration(np.full(3, 2.0), np.array([True, False, True]), kind=kind)
    with pytest.raises(CalibrationError, match="0 of 3.*encounters"):
        fit_calibration(np.arange(3), np.zeros(3, bool), kind=kind)
    with pytest.raises(CalibrationError, match="3 of 3"):
        fit_calibration(np.arange(3), np.ones(3, bool), kind=kind)
    with pytest.raises(CalibrationError, match="not scored"):
        fit_calibration(np.array([1, np.nan]), np.array([True, False]), kind=kind)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="splines"):
        fit_calibration(np.arange(2), np.array([True, False]), kind="splines")
    with pytest.raises(ValueError, match="weight"):
        fit_calibration(np.arange(2), np.array([True, False]), weight_P=np.array([1.0, 0.0]))
    fitted = fit_calibration(np.arange(2), np.array([False, True]))
    with pytest.raises(ValueError, match="finite"):
        fitted.apply(np.array([np.inf]))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"kind": "spline"},
        {"knot_score": [1.0, 0.0]},
        {"knot_prob": [0.9, 0.1]},
        {"coefficients": [1.0]},
        {"knot_prob": [0.0, 1.5]},
    ],
)
def test_a_damaged_calibration_is_refused(change):
    fields = fit_calibration(np.arange(2), np.array([False, True])).as_json()
    with pytest.raises(CalibrationError, match="again"):
        Calibration.from_json(fields | change)
    with pytest.raises(CalibrationError, match="again"):
        Calibration.from_json([])


def test_logistic_with_coefficients_that_may_not_be_negative():
    rng = np.random.default_rng(0)
    features_PF = rng.normal(size=(3000, 3))
    target_P = (rng.random(3000) < sigmoid(features_PF @ [2.0, -1.0, 0.5] - 0.5)).astype(float)
    weight_P = np.ones(3000)
    free_F, _ = fit_logistic(features_PF, target_P, weight_P)
    assert free_F == pytest.approx([2.0, -1.0, 0.5], abs=0.2)
    held_F, intercept = fit_logistic(features_PF, target_P, weight_P, non_negative=True)
    assert held_F[1] == 0
    model = LogisticRegression(C=np.inf, tol=1e-12).fit(features_PF[:, [0, 2]], target_P)
    assert held_F[[0, 2]] == pytest.approx(model.coef_[0], abs=1e-4)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-4)


def test_separated_targets_need_a_ridge():
    features_PF, target_P = np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 1.0])
    with pytest.raises(ValueError, match="ridge"):
        fit_logistic(features_PF, target_P, np.ones(6))
    coefficient_F, _ = fit_logistic(features_PF, target_P, np.ones(6), ridge=1.0)
    model = LogisticRegression(C=1.0, tol=1e-12).fit(features_PF, target_P)
    assert coefficient_F == pytest.approx(model.coef_[0], abs=1e-4)
