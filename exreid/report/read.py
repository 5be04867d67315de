"""Reading a finished run's folder for its pages and pictures, once; what is missing is None.

Letters: Q queries, R rows of a ranking, X matches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.config.text import tree_of_yaml
from exreid.errors import ConfigError, RunError
from exreid.records import ImageTable
from exreid.report.run_images import RunImages, read_run_images
from exreid.storage.run_files import (
    GATED,
    NUMBER,
    RANKINGS,
    TEXT,
    TRUTH,
    damage_named,
    read_run_json,
    read_run_table,
)
from exreid.storage.run_record import RunRecord, read_record
from exreid.storage.spreadsheets import read_cells

Value = TypeVar("Value")
SNAPSHOT = "config.snapshot.yaml"
GATED_SHOWN = 12
MatchedRows = list[tuple[int, int]]
"""A query's rows of ``matches.parquet``, each with its gallery image (a row of `RunImages`)."""


@dataclass(frozen=True)
class RankRows:
    """``rankings.parquet`` as arrays, sorted by query and rank."""

    start_Q1: np.ndarray
    """int64 (Q + 1): where each query's rows begin."""
    image_R: np.ndarray
    """int32: the gallery image, a row of `RunImages`."""
    rank_R: np.ndarray
    score_R: np.ndarray
    """float32; NaN for a candidate below the shortlist."""
    match_R: np.ndarray
    """int8: 1 the query's identity, 0 another one, -1 not known."""

    def of(self, query: int) -> slice:
        """The rows of a query."""
        return slice(int(self.start_Q1[query]), int(self.start_Q1[query + 1]))


@dataclass(frozen=True)
class HeldOutFigures:
    """``fusion.json``: the errors of probabilities on pairs that they were not fitted on."""

    ece: float
    ece_before: float
    brier: float
    brier_base_rate: float


@dataclass(frozen=True)
class OpenSetRule:
    """``open_set.json``: the rule that tells known from new."""

    threshold: float | None
    """Probability over which an animal is called known; None where every fold has its own."""
    false_match_rate: float | None
    """The promised rate; None without a promise."""
    no_rate: str
    """Why no rate is promised; empty where one is."""

    @property
    def shown_threshold(self) -> float | None:
        """The threshold, where it is a probability that can be reached."""
        known = self.threshold is not None and 0 <= self.threshold <= 1
        return self.threshold if known else None


@dataclass(frozen=True)
class RunData:
    """A run's folder, read. Tables are as the run wrote them."""

    folder: Path
    result: RunRecord
    snapshot: str
    """The config as YAML text."""
    config: ProbeConfig | None
    """None where the snapshot is no probe's."""
    images: RunImages
    queries: pd.DataFrame
    ranks: RankRows
    answers: pd.DataFrame | None
    fusion: pd.DataFrame | None
    open_set: pd.DataFrame | None
    encounters: pd.DataFrame | None
    calibration_pairs: pd.DataFrame | None
    new_animals: pd.DataFrame | None
    matches: pa.Table | None
    held_out: HeldOutFigures | None
    rule: OpenSetRule | None
    faithfulness: pd.DataFrame | None
    rejected: pd.DataFrame | None
    leaks: pd.DataFrame | None
    gated: pd.DataFrame | None
    """``gated.parquet``: implausible candidates, of each query the first `GATED_SHOWN`."""

    @cached_property
    def query_ids(self) -> list[str]:
        """The ids of the queries, in order."""
        return [str(query_id) for query_id in self.queries["query_id"]]

    @property
    def truth_known(self) -> bool:
        """Whether any query's identity is known."""
        return bool(self.queries["identity"].notna().any())


def read_run_data(
    folder: Path,
    *,
    root: str | None = None,
    gallery_root: str | None = None,
    site_column: str | None = None,
    table: ImageTable | None = None,
) -> RunData:
    """A finished run, read from its folder.

    ``root`` replaces the photographs' folder, ``gallery_root`` that of the pictures of an
    identification's gallery, ``site_column`` is the column with the place (None:
    the likeliest), ``table`` the run's images where they are read already. RunError where the
    folder is no finished run, or its images have moved.
    """
    with damage_named(folder):
        result = _read_result(folder)
        snapshot = _if_there(folder / SNAPSHOT, lambda file: file.read_text(encoding="utf-8")) or ""
        config = run_config(folder, snapshot)
        queries = _queries(folder)
        rows = read_run_table(
            folder / "rankings.parquet", RANKINGS, empty={"is_match": TRUTH, "score": NUMBER}
        )
        if result.kind == "identify" and config is not None:
            # Earlier versions wrote more candidates than they have pictures of.
            rows = rows.filter(pc.less_equal(rows["rank"], config.benchmark.keep_candidates))
        gated = _if_there(folder / "gated.parquet", _gated)
        query_ids = queries["query_id"].tolist()
        gallery_ids = rows["gallery_id"].unique().to_pylist()
        if gated is not None:
            gallery_ids += gated["gallery_id"].tolist()
        images = read_run_images(
            folder,
            config,
            query_ids,
            gallery_ids,
            root=root,
            gallery_root=gallery_root,
            site=site_column,
            table=table,
        )
        return RunData(
            folder,
            result,
            snapshot,
            config,
            images,
            queries,
            _rank_rows(rows, query_ids, images.rows["image_id"].tolist()),
            answers=_if_there(folder / "answers.parquet", _table),
            fusion=_if_there(folder / "fusion.parquet", _table),
            open_set=_if_there(folder / "open_set.parquet", _table),
            encounters=_if_there(folder / "encounters.parquet", _table),
            calibration_pairs=_if_there(folder / "calibration_pairs.parquet", _table),
            new_animals=_if_there(folder / "new_animals.parquet", _table),
            matches=_if_there(
                folder / "matches.parquet", lambda file: read_run_table(file, {"query_id": TEXT})
            ),
            held_out=_if_there(folder / "fusion.json", _held_out),
            rule=_if_there(folder / "open_set.json", _rule),
            faithfulness=_if_there(folder / "faithfulness.json", _faithfulness),
            rejected=_if_there(folder / "rejected.csv", _cells),
            leaks=_if_there(folder / "leaks.csv", _cells),
            gated=gated,
        )


def _read_result(folder: Path) -> RunRecord:
    record = read_record(folder)
    if record.status != "completed":
        raise RunError(
            f"{folder}: this run's status is {record.status!r}, not completed. "
            "Only completed runs have a report."
        )
    return record


def run_config(folder: Path, snapshot: str) -> ProbeConfig | None:
    """The config of a probe or an identification; None for one of another version that brings its
    photographs' places."""
    source = str(folder / SNAPSHOT)
    try:
        tree = tree_of_yaml(snapshot, ProbeConfig, source=source)
        return from_values(ProbeConfig, tree, source=source)
    except ConfigError:
        if (folder / "photos.parquet").exists():
            return None
        raise


def _queries(folder: Path) -> pd.DataFrame:
    file = folder / "queries.parquet"
    if not file.exists() or not (folder / "rankings.parquet").exists():
        raise RunError(
            f"{folder}: no queries.parquet and rankings.parquet, so there is nothing to report. "
            "Give the folder of a completed probe, such as benchmark_runs/RUN_ID."
        )
    queries = read_run_table(file, {"query_id": TEXT}, key="query_id").to_pandas()
    identities = queries.get("identity", [None] * len(queries))
    names = [name if isinstance(name, str) and name else None for name in identities]
    queries["identity"] = pd.Series(names, dtype=object)
    return queries


def _rank_rows(rows: pa.Table, query_ids: Sequence[str], image_ids: Sequence[str]) -> RankRows:
    query_R, image_R = (
        _places(rows[name].dictionary_encode().combine_chunks(), ids)
        for name, ids in (("query_id", query_ids), ("gallery_id", image_ids))
    )
    rank_R = rows["rank"].to_numpy()
    order_R = np.lexsort((rank_R, query_R))
    start_Q1 = np.searchsorted(query_R[order_R], np.arange(len(query_ids) + 1))
    match_R = np.array(rows["is_match"].cast(pa.int8()).fill_null(-1))
    return RankRows(
        start_Q1.astype(np.int64),
        image_R[order_R].astype(np.int32),
        rank_R[order_R],
        rows["score"].to_numpy()[order_R].astype(np.float32),
        match_R[order_R].astype(np.int8),
    )


def _places(coded: pa.DictionaryArray, ids: Sequence[str]) -> np.ndarray:
    """Each value's index among the ids, -1 for a value that is not one of them."""
    place = pd.Index(ids).get_indexer(coded.dictionary.to_pylist())
    return np.asarray(place[coded.indices.to_numpy(zero_copy_only=False)])


def _held_out(file: Path) -> HeldOutFigures | None:
    """The errors on candidates as a person is shown them, or else on all pairs."""
    figures = read_run_json(file).get("held_out", {}).get("fused")
    if not figures:
        return None
    figures = figures.get("shown", figures)
    names = ("ece", "ece_before", "brier", "brier_base_rate")
    return HeldOutFigures(*(float(figures[name]) for name in names))


def _rule(file: Path) -> OpenSetRule:
    content = read_run_json(file)
    rate = content.get("stated_false_match_rate")
    return OpenSetRule(content.get("bar"), rate, str(content.get("reason") or ""))


def _faithfulness(file: Path) -> pd.DataFrame:
    content = read_run_json(file, kind=object)
    rows = content.get("rows", content) if isinstance(content, dict) else content
    if isinstance(rows, dict):
        rows = [{"name": name, "value": value} for name, value in rows.items()]
    return pd.DataFrame([row for row in rows if isinstance(row, dict)])


def _table(file: Path) -> pd.DataFrame:
    return read_run_table(file, {}).to_pandas()


def _gated(file: Path) -> pd.DataFrame:
    empty = {name: GATED[name] for name in ("rank", "score")}
    given = {name: kind for name, kind in GATED.items() if name not in empty}
    rows = read_run_table(file, given, empty=empty).to_pandas()
    return rows.groupby("query_id", sort=False).head(GATED_SHOWN).reset_index(drop=True)


def _cells(file: Path) -> pd.DataFrame | None:
    return read_cells(file) if file.stat().st_size else None


def _if_there(file: Path, read: Callable[[Path], Value]) -> Value | None:
    return read(file) if file.exists() else None
