"""decisions.csv: what people decided, one row for each decision, only ever appended to.

A row is an answer about a pair of visits, an animal's name, or, in a gallery, another name of a
photograph. Everything else (the partition, the next question, the estimates) is computed from these
rows. So an undo is a row, files of several people are merged by concatenation, and a computer that
stops in the middle of a row loses that row alone.
"""

from __future__ import annotations

import codecs
import csv
import getpass
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn, get_args

from filelock import FileLock

from exreid.errors import ReviewError
from exreid.storage.spreadsheets import cell_as_it_was, safe_cell

Answer = Literal["same", "different", "can't tell"]
Action = Literal["rename", "merge", "split", "remove", "apply"]
Verdict = Literal[Answer, "name", "undo", Action, ""]
Purpose = Literal["queue", "repeat", "audit", "check", ""]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class Decision:
    """One row."""

    first: str
    """A visit, of a pair the one whose name sorts first; in a gallery a photograph's id."""
    second: str
    """The other visit; empty in a row about one visit or photograph."""
    verdict: Verdict
    """``undo`` takes back the latest row of the same person about the same visits, or a gallery's
    last edit. Empty: a question that is not answered yet."""
    name: str
    """Of the animal, where the verdict is ``name`` or a gallery's edit, which gives it to the
    photograph; empty where a ``remove`` or an undo takes the photograph out."""
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
    before: str = ""
    """In a gallery: the photograph's name before the edit; empty where the edit adds it, or an undo
    puts it back."""

    @cached_property
    def order(self) -> tuple[datetime, tuple[str, ...]]:
        """By what rows are sorted: their times, and of equal times all that they say."""
        return moment(self.when), tuple(str(getattr(self, column)) for column in COLUMNS)


COLUMNS = tuple(field.name for field in fields(Decision))
REQUIRED = COLUMNS[:-1]
"""``before`` is missing in files of earlier versions."""
EDIT_COLUMNS = ("edit", "action", "image_id", "before", "after", "who", "when")
"""Of the file that earlier versions kept in a gallery."""
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
    size = _whole(content)
    torn = content[size:].decode("utf-8", "replace")
    if not size:
        return DecisionFile((), torn)
    lines = _lines(content[:size], path)
    header = next(lines, [])
    if tuple(header) == EDIT_COLUMNS:
        return DecisionFile(tuple(_old_edits(lines, path)), torn)
    rows = []
    place = _places(header)
    if place is None and len(header) == 1 and _places(header[0].split(";")) is not None:
        raise ReviewError(f"{path}: has semicolons between its columns. Save it with commas.")
    if place is None:
        missing = ", ".join(column for column in REQUIRED if column not in header)
        raise ReviewError(
            f"{path}: no column {missing}; the first row has {', '.join(header)}. A "
            f"file of decisions begins with {HEADER.strip()}"
        )
    for number, line in enumerate(lines, 2):
        # Files put together with cat have the later ones' headers between the rows.
        cells = [cell.removeprefix("\ufeff") for cell in line]
        where = f"{path}, row {number}"
        if (other := _places(cells)) is not None:
            header, place = cells, other
        elif cells and len(cells) != len(header):
            _wrong(where, f"{len(cells)} cells, and {len(header)} columns")
        elif cells:
            cell = {name: cell_as_it_was(cells[at]) for name, at in place.items()}
            rows.append(_decision(cell, where))
    return DecisionFile(tuple(rows), torn)


def _whole(content: bytes) -> int:
    """How many of a file's bytes are whole lines. A last line need not end as one, since some
    spreadsheets write none there: it is whole with all cells and an empty last one, since a line
    that was cut off lacks the comma before it."""
    size = content.rfind(b"\n") + 1
    if content.removeprefix(codecs.BOM_UTF8).startswith(HEADER.strip().encode()):
        cells = next(csv.reader([content[size:].decode("utf-8", "replace")]), [])
        if len(cells) == len(COLUMNS) and not cells[-1]:
            return len(content)
    return size


def _lines(content: bytes, path: Path) -> Iterator[list[str]]:
    """The cells of each line. It may end in \\r\\n, where a spreadsheet saved the file; what else
    Unicode takes for the end of a line may stand inside a cell."""
    try:
        yield from csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="\n"))
    except UnicodeDecodeError as error:
        raise ReviewError(f"{path}: not UTF-8. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise ReviewError(f"{path}: not a table as CSV: {error}.") from error


def _places(header: Sequence[str]) -> dict[str, int] | None:
    """Where each column is; None for a row that is not a header."""
    if not set(REQUIRED) <= set(header):
        return None
    return {column: header.index(column) for column in COLUMNS if column in header}


def _old_edits(lines: Iterable[list[str]], path: Path) -> Iterable[Decision]:
    """The rows of a gallery's file of an earlier version, each edit at a time of its own."""
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(EDIT_COLUMNS):
            _wrong(f"{path}, row {number}", f"{len(cells)} cells, and {len(EDIT_COLUMNS)} columns")
        edit, action, image, before, after, who, when = map(cell_as_it_was, cells)
        try:
            time = (moment(when) + timedelta(microseconds=int(edit))).isoformat()
        except ValueError:
            _wrong(f"{path}, row {number}", f"edit {edit!r} at {when!r}: a number and a time")
        cell = dict.fromkeys(COLUMNS, "") | {"first": image, "verdict": action, "before": before}
        cell |= {"name": after, "who": who, "when": time, "seconds": "0"}
        yield _decision(cell, f"{path}, row {number}")


def append_decision(path: Path, decision: Decision) -> None:
    """Add a row; see `append_decisions`."""
    append_decisions(path, [decision])


def append_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    """Add rows; when this returns they are on the disk. A torn last line is moved to a file beside,
    ``*.torn``. ReviewError for a row that could not be read again, or where the disk refuses."""
    for decision in decisions:
        cells = {name: cell_as_it_was(cell) for name, cell in _cells(decision).items()}
        _decision(cells, "the new row")
    try:
        with FileLock(f"{path}.lock"), path.open("a+b") as stream:
            stream.seek(0)
            content = stream.read()
            size = _whole(content)
            if size and not content[:size].endswith(b"\n"):
                stream.write(b"\n")
            elif size < len(content):
                with path.with_name(f"{path.name}.torn").open("ab") as aside:
                    aside.write(content[size:] + b"\n")
                stream.truncate(size)
            header = content[:size].decode("utf-8-sig").splitlines()[0] if size else HEADER.strip()
            lines = "".join(_line(decision, header) for decision in decisions)
            stream.write(("" if size else HEADER).encode() + lines.encode())
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
    """The rows that count, in the order of their times: without the undone ones, the undos, and the
    questions without an answer."""
    kept: list[Decision | None] = []
    latest: dict[tuple[str, str, str], list[int]] = {}
    for row in merge_decisions([[row for row in decisions if row.verdict]]):
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


def decisions_text(decisions: Iterable[Decision]) -> str:
    """The text of a file with these rows."""
    return HEADER + "".join(_line(decision, HEADER.strip()) for decision in decisions)


def _line(decision: Decision, header: str) -> str:
    """The row for a file with this header, which may be an earlier version's or reordered."""
    cells, row = _cells(decision), io.StringIO()
    names = next(csv.reader([header]))
    csv.writer(row, lineterminator="\n").writerow([cells.get(name, "") for name in names])
    return row.getvalue()


def _cells(decision: Decision) -> dict[str, str]:
    values = {column: getattr(decision, column) for column in COLUMNS}
    return {
        name: "" if value is None else str(safe_cell(str(value))) for name, value in values.items()
    }


def _wrong(place: str, what: str) -> NoReturn:
    raise ReviewError(f"{place}: {what}. Mend the row, or take it out.")


def _decision(cell: dict[str, str], place: str) -> Decision:
    """The row of these cells; ReviewError says what is wrong with it."""
    number: dict[str, float | None] = {}
    for column in NUMBERS:
        try:
            number[column] = float(cell[column]) if cell[column] else None
        except ValueError:
            _wrong(place, f"{column} is {cell[column]!r}, which is not a number")
    verdict, purpose = cell["verdict"], cell["purpose"]
    if verdict not in get_args(Verdict):
        _wrong(place, f"the verdict is {verdict!r}, not one of {get_args(Verdict)}")
    if purpose not in get_args(Purpose):
        _wrong(place, f"the purpose is {purpose!r}, not one of {get_args(Purpose)}")
    try:
        moment(cell["when"])
    except ValueError:
        _wrong(place, f"when is {cell['when']!r}, not a time as 2026-05-01T12:00:00+00:00")
    reason = _contradiction(cell, number)
    if reason:
        _wrong(place, reason)
    texts = {c: cell.get(c, "") for c in ("first", "second", "name", "who", "when", "before")}
    return Decision(**texts, verdict=verdict, purpose=purpose, **number)  # type: ignore[arg-type]


def _contradiction(cell: dict[str, str], number: dict[str, float | None]) -> str:
    """What does not fit together in a row's cells; else empty."""
    first, second, verdict = cell["first"], cell["second"], cell["verdict"]
    if not first or not cell["who"]:
        return "no first visit" if not first else "nobody is named in who"
    broken = any(mark in value for value in cell.values() for mark in "\r\n\0")
    if broken and (verdict in ANSWERS or verdict == "name"):  # a gallery's names are as they are
        return "a cell has a line break"
    if verdict == "remove" and (second or cell["name"] or not cell.get("before")):
        return "a row with the verdict remove has no second visit and no name, and has one before"
    if verdict in ("name", *ACTIONS) and verdict != "remove" and (second or not cell["name"]):
        return f"a row with the verdict {verdict} has no second visit, and has a name"
    if (second or verdict in ANSWERS) and not first < second:
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
