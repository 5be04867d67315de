"""Retrieval metrics from exact ranks. Each per-query value is defined once, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from exreid.records import Ranking, RetrievalSide


@dataclass(frozen=True)
class QueryValues:
    """One metric before it is averaged: a value per query, and over what it is averaged."""

    value_Q: np.ndarray
    """float64; NaN where the query does not count in this metric."""
    average: Literal["queries", "identities"] = "queries"
    """``identities``: first over each identity's queries, then over identities."""


def first_rank(ranking: Ranking) -> np.ndarray:
    """int64 (Q,): the rank of each query's best positive, from 1; 0 without a positive."""
    has_positive_Q = _positive_counts(ranking) > 0
    rank_Q = np.zeros(ranking.query_count, np.int64)
    rank_Q[has_positive_Q] = ranking.positive_rank_P[
        ranking.positive_offset_Q1[:-1][has_positive_Q]
    ]
    return rank_Q


def average_precision(ranks: Sequence[int] | np.ndarray) -> float:
    """Mean over the positives of (positives up to here) / rank; 0.0 without a positive.

    ``ranks`` are the positives' ranks, rising, from 1.

    >>> average_precision([1, 3])
    0.8333333333333333
    >>> average_precision([])
    0.0
    """
    ranks_P = np.asarray(ranks, dtype=np.float64)
    if len(ranks_P) == 0:
        return 0.0
    return float(np.mean(np.arange(1, len(ranks_P) + 1) / ranks_P))


def average_precision_per_query(ranking: Ranking) -> np.ndarray:
    """float64 (Q,): `average_precision` of each query."""
    counts_Q = _positive_counts(ranking)
    starts_P = np.repeat(ranking.positive_offset_Q1[:-1], counts_Q)
    place_P = np.arange(len(ranking.positive_rank_P)) - starts_P + 1
    query_P = np.repeat(np.arange(ranking.query_count), counts_Q)
    sums_Q = np.bincount(
        query_P, weights=place_P / ranking.positive_rank_P, minlength=ranking.query_count
    )
    return sums_Q / np.maximum(counts_Q, 1)


def inverse_negative_penalty(ranking: Ranking) -> np.ndarray:
    """float64 (Q,): positives / rank of the last positive; 0 without a positive.

    Its mean is mINP (Ye et al. 2021, "Deep learning for person re-identification: a survey and
    outlook").
    """
    counts_Q = _positive_counts(ranking)
    has_positive_Q = counts_Q > 0
    last_Q = ranking.positive_offset_Q1[1:][has_positive_Q] - 1
    value_Q = np.zeros(ranking.query_count)
    value_Q[has_positive_Q] = counts_Q[has_positive_Q] / ranking.positive_rank_P[last_Q]
    return value_Q


def per_query_values(
    ranking: Ranking, *, top_k: Sequence[int] = (1, 5, 10), mean_ap: bool = True
) -> dict[str, QueryValues]:
    """Every metric before averaging, by its name.

    ``top_K`` and ``identity_top_K`` count over all queries: one without a positive is a miss.
    ``mAP`` and ``mINP`` count it as 0; ``*_with_positive`` leave it out. ``balanced_top_1`` is
    the mean over identities of each one's top-1.
    """
    rank_Q, identity_rank_Q = first_rank(ranking), ranking.identity_rank_Q
    skip_Q = np.where(rank_Q > 0, 0.0, np.nan)
    values = {f"top_{k}": QueryValues(_within(rank_Q, k)) for k in top_k}
    if mean_ap:
        precision_Q = average_precision_per_query(ranking)
        penalty_Q = inverse_negative_penalty(ranking)
        values["mAP"] = QueryValues(precision_Q)
        values["mAP_with_positive"] = QueryValues(precision_Q + skip_Q)
        values["mINP"] = QueryValues(penalty_Q)
        values["mINP_with_positive"] = QueryValues(penalty_Q + skip_Q)
    values["balanced_top_1"] = QueryValues(_within(rank_Q, 1), "identities")
    values |= {f"identity_top_{k}": QueryValues(_within(identity_rank_Q, k)) for k in top_k}
    return values


def identity_sums(values: QueryValues, identity_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numerator, denominator) per identity (I,), whose sums over identities give the metric."""
    _, index_Q = np.unique(identity_Q, return_inverse=True)
    counts_Q = ~np.isnan(values.value_Q)
    sum_I = np.bincount(index_Q, weights=np.where(counts_Q, values.value_Q, 0.0))
    count_I = np.bincount(index_Q, weights=counts_Q.astype(np.float64))
    if values.average == "identities":
        return sum_I / np.maximum(count_I, 1), (count_I > 0).astype(np.float64)
    return sum_I, count_I


def retrieval_metrics(
    ranking: Ranking,
    identity_Q: np.ndarray,
    *,
    top_k: Sequence[int] = (1, 5, 10),
    mean_ap: bool = True,
) -> dict[str, float]:
    """Each metric of `per_query_values`; one that no query counts in is left out."""
    metrics = {}
    for name, values in per_query_values(ranking, top_k=top_k, mean_ap=mean_ap).items():
        numerator_I, denominator_I = identity_sums(values, identity_Q)
        if denominator_I.sum() > 0:
            metrics[name] = float(numerator_I.sum() / denominator_I.sum())
    return metrics


def retrieval_counts(
    ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide
) -> dict[str, Any]:
    """How much there was, and how many queries and identities had nothing to find."""
    without_Q = _positive_counts(ranking) == 0
    identities = np.unique(queries.identity_N)
    answerable = np.unique(queries.identity_N[~without_Q])
    return {
        "queries": len(queries),
        "gallery_images": len(gallery),
        "query_identities": len(identities),
        "gallery_identities": len(np.unique(gallery.identity_N)),
        "queries_without_positive": int(without_Q.sum()),
        "identities_without_positive": len(identities) - len(answerable),
        "positive_pairs": len(ranking.positive_rank_P),
    }


def _positive_counts(ranking: Ranking) -> np.ndarray:
    return np.diff(ranking.positive_offset_Q1)


def _within(rank_Q: np.ndarray, k: int) -> np.ndarray:
    return ((rank_Q > 0) & (rank_Q <= k)).astype(np.float64)
