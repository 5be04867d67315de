"""The audit: pairs drawn with known probabilities, which alone estimate what is still wrong.

Each audit pair is drawn with replacement from one fixed design, which is made of the scores alone.
No answer changes it, so it is independent of the questions of the queue. The estimates compare the
audit's answers with the partition that the queue's answers alone give, and weigh each by 1 over its
probability (Hansen & Hurwitz 1943; the difference estimator of Särndal, Swensson & Wretman 1992,
"Model assisted survey sampling"). Pairs in doubt are drawn more often, as in Perez et al. 2024,
"Human-in-the-loop visual re-ID for population size estimation".

A wrong decision changes the number of animals by one, and each of the visits' listed pairs that it
is about shows it. So a pair counts 1 over the number of those pairs. That is exact while the
mistakes that are left are apart from each other, one join or one cut each; animals in three pieces
count a join too many.

A left flank matches no right one, and nobody can tell whether they are of one animal, so an animal
that no visit shows from both sides is two groups even where no decision is wrong. The audit
estimates the number of groups without wrong decisions, and those with each flank; the number of
animals is between the larger flank's and that of all groups.

Letters: P pairs of the frame, N drawn pairs, V visits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from exreid.metrics.uncertainty import Estimate
from exreid.review.belief import PairGraph
from exreid.review.doubts import Doubts, chance
from exreid.review.flanks import LEFT_FLANK, RIGHT_FLANK, flanks_of_groups
from exreid.review.partition import rows_by_group

DESIGN = {"doubt": 0.5, "decisions": 0.25, "within": 0.1, "pairs": 0.15}
"""Shares of the draws: by doubt; alike for each decision; for each pair within groups; for each
pair."""
LEAST_DRAWN = 5
"""Fewer audit pairs give no interval."""
Z_95 = 1.959964
SURPRISE = 0.05


@dataclass(frozen=True, eq=False)
class Frame:
    """All listed pairs of visits as a partition sees them."""

    within_P: np.ndarray
    """bool: the partition puts the two visits together."""
    wrong_P: np.ndarray
    """float64: the probability that it is wrong about the pair, by the best single change."""
    share_P: np.ndarray
    """float64: 1 over the number of listed pairs that this change is about."""
    flanks_P: np.ndarray
    """int64: 1 where both sides of this change show the left flank, plus 2 for the right one."""
    flank_V: np.ndarray
    """int64: of the visits, as `PairGraph.flank_V`, 0 where unknown."""


@dataclass(frozen=True)
class AuditResult:
    """What the audit says of the partition that the queue's answers give."""

    drawn: int
    against: int
    """Audit pairs whose answer is against that partition."""
    expected_against: float
    """By the probabilities of the partition's single changes."""
    animals: Estimate
    """The number of groups without wrong decisions: of animals, if each is known by both flanks."""
    fewest: Estimate
    """That of animals, if those known by one flank alone are the same as far as possible; no flank
    has more groups than animals, and no animal makes more than two groups."""
    missed: Estimate
    """Share of the pairs of one animal that the partition separates."""
    mixed: Estimate
    """Share of the pairs that the partition puts together that show two animals."""

    @property
    def interval_of_groups(self) -> tuple[int, int]:
        """The interval of the number of groups, to whole ones: its ends rounded outward."""
        return math.floor(self.animals.low), math.ceil(self.animals.high)

    @property
    def range_of_animals(self) -> tuple[int, int]:
        """From the fewest animals that the groups can be to as many as there are groups."""
        return math.floor(self.fewest.low), self.interval_of_groups[1]

    @property
    def surprises(self) -> bool:
        """Whether so many pairs against the partition have a chance below 5%, if its probabilities
        are right (Poisson)."""
        return bool(scipy.stats.poisson.sf(self.against - 1, self.expected_against) < SURPRISE)


def frame_of(graph: PairGraph, doubts: Doubts) -> Frame:
    """The listed pairs under a partition."""
    first_P, second_P = graph.pair_P2.T
    group_V = doubts.group_V
    within_P = group_V[first_P] == group_V[second_P]
    wrong_P, pairs_P = np.zeros(len(first_P)), np.ones(len(first_P))
    flank_V = graph.known_flank_V
    flank_G = flanks_of_groups(flank_V, group_V)
    flanks_P = flank_G[group_V[first_P]] & flank_G[group_V[second_P]]
    groups = int(group_V.max(initial=0)) + 1
    low_P = np.minimum(group_V[first_P], group_V[second_P])
    key_P = low_P * groups + np.maximum(group_V[first_P], group_V[second_P])
    joins = doubts.joins
    place_P = np.searchsorted(joins.group_M2 @ np.array([groups, 1]), key_P[~within_P])
    wrong_P[~within_P] = chance(joins.gain_M)[place_P]
    pairs_P[~within_P] = np.bincount(place_P)[place_P]
    wrong_C = chance(doubts.cuts.gain_C)
    rows_G = rows_by_group(graph, group_V)
    inside_V = np.zeros(graph.visits, bool)
    for cut, side in enumerate(doubts.cuts.sides):
        group = int(group_V[side[0]])
        rows = rows_G[group]
        inside_V[side] = True
        across = inside_V[first_P[rows]] != inside_V[second_P[rows]]
        better = rows[across & (wrong_C[cut] > wrong_P[rows])]
        wrong_P[better], pairs_P[better] = wrong_C[cut], np.count_nonzero(across)
        rest = flank_V[(group_V == group) & ~inside_V]
        flanks_P[better] = np.bitwise_or.reduce(flank_V[side]) & np.bitwise_or.reduce(rest)
        inside_V[side] = False
    return Frame(within_P, wrong_P, 1 / pairs_P, flanks_P, flank_V)


def design(frame: Frame) -> np.ndarray:
    """The probability of each listed pair in one draw, float64 (P,), all above 0.

    Half goes by share x sqrt(wrong (1 - wrong)), which makes the expected variance of the count
    least (Isaki & Fuller 1982, "Survey design under the regression superpopulation model");
    the rest keeps every pair possible, and so the estimate unbiased where the scores are surely
    wrong.
    """
    weights = {
        "doubt": frame.share_P * np.sqrt(frame.wrong_P * (1 - frame.wrong_P)),
        "decisions": frame.share_P,
        "within": frame.within_P.astype(np.float64),
        "pairs": np.ones(len(frame.within_P)),
    }
    drawn_P = np.zeros(len(frame.within_P))
    for name, weight_P in weights.items():
        total = weight_P.sum()
        if total > 0:
            drawn_P += DESIGN[name] * weight_P / total
    return np.asarray(drawn_P / drawn_P.sum())


def draw(drawn_P: np.ndarray, seed: list[int]) -> int:
    """The row of one pair, by the probabilities of `design`."""
    point = np.random.default_rng(seed).random()
    place = int(np.searchsorted(np.cumsum(drawn_P), point, side="right"))
    return min(place, len(drawn_P) - 1)


def estimates(
    frame: Frame,
    design_P: np.ndarray,
    *,
    row_N: np.ndarray,
    drawn_N: np.ndarray,
    said_N: np.ndarray,
    doubts: Doubts,
) -> AuditResult | None:
    """The number of animals and the rates of wrong pairs, from N audit pairs; None where fewer than
    `LEAST_DRAWN` have an answer.

    ``frame``: under the partition of the ``doubts``, which no audit answer went into. ``row_N``:
    the pairs' rows, ``drawn_N`` the probabilities that they were drawn with, ``said_N`` the
    answers: 1 for one animal, -1 for two, 0 where nobody can tell. Such a pair counts as no
    mistake, so that the estimates are of what people can tell. The variance is the larger of the
    sample's and of the one that the model expects under the design, times the pairs found against
    the partition over those expected where that is above 1; so an audit that finds nothing does not
    claim that there is nothing. Pairs that are not listed are not audited: the missed joins that
    their probabilities let expect, and chance, lower the lower end.
    """
    told_N = said_N != 0
    if np.count_nonzero(told_N) < LEAST_DRAWN:
        return None
    count = len(row_N)
    within_N = frame.within_P[row_N]
    against_N = told_N & (within_N != (said_N > 0))
    expected = float(frame.wrong_P[row_N[told_N]].sum())
    inflation = max(1.0, (1 + float(against_N.sum())) / (1 + expected))
    variance_P = np.minimum(frame.wrong_P * inflation, 1.0) / design_P

    def total(weight_N: np.ndarray, weight_P: np.ndarray) -> tuple[float, float]:
        """The sum of the weights over all wrong pairs, and its standard error."""
        each_N = against_N * weight_N / drawn_N
        expected_variance = float((weight_P**2 * variance_P).sum())
        variance = max(expected_variance, float(each_N.var(ddof=1)))
        return float(each_N.mean()), float(np.sqrt(variance / count))

    sign_P = np.where(frame.within_P, 1.0, -1.0) * frame.share_P
    missed, missed_error = total(1.0 * ~within_N, 1.0 * ~frame.within_P)
    mixed, mixed_error = total(1.0 * within_N, 1.0 * frame.within_P)
    together = float(frame.within_P.sum())
    right = max(together - mixed, 0.0)

    def rate(value: float, standard: float, of: float) -> Estimate:
        ends = (max(value - Z_95 * standard, 0.0), value + Z_95 * standard)
        low, middle, high = (
            end / (end + of) if end + of else 0.0 for end in (ends[0], value, ends[1])
        )
        return Estimate(middle, low, high)

    outside = float(scipy.stats.poisson.ppf(0.975, doubts.unlisted))

    def number(of: float, among: float, weight_P: np.ndarray) -> Estimate:
        """So many groups, changed by what is wrong; not more than the visits ``among``."""
        change, error = total(weight_P[row_N], weight_P)
        value = min(max(of + change, 1.0), among)
        ends = (value - Z_95 * error - outside, value + Z_95 * error)
        return Estimate(value, max(ends[0], 1.0), min(ends[1], among))

    visits, flank_G = float(len(doubts.group_V)), flanks_of_groups(frame.flank_V, doubts.group_V)
    animals = number(len(flank_G), visits, sign_P)
    of_flanks = [
        number(
            float(np.count_nonzero(flank_G & side)),
            float(np.count_nonzero(frame.flank_V & side)),
            sign_P * (frame.flanks_P & side > 0),
        )
        for side in (LEFT_FLANK, RIGHT_FLANK)
        if np.any(frame.flank_V & side)
    ]
    return AuditResult(
        int(np.count_nonzero(told_N)),
        int(against_N.sum()),
        expected,
        animals,
        _largest([Estimate(animals.value / 2, animals.low / 2, animals.high / 2), *of_flanks]),
        rate(missed, missed_error, right),
        _share(mixed, mixed_error, together),
    )


def _largest(estimates: Sequence[Estimate]) -> Estimate:
    """Each end and the value: the largest."""
    ends = [(estimate.value, estimate.low, estimate.high) for estimate in estimates]
    return Estimate(*(max(of) for of in zip(*ends, strict=True)))


def _share(value: float, error: float, of: float) -> Estimate:
    if of == 0:
        return Estimate(0.0, 0.0, 0.0)
    ends = (value - Z_95 * error, value, value + Z_95 * error)
    low, middle, high = (float(np.clip(end / of, 0.0, 1.0)) for end in ends)
    return Estimate(middle, low, high)
