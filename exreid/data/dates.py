"""Dates of a table: the forms of one day that are read, and a column's order of day and month."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from exreid.progress import counted

DATE_FORMS = "14.03.2016, 14/03/2016, 2016-03-14, 2016:03:14 22:00:00, 14-Mar-2016, 20160314"
"""Examples of the forms that are read, for messages."""

_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\S.*)?")
_ZEROS = re.compile(r"[0:/.\- T]+")  # what a camera without a set clock writes
_WEEKDAY = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+", re.IGNORECASE)
_NUMBERS = re.compile(r"(?P<a>\d{1,2})(?P<between>[./-])(?P<b>\d{1,2})(?P=between)(?P<y>\d{4})")
_OTHERS = (
    re.compile(r"(?P<y>\d{4})(?P<between>[-/.:_ ])(?P<m>\d{1,2})(?P=between)(?P<d>\d{1,2})"),
    re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?=$|[T _]|\d{6}$)"),
    re.compile(
        r"(?P<d>\d{1,2})(?:st|nd|rd|th)?[-/. ]+(?P<m>[A-Za-z]{3,9})[-/.,]*[-/. ]+(?P<y>\d{4})"
    ),
    re.compile(r"(?P<m>[A-Za-z]{3,9})[-/. ]+(?P<d>\d{1,2})(?:st|nd|rd|th)?[-/., ]+(?P<y>\d{4})"),
    re.compile(r"(?P<y>\d{4})[-/. ](?P<m>[A-Za-z]{3,9})[-/. ](?P<d>\d{1,2})"),
)
_TIME = re.compile(
    r"[T _]*(?P<hour>\d{1,2})(?P<colon>:?)(?P<minute>\d{2})"
    r"(?:(?P=colon)(?P<second>\d{2}))?(?:[.,]\d+)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
)


@dataclass(frozen=True)
class Dates:
    """A column of dates."""

    moment_N: np.ndarray
    """datetime64[s]; NaT where a cell has no date, or cannot be read."""
    unread: list[int]
    """Rows whose cell is neither empty nor a date."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how the column was read."""


def read_dates(values: Sequence[str | None]) -> Dates:
    """The moments in a column's cells.

    Three numbers with the year last are read day first, unless a cell of the column can only be
    month first (03/14/2016) and none only day first. Zeros alone are no date.
    """
    counts = Counter(value for value in values if value is not None)
    month_first, notes = _order(counts)
    known: dict[str | None, np.datetime64 | None] = {None: np.datetime64("NaT")}
    for value in counts:
        try:
            known[value] = parse_date(value, month_first=month_first)
        except (ValueError, OverflowError):
            known[value] = np.datetime64("NaT") if _ZEROS.fullmatch(value) else None
    zeros = [value for value in counts if _ZEROS.fullmatch(value)]
    if zeros:
        count = sum(counts[value] for value in zeros)
        notes.append(f"without a date: {counted(count, 'cell')} such as {zeros[0]!r}")
    unread = [i for i, value in enumerate(values) if known[value] is None]
    moments = [
        known[value] if known[value] is not None else np.datetime64("NaT") for value in values
    ]
    return Dates(np.array(moments, dtype="datetime64[s]"), unread, notes)


def parse_date(text: str, *, month_first: bool = False) -> np.datetime64:
    """A date, with or without a time, in whole seconds; ValueError for other text.

    A time with an offset is converted to UTC. ``month_first`` decides 3/4/2016 and 3-4-2016.

    >>> parse_date("14.03.2016"), parse_date("2016:03:14 06:30:00")
    (np.datetime64('2016-03-14T00:00:00'), np.datetime64('2016-03-14T06:30:00'))
    """
    text = text.strip()
    if _ISO.fullmatch(text):
        try:
            return _as_utc(datetime.fromisoformat(text))
        except ValueError:
            pass  # a form that is nearly ISO
    rest = text[match.end() :] if (match := _WEEKDAY.match(text)) else text
    for pattern in (_NUMBERS, *_OTHERS):
        if match := pattern.match(rest):
            year, month, day = _day_of(match.groupdict(), month_first)
            return _with_time(datetime(year, month, day), rest[match.end() :], text)
    raise ValueError(f"no date: {text!r}")


def _day_of(parts: dict[str, str], month_first: bool) -> tuple[int, int, int]:
    if "a" in parts:
        swapped = month_first and parts["between"] != "."
        day, month = (parts["b"], parts["a"]) if swapped else (parts["a"], parts["b"])
        return int(parts["y"]), int(month), int(day)
    name = parts["m"].lower()
    if name.isdigit():
        return int(parts["y"]), int(name), int(parts["d"])
    months = [i for i, month in enumerate(_MONTHS, 1) if month.startswith(name)]
    if not months:
        raise ValueError(f"no month: {name!r}")
    return int(parts["y"]), months[0], int(parts["d"])


def _with_time(day: datetime, rest: str, text: str) -> np.datetime64:
    if not rest.strip():
        return np.datetime64(day, "s")
    match = _TIME.fullmatch(rest)
    if match is None:
        raise ValueError(f"no date: {text!r}")
    hour = int(match["hour"])
    if match["half"]:
        if not 1 <= hour <= 12:
            raise ValueError(f"no hour of twelve: {text!r}")
        hour = hour % 12 + (12 if match["half"].lower() == "p" else 0)
    moment = day.replace(hour=hour, minute=int(match["minute"]), second=int(match["second"] or 0))
    if match["zone"]:
        offset = match["zone"].replace("UTC", "Z").replace("GMT", "Z")
        moment = datetime.fromisoformat(f"{moment.isoformat()}{offset}")
    return _as_utc(moment)


def _as_utc(moment: datetime) -> np.datetime64:
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment, "s")


def _order(counts: Counter[str]) -> tuple[bool, list[str]]:
    """Whether the month comes first in the column's numbers, and notes on it."""
    day_first: list[str] = []
    month_first: list[str] = []
    either: list[str] = []
    for value in counts:
        match = _NUMBERS.match(value.strip())
        if match is None or match["between"] == ".":
            continue
        a, b = int(match["a"]), int(match["b"])
        if a > 12 or b > 12:
            (day_first if a > 12 else month_first).append(value)
        elif a != b:
            either.append(value)
    if month_first and not day_first:
        return True, [f"the month comes first, as {month_first[0]!r} shows: all are read so"]
    if either and not day_first:
        count = sum(counts[value] for value in either)
        note = (
            f"read day first: {counted(count, 'date')} such as {either[0]!r}; no other date of the "
            "column says so. If the month comes first, write them as 2016-03-14"
        )
        return False, [note]
    return False, []
