"""What a probe answers, by animal and by visit, known or new; and the numbers of those answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from exreid.openset.decide import Decider
from exreid.openset.group import Grouping, new_animals_table
from exreid.pipeline.stages import Ranked
from exreid.records import Result
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

KEPT_ANIMALS = 10
"""Animals of each query in answers.parquet."""
ANSWER_COLUMNS = (
    *("query_id", "rank", "identity", "score", "best_gallery_id", "images", "is_match"),
)
RATES = {"1": 0.01, "5": 0.05}
OPEN_SET_FILE, ENCOUNTER_FILE = "open_set.parquet", "encounters.parquet"
NEW_ANIMALS_FILE = "new_animals.parquet"


def write_answers(folder: Path, ranked: Ranked, config: ProbeConfig) -> None:
    """``answers.parquet``, ``encounters.parquet`` where encounters are known, and for the open set
    ``open_set.parquet``, ``open_set.json`` and ``open_set.png``."""
    names = names_of(ranked)
    write_table(folder / "answers.parquet", answer_table(ranked, names, config))
    if np.any(ranked.queries.encounter_N >= 0):
        write_table(folder / ENCOUNTER_FILE, _encounter_table(ranked, names))
    if ranked.open_set is not None:
        _write_open_set(folder, ranked, names, config)


def with_answers(result: Result, folder: Path, config: ProbeConfig) -> Result:
    """The result with the metrics of the answers that the folder holds.

    - ``encounter_top_k``: the share of (encounter, animal) pairs of the queries whose animal is
      among the first k when the photos of the visit are pooled.
    - ``new_auroc``, ``tpr_at_fpr_1``, ``dir_at_fpr_1`` (and 5): how well the stated probability
      tells known from new animals; see `exreid.metrics.openset`.
    - ``new_ari``: the adjusted Rand index of the groups of queries that were called new, against
      their animals; ``new_ari_visits``: that of one group per encounter, for comparison.
    - ``BAKS``, ``BAUS``, ``open_set_score`` (their geometric mean), ``false_match_rate``: of the
      decisions, by the bar that was chosen on the database.
    """
    metrics, intervals = dict(result.metrics), dict(result.intervals)
    parts = (_encounter_metrics, _open_set_metrics, _new_animal_metrics)
    for found in (part(folder, config) for part in parts):
        metrics |= found[0]
        intervals |= found[1]
    return replace(result, metrics=metrics, intervals=intervals)


def names_of(ranked: Ranked) -> dict[int, str]:
    """The animals by their codes."""
    identity = ranked.table.rows["identity"]
    return {
        int(code): identity.iloc[place]
        for side in (ranked.queries, ranked.gallery)
        for code, place in zip(side.identity_N, side.position_N, strict=True)
    }


def answer_table(ranked: Ranked, names: dict[int, str], config: ProbeConfig) -> pa.Table:
    """``answers.parquet``: the best animals of each query."""
    benchmark = config.benchmark
    columns: dict[str, list[Any]] = {name: [] for name in ANSWER_COLUMNS}
    answers = identity_answers(
        ranked.ranking,
        ranked.gallery.identity_N,
        how=benchmark.identity_score,
        top=benchmark.identity_top_n,
    )
    for q, answer in enumerate(answers):
        own = ranked.queries.identity_N[q]
        for rank, code in enumerate(answer.identity_A[:KEPT_ANIMALS].tolist()):
            columns["query_id"].append(ranked.queries.image_ids[q])
            columns["rank"].append(rank + 1)
            columns["identity"].append(names[code])
            columns["score"].append(float(answer.score_A[rank]))
            columns["best_gallery_id"].append(ranked.gallery.image_ids[answer.best_A[rank]])
            columns["images"].append(int(answer.images_A[rank]))
            columns["is_match"].append(bool(code == own))
    return pa.table(columns)


def _encounter_table(ranked: Ranked, names: dict[int, str]) -> pa.Table:
    queries = ranked.queries
    known = queries.encounter_N >= 0
    key_Q = queries.encounter_N.astype(np.int64) * (queries.identity_N.max() + 1)
    group_Q = np.where(known, key_Q + queries.identity_N, -1)
    rows = []
    encounters = ranked.table.rows["encounter"]
    pooled = pool_encounters(ranked.ranking, ranked.gallery.identity_N, group_Q)
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


def _encounter_metrics(folder: Path, config: ProbeConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    file = folder / ENCOUNTER_FILE
    if not file.exists():
        return {}, {}
    rows = read_run_table(file, {"identity_rank": WHOLE}, empty={"identity": TEXT}).to_pandas()
    rank = rows["identity_rank"].to_numpy()
    every = np.ones(len(rows), bool)
    table = {f"encounter_top_{k}": QueryValues(hit(rank, k), every) for k in config.benchmark.top_k}
    return _measured(table, pd.factorize(rows["identity"], sort=True)[0], config)


def _write_open_set(
    folder: Path, ranked: Ranked, names: dict[int, str], config: ProbeConfig
) -> None:
    decided = ranked.open_set
    assert decided is not None
    found, probability_Q = decided.found, decided.probability_Q
    own_Q = ranked.queries.identity_N
    known_Q = np.diff(ranked.ranking.positive_offset_Q1) > 0
    table = {
        "query_id": ranked.queries.image_ids,
        "identity": [names[int(code)] for code in own_Q],
        "leader": [names.get(int(code)) for code in found.identity_Q],
        "score": found.score_Q,
        "margin": found.margin_Q,
        "known_probability": probability_Q,
        "decision": np.where(decided.known_Q, "known", "new"),
        "is_known": known_Q,
        "is_right": known_Q & (found.identity_Q == own_Q),
    }
    write_table(folder / OPEN_SET_FILE, pa.table(table))
    content = open_set_content(decided.deciders, decided.practice, config.benchmark.open_set)
    if decided.new_animals is not None:
        content["new_animals"] = grouping_figures(decided.new_animals.grouping)
        rows = new_animals_table(decided.new_animals, ranked.queries, ranked.table, probability_Q)
        write_table(folder / NEW_ANIMALS_FILE, rows)
    write_text(folder / "open_set.json", json.dumps(content, indent=1) + "\n")
    answers = Answers(probability_Q, known_Q, known_Q & (found.identity_Q == own_Q), own_Q)
    if known_Q.any() and not known_Q.all():
        draw_open_set(folder / "open_set.png", *open_set_curve(answers))


def open_set_content(
    deciders: Sequence[Decider], practice: Answers, options: OpenSetConfig
) -> dict[str, Any]:
    """``open_set.json``: the rule, what was fitted (for each fold, where there are folds), and how
    the practice went."""
    by_rate = options.rule == "false_match_rate"
    fitted = []
    for decider in deciders:
        bar = decider.bar if np.isfinite(decider.bar) else -1.0
        coefficients = {
            "score": decider.coefficients[0] / decider.scales[0],
            "margin": decider.coefficients[1] / decider.scales[1],
            "intercept": decider.intercept,
        }
        fitted.append({"bar": bar, "coefficients": coefficients, "bounds": [*decider.bounds]})
    reason = next((decider.reason for decider in deciders if decider.reason), None)
    promised = by_rate and reason is None
    return {
        **(fitted[0] if len(fitted) == 1 else {"folds": fitted}),
        "rule": options.rule,
        "stated_false_match_rate": options.false_match_rate if promised else None,
        "promised_for": options.promise if promised else None,
        "reason": reason,
        "practice": {
            "answers_as_known": int(practice.known_Q.sum()),
            "answers_as_new": int((~practice.known_Q).sum()),
            "new_auroc": detection_auroc(practice),
        },
    }


def _open_set_metrics(folder: Path, config: ProbeConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    file = folder / OPEN_SET_FILE
    if not file.exists():
        return {}, {}
    truth = {"known_probability": NUMBER, "is_known": TRUTH, "is_right": TRUTH}
    rows = read_run_table(file, OPEN_SET | truth, empty={"identity": TEXT}, key="query_id")
    rows = rows.to_pandas()
    identity_Q = pd.factorize(rows["identity"], sort=True)[0]
    answers = Answers(
        rows["known_probability"].to_numpy(),
        rows["is_known"].to_numpy(),
        rows["is_right"].to_numpy(),
        identity_Q,
    )
    # Decided against a bar, or against that of the query's fold.
    accepted_Q = (rows["decision"] == "known").to_numpy()
    table = balanced_accuracies(replace(answers, score_Q=accepted_Q.astype(np.float64)), 0.5)
    # Averaged as the rate is promised, so that the two can be laid side by side.
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


def grouping_figures(grouping: Grouping) -> dict[str, Any]:
    """The ``new_animals`` of ``open_set.json``: how they are grouped, and how the practice went."""
    return {
        "cut": grouping.cut,
        "visits_linked": grouping.linked,
        "score_says_something": grouping.curve is not None and not grouping.curve.is_level,
        "practice_images": grouping.practice_images,
        "practice_animals": grouping.practice_animals,
        "practice_ari": grouping.practice_ari,
    }


def _new_animal_metrics(folder: Path, config: ProbeConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    file = folder / NEW_ANIMALS_FILE
    if not file.exists():
        return {}, {}
    empty = {"identity": TEXT, "encounter": TEXT}
    rows = read_run_table(file, NEW_ANIMALS, empty=empty, key="query_id").to_pandas()
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
) -> dict[str, tuple[float, float]]:
    """The 95% intervals of statistics of weighted queries, of those that have one."""
    resamples = config.benchmark.bootstrap_resamples
    if not resamples:
        return {}
    found = {
        name: bootstrap_statistic(statistic, identity_Q, resamples=resamples, seed=config.seed)
        for name, statistic in statistics.items()
    }
    return {name: interval for name, interval in found.items() if interval is not None}


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
) -> tuple[dict[str, Any], dict[str, Any]]:
    metrics = average_values(table, identity_Q)
    resamples = config.benchmark.bootstrap_resamples
    if not resamples:
        return metrics, {}
    intervals = bootstrap_intervals(table, identity_Q, resamples=resamples, seed=config.seed)
    return metrics, intervals
