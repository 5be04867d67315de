"""A probe's answers by identity and by encounter, known or new, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.config.benchmark import OpenSetConfig
from exreid.config.probe import ProbeConfig
from exreid.explain.plots import draw_open_set
from exreid.metrics.grouping import adjusted_rand_index, drawn_rand_index
from exreid.metrics.identities import identity_answers, pool_encounters
from exreid.metrics.openset import (
    Answers,
    balanced_accuracies,
    detection_auroc,
    open_set_curve,
    rates_at,
)
from exreid.metrics.retrieval import QueryValues, average_values, hit, identity_sums
from exreid.metrics.uncertainty import bootstrap_intervals, bootstrap_statistic
from exreid.openset.decide import Decider, Decisions
from exreid.openset.group import Grouping, new_animals_table
from exreid.pipeline.retrieve import Retrieval
from exreid.records import Json, Result
from exreid.storage.run_files import (
    NEW_ANIMALS,
    NUMBER,
    OPEN_SET,
    TEXT,
    TRUTH,
    WHOLE,
    read_run_table,
)
from exreid.storage.run_folder import write_table, write_text

KEPT_IDENTITIES = 10
"""Of each query in answers.parquet."""
ANSWER_COLUMNS = (
    *("query_id", "rank", "identity", "score", "best_gallery_id", "images", "is_match"),
)
Metrics = dict[str, float]
Intervals = dict[str, tuple[float, float]]
RATES = {"1": 0.01, "5": 0.05}
OPEN_SET_FILE, ENCOUNTER_FILE = "open_set.parquet", "encounters.parquet"
NEW_ANIMALS_FILE = "new_animals.parquet"


@dataclass(frozen=True)
class AnswerTables:
    """The tables of the answers, as written; None for a table that a run does not have."""

    answers: pa.Table | None = None
    """``answers.parquet``: the best identities of each query."""
    encounters: pa.Table | None = None
    """``encounters.parquet``: a row for each encounter and identity of the queries."""
    open_set: pa.Table | None = None
    """``open_set.parquet``: the decision for each query."""
    new_animals: pa.Table | None = None
    """``new_animals.parquet``: a row for each query that was called new and grouped."""


def answer_tables(retrieval: Retrieval, config: ProbeConfig) -> AnswerTables:
    """The answers by identity and by encounter, known or new, and the new animals."""
    names, decisions = names_of(retrieval), retrieval.decisions
    encounters = open_set = None
    if np.any(retrieval.queries.encounter_N >= 0):
        encounters = _encounter_table(retrieval, names)
    if decisions is not None:
        open_set = _open_set_table(retrieval, decisions, names)
    answers = answer_table(retrieval, names, config)
    return AnswerTables(answers, encounters, open_set, new_animals_of(retrieval))


def new_animals_of(retrieval: Retrieval) -> pa.Table | None:
    """``new_animals.parquet``, where queries that were called new were grouped."""
    decisions = retrieval.decisions
    if decisions is None or decisions.new_animals is None:
        return None
    return new_animals_table(
        decisions.new_animals, retrieval.queries, retrieval.table, decisions.probability_Q
    )


def read_answer_tables(folder: Path) -> AnswerTables:
    """The tables of a finished run that metrics need; RunError for a damaged one."""
    return AnswerTables(
        None,
        _read(folder / ENCOUNTER_FILE, {"identity_rank": WHOLE}, empty={"identity": TEXT}),
        _read(
            folder / OPEN_SET_FILE,
            OPEN_SET | {"known_probability": NUMBER, "is_known": TRUTH, "is_right": TRUTH},
            empty={"identity": TEXT},
            key="query_id",
        ),
        _read(
            folder / NEW_ANIMALS_FILE,
            NEW_ANIMALS,
            empty={"identity": TEXT, "encounter": TEXT},
            key="query_id",
        ),
    )


def _read(file: Path, columns: dict[str, Any], **how: Any) -> pa.Table | None:
    return read_run_table(file, columns, **how) if file.exists() else None


def write_tables(folder: Path, tables: AnswerTables) -> None:
    """Write each table to its file."""
    for name, table in (
        ("answers.parquet", tables.answers),
        (ENCOUNTER_FILE, tables.encounters),
        (OPEN_SET_FILE, tables.open_set),
        (NEW_ANIMALS_FILE, tables.new_animals),
    ):
        if table is not None:
            write_table(folder / name, table)


def write_evidence(folder: Path, retrieval: Retrieval) -> None:
    """``fusion.parquet`` and ``budget.parquet``: the parts of fused scores, and the pairs matched
    for each query."""
    fused = retrieval.fused
    if retrieval.evidence is not None:
        write_table(folder / "fusion.parquet", retrieval.evidence)
    if fused is not None and fused.budget is not None:
        budget = fused.budget.table(retrieval.queries, fused.query_P)
        write_table(folder / "budget.parquet", budget)


def write_decisions(folder: Path, retrieval: Retrieval, config: ProbeConfig) -> None:
    """``open_set.json`` and ``.png``, where known and new are told apart."""
    decisions = retrieval.decisions
    if decisions is None:
        return
    content = open_set_content(decisions.deciders, decisions.calibration, config.benchmark.open_set)
    if decisions.new_animals is not None:
        content["new_animals"] = grouping_figures(decisions.new_animals.grouping)
    write_text(folder / "open_set.json", json.dumps(content, indent=1) + "\n")
    own_Q, known_Q, right_Q = _truth(retrieval, decisions)
    if known_Q.any() and not known_Q.all():
        answered = Answers(decisions.probability_Q, known_Q, right_Q, own_Q)
        draw_open_set(folder / "open_set.png", *open_set_curve(answered))


def with_answers(result: Result, tables: AnswerTables, config: ProbeConfig) -> Result:
    """The result with the metrics of the answers.

    - ``encounter_top_k``: the share of (encounter, identity) pairs of the queries whose identity is
      among the first k when the images of the encounter are pooled.
    - ``new_auroc``, ``tpr_at_fpr_1``, ``dir_at_fpr_1`` (and 5): how well the stated probability
      tells known from new animals; see `exreid.metrics.openset`.
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


def names_of(retrieval: Retrieval) -> dict[int, str]:
    """The identities by their codes."""
    identity = retrieval.table.rows["identity"]
    return {
        int(code): identity.iloc[place]
        for side in (retrieval.queries, retrieval.gallery)
        for code, place in zip(side.identity_N, side.position_N, strict=True)
    }


def answer_table(retrieval: Retrieval, names: dict[int, str], config: ProbeConfig) -> pa.Table:
    """``answers.parquet``: the best identities of each query."""
    benchmark = config.benchmark
    columns: dict[str, list[str | float]] = {name: [] for name in ANSWER_COLUMNS}
    answers = identity_answers(
        retrieval.ranking,
        retrieval.gallery.identity_N,
        how=benchmark.identity_score,
        top=benchmark.identity_top_n,
    )
    for q, answer in enumerate(answers):
        own = retrieval.queries.identity_N[q]
        for rank, code in enumerate(answer.identity_A[:KEPT_IDENTITIES].tolist()):
            columns["query_id"].append(retrieval.queries.image_ids[q])
            columns["rank"].append(rank + 1)
            columns["identity"].append(names[code])
            columns["score"].append(float(answer.score_A[rank]))
            columns["best_gallery_id"].append(retrieval.gallery.image_ids[answer.best_A[rank]])
            columns["images"].append(int(answer.images_A[rank]))
            columns["is_match"].append(bool(code == own))
    return pa.table(columns)


def _encounter_table(retrieval: Retrieval, names: dict[int, str]) -> pa.Table:
    queries = retrieval.queries
    known = queries.encounter_N >= 0
    key_Q = queries.encounter_N.astype(np.int64) * (queries.identity_N.max() + 1)
    group_Q = np.where(known, key_Q + queries.identity_N, -1)
    rows = []
    encounters = retrieval.table.rows["encounter"]
    pooled = pool_encounters(retrieval.ranking, retrieval.gallery.identity_N, group_Q)
    for _, members, answer in pooled:
        own = int(queries.identity_N[members[0]])
        place = np.flatnonzero(answer.identity_A == own)
        some = len(answer.identity_A) > 0
        rows.append(
            {
                "encounter": encounters.iloc[queries.position_N[members[0]]],
                "identity": names[own],
                "photos": len(members),
                "identity_rank": int(place[0]) + 1 if len(place) else 0,
                "leader": names[int(answer.identity_A[0])] if some else None,
                "score": float(answer.score_A[0]) if some else None,
            }
        )
    return pa.Table.from_pylist(rows)


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


def _open_set_table(retrieval: Retrieval, decisions: Decisions, names: dict[int, str]) -> pa.Table:
    top = decisions.top
    own_Q, known_Q, right_Q = _truth(retrieval, decisions)
    return pa.table(
        {
            "query_id": retrieval.queries.image_ids,
            "identity": [names[int(code)] for code in own_Q],
            "leader": [names.get(int(code)) for code in top.identity_Q],
            "score": top.score_Q,
            "margin": top.margin_Q,
            "known_probability": decisions.probability_Q,
            "decision": np.where(decisions.known_Q, "known", "new"),
            "is_known": known_Q,
            "is_right": right_Q,
        }
    )


def _truth(retrieval: Retrieval, decisions: Decisions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each query's identity, whether the gallery can answer it, and whether the top one is it."""
    own_Q = retrieval.queries.identity_N
    known_Q = np.diff(retrieval.ranking.positive_offset_Q1) > 0
    return own_Q, known_Q, known_Q & (decisions.top.identity_Q == own_Q)


def open_set_content(
    deciders: Sequence[Decider], calibration: Answers, options: OpenSetConfig
) -> dict[str, Json]:
    """``open_set.json``: the rule, the fitted numbers (of each fold, where there are folds), and
    the answers to the calibration queries."""
    by_rate = options.rule == "false_match_rate"
    fitted: list[dict[str, Json]] = []
    for decider in deciders:
        threshold = decider.threshold if np.isfinite(decider.threshold) else -1.0
        coefficients = {
            "score": decider.coefficients[0] / decider.scales[0],
            "margin": decider.coefficients[1] / decider.scales[1],
            "intercept": decider.intercept,
        }
        bounds = [*decider.bounds]
        fitted.append({"bar": threshold, "coefficients": coefficients, "bounds": bounds})
    reason = next((decider.reason for decider in deciders if decider.reason), None)
    promised = by_rate and reason is None
    return {
        **(fitted[0] if len(fitted) == 1 else {"folds": fitted}),
        "rule": options.rule,
        "stated_false_match_rate": options.false_match_rate if promised else None,
        "promised_for": options.promise if promised else None,
        "reason": reason,
        "practice": {
            "answers_as_known": int(calibration.known_Q.sum()),
            "answers_as_new": int((~calibration.known_Q).sum()),
            "new_auroc": detection_auroc(calibration),
        },
    }


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
    statistics = {
        "new_auroc": lambda weight_Q: detection_auroc(answers, weight_Q),
        "open_set_score": _geometric(table, identity_Q),
    }
    metrics |= {name: statistic(np.ones(len(rows))) for name, statistic in statistics.items()}
    return metrics, intervals | _statistic_intervals(statistics, identity_Q, config)


def grouping_figures(grouping: Grouping) -> dict[str, Json]:
    """The ``new_animals`` of ``open_set.json``: how they are grouped, and how well that
    fits the database."""
    return {
        "cut": grouping.cut,
        "visits_linked": grouping.linked,
        "score_says_something": grouping.curve is not None and not grouping.curve.is_level,
        "practice_images": grouping.fitted_images,
        "practice_animals": grouping.fitted_identities,
        "practice_ari": grouping.fitted_ari,
    }


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
