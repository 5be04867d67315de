"""How well stated probabilities fit the truth: reliability, calibration error, Brier score.

Letters: P pairs, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: the observed share of same-animal pairs by stated probability."""

    edge_B1: np.ndarray
    """float64, from 0 to 1; a bin includes its lower edge, the last one its upper edge too."""
    weight_B: np.ndarray
    """float64: the pairs in the bin, by weight."""
    stated_B: np.ndarray
    """float64: the mean stated probability; NaN in an empty bin."""
    observed_B: np.ndarray
    """float64: the share of pairs of the same animal; NaN in an empty bin."""


def reliability(
    prob_P: np.ndarray,
    same_P: np.ndarray,
    *,
    weight_P: np.ndarray | None = None,
    bins: int = 10,
    equal_count: bool = False,
) -> Reliability:
    """The reliability diagram of held-out pairs, in bins of equal width; with ``equal_count``, of
    about equally many pairs, whatever their weight (fewer bins where probabilities tie).

    >>> diagram = reliability(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1]), bins=2)
    >>> diagram.stated_B.tolist(), diagram.observed_B.tolist()
    ([0.2, 0.9], [0.5, 1.0])
    """
    prob_P, same_P, weight_P = _checked(prob_P, same_P, weight_P)
    if bins < 1:
        raise ValueError(f"a reliability diagram needs at least one bin, not {bins}.")
    edge_B1 = np.arange(bins + 1) / bins
    if equal_count:
        inner = np.quantile(prob_P, edge_B1[1:-1])
        edge_B1 = np.unique(np.concatenate([[0.0], inner, [1.0]]))
        bins = len(edge_B1) - 1
    bin_P = np.clip(np.searchsorted(edge_B1, prob_P, side="right") - 1, 0, bins - 1)
    weight_B = np.bincount(bin_P, weight_P, minlength=bins)
    stated_B, observed_B = (
        np.divide(
            np.bincount(bin_P, weight_P * value_P, minlength=bins),
            weight_B,
            out=np.full(bins, np.nan),
            where=weight_B > 0,
        )
        for value_P in (prob_P, same_P)
    )
    return Reliability(edge_B1, weight_B, stated_B, observed_B)


def expected_calibration_error(
    prob_P: np.ndarray, same_P: np.ndarray, *, weight_P: np.ndarray | None = None, bins: int = 10
) -> float:
    r"""How far the stated probability is off, on average: :math:`\sum_b w_b |o_b - s_b| / w`,
    over bins of equal width (Naeini, Cooper & Hauskrecht 2015); 0.0 is best.

    >>> round(expected_calibration_error(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1]), bins=2), 6)
    0.233333
    """
    diagram = reliability(prob_P, same_P, weight_P=weight_P, bins=bins)
    full_B = diagram.weight_B > 0
    gap_B = np.abs(diagram.observed_B - diagram.stated_B)[full_B]
    return float(np.average(gap_B, weights=diagram.weight_B[full_B]))


def brier_score(
    prob_P: np.ndarray, same_P: np.ndarray, *, weight_P: np.ndarray | None = None
) -> float:
    """The mean squared distance of the probability from the answer (Brier 1950); 0.0 is best.

    >>> brier_score(np.array([0.5, 1.0]), np.array([True, True]))
    0.125
    """
    prob_P, same_P, weight_P = _checked(prob_P, same_P, weight_P)
    return float(np.average((prob_P - same_P) ** 2, weights=weight_P))


def _checked(
    prob_P: np.ndarray, same_P: np.ndarray, weight_P: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prob_P, same_P = np.asarray(prob_P, np.float64), np.asarray(same_P, np.float64)
    weight_P = np.ones(len(prob_P)) if weight_P is None else np.asarray(weight_P, np.float64)
    if len(prob_P) == 0 or not prob_P.shape == same_P.shape == weight_P.shape:
        raise ValueError("one probability, one answer and one weight per pair, and some pairs.")
    if not np.all((prob_P >= 0) & (prob_P <= 1)):
        raise ValueError("a probability is a number from 0 to 1: calibrate the scores first.")
    if not (np.all(weight_P >= 0) and weight_P.sum() > 0):
        raise ValueError("the weights of pairs are 0 or more, and not all 0.")
    return prob_P, same_P, weight_P
