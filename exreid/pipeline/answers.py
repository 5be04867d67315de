"""Making, writing and reading the tables of a probe's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exreid.config.methods import OpenSetConfig
from exreid.config.probe import ProbeConfig
from exreid.explain.plots import draw_open_set
from exreid.metrics.identities import identity_answers, pool_encounters
from exreid.metrics.openset import (
    Answers,
    detection_auroc,
    open_set_curve,
)
from exreid.openset.decide import Decider, Decisions
from exreid.openset.group import Grouping, new_animals_table
from exreid.pipeline.fit_and_retrieve import Retrieval
from exreid.records import Json
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
    names, decisions = identity_names(retrieval), retrieval.decisions
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
    """``fusion.parquet`` and ``budget.parquet``, the parts of fused scores and the pairs matched
    for each query; and ``gated.parquet``."""
    fused = retrieval.fused
    if retrieval.gated is not None:
        write_table(folder / "gated.parquet", retrieval.gated)
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


def identity_names(retrieval: Retrieval) -> dict[int, str]:
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
