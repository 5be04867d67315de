"""A table for people, as CSV or XLSX: a row for each animal on a photograph, in plain words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.data.workbooks import write_workbook
from exreid.storage.spreadsheets import csv_text

PEOPLE_COLUMNS: dict[str, Callable[[ExportedAnimal], object]] = {
    "photograph": lambda entry: entry.path,
    "animal": lambda entry: entry.animal or entry.new_animal,
    "answer": lambda entry: entry.answer,
    "decision": lambda entry: entry.decision,
    "probability": lambda entry: None if entry.probability is None else round(entry.probability, 4),
    "nearest known": lambda entry: entry.nearest,
    "date": lambda entry: entry.date_text,
    "encounter": lambda entry: entry.encounter,
    "site": lambda entry: entry.site,
    "side": lambda entry: entry.viewpoint,
    "species": lambda entry: entry.species,
    "box left": lambda entry: entry.box and round(entry.box.left, 2),
    "box top": lambda entry: entry.box and round(entry.box.top, 2),
    "box right": lambda entry: entry.box and round(entry.box.right, 2),
    "box bottom": lambda entry: entry.box and round(entry.box.bottom, 2),
    "theta": lambda entry: (entry.box and entry.box.theta_rad) or None,
}
"""The columns by their names, which `exreid import table` recognises."""
ALWAYS = ("photograph", "animal")


def people_table(export: Export) -> pd.DataFrame:
    """The table without empty columns."""
    cells = {
        name: pd.Series([value(entry) for entry in export.animals], dtype=object)
        for name, value in PEOPLE_COLUMNS.items()
    }
    return pd.DataFrame(
        {name: column for name, column in cells.items() if name in ALWAYS or column.notna().any()}
    )


def write_people_table(frame: pd.DataFrame, file: Path) -> None:
    """Write XLSX or CSV by the file's ending; CSV with the mark by which Excel recognises UTF-8."""
    if file.suffix.lower() == ".xlsx":
        write_workbook(frame, file)
    else:
        file.write_bytes(csv_text(frame).encode("utf-8-sig"))
