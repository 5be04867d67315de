"""The folder of a run: what it holds, and how each file is written whole or not at all."""

from __future__ import annotations

import contextlib
import platform
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from exreid.config.base import StrictModel
from exreid.config.io import fingerprint, to_yaml
from exreid.errors import ConfigError, RunError, StorageError
from exreid.records import (
    Embeddings,
    LocalFeatures,
    PairMatches,
    Ranking,
    Rejected,
    Result,
    RetrievalSide,
)
from exreid.storage import mirror
from exreid.storage.files import clear_leftovers, temporary_beside
from exreid.storage.results_table import add_row, row_of
from exreid.storage.run_files import (
    NUMBER,
    QUERIES,
    RANKINGS,
    TEXT,
    TRUTH,
    damage_named,
    read_run_table,
)
from exreid.storage.run_record import RESULT_FILE, SCHEMA_VERSION, RunRecord, Status, record_of
from exreid.storage.spreadsheets import csv_text

VERSIONS_OF = ("exreid", "torch", "timm", "ray", "numpy", "pillow")
RESULTS_TABLE = "benchmark_results.csv"
SWEEP_FILE = "sweep.json"
OPENING = {"config.snapshot.yaml", RESULT_FILE, "rejected.csv", "leaks.csv", "split.csv", "wandb"}
"""What a run's folder may hold before anything is computed."""


class RunFolder:
    """One run's folder; ``result.json`` always tells how far it came.

    A folder that is there already is taken up again where it holds an interrupted or failed run of
    the same config, and emptied where one of another config had computed nothing yet. While this
    object is in use, no other process can take the same folder.
    """

    def __init__(
        self,
        parent: Path,
        run_id: str,
        config: StrictModel,
        method: str,
        *,
        results_table: str = RESULTS_TABLE,
        kind: str | None = None,
    ) -> None:
        self.path, self.kind = parent / run_id, kind
        self.shown = mirror.shown(self.path)
        self.run_id, self.config, self.method = run_id, config, method
        self.results_table = results_table
        self.started_s = time.time()
        there = self.path.is_dir() or mirror.exists(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock", timeout=0)
        self._take_lock()
        if there:
            mirror.fetch_folder(self.path)
            self._check_resumable()
            self._clear_halves()
        clear_leftovers(parent)
        write_text(self.path / "config.snapshot.yaml", to_yaml(config))
        write_text(self.path / RESULT_FILE, self._record("running").to_json())
        mirror.publish_folder(self.path)

    def finish(self, result: Result, *, status: Status = "completed") -> None:
        """Write the numbers, and one line into the table of all runs."""
        record = self._record(status, **asdict(result))
        table, row = self.path.parent / self.results_table, row_of(record)
        remote = mirror.url_of(self.path) is not None
        if not remote:
            add_row(table, row)
        write_text(self.path / RESULT_FILE, record.to_json())
        mirror.publish_folder(self.path)
        if remote:
            add_row(table, row)
        self._lock.release()

    def _take_lock(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"{self.shown}: another process is at work on this run. Wait for it, or set "
                "another output.run_id."
            ) from error

    def _check_resumable(self) -> None:
        written = record_of(self.path)
        if written is not None and written.status == "completed":
            mirror.publish_folder(self.path)  # what an earlier start could not
            self._lock.release()
            raise ConfigError(
                f"{self.shown} holds a completed run: it is there already. Set another "
                "output.run_id, or leave it unset; a training goes on from it with "
                "train.resume_checkpoint=.../checkpoint-final-full.pth."
            )
        if written is None or written.config_fingerprint == fingerprint(self.config):
            return
        names = {file.name for file in self.path.iterdir() if not file.name.startswith(".")}
        if names - OPENING:
            self._lock.release()
            raise ConfigError(
                f"{self.shown} holds an interrupted run of another config; see its "
                "config.snapshot.yaml. Set another output.run_id."
            )
        for name in names - {"wandb"}:
            (self.path / name).unlink()
        mirror.remove_folder(self.path)

    def fail(self, error: BaseException) -> None:
        """Keep the folder, with what went wrong; half-written files go.

        Never raises: on a full disk the error that is being handled says more.
        """
        kind = type(error).__name__
        message = (str(error) or kind).encode(errors="backslashreplace").decode()
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, StorageError):
            self._clear_halves()
            record = self._record(status, error=message, error_type=kind)
            write_text(self.path / RESULT_FILE, record.to_json())
            # Whatever the storage says now, the error that ended the run is the one to be seen.
            mirror.publish_folder(self.path)
        with contextlib.suppress(OSError):
            self._lock.release()

    def _clear_halves(self) -> None:
        """Whoever holds the run's lock is its only writer: what is half written has none."""
        for half in self.path.glob(".*.tmp*"):
            half.unlink(missing_ok=True)

    def _record(self, status: Status, **found: object) -> RunRecord:
        return RunRecord.model_validate(
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.run_id,
                **({} if self.kind is None else {"kind": self.kind}),
                "status": status,
                "method": self.method,
                **found,
                "config_fingerprint": fingerprint(self.config),
                "versions": versions(),
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


def new_run_id(method: str, backbone: str) -> str:
    """Time, method and backbone, and four random digits against two runs in one second."""
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in backbone)
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{method}-{name}-{uuid.uuid4().hex[:4]}"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}}


def write_text(file: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    temporary = temporary_beside(file)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def write_table(file: Path, table: pa.Table) -> None:
    """Parquet, under a temporary name, then renamed."""
    temporary = temporary_beside(file)
    pq.write_table(table, temporary, write_page_checksum=True)
    temporary.replace(file)


def write_rejected(file: Path, rejected: Sequence[Rejected]) -> None:
    """``rejected.csv``: always there, with a header alone where nothing was left out."""
    columns = ["image_id", "path", "row", "stage", "reason"]
    frame = pd.DataFrame([asdict(item) for item in rejected], columns=columns)
    write_text(file, csv_text(frame))


def write_embeddings(file: Path, embeddings: Embeddings) -> None:
    """``embeddings.parquet``: image_id, vector."""
    length = embeddings.vectors_ND.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.vectors_ND.reshape(-1)), length)
    ids = pa.array(embeddings.image_ids, pa.string())
    write_table(file, pa.table({"image_id": ids, "vector": vectors}))


def ranking_table(ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide) -> pa.Table:
    """``rankings.parquet``: query_id, rank, gallery_id, score, is_match.

    Holds each query's kept candidates and, at their exact ranks, all its positives: by query,
    then by rank.
    """
    kept = ranking.candidate_index_QK >= 0
    query_kept, place = np.nonzero(kept)
    index_kept = ranking.candidate_index_QK[kept]
    query_positive = np.repeat(np.arange(ranking.query_count), np.diff(ranking.positive_offset_Q1))
    # A positive among the kept candidates stands in both; it is written once.
    kept_count_Q = kept.sum(axis=1)
    deeper = ranking.positive_rank_P > kept_count_Q[query_positive]
    query_index = np.concatenate([query_kept, query_positive[deeper]])
    rank = np.concatenate([place + 1, ranking.positive_rank_P[deeper]])
    index = np.concatenate([index_kept, ranking.positive_index_P[deeper]])
    score = np.concatenate([ranking.candidate_score_QK[kept], ranking.positive_score_P[deeper]])
    order = np.lexsort((rank, query_index))
    query_index, index = query_index[order], index[order]
    return pa.table(
        {
            "query_id": pa.array(np.array(queries.image_ids, object)[query_index], pa.string()),
            "rank": pa.array(rank[order].astype(np.int64)),
            "gallery_id": pa.array(np.array(gallery.image_ids, object)[index], pa.string()),
            "score": pa.array(score[order].astype(np.float32)),
            "is_match": pa.array(queries.identity_N[query_index] == gallery.identity_N[index]),
        }
    )


def matches_table(
    pairs: Sequence[tuple[str, str]],
    matches: Sequence[PairMatches],
    query: LocalFeatures,
    gallery: LocalFeatures,
) -> pa.Table:
    """``matches.parquet``: a row per pair, its matches by falling confidence.

    Points are x, y, x, y, ... in pixels of the images that keypoints were looked for in, whose
    sizes stand beside them. ``query`` and ``gallery`` hold the pairs' features, row for row.
    """
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("query_xy", "gallery_xy", "confidence", "inlier")
    }
    for row, found in enumerate(matches):
        columns["query_xy"].append(query.keypoints_NK2[row][found.query_X].ravel())
        columns["gallery_xy"].append(gallery.keypoints_NK2[row][found.gallery_X].ravel())
        columns["confidence"].append(found.confidence_X)
        columns["inlier"].append(found.inlier_X)
    number, truth = pa.list_(pa.float32()), pa.list_(pa.bool_())
    return pa.table(
        {
            "query_id": pa.array([names[0] for names in pairs], pa.string()),
            "gallery_id": pa.array([names[1] for names in pairs], pa.string()),
            "query_wh_px": pa.array(query.image_wh_px_N2.tolist(), pa.list_(pa.int32())),
            "gallery_wh_px": pa.array(gallery.image_wh_px_N2.tolist(), pa.list_(pa.int32())),
            **{
                name: pa.array(values, truth if name == "inlier" else number)
                for name, values in columns.items()
            },
        }
    )


def query_table(
    ranking: Ranking, queries: RetrievalSide, identities: Sequence[str | None]
) -> pa.Table:
    """``queries.parquet``: what the metrics need of each query besides its positives' ranks."""
    return pa.table(
        {
            "query_id": pa.array(queries.image_ids, pa.string()),
            "identity": pa.array(list(identities), pa.string()),
            "candidates": pa.array(ranking.candidate_count_Q),
            "positives": pa.array(np.diff(ranking.positive_offset_Q1)),
            "identity_rank": pa.array(ranking.identity_rank_Q),
        }
    )


def read_ranking(folder: Path) -> tuple[Ranking, np.ndarray]:
    """The positives' exact ranks of a finished run, and each query's identity code.

    The candidates themselves are not read: K is 0.
    """
    files = folder / "rankings.parquet", folder / "queries.parquet"
    for file in files:
        if not file.is_file():
            raise RunError(
                f"{folder}: has no {file.name}. Give the folder of a completed probe, such as "
                "benchmark_runs/RUN_ID."
            )
    more = {"is_match": TRUTH, "score": NUMBER}
    rows = read_run_table(files[0], RANKINGS, empty=more).to_pandas()
    queries = read_run_table(files[1], QUERIES, empty={"identity": TEXT}, key="query_id")
    queries = queries.to_pandas()
    if len(rows) and rows["is_match"].isna().all():
        raise RunError(
            f"{folder}: this run knows no truth (exreid identify), so there is nothing to measure. "
            "exreid report shows its answers."
        )
    with damage_named(folder):
        return _ranking_of(folder, rows, queries)


def _ranking_of(
    folder: Path, rows: pd.DataFrame, queries: pd.DataFrame
) -> tuple[Ranking, np.ndarray]:
    place = pd.Index(queries["query_id"]).get_indexer(rows["query_id"])
    if (place < 0).any() or rows["is_match"].isna().any():
        raise RunError(f"{folder}: rankings.parquet and queries.parquet do not fit together.")
    rows["is_match"] = rows["is_match"].astype(bool)
    positives = rows.assign(query=place)[rows["is_match"]].sort_values(["query", "rank"])
    counts_Q = np.bincount(positives["query"], minlength=len(queries))
    if not np.array_equal(counts_Q, queries["positives"]):
        raise RunError(f"{folder}: rankings.parquet lacks positives that queries.parquet counts.")
    identity_Q = pd.factorize(queries["identity"], sort=True)[0]
    return (
        Ranking(
            candidate_index_QK=np.zeros((len(queries), 0), np.int32),
            candidate_score_QK=np.zeros((len(queries), 0), np.float32),
            candidate_count_Q=queries["candidates"].to_numpy(np.int64),
            positive_offset_Q1=np.concatenate([[0], np.cumsum(counts_Q)]).astype(np.int64),
            positive_index_P=np.full(len(positives), -1, np.int32),
            positive_rank_P=positives["rank"].to_numpy(np.int64),
            positive_score_P=positives["score"].to_numpy(np.float32),
            identity_rank_Q=queries["identity_rank"].to_numpy(np.int64),
        ),
        identity_Q.astype(np.int32),
    )
