"""What is in doubt about the groups, and which pair of visits to ask about for it.

A doubt is a single change of the partition, a join of two groups or a cut of one, with the
probability that it is right and the pairs of visits that it changes. A question is worth what its
answer takes from the expected number of wrong pairs.

Letters: V visits, P listed pairs, N pairs, M joins, C cuts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from exreid.review.belief import PairGraph, Votes, pairs_of
from exreid.review.partition import Cuts, Joins, cuts_of, joins_of

LEAST_DOUBT = 1e-3
"""A less probable change is not asked about, unless the audit finds the probabilities too sure."""
MOST_ASKED = 6
"""No pair is asked about more often: what is unclear then stays so."""


@dataclass(frozen=True, eq=False)
class Doubts:
    """A partition, and every single change of it."""

    group_V: np.ndarray
    joins: Joins
    cuts: Cuts
    unlisted: float
    """The expected number of missed joins between comparable groups without a listed pair."""

    @property
    def join_pairs(self) -> np.ndarray:
        """int64: the pairs of visits between the two groups."""
        size_G = np.bincount(self.group_V)
        return np.asarray(size_G[self.joins.group_M2].prod(axis=1))

    @property
    def cut_pairs(self) -> np.ndarray:
        """int64: the pairs of visits across the cut."""
        size_G = np.bincount(self.group_V)
        side_C = np.array([len(side) for side in self.cuts.sides], np.int64)
        return np.asarray(side_C * (size_G[self.group_V[self.cuts.link_C2[:, 0]]] - side_C))

    @property
    def wrong_decisions(self) -> float:
        """The expected number of joins and cuts that are right, though the partition lacks them."""
        listed = chance(self.joins.gain_M).sum() + chance(self.cuts.gain_C).sum()
        return float(listed) + self.unlisted


def doubts_of(graph: PairGraph, group_V: np.ndarray) -> Doubts:
    """The single changes of a partition."""
    joins = joins_of(graph, group_V)
    unlisted = _unlisted_joins(graph, graph.sizes(group_V), joins)
    return Doubts(group_V, joins, cuts_of(graph, group_V), unlisted)


def _unlisted_joins(graph: PairGraph, size_G3: np.ndarray, joins: Joins) -> float:
    """The sum of the probabilities of all other joins, which depend on the sizes alone. Groups that
    show no flank in common are left out: nobody can tell."""
    size_S3, _, count_SS = _unlisted_pairs(size_G3, joins)
    pairs_SS = pairs_of(size_S3[:, None], size_S3[None])
    odds_SS = graph.unlisted_odds(pairs_SS)
    return float((count_SS * chance(odds_SS))[pairs_SS > 0].sum() / 2)


def _unlisted_pairs(size_G3: np.ndarray, joins: Joins) -> tuple[np.ndarray, ...]:
    """The different sizes of groups (S, 3), the place of each group's size among them, and the
    number of ordered pairs of groups, by their sizes, without a listed pair of visits (S, S)."""
    size_S3, kind_G, groups_S = np.unique(size_G3, axis=0, return_inverse=True, return_counts=True)
    kind_G = kind_G.ravel()
    count_SS = np.outer(groups_S, groups_S) - np.diag(groups_S)
    listed = kind_G[joins.group_M2]
    np.subtract.at(count_SS, (listed[:, 0], listed[:, 1]), 1)
    np.subtract.at(count_SS, (listed[:, 1], listed[:, 0]), 1)
    return size_S3, kind_G, count_SS


def chance(log_odds: np.ndarray | float) -> np.ndarray:
    """The probability of log-odds; 1 / (1 + e^-x), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(log_odds, np.float64))))


def worth(log_odds: np.ndarray, pairs: np.ndarray, answer: float) -> np.ndarray:
    """By how much an answer lowers the expected number of wrong pairs.

    Where a change of so many ``pairs`` has the probability p, p (1 - p) of them are expected to be
    wrong if the change is drawn with p, which unlike min(p, 1 - p) falls with every answer.
    ``answer``: the log-odds of an answer's being right.

    >>> worth(np.array([0.0, 8.0]), np.array([4, 4]), 3.5).round(3).tolist()
    [0.886, 0.0]
    """
    right = chance(answer)
    p = chance(log_odds)
    yes = p * right + (1 - p) * (1 - right)
    if_yes, if_no = chance(log_odds + answer), chance(log_odds - answer)
    left = yes * if_yes * (1 - if_yes) + (1 - yes) * if_no * (1 - if_no)
    return np.asarray(pairs * (p * (1 - p) - left))


def contradiction(doubts: Doubts, votes: Votes) -> tuple[int, int] | None:
    """The pair to ask about again, where answers disagree with the partition or with each other.

    An answer against the partition, or as many *same* as *different*, is asked again until two more
    say the one; of several the one with most pairs of visits at stake. Where a pair that is known
    by then is still against the partition, other known pairs form a chain that denies it: then the
    least asked pair of the groups concerned is asked again.
    """
    if len(votes.pair_N2) == 0:
        return None
    group_V = doubts.group_V
    group_N2 = group_V[votes.pair_N2]
    together_N = group_N2[:, 0] == group_N2[:, 1]
    split_N = (votes.lead_N == 0) & (votes.said_N > 0)
    against_N = (votes.lead_N != 0) & ((votes.lead_N > 0) != together_N)
    open_N = (split_N | (against_N & (np.abs(votes.lead_N) < 2))) & (votes.said_N < MOST_ASKED)
    rows = np.flatnonzero(open_N)
    if len(rows) == 0 and against_N.any():
        concerned = np.unique(group_N2[against_N])
        rows = np.flatnonzero(np.isin(group_N2, concerned).all(axis=1))
        rows = rows[(votes.said_N[rows] > 0) & (votes.said_N[rows] < MOST_ASKED)]
        rows = rows[votes.said_N[rows] == votes.said_N[rows].min(initial=MOST_ASKED)]
    if len(rows) == 0:
        return None
    stake = np.bincount(group_V)[group_N2[rows]].prod(axis=1)
    first, second = votes.pair_N2[rows[np.argmax(stake)]].tolist()
    return first, second


def most_worth(
    graph: PairGraph,
    doubts: Doubts,
    votes: Votes,
    *,
    answer: float,
    least: float = LEAST_DOUBT,
) -> tuple[int, int] | None:
    """The pair whose answer takes most from the expected number of wrong pairs; None where no
    change is more probable than ``least``.

    Of all pairs that show the same change it is one that was asked least, and of those the pair
    with most evidence for one animal; never one without a common flank, or that was answered with
    *can't tell* alone. Equal ones: the smaller visits.
    """
    joins, cuts = doubts.joins, doubts.cuts
    other = _unlisted_join(graph, doubts, answer)
    gain = np.concatenate([joins.gain_M, [other.gain] if other else [], cuts.gain_C])
    pairs = np.concatenate([doubts.join_pairs, [other.pairs] if other else [], doubts.cut_pairs])
    group_M2 = np.concatenate([joins.group_M2, [other.groups] if other else joins.group_M2[:0]])
    for place in np.argsort(-worth(gain, pairs, answer), kind="stable").tolist():
        if chance(gain[place]) < least:
            continue
        if place < len(group_M2):
            first, second = (np.flatnonzero(doubts.group_V == g) for g in group_M2[place])
        else:
            first = cuts.sides[place - len(group_M2)]
            whole = np.flatnonzero(doubts.group_V == doubts.group_V[first[0]])
            second = np.setdiff1d(whole, first)
        shown = pair_to_show(graph, votes, first, second)
        if shown is not None:
            return shown
    return None


def weakest_link(
    graph: PairGraph, doubts: Doubts, votes: Votes, groups: Collection[int], least: float
) -> tuple[int, int] | None:
    """The pair that shows the most probable cut of one of these groups; None where none is more
    probable than ``least``."""
    cuts = doubts.cuts
    for place in np.argsort(-cuts.gain_C, kind="stable").tolist():
        side = cuts.sides[place]
        group = int(doubts.group_V[side[0]])
        if group in groups and chance(cuts.gain_C[place]) >= least:
            rest = np.setdiff1d(np.flatnonzero(doubts.group_V == group), side)
            shown = pair_to_show(graph, votes, side, rest)
            if shown is not None:
                return shown
    return None


@dataclass(frozen=True)
class _UnlistedJoin:
    groups: tuple[int, int]
    pairs: int
    gain: float


def _unlisted_join(graph: PairGraph, doubts: Doubts, answer: float) -> _UnlistedJoin | None:
    """The join with most worth of two groups without a listed pair; of equal ones that of the
    smaller labels."""
    size_S3, kind_G, count_SS = _unlisted_pairs(graph.sizes(doubts.group_V), doubts.joins)
    kind_N2 = np.stack(np.triu_indices(len(size_S3)), axis=1)
    kind_N2 = kind_N2[count_SS[kind_N2[:, 0], kind_N2[:, 1]] > 0]
    comparable_N = pairs_of(size_S3[kind_N2[:, 0]], size_S3[kind_N2[:, 1]])
    kind_N2, comparable_N = kind_N2[comparable_N > 0], comparable_N[comparable_N > 0]
    pairs_N = size_S3[kind_N2, 0].prod(axis=1)
    gain_N = graph.unlisted_odds(comparable_N)
    listed = {(low, high) for low, high in doubts.joins.group_M2.tolist()} if len(kind_N2) else {}
    for place in np.argsort(-worth(gain_N, pairs_N, answer), kind="stable").tolist():
        one_G, other_G = (np.flatnonzero(kind_G == n).tolist() for n in kind_N2[place])
        for group in one_G:
            for other in other_G:
                groups = (min(group, other), max(group, other))
                if group != other and groups not in listed:
                    return _UnlistedJoin(groups, int(pairs_N[place]), float(gain_N[place]))
    return None


def pair_to_show(
    graph: PairGraph, votes: Votes, first: np.ndarray, second: np.ndarray
) -> tuple[int, int] | None:
    """The pair of visits, one of each side, that was asked about least, and of those the most
    alike; None where they have no flank in common or nobody can tell."""
    pair_N2 = np.stack([np.repeat(first, len(second)), np.tile(second, len(first))], axis=1)
    pair_N2 = np.sort(pair_N2, axis=1)
    pair_N2 = pair_N2[graph.comparable(pair_N2)]
    count_N, said_N = votes.asked(pair_N2)
    pair_N2, said_N = pair_N2[(count_N == 0) | (said_N > 0)], said_N[(count_N == 0) | (said_N > 0)]
    if len(pair_N2) == 0:
        return None
    row_N = graph.place(pair_N2)
    evidence_N = np.full(len(pair_N2), graph.unlisted)
    evidence_N[row_N >= 0] = graph.evidence_P[row_N[row_N >= 0]]
    best = np.lexsort((pair_N2[:, 1], pair_N2[:, 0], -evidence_N, said_N))[0]
    low, high = pair_N2[best].tolist()
    return low, high


def same_chance(graph: PairGraph, doubts: Doubts, first: int, second: int) -> float:
    """The probability that two visits show one animal: that the best single change which would join
    or part them is right, or wrong."""
    one, other = sorted((int(doubts.group_V[first]), int(doubts.group_V[second])))
    if one == other:
        cuts = doubts.cuts
        between = [
            c
            for c, side in enumerate(cuts.sides)
            if doubts.group_V[side[0]] == one and (first in side) != (second in side)
        ]
        return float(1 - chance(cuts.gain_C[between]).max(initial=0.0))
    group_M2 = doubts.joins.group_M2
    row = np.flatnonzero((group_M2[:, 0] == one) & (group_M2[:, 1] == other))
    if len(row):
        return float(chance(doubts.joins.gain_M[row[0]]))
    size_G3 = graph.sizes(doubts.group_V)
    return float(chance(graph.unlisted_odds(pairs_of(size_G3[one], size_G3[other]))))
