"""Simulated reviews of names (benchmarks/review.py --of), where scores tell all or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ANIMAL_V = np.repeat(np.arange(20), 5)


@pytest.fixture
def names(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import _review_names

    return _review_names


def _visits(names, distance: float):
    """Every visit shows both flanks; two of one animal score higher by the distance."""
    rng = np.random.default_rng(0)
    score_VV = np.triu(rng.random((100, 100)), 1) + distance * np.equal.outer(ANIMAL_V, ANIMAL_V)
    score_VV = np.triu(score_VV, 1)
    return names.Visits(score_VV + score_VV.T, ANIMAL_V, np.full(100, 3))


def test_planted_names_are_found_where_scores_tell_and_a_few_questions_do(names):
    run = names.named_run(_visits(names, 2.0), 1.0, 3)
    assert (run.visits, run.planted) == (50, 2)
    assert (run.found, run.returned, run.parted) == (2, 2, 0)
    assert run.asked <= 15
    assert (run.all_asked, run.all_found) == (50, 2)


def test_planted_names_stay_where_scores_tell_nothing_but_by_seeing_all(names):
    run = names.named_run(_visits(names, 0.0), 1.0, 3)
    assert run.found == run.returned == 0
    assert (run.all_asked, run.all_found) == (50, 2)


def test_an_identification_is_confirmed_with_a_question_or_two_for_each_visit(names):
    run = names.identified_run(_visits(names, 2.0), 1.0, 3)
    # Ten animals of five visits: two are new, three visits of each of the others are the gallery.
    assert (run.visits, run.known, run.strangers) == (26, 16, 10)
    assert (run.first, run.named, run.misnamed, run.new) == (16, 16, 0, 10)
    # A new one beside a known one too, and beside another new one.
    assert 16 + 10 <= run.asked <= 16 + 2 * 10 + 4
    # The likest first: at once for a known one, all eight for a new one.
    assert (run.all_asked, run.all_named, run.all_misnamed) == (16 + 10 * 8, 16, 0)


def test_in_hindsight_a_link_takes_the_animals_that_are_ranked_before_its_own(names):
    """By hand: 0 and 1 are each other's likest; 2 comes to its own animal after one other."""
    from _review_visits import hindsight

    animal_V = np.array([0, 0, 0, 1, 2])
    score_VV = np.array(
        [
            [0.0, 0.9, 0.1, 0.3, 0.5],
            [0.9, 0.0, 0.2, 0.4, 0.6],
            [0.1, 0.2, 0.0, 0.8, 0.15],
            [0.3, 0.4, 0.8, 0.0, 0.7],
            [0.5, 0.6, 0.15, 0.7, 0.0],
        ]
    )
    found = list(hindsight(names.Visits(score_VV, animal_V, np.full(5, 3))))
    assert [asked for asked, _ in found] == [0, 1, 3]
    assert found[-1][1][:3].tolist() == [found[-1][1][0]] * 3
    assert len(set(found[-1][1].tolist())) == 3
