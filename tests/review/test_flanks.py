"""Visits of two flanks: a left one and a right one say nothing of each other, in no sum."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from exreid.review.audit import design, draw, estimates, frame_of
from exreid.review.belief import PairGraph, pair_graph, pairs_inside, pairs_of, votes_of
from exreid.review.doubts import chance, doubts_of, most_worth, same_chance
from exreid.review.flanks import fewest_animals, flanks_of_groups
from exreid.review.partition import by_first_appearance, cuts_of, find_partition, objective

LEFT, RIGHT, BOTH, EITHER = 1, 2, 3, 0


def _meet(one: int, other: int) -> bool:
    return {int(one), int(other)} != {LEFT, RIGHT}


def _graph(seed: int, visits: int = 9, share: float = 0.6) -> PairGraph:
    """Random evidence for a share of the comparable pairs."""
    rng = np.random.default_rng(seed)
    flank_V = rng.integers(0, 4, visits)
    pairs = [
        pair
        for pair in combinations(range(visits), 2)
        if _meet(*flank_V[list(pair)]) and rng.random() < share
    ]
    pair_P2 = np.array(pairs, np.int64)
    return PairGraph(visits, pair_P2, rng.normal(0.0, 2.0, len(pairs)), -0.4, -1.0, flank_V)


def _naive(graph: PairGraph, group_V: np.ndarray) -> float:
    listed = {tuple(p): e for p, e in zip(graph.pair_P2.tolist(), graph.evidence_P, strict=True)}
    value = graph.prior * (graph.visits - len(set(group_V.tolist())))
    for a, b in combinations(range(graph.visits), 2):
        if group_V[a] == group_V[b]:
            other = graph.unlisted if _meet(graph.flank_V[a], graph.flank_V[b]) else 0.0
            value += listed.get((a, b), other)
    return value


@pytest.mark.parametrize("seed", range(6))
def test_pairs_of_opposite_flanks_count_nothing_in_the_objective_in_joins_and_in_cuts(seed):
    graph = _graph(seed)
    group_V = by_first_appearance(np.random.default_rng(seed).integers(0, 4, graph.visits))
    before = _naive(graph, group_V)
    assert objective(graph, group_V) == pytest.approx(before)
    doubts = doubts_of(graph, group_V)
    for (a, b), gain in zip(doubts.joins.group_M2.tolist(), doubts.joins.gain_M, strict=True):
        assert gain == pytest.approx(_naive(graph, np.where(group_V == b, a, group_V)) - before)
    cuts = cuts_of(graph, group_V)
    for side, gain in zip(cuts.sides, cuts.gain_C, strict=True):
        split_V = group_V.copy()
        split_V[side] = 99
        assert gain == pytest.approx(_naive(graph, split_V) - before)


@pytest.mark.parametrize("seed", range(6))
def test_the_comparable_pairs_of_groups_are_those_that_one_counts(seed):
    graph = _graph(seed)
    group_V = by_first_appearance(np.random.default_rng(seed).integers(0, 3, graph.visits))
    size_G3 = graph.sizes(group_V)
    for one, other in combinations(range(len(size_G3)), 2):
        count = sum(
            _meet(graph.flank_V[a], graph.flank_V[b])
            for a in np.flatnonzero(group_V == one)
            for b in np.flatnonzero(group_V == other)
        )
        assert pairs_of(size_G3[one], size_G3[other]) == count
    inside = [
        sum(
            _meet(*graph.flank_V[[a, b]])
            for a, b in combinations(np.flatnonzero(group_V == group).tolist(), 2)
        )
        for group in range(len(size_G3))
    ]
    assert pairs_inside(size_G3).tolist() == inside


def test_expected_missed_joins_are_those_of_groups_that_can_be_compared():
    graph = _graph(2, share=0.15)
    group_V = find_partition(graph)
    doubts = doubts_of(graph, group_V)
    listed = {tuple(pair) for pair in doubts.joins.group_M2.tolist()}
    expected = 0.0
    for one, other in combinations(range(int(group_V.max()) + 1), 2):
        members = [np.flatnonzero(group_V == group) for group in (one, other)]
        count = sum(_meet(*graph.flank_V[[a, b]]) for a in members[0] for b in members[1])
        if count and (one, other) not in listed:
            expected += float(chance(count * graph.unlisted + graph.prior))
    assert expected > 0
    assert doubts.unlisted == pytest.approx(expected)


def test_a_graph_of_probabilities_leaves_pairs_of_opposite_flanks_out():
    pairs = np.array(list(combinations(range(4), 2)), np.int64)
    flank_V = np.array([LEFT, RIGHT, BOTH, LEFT])
    graph = pair_graph(4, pairs, np.full(6, 0.2), unlisted=0.01, flank_V=flank_V)
    assert graph.pair_P2.tolist() == [[0, 2], [0, 3], [1, 2], [2, 3]]
    assert graph.prior == pytest.approx(np.log(0.2 / 0.8))
    # Somebody who knows may say that they are one animal; the pair then has that evidence alone.
    more = graph.plus(np.array([[0, 1]]), np.array([3.0]))
    assert more.evidence_P[0] == 3.0


def test_a_visit_of_both_flanks_joins_both_and_left_and_right_alone_are_never_asked_about():
    pairs = np.array([[0, 2], [1, 2], [3, 4]], np.int64)
    flank_V = np.array([LEFT, RIGHT, BOTH, LEFT, LEFT, RIGHT])
    probability = np.array([0.999, 0.999, 0.7])
    known = pair_graph(6, pairs, probability, unlisted=1e-3, flank_V=flank_V)
    assert find_partition(known).tolist() == [0, 0, 0, 1, 1, 2]
    unknown = pair_graph(6, pairs, probability, unlisted=1e-9)
    assert find_partition(unknown)[0] != find_partition(unknown)[1]
    asked, answers = [], []
    while True:
        none = votes_of(
            np.array(answers, np.int64).reshape(-1, 2),
            np.zeros(len(answers)),
            np.full(len(answers), 0.97),
        )
        doubts = doubts_of(known, find_partition(known))
        pair = most_worth(known, doubts, none, answer=3.5, least=0.0)
        if pair is None:
            break
        asked.append(pair)
        answers.append(pair)
    assert len(asked) >= 5
    assert all(_meet(*flank_V[list(pair)]) for pair in asked)
    assert same_chance(known, doubts, 3, 5) == pytest.approx(float(chance(known.prior)))


TRUTH_V = np.array([0] * 4 + [1] * 4 + [2] * 3 + [3] * 3 + [4] * 2 + [5] * 2)
FLANK_V = np.array([3, 1, 2, 1, 1, 1, 2, 2, 3, 1, 2, 1, 1, 1, 2, 2, 3, 3])
"""Animals 0 and 2 are joined by a visit of both flanks, 1 is not; 3 is known by its left flank
alone, 4 by the right, 5 by both. So there are 7 groups, 5 with a left flank and 5 with a right."""
KNOWABLE_V = np.where((TRUTH_V == 1) & (FLANK_V == RIGHT), 6, TRUTH_V)


def _audited_graph() -> PairGraph:
    rng = np.random.default_rng(4)
    pairs = np.array(list(combinations(range(len(TRUTH_V)), 2)), np.int64)
    pairs = pairs[[_meet(*FLANK_V[pair]) for pair in pairs.tolist()]]
    same = TRUTH_V[pairs[:, 0]] == TRUTH_V[pairs[:, 1]]
    evidence = rng.normal(np.where(same, 3.0, -3.0), 1.5)
    return PairGraph(len(TRUTH_V), pairs, evidence, -1.0, -1.5, FLANK_V)


def _partitions() -> dict[str, tuple[np.ndarray, int]]:
    """Partitions with mistakes apart from each other, each with the joins that are missing."""
    right_V = by_first_appearance(KNOWABLE_V)
    split_V = right_V.copy()
    split_V[[1, 3]] = 20  # two left visits of animal 0, away from its visit of both flanks
    split_V[5] = 21  # a left visit of animal 1
    return {"right": (right_V, 0), "split": (by_first_appearance(split_V), 2)}


@pytest.mark.parametrize("name", ["right", "split"])
def test_what_the_wrong_pairs_say_of_each_number_is_the_truth(name):
    """All pairs asked, the number of groups, of left flanks and of right ones are exact."""
    group_V, missing = _partitions()[name]
    graph = _audited_graph()
    frame = frame_of(graph, doubts_of(graph, group_V))
    same_P = TRUTH_V[graph.pair_P2[:, 0]] == TRUTH_V[graph.pair_P2[:, 1]]
    sign_P = np.where(frame.within_P, 1.0, -1.0) * frame.share_P * (same_P != frame.within_P)
    assert sign_P.sum() == pytest.approx(-missing)
    flank_G = flanks_of_groups(FLANK_V, group_V)
    for side in (LEFT, RIGHT):
        found = np.count_nonzero(flank_G & side) + sign_P[frame.flanks_P & side > 0].sum()
        assert found == pytest.approx(5)


def test_the_audit_has_the_number_of_groups_and_of_animals_in_its_intervals():
    group_V, _ = _partitions()["split"]
    graph = _audited_graph()
    doubts = doubts_of(graph, group_V)
    frame = frame_of(graph, doubts)
    design_P = design(frame)
    found = []
    for seed in range(60):
        row_N = np.array([draw(design_P, [seed, i]) for i in range(100)])
        pair_N2 = graph.pair_P2[row_N]
        same_N = TRUTH_V[pair_N2[:, 0]] == TRUTH_V[pair_N2[:, 1]]
        result = estimates(
            frame,
            design_P,
            row_N=row_N,
            drawn_N=design_P[row_N],
            said_N=np.where(same_N, 1, -1),
            doubts=doubts,
        )
        assert result is not None
        found.append(result)
    groups = np.array([one.animals.value for one in found])
    assert groups.mean() == pytest.approx(7, abs=4 * groups.std() / np.sqrt(60))
    assert np.mean([one.animals.low <= 7 <= one.animals.high for one in found]) >= 0.93
    # The larger of two estimates is too large on average, the ends of its interval are not.
    assert np.mean([one.fewest.low <= 5 for one in found]) >= 0.93
    assert np.mean([one.fewest.low <= 6 <= one.animals.high for one in found]) == 1.0


def test_a_pair_that_nobody_can_tell_counts_as_no_mistake():
    group_V, _ = _partitions()["right"]
    graph = _audited_graph()
    doubts = doubts_of(graph, group_V)
    frame = frame_of(graph, doubts)
    design_P = design(frame)
    row_N = np.flatnonzero(~frame.within_P)[:10]
    said_N = np.array([1, *[-1] * 4, *[0] * 5])
    inputs = {"design_P": design_P, "row_N": row_N, "drawn_N": design_P[row_N], "doubts": doubts}
    result = estimates(frame, said_N=said_N, **inputs)
    assert result is not None
    assert (result.drawn, result.against) == (5, 1)
    expected = 7 - frame.share_P[row_N[0]] / design_P[row_N[0]] / 10
    assert result.animals.value == pytest.approx(max(expected, 1.0))
    assert estimates(frame, said_N=np.array([1, -1, -1, -1, *[0] * 6]), **inputs) is None


def test_the_fewest_animals_are_the_least_of_all_ways_to_pair_groups():
    """Against all matchings of one-flank groups, with each unknown group of either flank."""

    def least(flanks: list[int]) -> int:
        best = len(flanks)
        ends = [(LEFT, RIGHT) if flank == EITHER else (flank,) for flank in flanks]
        ways = [[]]
        for end in ends:
            ways = [[*way, flank] for way in ways for flank in end]
        for way in ways:
            left, right = way.count(LEFT), way.count(RIGHT)
            best = min(best, way.count(BOTH) + max(left, right))
        return best

    for seed in range(40):
        flank_V = np.random.default_rng(seed).integers(0, 4, 6)
        bound = fewest_animals(flank_V, np.arange(6))
        assert bound <= least(flank_V.tolist())
        if EITHER not in flank_V:
            assert bound == least(flank_V.tolist())
