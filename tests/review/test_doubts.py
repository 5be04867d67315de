"""Which pair is asked about: against naive twins, and by cases worked out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from exreid.review.belief import PairGraph, Votes, log_odds, votes_of
from exreid.review.doubts import (
    MOST_ASKED,
    chance,
    contradiction,
    doubts_of,
    most_worth,
    same_chance,
    worth,
)
from exreid.review.partition import by_first_appearance, objective


def _graph(seed: int, visits: int) -> PairGraph:
    rng = np.random.default_rng(seed)
    pairs = np.array(list(combinations(range(visits), 2)), np.int64)
    return PairGraph(visits, pairs, rng.normal(-0.5, 2.0, len(pairs)), -0.3, -1.0)


def _votes(*answers: tuple[int, int, int]) -> Votes:
    rows = np.array(answers, np.int64).reshape(-1, 3)
    return votes_of(rows[:, :2], rows[:, 2], np.full(len(rows), 0.97))


def _chain(*evidence: float) -> PairGraph:
    """Visits in a row, evidence between neighbours, nothing else listed."""
    count = len(evidence) + 1
    pairs = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    return PairGraph(count, pairs, np.array(evidence), -0.01, -2.0)


@pytest.mark.parametrize("odds", [-3.0, 0.0, 2.0])
def test_the_worth_of_an_answer_is_the_expected_fall_of_wrong_pairs(odds):
    p, right = 1 / (1 + np.exp(-odds)), 0.9
    left = 0.0
    for answer in (True, False):
        likely = {True: right, False: 1 - right}
        if_true, if_false = likely[answer], likely[not answer]
        evidence = p * if_true + (1 - p) * if_false
        after = p * if_true / evidence
        left += evidence * after * (1 - after)
    expected = 6 * (p * (1 - p) - left)
    found = worth(np.array([odds]), np.array([6]), float(log_odds(right)))
    assert found[0] == pytest.approx(expected)


def test_nothing_is_worth_asking_a_person_who_guesses():
    assert worth(np.array([0.0, 1.0]), np.array([5, 5]), 0.0) == pytest.approx([0.0, 0.0])


def test_the_pair_asked_is_of_the_single_change_with_most_worth():
    for seed in range(6):
        graph = _graph(seed, 9)
        group_V = by_first_appearance(np.random.default_rng(seed).integers(0, 4, 9))
        doubts = doubts_of(graph, group_V)
        changed = {}
        for one, other in combinations(range(group_V.max() + 1), 2):
            pairs = (group_V == one).sum() * (group_V == other).sum()
            changed["join", one, other] = (np.where(group_V == other, one, group_V), pairs)
        for c, side in enumerate(doubts.cuts.sides):
            other_V = group_V.copy()
            other_V[side] = 99
            pairs = len(side) * ((group_V == group_V[side[0]]).sum() - len(side))
            changed["cut", c, 0] = (by_first_appearance(other_V), pairs)
        now = objective(graph, group_V)
        value = {
            name: worth(np.array([objective(graph, after) - now]), np.array([pairs]), 3.5)[0]
            for name, (after, pairs) in changed.items()
        }
        kind, first, second = max(value, key=lambda name: value[name])
        asked = most_worth(graph, doubts, _votes(), answer=3.5)
        assert asked is not None
        if kind == "join":
            assert {int(group_V[v]) for v in asked} == {first, second}
        else:
            assert np.isin(asked, doubts.cuts.sides[first]).sum() == 1


def test_of_the_pairs_of_a_change_the_likest_is_shown_and_then_the_next():
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    graph = PairGraph(3, pairs, np.array([9.0, 0.5, 1.0]), -1.0, -2.0)
    doubts = doubts_of(graph, np.array([0, 0, 1]))
    assert most_worth(graph, doubts, _votes(), answer=3.5) == (1, 2)
    assert most_worth(graph, doubts, _votes((1, 2, -1)), answer=3.5) == (0, 2)
    assert most_worth(graph, doubts, _votes((1, 2, -1), (0, 2, -1)), answer=3.5) == (1, 2)


def test_where_no_listed_pair_is_worth_more_two_groups_without_one_are_asked_about():
    graph = PairGraph(4, np.array([[0, 1], [1, 2]]), np.array([9.0, -9.0]), -0.5, -2.0)
    doubts = doubts_of(graph, np.array([0, 0, 1, 2]))
    # {0, 1} and {3} have two pairs and the log-odds -3, {2} and {3} one pair and -2.5.
    values = worth(np.array([-3.0, -2.5]), np.array([2, 1]), 3.5)
    expected = (0, 3) if values[0] > values[1] else (2, 3)
    assert most_worth(graph, doubts, _votes(), answer=3.5) == expected
    asked = graph.plus(np.array([expected]), np.array([-3.5]))
    votes = _votes((*expected, -1))
    again = most_worth(asked, doubts_of(asked, np.array([0, 0, 1, 2])), votes, answer=3.5)
    assert again == ((2, 3) if expected == (0, 3) else (0, 3))


def test_a_pair_that_nobody_can_tell_is_not_asked_again():
    graph = PairGraph(2, np.array([[0, 1]]), np.array([1.0]), -1.0, -2.0)
    doubts = doubts_of(graph, np.array([0, 1]))
    assert most_worth(graph, doubts, _votes(), answer=3.5) == (0, 1)
    assert most_worth(graph, doubts, _votes((0, 1, 0)), answer=3.5) is None


def test_a_sure_partition_asks_nothing():
    graph = _chain(30.0, -30.0, 30.0)
    doubts = doubts_of(graph, np.array([0, 0, 1, 1]))
    assert most_worth(graph, doubts, _votes(), answer=3.5) is None
    assert most_worth(graph, doubts, _votes(), answer=3.5, least=0.0) is not None
    assert doubts.wrong_decisions == pytest.approx(0.0, abs=1e-9)


def test_the_expected_wrong_decisions_are_summed_over_joins_and_cuts():
    graph = _chain(4.0, 1.0)
    doubts = doubts_of(graph, np.array([0, 0, 1]))
    # The cut gains -(4 - 2); the join of {0, 1} and {2} gains 1 - 0.01 - 2.
    by_hand = 1 / (1 + np.exp(2.0)) + 1 / (1 + np.exp(1.01))
    assert doubts.wrong_decisions == pytest.approx(by_hand)
    assert doubts.unlisted == 0


def test_joins_between_groups_without_a_listed_pair_are_expected_by_their_sizes():
    graph = _chain(4.0, 1.0, -5.0, 2.0, 2.0)
    group_V = np.array([0, 0, 1, 2, 2, 3])
    doubts = doubts_of(graph, group_V)
    listed = {tuple(pair) for pair in doubts.joins.group_M2.tolist()}
    size = [2, 1, 2, 1]
    by_hand = sum(
        1 / (1 + np.exp(0.01 * size[one] * size[other] + 2.0))
        for one, other in combinations(range(4), 2)
        if (one, other) not in listed
    )
    assert len(listed) == 3
    assert doubts.unlisted == pytest.approx(by_hand)


def test_an_answer_against_the_partition_is_asked_again_until_two_more_say_it():
    doubts = doubts_of(_chain(9.0, -9.0, 9.0), np.array([0, 0, 1, 1]))
    assert contradiction(doubts, _votes((0, 1, 1), (1, 2, -1))) is None
    assert contradiction(doubts, _votes((0, 1, -1), (1, 2, -1))) == (0, 1)
    assert contradiction(doubts, _votes((1, 2, 1), (1, 2, -1))) == (1, 2)
    assert contradiction(doubts, _votes((0, 1, -1), (0, 1, 1), (0, 1, 1))) is None
    assert contradiction(doubts, _votes((0, 1, 0))) is None


def test_the_contradiction_with_most_at_stake_comes_first():
    doubts = doubts_of(_chain(9.0, -9.0, 9.0), np.array([0, 0, 1, 2]))
    assert contradiction(doubts, _votes((1, 2, 1), (2, 3, 1))) == (1, 2)


def test_known_answers_that_cannot_all_be_true_are_asked_again_but_not_for_ever():
    doubts = doubts_of(_chain(9.0, 9.0), np.array([0, 0, 0]))
    twice = [(0, 1, 1), (0, 1, 1), (0, 1, 1), (1, 2, 1), (1, 2, 1), (0, 2, -1), (0, 2, -1)]
    assert contradiction(doubts, _votes(*twice)) in {(1, 2), (0, 2)}
    often = [(a, b, 1 if b - a == 1 else -1) for a, b in ((0, 1), (1, 2), (0, 2))] * MOST_ASKED
    assert contradiction(doubts, _votes(*often)) is None


def test_the_probability_of_a_pair_is_that_of_the_single_change():
    graph = _chain(4.0, 1.0, -5.0)
    doubts = doubts_of(graph, np.array([0, 0, 1, 2]))
    assert same_chance(graph, doubts, 0, 1) == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert same_chance(graph, doubts, 2, 0) == pytest.approx(1 / (1 + np.exp(1.01)))
    # Nothing is listed between these groups: two pairs with the stated evidence, and the prior.
    assert same_chance(graph, doubts, 3, 0) == pytest.approx(float(chance(-0.02 - 2.0)))
