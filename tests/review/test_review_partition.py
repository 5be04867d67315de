"""The partition of visits: against all partitions, and against an integer program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from exreid.review.belief import CERTAIN, PairGraph, log_odds, pair_graph
from exreid.review.partition import (
    by_first_appearance,
    cuts_of,
    find_partition,
    joins_of,
    objective,
    spanning_tree,
)


def _graph(seed: int, visits: int, *, share: float = 1.0, prior: float = -1.0) -> PairGraph:
    """Random evidence, more of it positive within three hidden animals; a share of pairs listed."""
    rng = np.random.default_rng(seed)
    animal_V = rng.integers(0, 3, visits)
    pairs = np.array(list(combinations(range(visits), 2)), np.int64)
    pairs = pairs[rng.random(len(pairs)) < share]
    same = animal_V[pairs[:, 0]] == animal_V[pairs[:, 1]]
    evidence = rng.normal(np.where(same, 1.0, -1.0), 2.0)
    return PairGraph(visits, pairs, evidence, -0.3, prior)


def _all_partitions(count: int) -> Iterator[list[int]]:
    """Every partition of so many things, as restricted growth strings."""

    def grow(labels: list[int]) -> Iterator[list[int]]:
        if len(labels) == count:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    return grow([])


def _naive(graph: PairGraph, group_V: np.ndarray) -> float:
    """The objective, pair by pair."""
    listed = {tuple(p): e for p, e in zip(graph.pair_P2.tolist(), graph.evidence_P, strict=True)}
    value = graph.prior * (graph.visits - len(set(group_V.tolist())))
    for pair in combinations(range(graph.visits), 2):
        if group_V[pair[0]] == group_V[pair[1]]:
            value += listed.get(pair, graph.unlisted)
    return value


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_objective_is_the_sum_over_pairs_within_groups_and_over_links(share):
    graph = _graph(1, 9, share=share)
    for seed in range(5):
        group_V = np.random.default_rng(seed).integers(0, 4, 9)
        assert objective(graph, group_V) == pytest.approx(_naive(graph, group_V))


def test_the_search_finds_the_best_of_all_partitions_of_seven_visits():
    assert len(list(_all_partitions(7))) == 877
    gaps = []
    for seed in range(25):
        graph = _graph(seed, 7, share=0.8)
        best = max(_naive(graph, np.array(labels)) for labels in _all_partitions(7))
        found = _naive(graph, find_partition(graph))
        assert found <= best + 1e-9
        gaps.append(best - found)
    assert np.mean(np.array(gaps) < 1e-9) >= 0.9
    assert max(gaps) < 1.5


def test_the_search_agrees_with_an_integer_program_where_the_prior_is_in_the_pairs():
    hits = 0
    for seed in range(4):
        graph = _graph(seed, 10, prior=0.0)
        found = objective(graph, find_partition(graph))
        exact = _integer_program(graph)
        assert found <= exact + 1e-6
        hits += exact - found < 1e-6
    assert hits >= 3


def _integer_program(graph: PairGraph) -> float:
    """Correlation clustering: a variable for each pair, transitive over each three visits."""
    pairs = list(combinations(range(graph.visits), 2))
    column = {pair: c for c, pair in enumerate(pairs)}
    weight = np.full(len(pairs), graph.unlisted)
    for pair, evidence in zip(graph.pair_P2.tolist(), graph.evidence_P, strict=True):
        weight[column[tuple(pair)]] = evidence
    rows = []
    for a, b, c in combinations(range(graph.visits), 3):
        for first, second, third in (
            ((a, b), (b, c), (a, c)),
            ((a, b), (a, c), (b, c)),
            ((a, c), (b, c), (a, b)),
        ):
            row = np.zeros(len(pairs))
            row[column[first]] = row[column[second]] = 1
            row[column[third]] = -1
            rows.append(row)
    solved = milp(
        -weight,
        constraints=LinearConstraint(np.array(rows), ub=1),
        bounds=Bounds(0, 1),
        integrality=np.ones(len(pairs)),
    )
    assert solved.success
    return float(-solved.fun)


def test_no_single_join_move_or_split_betters_the_result():
    graph = _graph(3, 12, share=0.7)
    group_V = find_partition(graph)
    best = _naive(graph, group_V)
    for visit in range(12):
        for group in range(group_V.max() + 2):
            other_V = group_V.copy()
            other_V[visit] = group
            assert _naive(graph, other_V) <= best + 1e-9
    for one, other in combinations(range(group_V.max() + 1), 2):
        assert _naive(graph, np.where(group_V == other, one, group_V)) <= best + 1e-9


def test_the_gains_of_joins_and_cuts_are_differences_of_the_objective():
    graph = _graph(5, 12, share=0.6)
    group_V = by_first_appearance(np.random.default_rng(5).integers(0, 4, 12))
    now = _naive(graph, group_V)
    joins = joins_of(graph, group_V)
    for (one, other), gain in zip(joins.group_M2.tolist(), joins.gain_M, strict=True):
        after = _naive(graph, np.where(group_V == other, one, group_V))
        assert gain == pytest.approx(after - now)
    cuts = cuts_of(graph, group_V)
    assert len(cuts.sides) == 12 - len(np.unique(group_V))
    for side, link, gain in zip(cuts.sides, cuts.link_C2, cuts.gain_C, strict=True):
        assert np.isin(link, side).sum() == 1
        other_V = group_V.copy()
        other_V[side] = 99
        assert gain == pytest.approx(_naive(graph, other_V) - now)


def test_the_spanning_tree_has_the_weight_that_scipy_finds():
    from scipy.sparse.csgraph import minimum_spanning_tree

    rng = np.random.default_rng(0)
    weight = rng.random((8, 8)) + 0.1
    weight = np.triu(weight, 1) + np.triu(weight, 1).T
    parent, below = spanning_tree(weight)
    total = sum(weight[i, parent[i]] for i in range(1, 8))
    assert total == pytest.approx(-minimum_spanning_tree(-weight).sum())
    assert below[0].all()
    assert below.diagonal().all()


def test_names_of_visits_do_not_matter_and_two_searches_give_the_same():
    graph = _graph(8, 30)
    group_V = find_partition(graph)
    assert np.array_equal(group_V, find_partition(graph))
    order = np.random.default_rng(1).permutation(30)
    pairs = np.sort(order[graph.pair_P2], axis=1)
    rank = np.lexsort((pairs[:, 1], pairs[:, 0]))
    renamed = PairGraph(30, pairs[rank], graph.evidence_P[rank], graph.unlisted, graph.prior)
    found = by_first_appearance(find_partition(renamed)[order])
    assert objective(graph, found) == pytest.approx(objective(graph, group_V), abs=2.0)


def test_known_pairs_are_kept_whatever_the_scores_say():
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    probability = np.array([0.99, 0.99, 0.99])
    apart = pair_graph(3, pairs, probability, unlisted=0.01, apart_N2=np.array([[1, 0]]))
    group_V = find_partition(apart)
    assert group_V[0] != group_V[1]
    together = pair_graph(3, pairs, 1 - probability, unlisted=0.005, together_N2=np.array([[0, 2]]))
    group_V = find_partition(together)
    assert group_V[0] == group_V[2] != group_V[1]


def test_the_prior_is_the_mean_probability_and_one_pair_has_its_own_log_odds():
    pairs = np.array([[0, 1], [1, 3]])
    graph = pair_graph(4, pairs, np.array([0.9, 0.3]), unlisted=0.05)
    assert graph.prior == pytest.approx(float(log_odds(1.4 / 6)))
    assert graph.evidence_P + graph.prior == pytest.approx(log_odds(np.array([0.9, 0.3])))


def test_more_evidence_is_added_to_listed_and_to_new_pairs():
    graph = PairGraph(4, np.array([[0, 1]]), np.array([2.0]), -0.5, -1.0)
    more = graph.plus(np.array([[1, 0], [3, 2], [2, 3]]), np.array([1.0, 4.0, CERTAIN]))
    assert more.pair_P2.tolist() == [[0, 1], [2, 3]]
    assert more.evidence_P.tolist() == [3.0, CERTAIN + 3.5]
    assert graph.place(np.array([[0, 1], [2, 3], [0, 3]])).tolist() == [0, -1, -1]


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match="different visits"):
        PairGraph(3, np.array([[1, 1]]), np.zeros(1), -1.0, -1.0)
    with pytest.raises(ValueError, match="once"):
        PairGraph(3, np.array([[0, 2], [0, 1]]), np.zeros(2), -1.0, -1.0)


def test_time_and_memory_go_by_the_listed_pairs():
    """20,000 visits of 4,000 animals, ten pairs each; a full matrix would have 3 GB."""
    visits = 20_000
    rng = np.random.default_rng(0)
    animal_V = np.arange(visits) // 5
    near = np.minimum(animal_V[:, None] * 5 + np.arange(5), visits - 1)
    far = rng.integers(0, visits, (visits, 5))
    pairs = np.stack([np.repeat(np.arange(visits), 10), np.hstack([near, far]).ravel()], 1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    same = animal_V[pairs[:, 0]] == animal_V[pairs[:, 1]]
    probability = np.where(same, 0.9, 0.001)
    group_V = find_partition(pair_graph(visits, pairs, probability, unlisted=1e-5))
    assert np.array_equal(group_V, animal_V)


def _between(graph: PairGraph, one: list[int], other: list[int]) -> float:
    """Scores over the number of comparable pairs to the temper, plus answers; pair by pair."""
    row = {tuple(pair): r for r, pair in enumerate(graph.pair_P2.tolist())}
    scores = said = count = 0.0
    for a in one:
        for b in other:
            if {int(graph.known_flank_V[a]), int(graph.known_flank_V[b])} == {1, 2}:
                continue
            count += 1
            place = row.get((min(a, b), max(a, b)))
            told = 0.0 if place is None else float(graph.told_P[place])
            said += told
            scores += graph.unlisted if place is None else float(graph.evidence_P[place]) - told
    return scores / max(count, 1.0) ** graph.temper + said


def _tempered(seed: int, visits: int, temper: float) -> PairGraph:
    graph = _graph(seed, visits, share=0.7)
    rng = np.random.default_rng(seed)
    flank_V = rng.integers(0, 4, visits)
    graph = replace(graph, flank_V=flank_V, temper=temper)
    kept = graph.comparable(graph.pair_P2)
    graph = replace(graph, pair_P2=graph.pair_P2[kept], evidence_P=graph.evidence_P[kept])
    return graph.plus(graph.pair_P2[::5], rng.choice([-3.5, 3.5], len(graph.pair_P2[::5])))


@pytest.mark.parametrize("temper", [0.0, 0.5, 1.0])
def test_scores_between_groups_are_tempered_and_answers_are_not(temper):
    graph = _tempered(2, 14, temper)
    group_V = by_first_appearance(np.random.default_rng(2).integers(0, 4, 14))
    members = [np.flatnonzero(group_V == group).tolist() for group in range(4)]
    joins = joins_of(graph, group_V)
    assert len(joins.gain_M) == 5  # two groups show no flank in common
    for (one, other), gain in zip(joins.group_M2.tolist(), joins.gain_M, strict=True):
        expected = _between(graph, members[one], members[other]) + graph.prior
        assert gain == pytest.approx(expected)
    cuts = cuts_of(graph, group_V)
    assert len(cuts.sides) == 10
    for side, gain in zip(cuts.sides, cuts.gain_C, strict=True):
        rest = sorted(set(members[group_V[side[0]]]) - set(side.tolist()))
        assert gain == pytest.approx(-_between(graph, side.tolist(), rest) - graph.prior)


def test_a_tempered_search_ends_and_mostly_where_no_single_change_gains():
    settled = 0
    for seed in range(12):
        graph = _tempered(seed, 24, 0.5)
        group_V = find_partition(graph)
        assert np.array_equal(group_V, find_partition(graph))
        assert joins_of(graph, group_V).gain_M.max() <= 1e-9
        members = [np.flatnonzero(group_V == group).tolist() for group in range(group_V.max() + 1)]
        moves = [
            _between(graph, [visit], group) - _between(graph, [visit], [*{*own} - {visit}])
            for own in members
            for visit in own
            for group in members
            if group != own and len(own) > 1
        ]
        settled += max(*moves, *cuts_of(graph, group_V).gain_C) <= 1e-9
    assert settled >= 8
