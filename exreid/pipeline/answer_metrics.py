"""The metrics of a probe's answers: encounters, decisions known/new, groups of new animals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.metrics.grouping import adjusted_rand_index, drawn_rand_index
from exreid.metrics.openset import (
    Answers,
    balanced_accuracies,
    detection_auroc,
    rates_at,
    right_auroc,
)
from exreid.metrics.retrieval import QueryValues, average_values, hit, identity_sums
from exreid.metrics.uncertainty import bootstrap_intervals, bootstrap_statistic
from exreid.pipeline.answers import AnswerTables
from exreid.records import Result

Metrics = dict[str, float]
Intervals = dict[str, tuple[float, float]]
RATES = {"1": 0.01, "5": 0.05}


def with_answers(result: Result, tables: AnswerTables, config: ProbeConfig) -> Result:
    """The result with the metrics of the answers.

    - ``encounter_top_k``: the share of (encounter, identity) pairs of the queries whose identity is
      among the first k when the images of the encounter are pooled.
    - ``new_auroc``, ``right_auroc``, ``tpr_at_fpr_1``, ``dir_at_fpr_1`` (and 5): how well the
      stated probability tells known from new animals; see `exreid.metrics.openset`. Without a
      right answer there is no ``right_auroc``.
    - ``new_ari``: the adjusted Rand index of the groups of queries that were called new, against
      their identities; ``new_ari_visits``: that of one group per encounter, for comparison.
    - ``BAKS``, ``BAUS``, ``open_set_score`` (their geometric mean), ``false_match_rate``: of the
      decisions, by the threshold that was chosen on the database.
    """
    metrics, intervals = dict(result.metrics), dict(result.intervals)
    for more_metrics, more_intervals in (
        _encounter_metrics(tables.encounters, config),
        _open_set_metrics(tables.open_set, config),
        _new_animal_metrics(tables.new_animals, config),
    ):
        metrics |= more_metrics
        intervals |= more_intervals
    return replace(result, metrics=metrics, intervals=intervals)


def _encounter_metrics(table: pa.Table | None, config: ProbeConfig) -> tuple[Metrics, Intervals]:
    if table is None:
        return {}, {}
    rows = table.to_pandas()
    rank = rows["identity_rank"].to_numpy()
    every = np.ones(len(rows), bool)
    values = {
        f"encounter_top_{k}": QueryValues(hit(rank, k), every) for k in config.benchmark.top_k
    }
    return _measured(values, pd.factorize(rows["identity"], sort=True)[0], config)


def _open_set_metrics(decided: pa.Table | None, config: ProbeConfig) -> tuple[Metrics, Intervals]:
    if decided is None:
        return {}, {}
    rows = decided.to_pandas()
    identity_Q = pd.factorize(rows["identity"], sort=True)[0]
    answers = Answers(
        rows["known_probability"].to_numpy(),
        rows["is_known"].to_numpy(),
        rows["is_right"].to_numpy(),
        identity_Q,
    )
    # Decided by a threshold, or by that of the query's fold.
    accepted_Q = (rows["decision"] == "known").to_numpy()
    table = balanced_accuracies(replace(answers, score_Q=accepted_Q.astype(np.float64)), 0.5)
    # Averaged as the rate is promised, so that the two can be compared.
    table["false_match_rate"] = QueryValues(
        accepted_Q.astype(np.float64),
        ~answers.known_Q,
        "identities" if config.benchmark.open_set.promise == "animals" else "queries",
    )
    metrics, intervals = _measured(table, identity_Q, config)
    if not {"BAKS", "BAUS"} <= set(metrics):
        return metrics, intervals
    for name, rate in RATES.items():
        metrics[f"tpr_at_fpr_{name}"], metrics[f"dir_at_fpr_{name}"] = rates_at(answers, rate)
    statistics: dict[str, Callable[[np.ndarray], float]] = {
        "new_auroc": partial(detection_auroc, answers),
        "open_set_score": _geometric(table, identity_Q),
    }
    if answers.right_Q.any():
        statistics["right_auroc"] = partial(right_auroc, answers)
    metrics |= {name: statistic(np.ones(len(rows))) for name, statistic in statistics.items()}
    return metrics, intervals | _statistic_intervals(statistics, identity_Q, config)


def _new_animal_metrics(grouped: pa.Table | None, config: ProbeConfig) -> tuple[Metrics, Intervals]:
    if grouped is None:
        return {}, {}
    rows = grouped.to_pandas()
    if len(rows) < 2:
        return {}, {}
    identity_N = pd.factorize(rows["identity"], sort=True)[0]
    visit = rows["encounter"].where(rows["encounter"].notna(), rows["query_id"])
    groups = {"new_ari": rows["group"].to_numpy()}
    if rows["encounter"].notna().any():
        groups["new_ari_visits"] = pd.factorize(visit)[0]
    metrics = {name: adjusted_rand_index(identity_N, group_N) for name, group_N in groups.items()}
    statistics = {name: drawn_rand_index(identity_N, group_N) for name, group_N in groups.items()}
    return metrics, _statistic_intervals(statistics, identity_N, config)


def _statistic_intervals(
    statistics: Mapping[str, Callable[[np.ndarray], float]],
    identity_Q: np.ndarray,
    config: ProbeConfig,
) -> Intervals:
    """The 95% intervals of statistics of weighted queries; one without an interval is left out."""
    resamples = config.benchmark.bootstrap_resamples
    if not resamples:
        return {}
    intervals = {
        name: bootstrap_statistic(statistic, identity_Q, resamples=resamples, seed=config.seed)
        for name, statistic in statistics.items()
    }
    return {name: interval for name, interval in intervals.items() if interval is not None}


def _geometric(
    table: dict[str, QueryValues], identity_Q: np.ndarray
) -> Callable[[np.ndarray], float]:
    """The geometric mean of BAKS and BAUS, of weighted queries: each identity counts as often as
    it was drawn."""
    _, first_I, place_Q = np.unique(identity_Q, return_index=True, return_inverse=True)
    parts = []
    for name in ("BAKS", "BAUS"):
        identity_I, sum_I, count_I = identity_sums(table[name], place_Q)
        parts.append((first_I[identity_I], sum_I / count_I))

    def statistic(weight_Q: np.ndarray) -> float:
        means = []
        for query_I, value_I in parts:
            drawn_I = weight_Q[query_I]
            if drawn_I.sum() == 0:
                return float("nan")
            means.append(float(drawn_I @ value_I / drawn_I.sum()))
        return float(np.sqrt(means[0] * means[1]))

    return statistic


def _measured(
    table: dict[str, QueryValues], identity_Q: np.ndarray, config: ProbeConfig
) -> tuple[Metrics, Intervals]:
    metrics = average_values(table, identity_Q)
    resamples = config.benchmark.bootstrap_resamples
    if not resamples:
        return metrics, {}
    intervals = bootstrap_intervals(table, identity_Q, resamples=resamples, seed=config.seed)
    return metrics, intervals
