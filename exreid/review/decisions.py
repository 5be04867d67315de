"""decisions.csv: what people answered, one row for each answer, only ever appended to.

Everything else (the partition, the next question, the estimates) is computed from these rows. So an
undo is a row, files of several people are merged by concatenation, and a computer that stops in the
middle of a row loses that row alone.
"""

from __future__ import annotations

import csv
import getpass
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock

from exreid.errors import ReviewError
from exreid.storage.spreadsheets import cell_as_it_was, safe_cell

Verdict = Literal["same", "different", "can't tell", "name", "undo"]
Purpose = Literal["queue", "repeat", "audit", "check", ""]


@dataclass(frozen=True)
class Decision:
    """One row."""

    first: str
    """A visit; of a pair the one whose name sorts first."""
    second: str
    """The other visit; empty in a row that names the first visit's animal."""
    verdict: Verdict
    """``undo`` takes back the latest row of the same person about the same visits."""
    name: str
    """Of the animal, where the verdict is ``name``."""
    who: str
    when: str
    """ISO 8601 with a time zone."""
    seconds: float
    """From the question to the answer."""
    probability: float | None
    """That the two visits show one animal, as it was shown; None where none was."""
    purpose: Purpose
    """Why the pair was asked: ``queue``; ``repeat``, to measure the person; ``audit``; ``check``,
    an audit pair again, as its answer was against the partition. Empty beside a name."""
    drawn: float | None
    """The probability with which an audit pair was drawn; None for every other row."""

    @cached_property
    def order(self) -> tuple[datetime, tuple[str, ...]]:
        """By what rows are sorted: their times, and of equal times all that they say."""
        return moment(self.when), tuple(str(getattr(self, column)) for column in COLUMNS)


COLUMNS = tuple(field.name for field in fields(Decision))
HEADER = ",".join(COLUMNS) + "\n"
NUMBERS = ("seconds", "probability", "drawn")


@dataclass(frozen=True)
class DecisionFile:
    """What a file says."""

    decisions: tuple[Decision, ...]
    torn: str
    """A last line that was cut off while it was written, and so does not count; else empty."""


def read_decisions(path: Path) -> DecisionFile:
    """The rows of a file; none where there is no file. ReviewError names the file and the row."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return DecisionFile((), "")
    except OSError as error:
        raise ReviewError(f"{path}: cannot be read: {error.strerror}.") from error
    whole, _, rest = content.rpartition(b"\n")
    torn = rest.decode("utf-8", "replace")
    if not whole:
        return DecisionFile((), torn)
    try:
        text = whole.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReviewError(f"{path}: not UTF-8. Save the table as CSV in UTF-8.") from error
    # A row may end in \r\n where a spreadsheet saved the file; a line break inside a cell is none
    # of ours, since no value may hold one.
    lines = csv.reader(text.splitlines())
    header = next(lines, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ReviewError(
            f"{path}: no column {', '.join(missing)}; the first row has {', '.join(header)}. A "
            f"file of decisions begins with {HEADER.strip()}"
        )
    place = {column: header.index(column) for column in COLUMNS}
    rows = [
        _decision({c: cell_as_it_was(cells[p]) for c, p in place.items()}, f"{path}, row {number}")
        if len(cells) == len(header)
        else _wrong(f"{path}, row {number}", f"{len(cells)} cells, and {len(header)} columns")
        for number, cells in enumerate(lines, 2)
        if cells
    ]
    return DecisionFile(tuple(rows), torn)


def append_decision(path: Path, decision: Decision) -> None:
    """Add a row; when this returns it is on the disk. A torn last line is moved to a file beside,
    ``*.torn``. ReviewError for a row that could not be read again, or where the disk refuses."""
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(_cells(decision))
    cells = [cell_as_it_was(cell) for cell in _cells(decision)]
    _decision(dict(zip(COLUMNS, cells, strict=True)), "the new row")
    try:
        with FileLock(f"{path}.lock"), path.open("a+b") as stream:
            stream.seek(0)
            content = stream.read()
            size = content.rfind(b"\n") + 1
            if size < len(content):
                with path.with_name(f"{path.name}.torn").open("ab") as aside:
                    aside.write(content[size:] + b"\n")
                stream.truncate(size)
            stream.write(("" if size else HEADER).encode() + row.getvalue().encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ReviewError(f"{path}: the answer is not saved: {error.strerror}.") from error


def merge_decisions(parts: Iterable[Sequence[Decision]]) -> tuple[Decision, ...]:
    """All rows in the order of their times, each once: a row that stands in two files with the same
    content is one row."""
    rows = {decision: None for part in parts for decision in part}
    return tuple(sorted(rows, key=lambda row: row.order))


def standing(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The rows that count, in the order of their times: without the undone ones and the undos."""
    kept: list[Decision | None] = []
    latest: dict[tuple[str, str, str], list[int]] = {}
    for row in merge_decisions([decisions]):
        about = latest.setdefault((row.who, row.first, row.second), [])
        if row.verdict != "undo":
            about.append(len(kept))
            kept.append(row)
        elif about:
            kept[about.pop()] = None
    return tuple(row for row in kept if row is not None)


def user_name() -> str:
    """The user's name on this machine: who answers, if nobody is named."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def moment(when: str) -> datetime:
    """The time of a row; ValueError for one that is none, or has no time zone."""
    time = datetime.fromisoformat(when)
    if time.tzinfo is None:
        raise ValueError(f"{when} has no time zone")
    return time


def _cells(decision: Decision) -> list[str]:
    texts = []
    for column in COLUMNS:
        value = getattr(decision, column)
        texts.append("" if value is None else str(safe_cell(str(value))))
    return texts


def _wrong(place: str, what: str) -> Decision:
    raise ReviewError(f"{place}: {what}. Mend the row, or take it out.")


def _decision(cell: dict[str, str], place: str) -> Decision:
    """The row of these cells; ReviewError says what is wrong with it."""
    number: dict[str, float | None] = {}
    for column in NUMBERS:
        try:
            number[column] = float(cell[column]) if cell[column] else None
        except ValueError:
            return _wrong(place, f"{column} is {cell[column]!r}, which is no number")
    verdict, purpose = cell["verdict"], cell["purpose"]
    if verdict not in get_args(Verdict):
        return _wrong(place, f"the verdict is {verdict!r}, not one of {get_args(Verdict)}")
    if purpose not in get_args(Purpose):
        return _wrong(place, f"the purpose is {purpose!r}, not one of {get_args(Purpose)}")
    try:
        moment(cell["when"])
    except ValueError:
        return _wrong(place, f"when is {cell['when']!r}, not a time as 2026-05-01T12:00:00+00:00")
    reason = _contradiction(cell, number)
    if reason:
        return _wrong(place, reason)
    texts = {column: cell[column] for column in ("first", "second", "name", "who", "when")}
    return Decision(**texts, verdict=verdict, purpose=purpose, **number)  # type: ignore[arg-type]


def _contradiction(cell: dict[str, str], number: dict[str, float | None]) -> str:
    """What does not fit together in a row's cells; else empty."""
    first, second, verdict = cell["first"], cell["second"], cell["verdict"]
    if not first or not cell["who"]:
        return "no first visit" if not first else "nobody is named in who"
    if any(mark in value for value in cell.values() for mark in "\r\n\0"):
        return "a cell has a line break"
    if verdict == "name" and (second or not cell["name"]):
        return "a row with a name has one visit and the name"
    if verdict not in ("name", "undo") and not first < second:
        return f"{first!r} and {second!r} are not two visits in the order of their names"
    seconds, probability, drawn = (number[column] for column in NUMBERS)
    if seconds is None or not 0 <= seconds < math.inf:
        return "seconds are missing or below 0"
    if probability is not None and not 0 <= probability <= 1:
        return f"the probability is {probability}, not from 0 to 1"
    if drawn is not None and not 0 < drawn <= 1:
        return f"drawn is {drawn}, not above 0 and at most 1"
    if (cell["purpose"] == "audit") != (drawn is not None):
        return "an audit pair, and no other, has a probability in drawn"
    return ""
