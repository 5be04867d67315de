"""A table for people, as CSV or XLSX: a row for each animal on a photograph, in plain words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.data.workbooks import write_workbook
from exreid.storage.spreadsheets import csv_text

PEOPLE_COLUMNS: dict[str, Callable[[ExportedAnimal], object]] = {
    "photograph": lambda one: one.path,
    "animal": lambda one: one.animal or one.new_animal,
    "answer": lambda one: one.answer,
    "decision": lambda one: one.decision,
    "probability": lambda one: None if one.probability is None else round(one.probability, 4),
    "nearest known": lambda one: one.nearest,
    "date": lambda one: one.date_text,
    "encounter": lambda one: one.encounter,
    "site": lambda one: one.site,
    "side": lambda one: one.viewpoint,
    "species": lambda one: one.species,
    "box left": lambda one: one.box and round(one.box.left, 2),
    "box top": lambda one: one.box and round(one.box.top, 2),
    "box right": lambda one: one.box and round(one.box.right, 2),
    "box bottom": lambda one: one.box and round(one.box.bottom, 2),
    "theta": lambda one: (one.box and one.box.theta_rad) or None,
}
"""By their names, which `exreid import table` knows."""
ALWAYS = ("photograph", "animal")


def people_table(export: Export) -> pd.DataFrame:
    """The table; columns that would be empty are left out."""
    cells = {
        name: pd.Series([value(one) for one in export.animals], dtype=object)
        for name, value in PEOPLE_COLUMNS.items()
    }
    return pd.DataFrame(
        {name: column for name, column in cells.items() if name in ALWAYS or column.notna().any()}
    )


def write_people_table(frame: pd.DataFrame, file: Path) -> None:
    """Write XLSX or CSV by the file's ending; the CSV with the mark by which Excel knows UTF-8."""
    if file.suffix.lower() == ".xlsx":
        write_workbook(frame, file)
    else:
        file.write_bytes(csv_text(frame).encode("utf-8-sig"))
