"""The folder of a run: its files, each written whole or not at all."""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from exreid.config.base import StrictModel
from exreid.config.io import fingerprint, to_yaml
from exreid.errors import ConfigError, StorageError
from exreid.plugins import plugin_packages
from exreid.records import Embeddings, Rejected, Result
from exreid.storage import mirror
from exreid.storage.files import clear_leftovers, written_whole
from exreid.storage.results_table import add_row, row_of
from exreid.storage.run_record import RESULT_FILE, SCHEMA_VERSION, RunRecord, Status, record_of
from exreid.storage.spreadsheets import csv_text

VERSIONS_OF = ("exreid", "torch", "timm", "ray", "numpy", "pillow")
PROBE_RESULTS = "benchmark_results.csv"
SWEEP_FILE = "sweep.json"
OPENING = {"config.snapshot.yaml", RESULT_FILE, "rejected.csv", "leaks.csv", "split.csv", "wandb"}
"""What a run's folder may hold before anything is computed."""


class RunFolder:
    """One run's folder; ``result.json`` always tells how far it came.

    An existing folder is continued where it has an interrupted or failed run of the same config,
    and emptied where a run of another config had computed nothing yet. While this object is in use,
    no other process can take the same folder.
    """

    def __init__(
        self,
        parent: Path,
        run_id: str,
        config: StrictModel,
        method: str,
        *,
        results_table: str = PROBE_RESULTS,
        kind: str | None = None,
    ) -> None:
        self.path, self.kind = parent / run_id, kind
        self.shown = mirror.shown(self.path)
        self.run_id, self.config, self.method = run_id, config, method
        self.results_table = results_table
        self.warnings: list[str] = []
        self.started_s = time.time()
        self._existed = self.path.is_dir() or mirror.exists_at_url(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock", timeout=0)
        self._take_lock()
        if self._existed:
            mirror.fetch_folder(self.path)
            self._check_resumable()
            self._clear_halves()
        clear_leftovers(parent)
        write_text(self.path / "config.snapshot.yaml", to_yaml(config))
        write_text(self.path / RESULT_FILE, self._record("running").to_json())
        mirror.publish_folder(self.path)

    def finish(self, result: Result, *, status: Status = "completed") -> None:
        """Write the numbers, and one line into the table of all runs."""
        outcome = asdict(result)
        if result.quality is None:
            del outcome["quality"]
        record = self._record(status, **outcome)
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
                f"{self.shown}: a completed run of this name exists already. Set another "
                "output.run_id, or leave it unset; a training goes on from it with "
                "train.resume_checkpoint=.../checkpoint-final-full.pth."
            )
        if written is None or written.config_fingerprint == fingerprint(self.config):
            return
        names = {file.name for file in self.path.iterdir() if not file.name.startswith(".")}
        if names - OPENING:
            self._lock.release()
            raise ConfigError(
                f"{self.shown} has an interrupted run of another config; see its "
                "config.snapshot.yaml. Set another output.run_id."
            )
        for name in names - {"wandb"}:
            (self.path / name).unlink()
        mirror.remove_folder(self.path)

    def withdraw(self) -> bool:
        """Remove the folder again if it is new and nothing has been computed, and say so.

        Never raises, as `fail`.
        """
        names = {file.name for file in self.path.iterdir() if not file.name.startswith(".")}
        if self._existed or names - (OPENING - {"wandb"}):
            return False
        with contextlib.suppress(OSError, StorageError):
            self._lock.release()
            shutil.rmtree(self.path)
            mirror.remove_folder(self.path)
            self.path.parent.rmdir()  # an OSError where it has other runs
        return True

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
        """The run's lock makes this process the only writer: a half-written file has no writer."""
        for half in self.path.glob(".*.tmp*"):
            half.unlink(missing_ok=True)

    def _record(self, status: Status, **outcome: object) -> RunRecord:
        return RunRecord.model_validate(
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.run_id,
                **({} if self.kind is None else {"kind": self.kind}),
                "status": status,
                "method": self.method,
                **outcome,
                **({"warnings": self.warnings} if self.warnings else {}),
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
    """Versions of what the numbers depend on, and of packages that add to exreid."""
    known = {name: version(name) for name in VERSIONS_OF}
    return {"python": platform.python_version(), **known, **plugin_packages()}


def write_text(file: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    with written_whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(file: Path, table: pa.Table) -> None:
    """Parquet, under a temporary name, then renamed."""
    with written_whole(file) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def write_rejected(file: Path, rejected: Sequence[Rejected]) -> None:
    """``rejected.csv``: a header alone where nothing was left out."""
    columns = ["image_id", "path", "row", "stage", "reason"]
    frame = pd.DataFrame([asdict(item) for item in rejected], columns=columns)
    write_text(file, csv_text(frame))


def write_embeddings(file: Path, embeddings: Embeddings) -> None:
    """``embeddings.parquet``: image_id, vector."""
    length = embeddings.vectors_ND.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.vectors_ND.reshape(-1)), length)
    ids = pa.array(embeddings.image_ids, pa.string())
    write_table(file, pa.table({"image_id": ids, "vector": vectors}))
