"""Open set: against scikit-learn, by hand, against naive searches, and promises on new data."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from exreid.metrics.openset import (
    Answers,
    balanced_accuracies,
    choose_threshold,
    detection_auroc,
    exchangeable_count,
    open_set_curve,
    rates_at,
    threshold_at_rate,
)
from exreid.metrics.retrieval import average_values


def _answers(seed=0, count=200, decimals=1):
    rng = np.random.default_rng(seed)
    known_Q = rng.random(count) < 0.6
    score_Q = np.round(rng.normal(known_Q * 1.0, 1.0), decimals)
    right_Q = known_Q & (rng.random(count) < 0.7)
    identity_Q = np.where(known_Q, rng.integers(0, 15, count), rng.integers(20, 30, count))
    return Answers(score_Q, known_Q, right_Q, identity_Q)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_auroc_equals_scikit_learn(decimals):
    answers = _answers(decimals=decimals)
    weight_Q = np.random.default_rng(1).integers(0, 4, len(answers.score_Q)).astype(float)
    assert detection_auroc(answers) == pytest.approx(
        roc_auc_score(answers.known_Q, answers.score_Q)
    )
    assert detection_auroc(answers, weight_Q) == pytest.approx(
        roc_auc_score(answers.known_Q, answers.score_Q, sample_weight=weight_Q)
    )


def test_baks_and_baus_by_hand():
    # Animal 1: two of three accepted and right; animal 2: accepted, but wrong; new animal 3: one of
    # two sent away; new animal 4: sent away.
    answers = Answers(
        np.array([0.9, 0.8, 0.1, 0.9, 0.7, 0.2, 0.3]),
        np.array([1, 1, 1, 1, 0, 0, 0], bool),
        np.array([1, 1, 1, 0, 0, 0, 0], bool),
        np.array([1, 1, 1, 2, 3, 3, 4]),
    )
    found = average_values(balanced_accuracies(answers, 0.5), answers.identity_Q)
    assert found["BAKS"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["BAUS"] == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_balanced_bar_is_the_best_of_all(seed):
    answers = _answers(seed, 60)

    def value(bar):
        found = average_values(balanced_accuracies(answers, bar), answers.identity_Q)
        return found["BAKS"] + found["BAUS"]

    bar = choose_threshold(answers, rule="balanced")
    assert value(bar) == pytest.approx(max(value(b) for b in [-9, *answers.score_Q]))


def test_a_promised_false_match_rate_holds_on_new_draws():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(3000):
        new = rng.normal(size=31)
        answers = Answers(new[:30], np.zeros(30, bool), np.zeros(30, bool), np.arange(30))
        rates.append(new[30] > choose_threshold(answers, rule="false_match_rate", rate=0.1))
    # ceil(31 * 0.9) = 28 of 31 places: 3 / 31.
    assert np.mean(rates) == pytest.approx(3 / 31, abs=3 * np.sqrt(0.1 * 0.9 / 3000))
    assert choose_threshold(answers, rule="false_match_rate", rate=0.02) == np.inf, "30 are too few"


def _draw_animals(rng, count):
    """Scores of animals whose photographs are much alike, and whose they are; sizes differ."""
    size_I = rng.integers(1, 13, count)
    identity_Q = np.repeat(np.arange(count), size_I)
    return rng.normal(size=count)[identity_Q] + 0.2 * rng.normal(size=len(identity_Q)), identity_Q


def test_the_promise_holds_for_animals_however_alike_their_photographs_are():
    rng = np.random.default_rng(0)
    rates = {"animals": [], "photos": []}
    for _ in range(3000):
        score_Q, identity_Q = _draw_animals(rng, 11)
        shown = identity_Q < 10
        none = np.zeros(shown.sum(), bool)
        answers = Answers(score_Q[shown], none, none, identity_Q[shown])
        for promise, found in rates.items():
            bar = choose_threshold(answers, rule="false_match_rate", rate=0.1, promise=promise)
            found.append(np.mean(score_Q[~shown] > bar))
    error = np.std(rates["animals"]) / np.sqrt(3000)
    # It falls short of the promise by the weight of one animal at most.
    assert 0.1 - 1 / 11 + 3 * error < np.mean(rates["animals"]) < 0.1 + 3 * error
    assert np.mean(rates["photos"]) > 0.1 + 3 * error, "photographs are not exchangeable"


def test_the_bar_of_animals_by_hand():
    # Three animals weigh 1/4 each, the fourth quarter stands above everything.
    answers = Answers(
        np.array([0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6]),
        np.zeros(7, bool),
        np.zeros(7, bool),
        np.array([1, 1, 2, 3, 3, 3, 3]),
    )
    for rate, bar in [(0.25, 0.9), (0.374, 0.9), (0.376, 0.6), (0.44, 0.5), (0.8, 0.2), (0.9, 0.1)]:
        assert choose_threshold(answers, rule="false_match_rate", rate=rate) == bar
    assert choose_threshold(answers, rule="false_match_rate", rate=0.24) == np.inf
    assert exchangeable_count(answers) == 3
    assert exchangeable_count(answers, "photos") == 7


def test_rates_at_a_false_match_rate_against_a_naive_search():
    answers = _answers()
    for rate in (0.0, 0.01, 0.05, 0.5, 1.0):
        best = (0.0, 0.0)
        for bar in [-np.inf, *answers.score_Q]:
            accepted = answers.score_Q > bar
            if accepted[~answers.known_Q].mean() <= rate + 1e-12:
                known = accepted[answers.known_Q].mean()
                right = (accepted & answers.right_Q)[answers.known_Q].mean()
                best = max(best, (known, right))
        assert rates_at(answers, rate) == pytest.approx(best)
        share = (answers.score_Q[~answers.known_Q] > threshold_at_rate(answers, rate)).mean()
        assert share <= rate + 1e-12


def test_the_curve_holds_every_bar_and_the_order_of_queries_changes_nothing():
    answers = _answers()
    false, found = open_set_curve(answers)
    assert false[0] == found[0] == 0
    assert false[-1] == 1
    assert found[-1] == pytest.approx(answers.right_Q.sum() / answers.known_Q.sum())
    assert (np.diff(false) >= 0).all()
    order = np.random.default_rng(0).permutation(len(answers.score_Q))
    mixed = Answers(*(getattr(answers, name)[order] for name in Answers.__dataclass_fields__))
    for one, two in zip(open_set_curve(mixed), (false, found), strict=True):
        assert np.array_equal(one, two)
    for rule in ("balanced", "false_match_rate"):
        assert choose_threshold(mixed, rule=rule) == choose_threshold(answers, rule=rule)


def test_one_kind_alone_has_no_auroc():
    answers = Answers(np.arange(3.0), np.ones(3, bool), np.ones(3, bool), np.arange(3))
    assert np.isnan(detection_auroc(answers))
    assert threshold_at_rate(answers, 0.05) == -np.inf
    false, found = open_set_curve(answers)
    assert np.isnan(false).all()
    assert found.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    nobody = Answers(np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, int))
    for rule in ("balanced", "false_match_rate"):
        with pytest.raises(ValueError, match="there are none"):
            choose_threshold(nobody, rule=rule)
    with pytest.raises(ValueError, match="new animal"):
        Answers(np.arange(2.0), np.zeros(2, bool), np.ones(2, bool), np.arange(2))
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_threshold(answers, rule="false_match_rate", rate=5)
