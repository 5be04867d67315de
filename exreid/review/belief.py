"""What is believed of pairs of visits: evidence of the scores, and answers of people.

The log-odds that two visits show one animal are a prior, the same for all pairs, plus evidence: the
log-likelihood ratio of the pair's score and of the answers about it (Fellegi & Sunter 1969, "A
theory for record linkage"). Scores of pairs of the same visits are not independent, so those
between two groups count less than their sum (``temper``). Only pairs of a shortlist are listed;
every other pair has one stated evidence. So the memory goes by the number of listed pairs. A left
flank matches no right one: two visits that show no flank in common are no evidence either way.

Letters: V visits, P listed pairs, A answers, G groups. Logarithms are natural.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

CERTAIN = 1e4
"""The evidence of a pair that is known: no sum of other evidence comes near it."""
KNOWN = 100.0
"""The evidence of a pair whose answers agree twice."""
TEMPER = 0.25
"""Of the groups of a discovery, see `PairGraph`. Groups are made of the pairs with most evidence,
so what is left of it between them tells less than that of pairs drawn by chance."""


@dataclass(frozen=True, eq=False)
class PairGraph:
    """Evidence for pairs of V visits."""

    visits: int
    pair_P2: np.ndarray
    """int64 (P, 2): the smaller visit first, each pair once, rising."""
    evidence_P: np.ndarray
    """float64: log P(score, answers | one animal) - log P(score, answers | two animals)."""
    unlisted: float
    """The evidence of each pair that is not listed; at most 0."""
    prior: float
    """The log-odds that two visits show one animal, before any score or answer; below 0."""
    flank_V: np.ndarray | None = None
    """int64: 1 where a visit shows the left flank alone, 2 the right alone, 3 both, 0 where it
    may be either. None: unknown of all."""
    said_P: np.ndarray | None = None
    """float64: the part of the evidence that people gave, or that is known. None: none."""
    temper: float = 0.0
    """The scores of n pairs between two groups count as their sum over n to this power: 0 for
    scores that tell independently, 1 for their mean."""

    def __post_init__(self) -> None:
        if self.unlisted > 0:
            raise ValueError("a pair outside the shortlist cannot be evidence for one animal.")
        check_pairs(self.pair_P2, self.visits)
        if self.flank_V is not None and self.flank_V.shape != (self.visits,):
            raise ValueError("each visit has a flank, or none has.")
        if not 0 <= self.temper <= 1:
            raise ValueError("scores count as something between their sum and their mean.")

    @cached_property
    def keys(self) -> np.ndarray:
        """One number for each pair, rising."""
        return self.pair_P2[:, 0] * self.visits + self.pair_P2[:, 1]

    def place(self, pair_N2: np.ndarray) -> np.ndarray:
        """The row of each pair (the smaller visit first) in the list, -1 where it has none."""
        key_N = pair_N2[:, 0] * self.visits + pair_N2[:, 1]
        row_N = np.searchsorted(self.keys, key_N)
        inside_N = row_N < len(self.keys)
        found_N = inside_N & (self.keys[np.where(inside_N, row_N, 0)] == key_N)
        return np.where(found_N, row_N, -1)

    @cached_property
    def known_flank_V(self) -> np.ndarray:  # noqa: N802
        """``flank_V``, 0 where it is unknown."""
        return np.zeros(self.visits, np.int64) if self.flank_V is None else self.flank_V

    def comparable(self, pair_N2: np.ndarray) -> np.ndarray:
        """Whether the two visits of each pair may show one flank, bool (N,)."""
        one_N, other_N = self.known_flank_V[pair_N2].reshape(-1, 2).T
        return np.asarray((one_N == 0) | (other_N == 0) | (one_N & other_N > 0))

    @cached_property
    def told_P(self) -> np.ndarray:  # noqa: N802
        """``said_P``, 0 where nobody said anything."""
        return np.zeros(len(self.pair_P2)) if self.said_P is None else self.said_P

    @cached_property
    def surplus_P(self) -> np.ndarray:  # noqa: N802
        """The scores' evidence of each listed pair, less what it had if it were not listed."""
        return self.evidence_P - self.told_P - self.unlisted_evidence(self.pair_P2)

    def tempered(self, scores_M: np.ndarray, pairs_M: np.ndarray) -> np.ndarray:
        """What scores with these sums say of two groups with so many comparable pairs."""
        return np.asarray(scores_M / np.maximum(pairs_M, 1.0) ** self.temper)

    def unlisted_odds(self, pairs_M: np.ndarray) -> np.ndarray:
        """The log-odds that two groups show one animal, with so many comparable pairs and none of
        them listed."""
        return self.tempered(pairs_M * self.unlisted, pairs_M) + self.prior

    def unlisted_evidence(self, pair_N2: np.ndarray) -> np.ndarray:
        """The evidence of these pairs as if they were not listed, float64 (N,): none where the two
        visits show no flank in common."""
        return np.where(self.comparable(pair_N2), self.unlisted, 0.0)

    def sizes(self, group_V: np.ndarray) -> np.ndarray:
        """int64 (G, 3): of each group its visits, those of the left flank alone and of the right.

        `pairs_of` tells by these which pairs are comparable.
        """
        flank_V, groups = self.known_flank_V, int(group_V.max(initial=-1)) + 1
        alone = [np.bincount(group_V[flank_V == side], minlength=groups) for side in (1, 2)]
        return np.stack([np.bincount(group_V, minlength=groups), *alone], axis=1)

    def plus(self, pair_N2: np.ndarray, evidence_N: np.ndarray) -> PairGraph:
        """With more evidence, of people; pairs in either order, more than once, or not listed."""
        check_pairs(pair_N2, self.visits, listed=False)
        key_N = np.sort(pair_N2, axis=1) @ np.array([self.visits, 1])
        key, place_N = np.unique(np.concatenate([self.keys, key_N]), return_inverse=True)
        pairs = np.stack([key // self.visits, key % self.visits], axis=1)
        evidence, said = self.unlisted_evidence(pairs), np.zeros(len(pairs))
        evidence[place_N[: len(self.keys)]] = self.evidence_P
        said[place_N[: len(self.keys)]] = self.told_P
        for part in (evidence, said):
            np.add.at(part, place_N[len(self.keys) :], evidence_N)
        return replace(self, pair_P2=pairs, evidence_P=evidence, said_P=said)


@dataclass(frozen=True, eq=False)
class Votes:
    """What answers say of N pairs, each pair once."""

    pair_N2: np.ndarray
    """int64 (N, 2), rising."""
    lead_N: np.ndarray
    """int64: answers *same* less answers *different*."""
    said_N: np.ndarray
    """int64: answers *same* and *different*."""
    count_N: np.ndarray
    """int64: all answers, *can't tell* too."""
    evidence_N: np.ndarray
    """float64: for one animal. Each answer adds the log-odds that its person is right. Where two
    more answers say the one than the other, the pair is known: `KNOWN`, more for each further."""

    def asked(self, pair_M2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many answers each of M pairs has, and how many of them say something; int64."""
        rows = zip(self.pair_N2.tolist(), self.count_N.tolist(), self.said_N.tolist(), strict=True)
        known = {(first, second): (count, said) for (first, second), count, said in rows}
        found = [known.get((first, second), (0, 0)) for first, second in pair_M2.tolist()]
        count_M, said_M = np.array(found, np.int64).reshape(-1, 2).T
        return count_M, said_M


def votes_of(pair_A2: np.ndarray, sign_A: np.ndarray, reliability_A: np.ndarray) -> Votes:
    """Answers about pairs (the smaller visit first), with the sign 1 for *same*, -1 for *different*
    and 0 for *can't tell*, and the probability that the person of each is right.

    >>> votes = votes_of(np.array([[0, 1], [0, 1], [2, 3]]), np.array([1, 1, -1]), np.full(3, 0.9))
    >>> votes.lead_N.tolist(), votes.evidence_N.round(2).tolist()
    ([2, -1], [104.39, -2.2])
    """
    if len(pair_A2) == 0:
        nothing = np.zeros(0, np.int64)
        return Votes(np.zeros((0, 2), np.int64), nothing, nothing, nothing, np.zeros(0))
    pair_N2, place_A = np.unique(pair_A2, axis=0, return_inverse=True)
    place_A = place_A.ravel()
    lead_N = np.bincount(place_A, sign_A).astype(np.int64)
    evidence_N = np.bincount(place_A, sign_A * log_odds(reliability_A))
    evidence_N = evidence_N + np.sign(lead_N) * KNOWN * np.maximum(np.abs(lead_N) - 1, 0)
    said_N = np.bincount(place_A, np.abs(sign_A)).astype(np.int64)
    return Votes(pair_N2, lead_N, said_N, np.bincount(place_A), evidence_N)


def pairs_of(size_M3: np.ndarray, other_M3: np.ndarray) -> np.ndarray:
    """The comparable pairs of visits between each two groups, by their `PairGraph.sizes`.

    >>> pairs_of(np.array([[3, 2, 0]]), np.array([[2, 0, 1]])).tolist()
    [4]
    """
    opposite = size_M3[..., 1] * other_M3[..., 2] + size_M3[..., 2] * other_M3[..., 1]
    return np.asarray(size_M3[..., 0] * other_M3[..., 0] - opposite)


def pairs_inside(size_M3: np.ndarray) -> np.ndarray:
    """The comparable pairs of visits within each group, by its `PairGraph.sizes`.

    >>> pairs_inside(np.array([[4, 2, 1]])).tolist()
    [4]
    """
    size_M, left_M, right_M = size_M3[..., 0], size_M3[..., 1], size_M3[..., 2]
    return np.asarray(size_M * (size_M - 1) // 2 - left_M * right_M)


def check_pairs(pair_P2: np.ndarray, visits: int, *, listed: bool = True) -> None:
    """ValueError for pairs of visits that are not such; ``listed``: each once, in order."""
    if pair_P2.ndim != 2 or pair_P2.shape[1] != 2:
        raise ValueError(f"pairs of visits have the shape (P, 2), not {pair_P2.shape}.")
    if len(pair_P2) == 0:
        return
    if pair_P2.min() < 0 or pair_P2.max() >= visits or np.any(pair_P2[:, 0] == pair_P2[:, 1]):
        raise ValueError(f"a pair has two different visits from 0 up to {visits - 1}.")
    if listed and np.any(np.diff(pair_P2 @ np.array([visits, 1])) <= 0):
        raise ValueError("each pair is listed once, the pairs rising.")
    if listed and np.any(pair_P2[:, 0] > pair_P2[:, 1]):
        raise ValueError("the smaller visit of a pair is the first.")


def log_odds(probability: np.ndarray | float) -> np.ndarray:
    """log(p / (1 - p)).

    >>> log_odds(np.array([0.5, 0.75])).round(4).tolist()
    [0.0, 1.0986]
    """
    probability = np.asarray(probability, np.float64)
    if not np.all((probability > 0) & (probability < 1)):
        raise ValueError("log-odds need probabilities above 0 and below 1.")
    return np.asarray(np.log(probability) - np.log1p(-probability))


def pair_graph(
    visits: int,
    pair_P2: np.ndarray,
    probability_P: np.ndarray,
    *,
    unlisted: float,
    apart_N2: np.ndarray | None = None,
    together_N2: np.ndarray | None = None,
    flank_V: np.ndarray | None = None,
    temper: float = 0.0,
) -> PairGraph:
    """The graph of calibrated probabilities that pairs show one animal.

    ``unlisted``: the probability of each pair that is not listed. The prior is the mean probability
    of all comparable pairs, and a pair's evidence the difference of its log-odds to it.
    ``apart_N2`` and ``together_N2``: pairs known to show two animals (of one photograph) or one.
    ``flank_V`` and ``temper``: see `PairGraph`; a listed pair without a common flank is left out.
    """
    empty = PairGraph(visits, np.zeros((0, 2), np.int64), np.zeros(0), 0.0, 0.0, flank_V)
    check_pairs(pair_P2, visits)
    kept_P = empty.comparable(pair_P2)
    pair_P2, probability_P = pair_P2[kept_P], probability_P[kept_P]
    every = int(pairs_inside(empty.sizes(np.zeros(visits, np.int64))).sum())
    total = float(probability_P.sum()) + (every - len(pair_P2)) * unlisted
    prior = float(log_odds(min(max(total / max(every, 1), 1e-9), 0.5)))
    evidence_P = log_odds(probability_P) - prior
    other = min(float(log_odds(unlisted)) - prior, 0.0)
    graph = PairGraph(visits, pair_P2, evidence_P, other, prior, flank_V, temper=temper)
    for known_N2, sign in ((apart_N2, -CERTAIN), (together_N2, CERTAIN)):
        if known_N2 is not None and len(known_N2):
            graph = graph.plus(known_N2, np.full(len(known_N2), sign))
    return graph
