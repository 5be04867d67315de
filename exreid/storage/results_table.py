"""The table of all runs beside their folders: a line for each run that has ended.

Behind a URL no lock keeps two machines from writing at once, so the folders of the runs are the
truth: a writer adds the lines that the table lacks, and looks again after writing, so that the last
one to write has them all.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from exreid.errors import StorageError
from exreid.storage import mirror
from exreid.storage.files import written_whole
from exreid.storage.run_record import RESULT_FILE, RunRecord

log = logging.getLogger(__name__)

ResultsRow = dict[str, str | int | float]
ENDED = ("completed", "stopped")
"""States of a run that has a line."""
MOST_LOOKS = 20
"""Times that the table is written anew because another machine's run was not in it."""


def row_of(run: RunRecord) -> ResultsRow:
    """A run's line, made of its ``result.json``."""
    plain = {name: count for name, count in run.counts.items() if not isinstance(count, dict)}
    row = {"run_id": run.run_id, "method": run.method, **run.metrics, **plain}
    return row | {"config_fingerprint": run.config_fingerprint}


def add_row(file: Path, row: ResultsRow) -> None:
    """Write a run's line; a line that the run has already is replaced, new columns are joined in.

    Other runs may do so at the same time. Behind a URL the run's folder must exist before, and a
    failure is a warning: the next run to end writes the line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if mirror.url_of(file) is None:
            _write(file, _joined(_read(file), [row]))
            return
        try:
            _publish(file, row)
        except StorageError as error:
            log.warning(
                "%s lacks the line of run %s, which is whole; the next run to end adds it. %s",
                mirror.shown(file),
                row["run_id"],
                error,
            )


def _publish(file: Path, row: ResultsRow) -> None:
    new = [row]
    for _ in range(MOST_LOOKS):
        known = _read(file) if mirror.fetch(file) else []
        rows = _joined(known, new)
        rows = _joined(rows, _of_others(file.parent, rows))
        _write(file, rows)
        mirror.put(file)
        new = _of_others(file.parent, rows)
        if not new:
            return


def _of_others(folder: Path, known: list[ResultsRow]) -> list[ResultsRow]:
    """The lines of the runs that have ended and are not among the known ones."""
    rows: list[ResultsRow] = []
    names = {line.get("run_id") for line in known}
    for name in sorted(set(mirror.folder_names(folder)) - names):
        try:
            run = RunRecord.model_validate_json(mirror.read(folder / name / RESULT_FILE) or "{}")
        except ValidationError:
            continue  # no folder of a run, or one that is being written
        if run.status in ENDED:
            rows.append(row_of(run))
    return rows


def _joined(rows: list[ResultsRow], more: list[ResultsRow]) -> list[ResultsRow]:
    """All lines in their order; of two with one ``run_id`` the later, at the first one's place."""
    lines: dict[object, ResultsRow] = {}
    for line in (*rows, *more):
        lines[line.get("run_id") or object()] = line
    return list(lines.values())


def _read(file: Path) -> list[ResultsRow]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write(file: Path, rows: list[ResultsRow]) -> None:
    columns = list(dict.fromkeys(name for line in rows for name in line))
    with (
        written_whole(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
