"""Wildbook's spreadsheets: an encounter in each row of the bulk import, or annotations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from exreid.data.boxes import read_numbers
from exreid.data.imports.animals import NAME, Animal, Cells, Reading, StatedBox, without_repeats
from exreid.errors import MetadataError

MEDIA = re.compile(r"Encounter\.mediaAsset(\d+)")
NAME_COLUMNS = (
    *("MarkedIndividual.individualID", "Encounter.individualID", "Individual.individualID"),
    *("Name0.value", "MarkedIndividual.individualName", "MarkedIndividual.name"),
)
ENCOUNTER_COLUMNS = (
    *("Sighting.sightingID", "Encounter.sightingID", "Occurrence.occurrenceID"),
    *("Encounter.occurrenceID", "Encounter.catalogNumber", "Encounter.id"),
)
LOCATION_COLUMNS = ("Encounter.locationID", "Encounter.verbatimLocality")
_DATE = ("Encounter.year", "Encounter.month", "Encounter.day")
_ANNOTATION = re.compile(r"Annotation\d+\.|Encounter\.mediaAsset\d+")


def is_wildbook(names: Sequence[str]) -> bool:
    """Whether a table with these columns is Wildbook's."""
    return any(MEDIA.fullmatch(name) for name in names)


def read_wildbook(cells: pd.DataFrame, lines: Sequence[int]) -> Reading:
    """The animals of a spreadsheet: each of an encounter's photographs is a row.

    Annotations' boxes, [x, y, width, height] in pixels, are taken if the sheet has them. A row
    without an identifier of an encounter is an encounter by itself.
    """
    columns = [str(name) for name in cells.columns]
    assets = sorted(int(match[1]) for name in columns if (match := MEDIA.fullmatch(name)))
    animals: list[Animal] = []
    left_out: Counter[str] = Counter()
    for row, line in zip(cells.to_dict("records"), lines, strict=True):
        text: Cells = {str(k): _cell(v) for k, v in row.items()}
        shared: Cells = {
            **{
                k: v
                for k, v in text.items()
                if v and not _ANNOTATION.match(k) and k not in NAME_COLUMNS
            },
            NAME: _first(text, NAME_COLUMNS),
            "date": _date(text, f"line {line}"),
            "encounter": _first(text, ENCOUNTER_COLUMNS) or f"line {line}",
            "site": _first(text, LOCATION_COLUMNS),
            "species": _joined(text, ("Encounter.genus", "Encounter.specificEpithet")),
        }
        photographs = 0
        for n in assets:
            path = text.get(f"Encounter.mediaAsset{n}")
            if path is None:
                continue
            photographs += 1
            place = f"line {line}, Encounter.mediaAsset{n}"
            side = text.get(f"Annotation{n}.ViewPoint") or text.get(f"Annotation{n}.Viewpoint")
            photo_cells: Cells = {**shared, "viewpoint": side}
            animals.append(
                Animal(path, place, photo_cells, _box(text.get(f"Annotation{n}.bbox"), place))
            )
        if not photographs:
            left_out["rows without a photograph"] += 1
    animals, repeats = without_repeats(animals)
    return Reading("Wildbook's spreadsheet", animals, left_out + repeats)


def _cell(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _first(text: Cells, names: Sequence[str]) -> str | None:
    return next((text[name] for name in names if text.get(name)), None)


def _joined(text: Cells, names: Sequence[str]) -> str | None:
    return " ".join(part for name in names if (part := text.get(name))) or None


def _date(text: Cells, place: str) -> str | None:
    """An ISO date, with the time if there is one; None if the day is not known."""
    parts = [text.get(name) for name in _DATE]
    if None in parts:
        return None
    try:
        year, month, day = (int(float(part or "")) for part in parts)
        date = f"{year:04d}-{month:02d}-{day:02d}"
        hour = text.get("Encounter.hour")
        if hour is None:
            return date
        minute = int(float(text.get("Encounter.minutes") or 0))
        return f"{date} {int(float(hour)):02d}:{minute:02d}:00"
    except (ValueError, OverflowError):
        raise MetadataError(f"{place}: {', '.join(_DATE)} {parts} are not a date.") from None


def _box(text: str | None, place: str) -> StatedBox | None:
    try:
        numbers = read_numbers([text])
    except ValueError as error:
        raise MetadataError(f"{place}: its annotation's bbox {text!r} {error}.") from None
    return None if numbers is None else StatedBox((numbers[0], numbers[1], numbers[2], numbers[3]))
