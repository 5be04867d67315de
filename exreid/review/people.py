"""How often a person is right, and how far two people agree.

Nobody tells a person's mistakes, so some pairs are asked twice: a person who is right with
probability r answers twice alike with r^2 + (1 - r)^2.

Letters: N pairs, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy

from exreid.review.decisions import Decision

PRIOR_RELIABILITY = 0.97
"""A guess for people who compare photographs of animals, near what is assumed for LCA (Stewart et
al. 2021, "The animal ID problem: continual curation", arXiv:2106.10377)."""
PRIOR_PAIRS = 20
"""As many pairs asked twice would say what the prior says."""
MOST_RELIABLE = 0.99
RESAMPLES = 2000


@dataclass(frozen=True)
class PersonReliability:
    """The probability that a person's answer is right."""

    value: float
    """The posterior mean, clipped to between 0.6 and 0.99."""
    low: float
    high: float
    """The ends of the 95% credible interval."""
    twice: int
    """Pairs that were asked twice."""
    alike: int
    """Those of them answered alike."""


def person_reliability(alike: int, twice: int) -> PersonReliability:
    """From pairs that a person answered twice, *can't tell* left out: a Beta posterior of the share
    of pairs answered alike, turned into the probability of being right, which is above 1/2.

    >>> person_reliability(0, 0).value
    0.97
    >>> person_reliability(30, 50).value
    0.814
    """
    agreed = PRIOR_RELIABILITY**2 + (1 - PRIOR_RELIABILITY) ** 2
    a, b = PRIOR_PAIRS * agreed + alike, PRIOR_PAIRS * (1 - agreed) + twice - alike
    low, high = (_right(float(end)) for end in scipy.stats.beta.ppf([0.025, 0.975], a, b))
    value = round(min(max(_right(a / (a + b)), 0.6), MOST_RELIABLE), 3)
    return PersonReliability(value, low, high, twice, alike)


def _right(agreed: float) -> float:
    return float((1 + np.sqrt(max(2 * agreed - 1, 0.0))) / 2)


@dataclass(frozen=True)
class Agreement:
    """Two people's answers about the same pairs."""

    pairs: int
    share: float
    """Of pairs with the same verdict."""
    share_low: float
    share_high: float
    """Wilson's 95% interval."""
    kappa: float
    """Cohen's kappa (1960): agreement beyond chance; NaN where both always say the same."""
    kappa_low: float
    kappa_high: float
    """The 95% bootstrap interval over pairs."""


def agreement(first_N: np.ndarray, second_N: np.ndarray, seed: int = 0) -> Agreement | None:
    """How far two people agree on N pairs, by integer codes of their verdicts; None without any."""
    if len(first_N) == 0:
        return None
    alike = int(np.count_nonzero(first_N == second_N))
    wilson = scipy.stats.binomtest(alike, len(first_N)).proportion_ci(method="wilson")
    drawn_RN = np.random.default_rng(seed).integers(0, len(first_N), (RESAMPLES, len(first_N)))
    kappas = np.array([cohen_kappa(first_N[row], second_N[row]) for row in drawn_RN])
    known = kappas[~np.isnan(kappas)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return Agreement(
        len(first_N),
        alike / len(first_N),
        float(wilson.low),
        float(wilson.high),
        cohen_kappa(first_N, second_N),
        float(low),
        float(high),
    )


def agreements(decisions: Sequence[Decision]) -> dict[tuple[str, str], Agreement]:
    """Of each two people who answered the same pairs of visits; of a person's answers about a pair
    the last, of rows that count (`decisions.standing`)."""
    verdicts: dict[str, dict[tuple[str, str], str]] = {}
    for row in decisions:
        if row.verdict != "name":
            verdicts.setdefault(row.who, {})[row.first, row.second] = row.verdict
    found = {}
    for one, other in combinations(sorted(verdicts), 2):
        shared = sorted(verdicts[one].keys() & verdicts[other].keys())
        codes = np.unique(
            np.array([[verdicts[who][pair] for pair in shared] for who in (one, other)], str),
            return_inverse=True,
        )[1].reshape(2, -1)
        both = agreement(codes[0], codes[1])
        if both is not None:
            found[one, other] = both
    return found


def cohen_kappa(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """(agreement - chance) / (1 - chance); NaN where chance alone agrees always.

    >>> cohen_kappa(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
    0.5
    """
    codes = np.union1d(first_N, second_N)
    share_1 = np.array([np.mean(first_N == code) for code in codes])
    share_2 = np.array([np.mean(second_N == code) for code in codes])
    chance = float(share_1 @ share_2)
    if chance >= 1:
        return float("nan")
    return (float(np.mean(first_N == second_N)) - chance) / (1 - chance)
