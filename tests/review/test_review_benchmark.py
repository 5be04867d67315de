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
