"""Names: one for each animal, one animal for each, and what does not fit is told."""

from __future__ import annotations

import numpy as np

from exreid.review.decisions import Decision
from exreid.review.names import free_name, names_of

PLACE = {"a": 0, "b": 1, "c": 2, "d": 3}


def _named(visit: str, name: str) -> Decision:
    return Decision(visit, "", "name", name, "Ann", "2026-05-01T12:00:00Z", 0.0, None, "", None)


def test_a_group_has_the_name_of_its_visits_and_the_latest_name_of_a_visit_counts():
    rows = [_named("a", "Nick"), _named("a", "Nora"), _named("c", "Bo"), _named("b", "Nora")]
    found = names_of(rows, PLACE, np.array([0, 0, 1, 2]))
    assert found.name_G == ("Nora", "Bo", None)
    assert not found.several
    assert not found.shared


def test_two_names_in_one_group_are_told_and_not_chosen_between():
    found = names_of([_named("a", "Nick"), _named("b", "Nora")], PLACE, np.array([0, 0, 1, 2]))
    assert found.name_G == (None, None, None)
    assert found.several == {0: ("Nick", "Nora")}


def test_a_name_of_two_groups_is_neithers():
    found = names_of([_named("a", "Nick"), _named("c", "Nick")], PLACE, np.array([0, 0, 1, 2]))
    assert found.name_G == (None, None, None)
    assert found.shared == {"Nick": (0, 1)}


def test_the_name_offered_is_free():
    assert free_name(set()) == "animal 1"
    assert free_name({"animal 9", "animal x"}) == "animal 10"
