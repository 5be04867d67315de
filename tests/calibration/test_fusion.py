"""Fusion: by hand, to the last bit, and blind to everything but the order of raw scores."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exreid.calibration.curves import fit_calibration
from exreid.calibration.fusion import Fusion, fit_fusion, sum_in_order
from exreid.calibration.pairs import CalibrationPairs
from exreid.errors import CalibrationError

METHODS = ("cosine", "aliked")
RISING = {
    "line": lambda score: 7 * score + 2,
    "arctan": lambda score: np.arctan(score / 30),
    "exp": lambda score: np.exp(score / 10),
    "cube root": lambda score: np.cbrt(score) + 5,
}


def _pairs(seed=0, count=600):
    rng = np.random.default_rng(seed)
    same_P = rng.random(count) < 0.3
    pairs = CalibrationPairs(
        rng.integers(0, 50, count),
        rng.integers(0, 50, count),
        same_P,
        rng.uniform(0.5, 2, count),
        rng.integers(0, 5, count),
    )
    score_PM = np.stack(
        [rng.normal(same_P * 1.0, 1.0), np.round(rng.normal(same_P * 20.0, 5.0))], axis=1
    )
    return score_PM, pairs


def test_the_mean_of_calibrated_scores_by_hand():
    score_PM, pairs = _pairs()
    fusion, _ = fit_fusion(score_PM, pairs, METHODS)
    fused = fusion.apply(score_PM)
    by_hand = 0.0
    for m in range(2):
        curve = fit_calibration(score_PM[:, m], pairs.same_P, weight_P=pairs.weight_P)
        by_hand = by_hand + curve.apply(score_PM[:, m]) / 2
    assert fused.score_P == pytest.approx(by_hand, abs=1e-12)
    assert fusion.weights == (0.5, 0.5)


def test_contributions_sum_to_the_score_exactly():
    score_PM, pairs = _pairs()
    for weights in ("equal", "learned", "listwise"):
        fused = fit_fusion(score_PM, pairs, METHODS, weights=weights)[0].apply(score_PM)
        for row, score in zip(fused.contribution_PM.tolist(), fused.score_P.tolist(), strict=True):
            assert sum(row) == score


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), which=st.integers(0, 1), name=st.sampled_from(list(RISING)))
def test_an_increasing_map_of_raw_scores_changes_no_fused_rank(seed, which, name):
    score_PM, pairs = _pairs(seed, 120)
    mapped_PM = score_PM.copy()
    mapped_PM[:, which] = RISING[name](score_PM[:, which])
    one, two = (
        fit_fusion(table, pairs, METHODS)[0].apply(table) for table in (score_PM, mapped_PM)
    )
    # The tilt that keeps saturated scores apart moves a score by less than 4e-6.
    assert one.score_P == pytest.approx(two.score_P, abs=8e-6)
    order = np.argsort(one.score_P, kind="stable")
    assert np.all(np.diff(two.score_P[order]) > -8e-6)


def _raw(pairs, values, seed):
    """Scores with as many distinct values, all of which occur among the pairs."""
    rng = np.random.default_rng(seed)
    place_P = np.concatenate([np.arange(values), rng.integers(0, values, len(pairs) - values)])
    return rng.permutation(place_P)


rising_float32s = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    min_size=25,
    max_size=25,
    unique=True,
).map(sorted)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    values=st.integers(2, 25),
    one=rising_float32s,
    other=rising_float32s,
)
def test_any_increasing_map_of_few_fitted_scores_changes_no_bit(seed, values, one, other):
    _, pairs = _pairs(seed, 120)
    place_PM = np.stack([_raw(pairs, values, seed), _raw(pairs, 20, seed + 1)], axis=1)
    before_PM, after_PM = (
        np.stack([np.array(curve)[place_PM[:, 0]], place_PM[:, 1].astype(float)], axis=1)
        for curve in (one, other)
    )
    first, second = (
        fit_fusion(table, pairs, METHODS)[0].apply(table) for table in (before_PM, after_PM)
    )
    assert np.array_equal(first.score_P, second.score_P)
    assert np.array_equal(first.contribution_PM, second.contribution_PM)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(list(RISING)),
    asked=st.lists(st.floats(-60, 80, width=32), min_size=1, max_size=20),
)
def test_a_score_between_fitted_ones_stays_between_them_under_an_increasing_map(seed, name, asked):
    score_PM, pairs = _pairs(seed, 200)
    mapped_PM = score_PM.copy()
    mapped_PM[:, 1] = RISING[name](score_PM[:, 1])
    fusion = fit_fusion(mapped_PM, pairs, METHODS)[0]
    knots = np.unique(score_PM[:, 1])
    inside = np.array([score for score in asked if knots[0] < score < knots[-1]])
    above = np.searchsorted(knots, inside, side="right").clip(max=len(knots) - 1)
    low, high = knots[above - 1], knots[above]
    unmapped = fit_fusion(score_PM, pairs, METHODS)[0]

    def fused(fitted, score):
        return fitted.apply(np.column_stack([np.zeros(len(score)), score])).score_P

    between = fused(fusion, RISING[name](inside))
    assert np.all(fused(unmapped, low) - 8e-6 <= between)
    assert np.all(between <= fused(unmapped, high) + 8e-6)


def test_a_pair_without_a_score_is_marked_and_never_mixed_raw():
    score_PM, pairs = _pairs()
    fusion, _ = fit_fusion(score_PM, pairs, METHODS)
    asked = np.array([[0.3, 11.0], [9.0, np.nan]])
    fused = fusion.apply(asked)
    assert fused.methods_P.tolist() == [2, 1]
    assert np.isnan(fused.contribution_PM[1, 1])
    assert np.isnan(fused.probability_P).tolist() == [False, True]
    assert fused.score_P[1] == fused.contribution_PM[1, 0] <= 0.5


def test_the_answers_probability_keeps_the_order_of_the_fused_score():
    score_PM, pairs = _pairs()
    fused = fit_fusion(score_PM, pairs, METHODS)[0].apply(score_PM)
    order = np.argsort(fused.score_P, kind="stable")
    rises, climbs = np.diff(fused.score_P[order]) > 1e-9, np.diff(fused.probability_P[order])
    assert np.all(climbs >= 0)
    assert np.all(climbs[rises] > 0)


def test_learned_weights_favour_the_better_method_and_drop_noise():
    score_PM, pairs = _pairs(count=3000)
    noise = np.random.default_rng(5).normal(size=len(pairs))
    fusion, _ = fit_fusion(
        np.column_stack([score_PM, noise]), pairs, (*METHODS, "noise"), weights="learned"
    )
    table = np.column_stack([score_PM, noise])
    spread = fusion.apply(table).contribution_PM.std(axis=0)
    assert spread[1] > spread[0] > 3 * spread[2]
    assert sum(fusion.weights) == pytest.approx(1)


def test_held_out_probabilities_do_not_see_their_own_fold():
    score_PM, pairs = _pairs()
    held = fit_fusion(score_PM, pairs, METHODS)[1]
    flipped = pairs.same_P ^ (pairs.fold_P == 2)
    changed = CalibrationPairs(pairs.first_P, pairs.second_P, flipped, pairs.weight_P, pairs.fold_P)
    again = fit_fusion(score_PM, changed, METHODS)[1]
    inside = pairs.fold_P == 2
    assert np.array_equal(held.probability_PM[inside], again.probability_PM[inside])
    assert not np.array_equal(held.probability_PM[~inside], again.probability_PM[~inside])
    assert not np.isnan(held.probability_P).any()


def test_too_few_animals_fall_back_to_equal_weights_and_hold_nothing_out():
    score_PM, pairs = _pairs(count=40)
    one = CalibrationPairs(
        pairs.first_P, pairs.second_P, pairs.same_P, pairs.weight_P, np.zeros(40, int)
    )
    fusion, held = fit_fusion(score_PM, one, METHODS)
    assert np.isnan(held.probability_PM).all()
    assert np.isnan(held.probability_P).all()
    assert np.isfinite(fusion.apply(score_PM).probability_P).all()
    with pytest.raises(CalibrationError, match="weights=equal"):
        fit_fusion(score_PM, one, METHODS, weights="learned")


def test_listwise_weights_are_those_that_lists_were_drawn_with():
    # One of ten is right, and scores are normal with one spread: the chance of each to be the right
    # one is the softmax of shift / spread**2 times its scores, whatever the list has in common.
    lists, rng = 2000, np.random.default_rng(6)
    first_P = np.repeat(np.arange(lists), 10)
    same_P = np.tile(np.arange(10) == 0, lists)
    weight_P, fold_P = np.ones(len(first_P)), first_P % 5
    pairs = CalibrationPairs(first_P, first_P, same_P, weight_P, fold_P)
    asked_P = np.repeat(50 * rng.normal(size=lists), 10)
    table = np.column_stack([asked_P + rng.normal(same_P), rng.normal(10.0 * same_P, 5.0)])
    fusion, held = fit_fusion(table, pairs, METHODS, weights="listwise")
    assert fusion.weights == pytest.approx((1.0, 10 / 25), rel=0.15), "but for the ridge"
    fused = fusion.apply(table)
    assert fused.contribution_PM == pytest.approx(table * np.array(fusion.weights))
    assert not np.isnan(held.probability_P).any()
    learned, _ = fit_fusion(table, pairs, METHODS, weights="learned")
    assert learned.apply(table).contribution_PM[:, 0].std() < 0.1, "of no use to single pairs"


def test_lists_without_a_right_animal_cannot_teach_weights():
    score_PM, pairs = _pairs()
    apart = CalibrationPairs(
        np.where(pairs.same_P, 0, 1), pairs.second_P, pairs.same_P, pairs.weight_P, pairs.fold_P
    )
    with pytest.raises(CalibrationError, match="no list has pairs .*weights=equal"):
        fit_fusion(score_PM, apart, METHODS, weights="listwise")


@pytest.mark.parametrize("weights", ["learned", "listwise"])
def test_a_fusion_is_kept_to_the_last_bit(weights):
    score_PM, pairs = _pairs()
    fusion, _ = fit_fusion(score_PM, pairs, METHODS, weights=weights)
    again = Fusion.from_json(json.loads(json.dumps(fusion.as_json())))
    assert again.fingerprint == fusion.fingerprint
    assert np.array_equal(again.apply(score_PM).score_P, fusion.apply(score_PM).score_P)
    fields = fusion.as_json()
    for change in ({"weights": [1.0]}, {"weights": [-1.0, 2.0]}, {"format": 9}, {"methods": []}):
        with pytest.raises(CalibrationError, match="again"):
            Fusion.from_json(fields | change)


def test_the_method_that_cannot_be_calibrated_is_named():
    score_PM, pairs = _pairs()
    score_PM[:, 1] = 4
    with pytest.raises(CalibrationError, match=r"aliked: all 600 .*Leave this method out"):
        fit_fusion(score_PM, pairs, METHODS)


def test_sums_take_methods_in_order():
    values = np.array([[1e16, 1.0, -1e16, 1.0]])
    assert sum_in_order(values).tolist() == [((1e16 + 1.0) - 1e16) + 1.0]
