"""Wildbook's bulk import: spreadsheets of at most 200 encounters, and the folder of photographs
that is uploaded with them (https://wildbook.docs.wildme.org/data/bulk-import-beta.html)."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from exreid.data.boxes import Box
from exreid.data.exports.animals import Export, ExportedAnimal, Place
from exreid.data.imports.animals import is_name
from exreid.data.workbooks import write_workbook
from exreid.errors import ConfigError
from exreid.progress import counted

MOST_ROWS = 200
PHOTOGRAPHS = "photographs"


def write_wildbook(export: Export, out: Path, place: Place) -> list[str]:
    """``wildbook-1.xlsx``, ``-2``, ... and the folder ``photographs``; notes for their owner.

    ConfigError for an animal whose name Wildbook would take for a missing one.
    """
    nameless = [
        entry.animal for entry in export.animals if entry.animal and not is_name(entry.animal)
    ]
    if nameless:
        raise ConfigError(
            f"an animal is called {nameless[0]!r}, which databases take for no name. Rename it."
        )
    file_of = plain_names(export.paths)
    for path, name in file_of.items():
        place(path, f"{PHOTOGRAPHS}/{name}")
    frame = wildbook_table(export, file_of)
    starts = range(0, len(frame), MOST_ROWS)
    for number, start in enumerate(starts, 1):
        part = frame.iloc[start : start + MOST_ROWS].dropna(axis=1, how="all")
        write_workbook(part, out / f"wildbook-{number}.xlsx")
    notes = _notes(export)
    if len(starts) > 1:
        notes.insert(0, f"{len(starts)} spreadsheets, each a separate import in Wildbook")
    renamed = sum(PurePosixPath(path).name != name for path, name in file_of.items())
    if renamed:
        notes.append(
            f"other names for {counted(renamed, 'photograph')}: Wildbook takes letters, digits, "
            "periods and spaces; Encounter.otherCatalogNumbers says which they were"
        )
    return notes


def wildbook_table(export: Export, file_of: dict[str, str]) -> pd.DataFrame:
    """A row for each animal on a photograph, which is an encounter to Wildbook. Answers of a
    machine are ``unapproved``; an animal that is not known has no name, but the answer as a
    remark."""
    encounters = [f"{export.name} {entry.encounter}" for entry in export.animals if entry.encounter]
    sighting_of = _unique(encounters, lambda text: re.sub(r"[^A-Za-z0-9_-]+", "_", text))
    rows = []
    for entry in export.animals:
        genus, _, epithet = (entry.species or "").partition(" ")
        moment = entry.moment
        timed = moment if entry.has_time else None
        rows.append(
            {
                "Encounter.mediaAsset0": file_of[entry.path],
                "Encounter.individualID": entry.animal,
                "Encounter.year": moment and moment.year,
                "Encounter.month": moment and moment.month,
                "Encounter.day": moment and moment.day,
                "Encounter.hour": timed and timed.hour,
                "Encounter.minutes": timed and timed.minute,
                "Encounter.locationID": entry.site if is_name(entry.site) else None,
                "Encounter.decimalLatitude": entry.latitude,
                "Encounter.decimalLongitude": entry.longitude,
                "Encounter.genus": genus or None,
                "Encounter.specificEpithet": epithet or None,
                "Encounter.occurrenceID": sighting_of.get(f"{export.name} {entry.encounter}"),
                "Encounter.otherCatalogNumbers": entry.image_id,
                "Encounter.state": "unapproved" if export.classified_by else None,
                "Encounter.occurrenceRemarks": _remark(entry),
                "Annotation0.bbox": _box_text(entry.upright_box),
                "Annotation0.ViewPoint": entry.viewpoint if is_name(entry.viewpoint) else None,
            }
        )
    return pd.DataFrame(rows, dtype=object)


def plain_names(paths: Sequence[str]) -> dict[str, str]:
    """A unique file name of letters, digits, periods and spaces for each photograph, whatever its
    folder.

    >>> plain_names(["1/IMG_01.jpg", "2/IMG_01.jpg", "Käfer.jpg"])
    {'1/IMG_01.jpg': 'IMG 01.jpg', '2/IMG_01.jpg': '2 IMG 01.jpg', 'Käfer.jpg': 'Kafer.jpg'}
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        parts = path.split("/")
        longer = [" ".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        stem, dot, ending = path.rpartition(".")
        numbered = (f"{stem} {number}{dot}{ending}" for number in range(2, len(paths) + 2))
        for name in map(_letters, [*longer, *numbered]):
            if name.casefold() not in taken:
                break
        taken.add(name.casefold())
        names[path] = name
    return names


def _letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(re.sub(r"[^A-Za-z0-9.]+", " ", plain).split())


def _unique(texts: Sequence[str], plain: Callable[[str], str]) -> dict[str, str]:
    """A unique plain text for each text."""
    made: dict[str, str] = {}
    taken: set[str] = set()
    for text in dict.fromkeys(texts):
        name, number = plain(text), 1
        while name in taken:
            number += 1
            name = f"{plain(text)}_{number}"
        taken.add(name)
        made[text] = name
    return made


def _box_text(box: Box | None) -> str | None:
    return None if box is None else json.dumps([round(n, 2) for n in (box.left, box.top, *box.wh)])


def _remark(entry: ExportedAnimal) -> str | None:
    """The answer, if it is not a known animal."""
    if entry.animal is not None or entry.answer is None:
        return None
    return entry.answer if entry.new_animal is None else f"{entry.answer} ({entry.new_animal})"


def _notes(export: Export) -> list[str]:
    """Notes on the columns that Wildbook requires and that are not known."""
    notes = []
    for what, column in (
        ("species", "Encounter.genus and Encounter.specificEpithet"),
        ("moment", "Encounter.year"),
        ("site", "Encounter.locationID"),
    ):
        missing = sum(not getattr(entry, what) for entry in export.animals)
        if missing:
            notes.append(f"Wildbook asks for {column}: fill it in, in {counted(missing, 'row')}")
    if any(entry.site for entry in export.animals):
        notes.append("a site (Encounter.locationID) has to be one of your Wildbook's own list")
    if export.turned:
        notes.append(f"{export.turned} turned boxes became upright ones around them")
    return notes
