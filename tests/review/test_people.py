"""How often a person is right, and how far two agree: against simulation and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from exreid.review.decisions import Decision, Verdict
from exreid.review.people import agreement, agreements, cohen_kappa, person_reliability


@pytest.mark.parametrize("right", [0.8, 0.97])
def test_a_person_asked_twice_often_is_known_well(right):
    rng = np.random.default_rng(1)
    answers = rng.random((5000, 2)) < right
    alike = int((answers[:, 0] == answers[:, 1]).sum())
    found = person_reliability(alike, 5000)
    assert found.value == pytest.approx(right, abs=0.02)
    assert found.low < right < found.high


def test_without_any_pair_asked_twice_the_prior_speaks_and_the_interval_is_wide():
    nothing, much = person_reliability(0, 0), person_reliability(94, 100)
    assert nothing.value == 0.97
    assert nothing.high - nothing.low > 2 * (much.high - much.low)


def test_a_person_who_guesses_is_not_believed_and_nobody_is_believed_fully():
    assert person_reliability(1000, 2000).value == 0.6
    assert person_reliability(10_000, 10_000).value == 0.99


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(5):
        first = rng.integers(0, 3, 40)
        second = np.where(rng.random(40) < 0.7, first, rng.integers(0, 3, 40))
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_agreement_has_intervals_that_hold_it():
    first = np.array([1] * 40 + [0] * 40)
    second = np.array([1] * 36 + [0] * 44)
    found = agreement(first, second)
    assert found is not None
    assert found.share == pytest.approx(76 / 80)
    # Wilson's interval for 76 of 80, by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert (found.share_low, found.share_high) == pytest.approx((0.8784, 0.9804), abs=5e-4)
    assert found.kappa_low < found.kappa < found.kappa_high
    assert agreement(first[:0], second[:0]) is None


def test_two_people_are_compared_on_the_pairs_that_both_answered():
    def row(who: str, second: str, verdict: Verdict) -> Decision:
        when = "2026-05-01T12:00:00Z"
        return Decision("a", second, verdict, "", who, when, 1.0, None, "queue", None)

    rows = [
        *(row("Ann", "b", "same"), row("Ann", "c", "same"), row("Ann", "c", "different")),
        *(row("Bo", "c", "different"), row("Bo", "b", "can't tell"), row("Bo", "d", "same")),
        row("Cleo", "e", "same"),
    ]
    found = agreements(rows)
    assert set(found) == {("Ann", "Bo")}
    assert found["Ann", "Bo"].pairs == 2
    assert found["Ann", "Bo"].share == 0.5
