"""The audit: its weights add up to what is wrong, and its draws and intervals are what they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from exreid.metrics.uncertainty import Estimate
from exreid.review.audit import AuditResult, Frame, design, draw, estimates, frame_of
from exreid.review.belief import PairGraph
from exreid.review.doubts import doubts_of
from exreid.review.partition import by_first_appearance, find_partition

ANIMAL_V = np.repeat(np.arange(6), [5, 4, 4, 3, 2, 1])


def _graph(seed: int = 0, strength: float = 3.0) -> PairGraph:
    rng = np.random.default_rng(seed)
    visits = len(ANIMAL_V)
    pairs = np.array(list(combinations(range(visits), 2)), np.int64)
    same = ANIMAL_V[pairs[:, 0]] == ANIMAL_V[pairs[:, 1]]
    evidence = rng.normal(np.where(same, strength, -strength), 1.5)
    return PairGraph(visits, pairs, evidence, -1.0, -1.5)


def _frame(group_V: np.ndarray, seed: int = 0) -> tuple[PairGraph, Frame]:
    graph = _graph(seed)
    return graph, frame_of(graph, doubts_of(graph, group_V))


def _change(graph: PairGraph, frame: Frame) -> float:
    """What the wrong pairs of a partition say of the number of animals, all of them asked."""
    same_P = ANIMAL_V[graph.pair_P2[:, 0]] == ANIMAL_V[graph.pair_P2[:, 1]]
    sign_P = np.where(frame.within_P, 1.0, -1.0)
    return float((sign_P * frame.share_P)[same_P != frame.within_P].sum())


def test_the_wrong_pairs_of_missed_joins_add_up_to_minus_one_each():
    split_V = ANIMAL_V.copy()
    split_V[[0, 1]], split_V[5] = 10, 11
    graph, frame = _frame(by_first_appearance(split_V))
    assert _change(graph, frame) == pytest.approx(-2.0)


def test_the_wrong_pairs_of_a_cut_that_is_a_cut_of_the_tree_add_up_to_one():
    joined_V = np.where(ANIMAL_V == 4, 3, ANIMAL_V)
    graph, frame = _frame(by_first_appearance(joined_V))
    assert _change(graph, frame) == pytest.approx(1.0)


def test_a_right_partition_has_no_wrong_pair():
    graph, frame = _frame(ANIMAL_V)
    assert _change(graph, frame) == 0.0


def test_every_pair_can_be_drawn_and_doubtful_ones_are_drawn_more_often():
    _, frame = _frame(find_partition(_graph()))
    design_P = design(frame)
    assert design_P.sum() == pytest.approx(1.0)
    assert design_P.min() > 0
    across = np.flatnonzero(~frame.within_P)
    alike = across[frame.share_P[across] == frame.share_P[across].max()]
    order = alike[np.argsort(frame.wrong_P[alike])]
    assert np.all(np.diff(design_P[order]) >= -1e-15)


def test_draws_have_the_probabilities_of_the_design():
    design_P = np.array([0.5, 0.3, 0.2])
    drawn = np.bincount([draw(design_P, [7, i]) for i in range(4000)], minlength=3)
    assert drawn / 4000 == pytest.approx(design_P, abs=0.03)
    assert draw(design_P, [7, 5]) == draw(design_P, [7, 5])


def _audited(frame: Frame, graph: PairGraph, group_V: np.ndarray, seed: int, count: int):
    design_P = design(frame)
    row_N = np.array([draw(design_P, [seed, i]) for i in range(count)])
    pair_N2 = graph.pair_P2[row_N]
    same_N = ANIMAL_V[pair_N2[:, 0]] == ANIMAL_V[pair_N2[:, 1]]
    return estimates(
        frame,
        design_P,
        row_N=row_N,
        drawn_N=design_P[row_N],
        said_N=np.where(same_N, 1, -1),
        doubts=doubts_of(graph, group_V),
    )


def test_the_mean_over_many_audits_is_the_truth():
    split_V = ANIMAL_V.copy()
    split_V[[0, 1]] = 10
    group_V = by_first_appearance(split_V)
    graph, frame = _frame(group_V)
    found = [_audited(frame, graph, group_V, seed, 100) for seed in range(100)]
    animals = np.array([result.animals.value for result in found if result])
    assert animals.mean() == pytest.approx(6.0, abs=4 * animals.std() / np.sqrt(100))
    # Of the 26 pairs of one animal the partition misses 6.
    missed = np.array([result.missed.value for result in found if result])
    assert missed.mean() == pytest.approx(6 / 26, abs=0.05)
    covered = [result.animals.low <= 6 <= result.animals.high for result in found if result]
    assert np.mean(covered) >= 0.93


def test_more_pairs_against_the_partition_than_expected_are_a_surprise():
    estimate = Estimate(6.0, 5.0, 7.0)
    # Of a Poisson number with mean 1, three or more have the chance 1 - e^-1 (1 + 1 + 1/2) = 8.0%,
    # four or more 1.9%.
    assert not AuditResult(20, 3, 1.0, estimate, estimate, estimate, estimate).surprises
    assert AuditResult(20, 4, 1.0, estimate, estimate, estimate, estimate).surprises


def test_few_pairs_give_no_interval_and_pairs_that_find_nothing_still_leave_one():
    group_V = find_partition(_graph(strength=1.0))
    graph = _graph(strength=1.0)
    frame = frame_of(graph, doubts_of(graph, group_V))
    assert _audited(frame, graph, group_V, 0, 4) is None
    nothing = estimates(
        frame,
        design(frame),
        row_N=np.zeros(20, int),
        drawn_N=design(frame)[np.zeros(20, int)],
        said_N=np.where(frame.within_P[np.zeros(20, int)], 1, -1),
        doubts=doubts_of(graph, group_V),
    )
    assert nothing is not None
    assert nothing.against == 0
    assert not nothing.surprises
    assert nothing.animals.value == group_V.max() + 1
    assert nothing.animals.high - nothing.animals.low > 0.5
    ends = replace(nothing, animals=Estimate(3.0, 2.3, 3.0), fewest=Estimate(1.5, 1.2, 1.5))
    assert (ends.interval_of_groups, ends.range_of_animals) == ((2, 3), (1, 3))
