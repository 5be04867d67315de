"""Confidence intervals: bootstraps over identities, since one animal's images are no independent
samples (Efron and Tibshirani 1993; Field and Welsh 2007 on the cluster bootstrap)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exreid.metrics.retrieval import QueryValues, identity_sums

CHUNK_BYTES = 32 * 2**20


def bootstrap_intervals(
    values: Mapping[str, QueryValues],
    identity_Q: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The percentile interval of each metric when its identities are drawn anew.

    Each resample draws as many identities as there are, with replacement, and takes all queries
    of each. Nothing is known of the spread between animals from a single one: then, and for a
    metric that no query counts in, there is no interval.
    """
    identity_count = len(np.unique(identity_Q))
    if identity_count < 2:
        return {}
    sums = {name: identity_sums(value, identity_Q) for name, value in values.items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in sums}
    random = np.random.default_rng(seed)
    chunk = max(1, CHUNK_BYTES // (8 * identity_count))
    equal = np.full(identity_count, 1.0 / identity_count)
    for start in range(0, resamples, chunk):
        times_RI = random.multinomial(identity_count, equal, size=min(chunk, resamples - start))
        for name, (numerator_I, denominator_I) in sums.items():
            with np.errstate(invalid="ignore"):
                drawn[name].append((times_RI @ numerator_I) / (times_RI @ denominator_I))
    ends = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, parts in drawn.items():
        metric_R = np.concatenate(parts)
        metric_R = metric_R[~np.isnan(metric_R)]  # a resample may hold no query that counts
        if len(metric_R):
            low, high = np.quantile(metric_R, ends)
            intervals[name] = (float(low), float(high))
    return intervals
