"""Reading a finished run's folder for its report; what is missing is noted, never an error.

Letters: Q queries, R rows of a ranking, P pairs.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.config.text import tree_of_yaml
from exreid.errors import ConfigError, RunError
from exreid.report.content import Missing
from exreid.report.photos import Photos, read_photos
from exreid.storage.run_files import (
    NUMBER,
    RANKINGS,
    TEXT,
    TRUTH,
    damage_named,
    read_run_json,
    read_run_table,
)
from exreid.storage.spreadsheets import read_cells

TABLES = ("answers", "fusion", "open_set", "encounters", "calibration_pairs", "new_animals")
"""Parquet files that a report shows, besides the rankings, the queries and the matches."""


@dataclass(frozen=True)
class Ranks:
    """``rankings.parquet`` as arrays, sorted by query and rank."""

    start_Q1: np.ndarray
    """int64 (Q + 1): where each query's rows begin."""
    photo_R: np.ndarray
    """int32: the gallery photograph, a row of `Photos`."""
    rank_R: np.ndarray
    score_R: np.ndarray
    """float32; NaN for a candidate below the shortlist."""
    match_R: np.ndarray
    """int8: 1 the query's animal, 0 another one, -1 not known."""


@dataclass(frozen=True)
class RunData:
    """A run's folder, read."""

    folder: Path
    result: dict[str, Any]
    snapshot: str
    """The config as YAML text."""
    config: ProbeConfig | None
    """None where the snapshot is no probe's."""
    photos: Photos
    queries: pd.DataFrame
    ranks: Ranks
    tables: dict[str, pd.DataFrame]
    matches: pa.Table | None
    documents: dict[str, Any]
    """``fusion``, ``open_set``, ``faithfulness``: JSON files; ``rejected``, ``leaks``: rows."""
    missing: list[Missing] = field(default_factory=list)

    @property
    def truth_known(self) -> bool:
        """Whether any query's animal is known."""
        return bool(self.queries["identity"].notna().any())


def read_run_data(folder: Path, *, root: str | None, site_column: str | None) -> RunData:
    """Everything that a report shows of a run. RunError where the folder is no finished run, or
    its photographs are not where the run found them."""
    with damage_named(folder):
        return _read_run_data(folder, root=root, site_column=site_column)


def _read_run_data(folder: Path, *, root: str | None, site_column: str | None) -> RunData:
    result = _result(folder)
    snapshot = _text(folder / "config.snapshot.yaml") or ""
    config = _config(folder, snapshot)
    queries = _parquet(folder / "queries.parquet", {"query_id": TEXT}, key="query_id")
    if queries is None or not (folder / "rankings.parquet").exists():
        raise RunError(
            f"{folder}: no queries.parquet and rankings.parquet, so there is nothing to report. "
            "Give the folder of a completed probe, such as benchmark_runs/RUN_ID."
        )
    if "identity" not in queries:
        queries["identity"] = None
    names = [name if isinstance(name, str) and name else None for name in queries["identity"]]
    queries["identity"] = pd.Series(names, dtype=object)
    truth = {"is_match": TRUTH, "score": NUMBER}
    rows = read_run_table(folder / "rankings.parquet", RANKINGS, empty=truth)
    for name in ("query_id", "gallery_id"):
        coded = rows[name].dictionary_encode()
        rows = rows.set_column(rows.column_names.index(name), name, coded)
    photos = read_photos(
        folder, config, queries["query_id"].tolist(), _names(rows), root=root, site=site_column
    )
    tables = {
        name: table
        for name in TABLES
        if (table := _parquet(folder / f"{name}.parquet", {})) is not None
    }
    documents = {name: _json(folder / f"{name}.json") for name in ("fusion", "open_set")}
    documents["faithfulness"] = _json(folder / "faithfulness.json", object)
    documents |= {name: _csv(folder / f"{name}.csv") for name in ("rejected", "leaks")}
    matches_file = folder / "matches.parquet"
    data = RunData(
        folder,
        result,
        snapshot,
        config,
        photos,
        queries,
        _ranks(rows, queries["query_id"].tolist(), photos),
        tables,
        read_run_table(matches_file, {"query_id": TEXT}) if matches_file.exists() else None,
        {name: found for name, found in documents.items() if found is not None},
    )
    data.missing.extend(_missing(data))
    return data


def _result(folder: Path) -> dict[str, Any]:
    result = _json(folder / "result.json")
    if not isinstance(result, dict):
        raise RunError(
            f"{folder}: no result.json to read. Give the folder of a completed run, such as "
            "benchmark_runs/RUN_ID."
        )
    if result.get("status") != "completed":
        raise RunError(
            f"{folder}: this run's status is {result.get('status')!r}, not completed. "
            "Only completed runs have a report."
        )
    return result


def _config(folder: Path, snapshot: str) -> ProbeConfig | None:
    try:
        source = str(folder / "config.snapshot.yaml")
        return from_values(
            ProbeConfig, tree_of_yaml(snapshot, ProbeConfig, source=source), source=source
        )
    except ConfigError:
        if (folder / "photos.parquet").exists():
            return None
        raise


def _names(rows: pa.Table) -> list[str]:
    names: dict[str, None] = {}
    for chunk in rows.column("gallery_id").chunks:
        names |= dict.fromkeys(chunk.dictionary.to_pylist())
    return list(names)


def _codes(column: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """Each value's place among ``names``, -1 where it is not there."""
    place = pd.Index(names)
    parts = [
        place.get_indexer(chunk.dictionary.to_pylist())[
            chunk.indices.to_numpy(zero_copy_only=False)
        ]
        for chunk in column.chunks
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _ranks(rows: pa.Table, query_ids: list[str], photos: Photos) -> Ranks:
    query_R = _codes(rows.column("query_id"), query_ids)
    photo_R = _codes(rows.column("gallery_id"), photos.image_ids)
    rank_R = rows.column("rank").to_numpy()
    match = rows.column("is_match")
    match_R = (
        np.array(match.cast(pa.int8()).fill_null(-1))
        if match.null_count < len(match)
        else (np.full(len(match), -1))
    )
    order = np.lexsort((rank_R, query_R))
    start_Q1 = np.searchsorted(query_R[order], np.arange(len(query_ids) + 1))
    return Ranks(
        start_Q1.astype(np.int64),
        photo_R[order].astype(np.int32),
        rank_R[order],
        rows.column("score").to_numpy()[order].astype(np.float32),
        match_R[order].astype(np.int8),
    )


def _missing(data: RunData) -> list[Missing]:
    """What the run did not write, and the command that would make it."""
    again = f"exreid probe --config {shlex.quote(str(data.folder / 'config.snapshot.yaml'))} "
    again += "output.run_id=NEW_NAME "
    identify = data.result.get("kind") == "identify"
    config = data.config
    found = []

    def add(what: str, why: str, command: str) -> None:
        found.append(Missing(what, why, "" if identify else command))

    method = data.result.get("method")
    if data.matches is None:
        more = "benchmark.keep_matches=5"
        if method == "cosine":
            more = f"benchmark.method=wildfusion benchmark.candidate_k=50 {more}"
        add(
            "Matched spots on the photographs",
            "this run kept no matched keypoints (matches.parquet)",
            again + more,
        )
    if "fusion" not in data.tables:
        add(
            "Probabilities, and what each method contributes",
            "this run did not calibrate its scores (fusion.parquet)",
            again + "benchmark.method=wildfusion benchmark.candidate_k=50",
        )
    if "open_set" not in data.tables:
        add(
            "Known or new",
            "this run did not decide whether an animal is new (open_set.parquet)",
            again + "benchmark.open_set.enabled=true",
        )
    if "calibration_pairs" not in data.tables and "fusion" in data.tables and not identify:
        add(
            "How well the probabilities hold",
            "this run used a calibration fitted elsewhere (calibration_pairs.parquet)",
            again + "benchmark.calibration.load=null",
        )
    if "encounters" not in data.tables and not identify:
        columns = bool(config and config.dataset.encounter_cols)
        add(
            "Answers by visit",
            "no photograph has an encounter"
            if columns
            else "the run was not told which columns name a visit (encounters.parquet)",
            again + "dataset.encounter_cols=[COLUMN]",
        )
    if "leaks" not in data.documents and "safety" in ProbeConfig.model_fields:
        add(
            "Leaks between photographs and gallery",
            "this run was not checked for copies and cut visits (leaks.csv)",
            f"{again}safety=warn",
        )
    if "faithfulness" not in data.documents:
        file = shlex.quote(str(data.folder / "faithfulness.json"))
        root = f" --data {shlex.quote(config.dataset.root)}" if config else ""
        add(
            "Are the explanations true?",
            "faithfulness was not measured for this run (faithfulness.json)",
            f"python benchmarks/faithfulness.py{root} --json {file}",
        )
    return found


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _json(file: Path, kind: type = dict) -> Any:
    return read_run_json(file, kind) if file.exists() else None


def _parquet(
    file: Path, columns: dict[str, pa.DataType], *, key: str | None = None
) -> pd.DataFrame | None:
    return read_run_table(file, columns, key=key).to_pandas() if file.exists() else None


def _csv(file: Path) -> list[dict[str, str]] | None:
    if not file.exists() or not file.stat().st_size:
        return None
    frame = read_cells(file)
    return [{str(name): cell for name, cell in row.items()} for row in frame.to_dict("records")]
