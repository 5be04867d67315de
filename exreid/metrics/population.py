"""From matches to animals: curves of discovery, flanks, and what wrong matches do to abundance.

Letters: Q queries, A animals, C captures (an animal on one visit), V visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy

from exreid.metrics.retrieval import QueryValues, average_values
from exreid.metrics.uncertainty import Estimate, bootstrap_intervals, bootstrap_statistic

LEFT, RIGHT = frozenset(("left", "l")), frozenset(("right", "r"))


@dataclass(frozen=True)
class MatchRates:
    """How often matches are missed and wrong, and what follows for abundance."""

    missed: Estimate
    """Share of the matches to be made that are not (false negatives)."""
    wrong: Estimate
    """Share of the matches made that are wrong (false positives)."""
    bias: Estimate | None
    """Of abundance by `abundance_bias`, as a fraction; None where it cannot be said."""


@dataclass(frozen=True)
class Flanks:
    """Of which animals which flank is known."""

    both: int
    left: int
    """By the left flank alone."""
    right: int
    """By the right flank alone."""
    unknown: int
    """Animals of which nobody says a flank."""

    @property
    def low(self) -> int:
        """The number of animals, if each of the fewer one-flank animals is one of the others."""
        return self.both + self.unknown + max(self.left, self.right)

    @property
    def high(self) -> int:
        """The number of animals, if none of them is."""
        return self.both + self.unknown + self.left + self.right


def count_flanks(flanks_A: Sequence[frozenset[str]]) -> Flanks:
    """From the viewpoints on each animal's photographs. A left flank and a right one match nothing
    of each other, so animals known by one flank count as between the larger number and the sum, as
    long as no visit shows both.

    >>> left, right = frozenset(("left",)), frozenset(("right",))
    >>> flanks = count_flanks([left, left, right, left | right, frozenset(("front",))])
    >>> flanks.low, flanks.high
    (4, 5)
    """
    seen = [{flank.strip().lower() for flank in flanks} for flanks in flanks_A]
    kinds = [(bool(flanks & LEFT), bool(flanks & RIGHT)) for flanks in seen]
    return Flanks(
        kinds.count((True, True)),
        kinds.count((True, False)),
        kinds.count((False, True)),
        kinds.count((False, False)),
    )


def animals_so_far(animal_C: np.ndarray) -> np.ndarray:
    """The number of different animals after each capture, int64 (C,).

    >>> animals_so_far(np.array([4, 4, 7, 4, 1])).tolist()
    [1, 1, 2, 2, 3]
    """
    new_C = np.zeros(len(animal_C), np.int64)
    new_C[np.unique(animal_C, return_index=True)[1]] = 1
    return np.cumsum(new_C)


def mean_animals_so_far(captures_A: np.ndarray) -> np.ndarray:
    """The mean of `animals_so_far` over all orders of the captures, float64 (C,), from the number
    of captures of each animal: A - sum of binomial(C - c, n) / binomial(C, n) after n captures
    (the rarefaction curve of Gotelli & Colwell 2001, "Quantifying biodiversity").

    >>> mean_animals_so_far(np.array([1, 2])).round(3).tolist()
    [1.0, 1.667, 2.0]
    """
    total = int(captures_A.sum())
    size_S, animals_S = np.unique(captures_A, return_counts=True)
    drawn_C = np.arange(1, total + 1)[:, None]
    left_CS = total - size_S - drawn_C
    possible_CS = left_CS >= 0
    log_CS = (
        scipy.special.gammaln(total - size_S + 1)
        - scipy.special.gammaln(np.where(possible_CS, left_CS, 0) + 1)
        + scipy.special.gammaln(total - drawn_C + 1)
        - scipy.special.gammaln(total + 1)
    )
    unseen_C = np.where(possible_CS, np.exp(log_CS), 0.0) @ animals_S
    return np.asarray(len(captures_A) - unseen_C)


def abundance_bias(missed: float, wrong: float) -> float:
    """How much too high an abundance from two visits is, as a fraction of the true one.

    Petersen's estimate is n1 n2 / m with m matches. Of M true ones M (1 - missed) are found, and
    they are 1 - wrong of the m made; so the estimate is (1 - wrong) / (1 - missed) of what it would
    be. Without wrong matches that is the correction of Stevick et al. 2001, "Errors in
    identification using natural markings". Infinite if every match is missed.

    >>> round(abundance_bias(0.2, 0.0), 3), round(abundance_bias(0.0, 0.2), 3)
    (0.25, -0.2)
    """
    return (1 - wrong) / (1 - missed) - 1 if missed < 1 else float("inf")


def with_bias(missed: Estimate, wrong: Estimate) -> MatchRates:
    """The rates with the bias; the ends of its interval are those of the least favourable ends of
    both rates, so that it is too wide rather than too narrow."""
    bias = Estimate(
        abundance_bias(missed.value, wrong.value),
        abundance_bias(missed.low, wrong.high),
        abundance_bias(missed.high, wrong.low),
    )
    return MatchRates(missed, wrong, bias)


def decided_rates(
    known_Q: np.ndarray,
    named_Q: np.ndarray,
    right_Q: np.ndarray,
    identity_Q: np.ndarray,
    seed: int = 0,
) -> MatchRates | None:
    """The rates of decisions whose truth is known; None without a known animal or a named one.

    ``known_Q``: the gallery has the animal; ``named_Q``: it was called known; ``right_Q``: its
    leading animal is right. Intervals by `bootstrap_intervals` over the animals, ``identity_Q``;
    of a rate of 0 or 1 by Wilson, as if of one trial for each animal.
    """
    if not known_Q.any() or not named_Q.any():
        return None
    table = {
        "missed": QueryValues(1.0 - (named_Q & right_Q), known_Q),
        "wrong": QueryValues(1.0 - right_Q, named_Q),
    }
    values = average_values(table, identity_Q)
    ends = bootstrap_intervals(table, identity_Q, seed=seed)

    def excess(weight_Q: np.ndarray) -> float:
        named = float(weight_Q @ named_Q)
        return float(weight_Q @ known_Q) / named - 1 if named else float("nan")

    bias = bootstrap_statistic(excess, identity_Q, seed=seed)
    animals = len(np.unique(identity_Q))
    missed, wrong = (
        _with_ends(values[name], ends.get(name), animals) for name in ("missed", "wrong")
    )
    whole = excess(np.ones(len(known_Q)))
    return MatchRates(missed, wrong, None if bias is None else Estimate(whole, *bias))


def grouped_rates(truth_V: np.ndarray, group_V: np.ndarray, seed: int = 0) -> MatchRates | None:
    """The rates of a grouping over pairs of visits, where names are known (``truth_V``, ``group_V``
    codes from 0); None without a pair of one animal or of one group. Intervals by
    `bootstrap_statistic` over the animals; pairs of an animal with its own copies are left out."""
    count_TG = np.zeros((int(truth_V.max(initial=0)) + 1, int(group_V.max(initial=0)) + 1))
    np.add.at(count_TG, (truth_V, group_V), 1.0)
    first_T = np.unique(truth_V, return_index=True)[1]

    def shares(weight_V: np.ndarray) -> tuple[float, float]:
        weight_T = weight_V[first_T]
        true = float(weight_T @ _pairs(count_TG.sum(axis=1)))
        found = float(weight_T @ _pairs(count_TG).sum(axis=1))
        of_group_G, square_G = weight_T @ count_TG, (weight_T**2) @ count_TG**2
        mixed = float((of_group_G**2 - square_G).sum() / 2)
        missed = 1 - found / true if true else float("nan")
        return missed, mixed / (found + mixed) if found + mixed else float("nan")

    whole = shares(np.ones(len(truth_V)))
    if np.isnan(whole).any():
        return None
    ends = [
        bootstrap_statistic(lambda weight_V, i=i: shares(weight_V)[i], truth_V, seed=seed)  # type: ignore[misc]
        for i in (0, 1)
    ]
    animals = len(np.unique(truth_V))
    missed, wrong = (
        _with_ends(value, end, animals) for value, end in zip(whole, ends, strict=True)
    )
    return with_bias(missed, wrong)


def _with_ends(value: float, ends: tuple[float, float] | None, animals: int) -> Estimate:
    """With a bootstrap's ends; with Wilson's, by the number of animals, where there are none, or
    where no resample could differ: what was never seen is not impossible."""
    if ends is None or value in (0, 1):
        return share_estimate(value, animals)
    return Estimate(value, *ends)


def _pairs(count: np.ndarray) -> np.ndarray:
    return np.asarray(count * (count - 1) / 2)


def rates_of_share(
    recognised: float, passed: float, animals: int, called_known: float | None
) -> MatchRates:
    """The rates of decisions by how a gallery answered its own animals: the share of known animals'
    photographs that were ``recognised``, and of new ones' that ``passed`` for known, each of
    ``animals`` animals (Wilson's intervals). ``called_known`` is the share of a run's photographs
    that were called known; None without a run, where nothing follows for abundance.

    The true share k of known animals follows by called_known = k recognised + (1 - k) passed
    (Rogan & Gladen 1978, "Estimating prevalence from the results of a screening test"), and an
    abundance from two visits is k / called_known of what it would be.

    >>> round(rates_of_share(0.8, 0.0, 10, 0.4).bias.value, 3)
    0.25
    """
    missed, wrong = (share_estimate(share, animals) for share in (1 - recognised, passed))

    def excess(missed: float, passed: float) -> float | None:
        if called_known is None or called_known <= passed or 1 - missed <= passed:
            return None
        return min((called_known - passed) / (1 - missed - passed), 1.0) / called_known - 1

    value = excess(missed.value, wrong.value)
    corners = [excess(a, b) for a, b in product((missed.low, missed.high), (wrong.low, wrong.high))]
    known = [corner for corner in corners if corner is not None]
    if value is None or len(known) < len(corners):
        return MatchRates(missed, wrong, None)
    return MatchRates(missed, wrong, Estimate(value, min(known), max(known)))


def share_estimate(share: float, count: int) -> Estimate:
    """A share with Wilson's interval, as if it were of ``count`` independent trials.

    >>> share_estimate(0.5, 10).low.__round__(3)
    0.237
    """
    ends = scipy.stats.binomtest(round(share * count), count).proportion_ci(method="wilson")
    low, high = min(float(ends.low), share), max(float(ends.high), share)
    return Estimate(share, low, high)
