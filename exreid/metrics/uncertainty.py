"""Intervals around metrics: a bootstrap over identities, not over images.

The images of one animal resemble each other, and so do their scores. Drawing images as if they
were independent gives intervals that are too narrow; the identities are what was sampled from
the population, so identities are drawn, each with all its queries (the cluster bootstrap:
Efron & Tibshirani 1993, "An introduction to the bootstrap"; Field & Welsh 2007, "Bootstrapping
clustered data"). The number itself stays the one of `retrieval.average_values`.

Letters: Q queries, I identities, R resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from exreid.metrics.retrieval import QueryValues, identity_sums

MAX_DRAWS = 2_000_000
"""Identities drawn at a time; bounds the memory, and changes no number."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def bootstrap_intervals(
    table: Mapping[str, QueryValues],
    identity_Q: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    r"""The ends of each metric's percentile interval, from `retrieval.query_values`.

    A resample draws as many identities as there are, with replacement. A metric over queries
    is then :math:`\sum_i w_i s_i / \sum_i w_i n_i`, with :math:`w_i` how often identity i was
    drawn, :math:`s_i` the sum of its values and :math:`n_i` its number of counted queries; a
    metric over identities is :math:`\sum_i w_i (s_i / n_i) / \sum_i w_i` over those that count.
    All metrics see the same resamples. One in which no query counts for a metric is passed over.

    A metric with fewer than two counted identities is left out: nothing is known of how identities
    differ.

    >>> values = QueryValues(np.array([1.0, 1.0, 0.0, 0.0]), np.ones(4, bool))
    >>> bootstrap_intervals({"top_1": values}, np.array([0, 0, 1, 1]))
    {'top_1': (0.0, 1.0)}
    >>> bootstrap_intervals({"top_1": values}, np.zeros(4, int))
    {}
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"an interval needs resamples >= 1 and a level between 0 and 1, not {resamples} "
            f"and {level}."
        )
    identity_I = np.unique(identity_Q)
    weighed = {}
    for name, values in table.items():
        numerator_I, denominator_I = _ratio_parts(values, identity_Q, identity_I)
        if np.count_nonzero(denominator_I) >= 2:
            weighed[name] = (numerator_I, denominator_I)
    if not weighed:
        return {}
    numerator_IM = np.stack([numerator_I for numerator_I, _ in weighed.values()], axis=1)
    denominator_IM = np.stack([denominator_I for _, denominator_I in weighed.values()], axis=1)
    resampled_RM = np.concatenate(
        [
            _ratio(weight_RI @ numerator_IM, weight_RI @ denominator_IM)
            for weight_RI in _identity_weights(len(identity_I), resamples, seed)
        ]
    )
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, resampled_R in zip(weighed, resampled_RM.T, strict=True):
        known_R = resampled_R[~np.isnan(resampled_R)]
        if len(known_R):
            low, high = np.quantile(known_R, tails)
            intervals[name] = (float(low), float(high))
    return intervals


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    identity_Q: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of a statistic that is no mean over queries; the draws are those of
    `bootstrap_intervals`.

    ``statistic`` takes how often each query was drawn (with its identity), float64 (Q,). Resamples
    for which it is NaN are passed over; None for fewer than two identities.
    """
    identity_I, place_Q = np.unique(identity_Q, return_inverse=True)
    if len(identity_I) < 2:
        return None
    resampled = [
        statistic(weight_I[place_Q])
        for weight_RI in _identity_weights(len(identity_I), resamples, seed)
        for weight_I in weight_RI
    ]
    known = np.array(resampled)[~np.isnan(resampled)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ratio_parts(
    values: QueryValues, identity_Q: np.ndarray, identity_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The addends of each identity to a metric's numerator and denominator, for one draw of it."""
    counted_identity, total, count = identity_sums(values, identity_Q)
    place = np.searchsorted(identity_I, counted_identity)
    numerator_I = np.zeros(len(identity_I))
    denominator_I = np.zeros(len(identity_I))
    by_identity = values.average == "identities"
    numerator_I[place] = total / count if by_identity else total
    denominator_I[place] = 1 if by_identity else count
    return numerator_I, denominator_I


def _identity_weights(identity_count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each identity was drawn, float64, a few resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, MAX_DRAWS // identity_count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn_RI = rng.integers(0, identity_count, size=(rows, identity_count))
        drawn_RI += np.arange(rows)[:, None] * identity_count
        weight = np.bincount(drawn_RI.ravel(), minlength=rows * identity_count)
        yield weight.reshape(rows, identity_count).astype(np.float64)


def _ratio(numerator_RM: np.ndarray, denominator_RM: np.ndarray) -> np.ndarray:
    """The quotient, NaN where nothing was counted."""
    nan_RM = np.full_like(numerator_RM, np.nan)
    return np.divide(numerator_RM, denominator_RM, out=nan_RM, where=denominator_RM > 0)
