"""The metadata file: found, read as text, and its columns named."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd

from exreid.config.dataset import MISSING_VALUES
from exreid.data.boxes import BoxFormat
from exreid.data.metadata_formats import IS_PARQUET, free_names, parse_csv, parse_parquet
from exreid.data.workbooks import is_workbook, read_workbook
from exreid.errors import MetadataError
from exreid.storage.urls import exists, is_remote, join, open_file_system, read_regular, read_remote

Value = TypeVar("Value")
SHOWN_COLUMNS = 40
DEFAULT_FILES = (
    *("CzechLynxDataset-Metadata-Real.csv", "metadata.csv", "metadata.parquet"),
    "datapackage.json",
)

ANSWERED = {"photo", "status", "decision", "best_gallery_photo"}
"""Columns of ``identifications.csv``, in every version."""


@dataclass(frozen=True)
class Columns:
    """The names of the file's columns by meaning, and how their cells are read.

    The file must have ``path``, the ``encounter`` columns and those in ``required``, and the
    identity if it is asked for. Any other column may be missing: then it has no values.
    """

    path: str = "path"
    identity: str = "unique_name"
    split: str | None = "split-time_closed"
    mask: str | None = "mask"
    bbox: tuple[str, ...] = ("bbox",)
    bbox_format: BoxFormat | None = None
    theta: str = "theta"
    encounter: tuple[str, ...] = ()
    viewpoint: str | None = None
    date: str | None = "date"
    image_id: str = "image_id"
    required: frozenset[str] = frozenset()
    missing_values: tuple[str, ...] = MISSING_VALUES
    """Texts of cells, in any case, that mean an empty cell."""
    dates_count: bool = False
    """Whether an unreadable date is a problem of its row."""

    @property
    def used(self) -> list[str]:
        """The named columns, each once; without the ids."""
        names = (self.path, self.identity, self.split, self.mask, self.viewpoint, self.date)
        boxes = (*self.bbox, self.theta) if self.bbox else ()
        return list(dict.fromkeys(name for name in (*names, *self.encounter, *boxes) if name))


@dataclass(frozen=True)
class MetadataFile:
    """A metadata file as it was written: ``cells`` are text, or None where empty."""

    cells: pd.DataFrame
    source: str
    line_N: np.ndarray
    """The line where each row begins in the file, the header being line 1."""
    repeated: frozenset[str] = frozenset()
    """Names that several columns have."""
    as_given: pd.DataFrame | None = None
    """The cells before they were made comparable, for messages."""

    def column(self, name: str | None) -> list[str | None]:
        """A column's cells; all None where the file has no such column."""
        if name is None or name not in self.cells.columns:
            return [None] * len(self.cells)
        return list(self.cells[name])

    def given(self, name: str) -> list[str | None]:
        """A column's cells as they are in the file."""
        return replace(self, cells=self.cells if self.as_given is None else self.as_given).column(
            name
        )


def read_table(root: str, metadata_file: str | None = None) -> tuple[pd.DataFrame, str]:
    """The metadata as text (None for an empty cell), and the path or URL that it was read from.

    CSV (UTF-8 or UTF-16; comma, semicolon or tab), Parquet or XLSX, below the root, absolute, or
    any fsspec URL. Without a name, `DEFAULT_FILES` are looked for in the root. Whole numbers
    of a Parquet file lose their point (12.0 is "12"), lists and structs become JSON. Raises
    MetadataError.
    """
    file = read_metadata(root, metadata_file)
    return file.cells, file.source


def read_metadata(root: str, metadata_file: str | None = None) -> MetadataFile:
    """As `read_table`, with the line of each row. Rows of nothing but empty cells are left out."""
    source = find_metadata(root, metadata_file)
    return parse_metadata(metadata_bytes(source), source)


def parse_metadata(data: bytes, source: str, sheet: str | None = None) -> MetadataFile:
    """The table in a file's bytes: Parquet, CSV, or an Excel workbook (``sheet`` names one of
    several sheets)."""
    repeated: frozenset[str] = frozenset()
    if source.endswith((".parquet", ".pq")) or data.startswith(IS_PARQUET):
        cells = parse_parquet(data, source)
        line_N = np.arange(len(cells)) + 2
    elif is_workbook(data):
        cells, line_N = read_workbook(data, source, sheet)
        cells.columns = free_names(cells.columns)
    else:
        cells, line_N, repeated = parse_csv(data, source)
    if set(cells.columns) >= ANSWERED:
        raise MetadataError(
            f"{source}: these are answers of exreid identify, not labels that a person gave: a "
            "gallery of guesses repeats their mistakes. Look at the photographs (exreid report), "
            "and write only the animals that you are sure of into another table."
        )
    filled = cells.notna().any(axis=1).to_numpy()
    if not filled.any():
        raise MetadataError(f"{source}: has no rows. Set dataset.metadata_file to another one.")
    if not filled.all():
        cells = cells[filled].reset_index(drop=True)
    return MetadataFile(cells, source, line_N[filled], repeated)


def check_columns(file: MetadataFile, columns: Columns, *, require_identity: bool) -> None:
    """MetadataError naming each required column that is missing, and the one of the nearest
    name."""
    keys: dict[str | None, str] = {
        columns.split: "dataset.split_col (or dataset.make_split)",
        columns.mask: "dataset.mask_col",
        **dict.fromkeys(columns.bbox, "dataset.bbox_cols"),
        columns.viewpoint: "dataset.viewpoint_col",
        columns.date: "dataset.date_col",
        **dict.fromkeys(columns.encounter, "dataset.encounter_cols"),
        columns.identity: "dataset.label_col",
        columns.path: "dataset.path_col",
    }
    there = [str(name) for name in file.cells.columns]
    boxed = columns.bbox and set(columns.bbox) <= set(there)  # boxes suffice instead of masks
    required = columns.required - {columns.mask} if boxed else columns.required
    needed = [columns.path, *columns.encounter, *sorted(required)]
    if require_identity:
        needed.insert(1, columns.identity)
    twice = [name for name in columns.used if name in file.repeated]
    messages = [f"several columns are called {name!r}: rename all but one." for name in twice]
    for name in dict.fromkeys(needed):
        if name in there:
            continue
        lowered = {other.lower(): other for other in reversed(there)}
        near = difflib.get_close_matches(name.lower(), lowered, n=1)
        hint = f" Did you mean {lowered[near[0]]!r}?" if near else ""
        remedy = f" Set {keys[name]}." if name in keys else ""
        messages.append(f"no column {name!r}.{hint}{remedy}")
    if messages:
        raise MetadataError(f"{file.source}: {' '.join(messages)} It has {_listed(there)}.")


def _listed(names: list[str]) -> str:
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:SHOWN_COLUMNS]]
    more = [f"and {len(names) - SHOWN_COLUMNS} more"] if len(names) > SHOWN_COLUMNS else []
    return ", ".join([*shown, *more])


def find_metadata(root: str, metadata_file: str | None) -> str:
    """The path or URL of the metadata file; without a name, one of `DEFAULT_FILES` in the root."""
    if metadata_file is not None:
        absolute = is_remote(metadata_file) or metadata_file.startswith("/")
        return metadata_file if absolute else join(root, metadata_file)
    for name in DEFAULT_FILES:
        if _guarded(root, partial(exists, root, name)):
            return join(root, name)
    if not is_remote(root) and not os.path.exists(root):  # noqa: PTH110
        raise MetadataError(f"{root}: no such folder. Set dataset.root.")
    if not is_remote(root) and os.path.isfile(root):  # noqa: PTH113
        raise MetadataError(
            f"{root}: dataset.root is a folder, and this is a file. exreid import {root} --out "
            "metadata.parquet makes a table of a zip or of another program's file."
        )
    raise MetadataError(
        f"{root}: no metadata file; looked for {', '.join(DEFAULT_FILES)}. Set dataset.root, or "
        "dataset.metadata_file; or give each animal a folder (ANIMAL/photo.jpg). Photographs of "
        "unknown animals are for exreid identify."
    )


def metadata_bytes(source: str) -> bytes:
    """A file's or a URL's bytes; MetadataError if it cannot be read."""

    def read() -> bytes:
        if not is_remote(source):
            return read_regular(os.path.expanduser(source))  # noqa: PTH111
        file_system, inner = open_file_system(source)
        return read_remote(file_system, inner)

    return _guarded(source, read)


def _guarded(source: str, read: Callable[[], Value]) -> Value:
    """What ``read`` returns; a failure as MetadataError."""
    try:
        return read()
    except FileNotFoundError as error:
        raise MetadataError(
            f"{source}: no such metadata file. Set dataset.root and dataset.metadata_file."
        ) from error
    except ImportError as error:
        raise MetadataError(
            f"{source}: this kind of URL needs a package that is not installed: {error}"
        ) from error
    except (OSError, ValueError) as error:
        raise MetadataError(f"{source}: cannot be read: {error}") from error
