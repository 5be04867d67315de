"""From a `Ranking` to numbers: each metric's policy, per query first, averaged last.

A metric is defined once, as `QueryValues`: each query's value, which queries count, and whether
queries or identities are averaged. The metric and its interval (`uncertainty`) both come from that,
so that they have the same denominator.

Letters: Q queries, P positives of all queries together, I identities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exreid.errors import ConfigError
from exreid.plugins import METRICS, find_plugin
from exreid.records import Ranking, RetrievalSide


@dataclass(frozen=True)
class QueryValues:
    """One metric before it is averaged."""

    value_Q: np.ndarray
    """float64: each query's value."""
    counted_Q: np.ndarray
    """bool: the queries that the metric is an average over."""
    average: Literal["queries", "identities"] = "queries"
    """``queries``: each query weighs the same. ``identities``: each identity does, its value
    being the mean over its queries."""

    def __post_init__(self) -> None:
        if self.value_Q.shape != self.counted_Q.shape or self.value_Q.ndim != 1:
            raise ValueError(
                f"one value and one mark per query: {self.value_Q.shape} values, "
                f"{self.counted_Q.shape} marks."
            )


def first_rank(positive_offset_Q1: np.ndarray, positive_rank_P: np.ndarray) -> np.ndarray:
    """The rank of each query's best positive; 0 for a query without one.

    >>> first_rank(np.array([0, 2, 2, 3]), np.array([1, 3, 7]))
    array([1, 0, 7])
    """
    rank_Q = np.zeros(len(positive_offset_Q1) - 1, np.int64)
    some_Q = np.diff(positive_offset_Q1) > 0
    rank_Q[some_Q] = positive_rank_P[positive_offset_Q1[:-1][some_Q]]
    return rank_Q


def average_precision(positive_offset_Q1: np.ndarray, positive_rank_P: np.ndarray) -> np.ndarray:
    r"""The mean over a query's positives of the precision at each; 0.0 without a positive.

    With the positives of a query at the ranks :math:`r_1 < \dots < r_n`:
    :math:`AP = \frac{1}{n} \sum_{i=1}^{n} \frac{i}{r_i}`. There is no interpolation, and no
    depth at which the ranking is cut.

    >>> average_precision(np.array([0, 2, 2]), np.array([1, 3])).round(4)
    array([0.8333, 0.    ])
    """
    count_Q = np.diff(positive_offset_Q1)
    query_P = np.repeat(np.arange(len(count_Q)), count_Q)
    place_P = np.arange(1, len(query_P) + 1) - positive_offset_Q1[:-1][query_P]
    sum_Q = np.bincount(query_P, place_P / positive_rank_P, minlength=len(count_Q))
    return sum_Q / np.maximum(count_Q, 1)


def inverse_negative_penalty(
    positive_offset_Q1: np.ndarray, positive_rank_P: np.ndarray
) -> np.ndarray:
    r"""How soon the last positive is found: :math:`n / r_n`; 0.0 without a positive.

    1.0 when all positives come before all other candidates. Its mean is mINP (Ye et al. 2021,
    "Deep learning for person re-identification: a survey and outlook").

    >>> inverse_negative_penalty(np.array([0, 2, 2]), np.array([1, 8]))
    array([0.25, 0.  ])
    """
    count_Q = np.diff(positive_offset_Q1)
    penalty_Q = np.zeros(len(count_Q))
    some_Q = count_Q > 0
    last_Q = positive_rank_P[positive_offset_Q1[1:][some_Q] - 1]
    penalty_Q[some_Q] = count_Q[some_Q] / last_Q
    return penalty_Q


def hit(rank_Q: np.ndarray, k: int) -> np.ndarray:
    """1.0 where a rank is among the first ``k``, 0.0 elsewhere and where there is none (0).

    >>> hit(np.array([1, 0, 7]), 5)
    array([1., 0., 0.])
    """
    if k < 1:
        raise ValueError(f"top-k needs a k of at least 1, not {k}.")
    return ((rank_Q >= 1) & (rank_Q <= k)).astype(np.float64)


def average_precision_at(
    positive_offset_Q1: np.ndarray, positive_rank_P: np.ndarray, depth: int
) -> np.ndarray:
    r"""Average precision over the first ``depth`` candidates alone.

    :math:`AP@k = \frac{1}{\min(n, k)} \sum_{r_i \le k} \frac{i}{r_i}` for n positives at the
    ranks :math:`r_i`: 1.0 when the first candidates are positives as far as there are any.

    >>> average_precision_at(np.array([0, 2, 2]), np.array([1, 9]), 5)
    array([0.5, 0. ])
    """
    count_Q = np.diff(positive_offset_Q1)
    query_P = np.repeat(np.arange(len(count_Q)), count_Q)
    place_P = np.arange(1, len(query_P) + 1) - positive_offset_Q1[:-1][query_P]
    precision_P = np.where(positive_rank_P <= depth, place_P / positive_rank_P, 0.0)
    sum_Q = np.bincount(query_P, precision_P, minlength=len(count_Q))
    return sum_Q / np.maximum(np.minimum(count_Q, depth), 1)


def share_within(
    positive_offset_Q1: np.ndarray, positive_rank_P: np.ndarray, depth: int
) -> np.ndarray:
    """The share of each query's positives among its first ``depth`` candidates; 0.0 without any.

    >>> share_within(np.array([0, 2, 2]), np.array([1, 9]), 5)
    array([0.5, 0. ])
    """
    count_Q = np.diff(positive_offset_Q1)
    query_P = np.repeat(np.arange(len(count_Q)), count_Q)
    inside_Q = np.bincount(query_P, positive_rank_P <= depth, minlength=len(count_Q))
    return inside_Q / np.maximum(count_Q, 1)


def query_values(
    ranking: Ranking,
    *,
    top_k: Sequence[int] = (1, 5, 10),
    mean_ap: bool = True,
    shortlist: int | None = None,
    open_split: bool = False,
    more: Sequence[str] = (),
) -> dict[str, QueryValues]:
    """Each metric's value for each query; `retrieval_metrics` defines the metrics. ``more``
    names those of other packages (`exreid.plugins`)."""
    offset_Q1, rank_P = ranking.positive_offset_Q1, ranking.positive_rank_P
    first_Q = first_rank(offset_Q1, rank_P)
    every_Q = np.ones(len(first_Q), bool)
    table = {f"top_{k}": QueryValues(hit(first_Q, k), every_Q) for k in top_k}
    if open_split and not np.all(first_Q > 0):
        table |= {
            f"top_{k}_with_positive": QueryValues(hit(first_Q, k), first_Q > 0) for k in top_k
        }
    if shortlist is not None:
        table |= _shortlist_values(offset_Q1, rank_P, first_Q, shortlist, mean_ap=mean_ap)
    elif mean_ap:
        for name, value_Q in (
            ("mAP", average_precision(offset_Q1, rank_P)),
            ("mINP", inverse_negative_penalty(offset_Q1, rank_P)),
        ):
            table[name] = QueryValues(value_Q, every_Q)
            table[f"{name}_with_positive"] = QueryValues(value_Q, first_Q > 0)
    table["balanced_top_1"] = QueryValues(hit(first_Q, 1), every_Q, average="identities")
    for k in top_k:
        table[f"identity_top_{k}"] = QueryValues(hit(ranking.identity_rank_Q, k), every_Q)
    return table | {name: _of_package(name, ranking) for name in more}


def _of_package(name: str, ranking: Ranking) -> QueryValues:
    """A metric of another package: its callable takes the ranking and returns float64 (Q,), NaN for
    queries that do not count."""
    plugin = find_plugin(METRICS, name)
    if plugin is None:
        raise ConfigError(f"benchmark.metrics: no installed package registers {name!r}.")
    value_Q = plugin.make(np.ndarray, ranking)
    if value_Q.shape != (ranking.query_count,) or value_Q.dtype != np.float64:
        raise ConfigError(
            f"benchmark.metrics: {name!r} of {plugin.package} (entry point {METRICS}) returned "
            f"{value_Q.dtype} of shape {value_Q.shape}; float64 of shape ({ranking.query_count},) "
            "is needed."
        )
    return QueryValues(np.nan_to_num(value_Q), ~np.isnan(value_Q))


def _shortlist_values(
    offset_Q1: np.ndarray, rank_P: np.ndarray, first_Q: np.ndarray, shortlist: int, *, mean_ap: bool
) -> dict[str, QueryValues]:
    every_Q, some_Q = np.ones(len(first_Q), bool), first_Q > 0
    table = {
        "shortlist_recall": QueryValues(share_within(offset_Q1, rank_P, shortlist), some_Q),
        "shortlist_hit": QueryValues(hit(first_Q, shortlist), every_Q),
    }
    if mean_ap:
        value_Q = average_precision_at(offset_Q1, rank_P, shortlist)
        table["mAP_at_k"] = QueryValues(value_Q, every_Q)
        table["mAP_at_k_with_positive"] = QueryValues(value_Q, some_Q)
    return table


def identity_sums(
    values: QueryValues, identity_Q: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The identities of the counted queries (sorted), and each one's sum of values and count.

    The order of the queries changes no bit: an identity's values are added from the lowest up.

    >>> values = QueryValues(np.array([1.0, 0.0, 1.0]), np.array([True, True, False]))
    >>> [array.tolist() for array in identity_sums(values, np.array([8, 8, 3]))]
    [[8], [1.0], [2]]
    """
    value_N = values.value_Q[values.counted_Q]
    rising_N = np.argsort(value_N)
    value_N, identity_N = value_N[rising_N], identity_Q[values.counted_Q][rising_N]
    identity_I, place_N = np.unique(identity_N, return_inverse=True)
    sum_I = np.bincount(place_N, value_N, minlength=len(identity_I))
    return identity_I, sum_I, np.bincount(place_N, minlength=len(identity_I))


def average_values(table: Mapping[str, QueryValues], identity_Q: np.ndarray) -> dict[str, float]:
    """The averaged metrics; one that no query counts for is left out.

    The order of the queries changes no bit of them.
    """
    metrics = {}
    for name, values in table.items():
        if len(values.value_Q) != len(identity_Q):
            raise ValueError(
                f"{name}: {len(values.value_Q)} values, {len(identity_Q)} query identities."
            )
        identity_I, sum_I, count_I = identity_sums(values, identity_Q)
        if len(identity_I) == 0:
            continue
        if values.average == "identities":
            metrics[name] = float(np.mean(sum_I / count_I))
        else:
            metrics[name] = math.fsum(values.value_Q[values.counted_Q]) / int(count_I.sum())
    return metrics


def retrieval_metrics(
    ranking: Ranking,
    query_identity_Q: np.ndarray,
    *,
    top_k: Sequence[int] = (1, 5, 10),
    mean_ap: bool = True,
    shortlist: int | None = None,
    open_split: bool = False,
    more: Sequence[str] = (),
) -> dict[str, float]:
    """The metrics of a ranking, as fractions.

    - ``top_k``: the share of all queries with a positive among the first k candidates. A query
      without any positive is a miss; with ``open_split``, where such queries are new animals and no
      mistakes, ``top_k_with_positive`` is the share of the others.
    - ``mAP``, ``mINP``: the means of `average_precision` and `inverse_negative_penalty` over all
      queries, those without a positive counting 0; ``..._with_positive``: over the others only.
    - ``balanced_top_1``: the mean over query identities of each one's own top-1.
    - ``identity_top_k``: the share of all queries whose identity is among the first k
      identities, each identity at the place of its best candidate.

    With ``shortlist``, the depth to which the candidates were re-ranked, mAP and mINP, which look
    deeper, give way to

    - ``mAP_at_k``: the mean of `average_precision_at` that depth, over all queries and over those
      ``..._with_positive``.
    - ``shortlist_recall``: the mean share of a query's positives on its shortlist, over queries
      with a positive. ``shortlist_hit``: the share of all queries with one there at all, which no
      top-k of re-ranking can pass.

    ``more`` names metrics of other packages (`exreid.plugins`).

    A metric that no query counts for is left out: all of them without queries, and the
    ``..._with_positive`` ones when no query has a positive.
    """
    values = query_values(
        ranking,
        top_k=top_k,
        mean_ap=mean_ap,
        shortlist=shortlist,
        open_split=open_split,
        more=more,
    )
    return average_values(values, query_identity_Q)


def retrieval_counts(
    ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide
) -> dict[str, int]:
    """The counts behind the metrics; an identity without a positive has no query with one."""
    has_positive_Q = np.diff(ranking.positive_offset_Q1) > 0
    query_identities = np.unique(queries.identity_N)
    with_positive = np.unique(queries.identity_N[has_positive_Q])
    return {
        "queries": len(queries),
        "gallery_images": len(gallery),
        "query_identities": len(query_identities),
        "gallery_identities": len(np.unique(gallery.identity_N)),
        "queries_without_positive": int(np.count_nonzero(~has_positive_Q)),
        "identities_without_positive": len(query_identities) - len(with_positive),
        "positives": len(ranking.positive_rank_P),
        "candidates_min": int(ranking.candidate_count_Q.min(initial=len(gallery))),
        "candidates_max": int(ranking.candidate_count_Q.max(initial=0)),
    }
