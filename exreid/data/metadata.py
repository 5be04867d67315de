"""The data set's table of images: read, checked row by row, and divided into splits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from exreid.data.dates import read_dates
from exreid.data.imports.direct import read_or_import
from exreid.data.metadata_boxes import read_boxes
from exreid.data.metadata_cells import clean_cells, relative_paths, similar_notes
from exreid.data.metadata_checks import SHOWN_PROBLEMS, Problem, row_problems
from exreid.data.metadata_rows import contract_rows, find_files, normalised_path, split_value
from exreid.data.metadata_table import (
    Columns,
    MetadataFile,
    check_columns,
    read_table,
)
from exreid.errors import MetadataError
from exreid.progress import counted
from exreid.records import ImageTable, Rejected, RetrievalSide

__all__ = [
    "Columns",
    "Problem",
    "codes",
    "find_problems",
    "left_out_text",
    "normalised_path",
    "read_image_table",
    "read_table",
    "retrieval_sides",
    "row_text",
    "select_split",
]

log = logging.getLogger(__name__)

SHOWN_REASONS = 3


def read_image_table(
    root: str,
    *,
    metadata_file: str | None = None,
    columns: Columns,
    unknown_identities: Iterable[str] = (),
    on_error: Literal["raise", "skip"] = "raise",
    check_files: bool = True,
    require_identity: bool = True,
    split: str | None = None,
    say: Callable[[str], object] = log.warning,
    say_similar: Callable[[str], object] = log.warning,
) -> tuple[ImageTable, list[Rejected]]:
    """The data set's images, checked; with ``on_error="skip"`` bad rows are left out and listed.

    An identity that is empty or among ``unknown_identities`` is None, and a problem only with
    ``require_identity``. Of rows that repeat a path or an id, the first good one is kept.
    ``check_files`` looks for each file. With ``split`` only problems of its rows count; the rows of
    other splits are returned too.

    ``say`` gets a sentence on each change that was made to cells, ``say_similar`` on names that are
    probably one. Raises MetadataError for a file or a column that is missing or cannot be read; and
    for bad rows, unless they are skipped, with their number and the first few by line and remedy.
    """
    checked = _checked(
        root,
        metadata_file,
        columns,
        unknown_identities,
        check_files=check_files,
        require_identity=require_identity,
        split=split,
        skip=on_error == "skip",
    )
    file, rows, problems = checked.file, checked.rows, checked.problems
    for note in checked.notes:
        say(f"{file.source}: {note}.")
    for note in similar_notes((name, file.column(name)) for name in _named(columns)):
        say_similar(f"{file.source}: {note}.")
    if problems and on_error == "raise":
        shown = [f"  {line_text(p.row)}{p.text}." for p in problems[:SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        shown += [f"  and {more} more; exreid validate lists them all"] if more else []
        count = counted(len(problems), "problem")
        head = f"{file.source}: {count}. dataset.on_error=skip leaves such rows out."
        raise MetadataError("\n".join([head, *shown]))
    good = np.setdiff1d(np.arange(len(rows)), [problem.index for problem in problems])
    table = ImageTable(rows, file.cells, root, file.source)
    return table.take(good), _rejected(rows, problems)


def find_problems(
    root: str,
    *,
    metadata_file: str | None = None,
    columns: Columns,
    unknown_identities: Iterable[str] = (),
    check_files: bool = True,
    require_identity: bool = True,
) -> list[Problem]:
    """All problems of the metadata's rows, by line.

    Raises MetadataError for a file or a column that is missing or cannot be read.
    """
    return _checked(
        root,
        metadata_file,
        columns,
        unknown_identities,
        check_files=check_files,
        require_identity=require_identity,
    ).problems


def left_out_text(rejected: Sequence[Rejected]) -> str:
    """A sentence on the images that were left out, and why; "" if none was."""
    if not rejected:
        return ""
    reasons: dict[str, list[Rejected]] = {}
    for image in rejected:
        same = image.reason.replace(repr(image.path), "").replace(image.path, "")
        reasons.setdefault(same, []).append(image)
    most = sorted(reasons.values(), key=len, reverse=True)
    parts = [
        f"{len(same)} such as {row_text(same[0].row, same[0].path, same[0].reason).rstrip('.')}"
        for same in most[:SHOWN_REASONS]
    ]
    rest = sum(map(len, most[SHOWN_REASONS:]))
    more = [f"and {rest} for other reasons"] if rest else []
    head = counted(len(rejected), "image was left out", "images were left out")
    return f"{head}: {'; '.join([*parts, *more])}."


def row_text(row: int, path: str, reason: str) -> str:
    """The problem of a row, with its line and, once, its path.

    >>> row_text(2, "a.jpg", "no such file data/a.jpg."), row_text(3, "b.jpg", "it is empty.")
    ('line 2: no such file data/a.jpg.', 'line 3, b.jpg: it is empty.')
    """
    named = path in reason or repr(path) in reason
    return f"{line_text(row)}{reason}" if named else f"{line_text(row, path)}{reason}"


def line_text(row: int, path: str = "") -> str:
    """The beginning of a message about a row; row 0 is a photograph that no table describes.

    >>> line_text(2), line_text(3, "b.jpg"), line_text(0, "b.jpg"), line_text(0)
    ('line 2: ', 'line 3, b.jpg: ', 'b.jpg: ', '')
    """
    parts = [f"line {row}"] * bool(row) + [path] * bool(path)
    return f"{', '.join(parts)}: " if parts else ""


def select_split(table: ImageTable, value: str, rejected: Sequence[Rejected] = ()) -> np.ndarray:
    """Positions of the rows whose split is ``value``; MetadataError if there are none, which also
    says what was left out (``rejected``)."""
    splits = table.rows["split"]
    positions = np.flatnonzero((splits == split_value(value)).to_numpy())
    if len(positions) == 0:
        names = ["(empty)" if name is None else repr(name) for name in splits]
        counts = pd.Series(names, dtype=object).value_counts()
        there = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise MetadataError(
            f"{table.source}: no image has the split {value!r}; the splits are {there or 'none'}. "
            "Set dataset.split_col, dataset.query_split_value and dataset.database_split_value."
            if not rejected
            else f"{table.source}: no image of the split {value!r} is left; of others: "
            f"{there or 'none'}. {left_out_text(rejected)}"
        )
    return positions


def codes(
    values_a: Sequence[str | None] | np.ndarray, values_b: Sequence[str | None] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int32 codes shared by both lists, by sorted text; -1 for None.

    >>> codes(["b", None], ["a", "b"])
    (array([ 1, -1], dtype=int32), array([0, 1], dtype=int32))
    """
    known = sorted({value for value in (*values_a, *values_b) if value is not None})
    code_of: dict[str | None, int] = {value: code for code, value in enumerate(known)}
    code_of[None] = -1
    coded = [
        np.array([code_of[value] for value in values], dtype=np.int32)
        for values in (values_a, values_b)
    ]
    return coded[0], coded[1]


def retrieval_sides(
    table: ImageTable, query: np.ndarray, database: np.ndarray
) -> tuple[RetrievalSide, RetrievalSide]:
    """The queries and the gallery of a retrieval, at these positions of the table (rising)."""
    identity = table.rows["identity"].to_numpy(dtype=object)
    encounter = table.rows["encounter"].to_numpy(dtype=object)
    ids = table.rows["image_id"].to_numpy(dtype=object)
    query_identity, gallery_identity = codes(identity[query], identity[database])
    query_encounter, gallery_encounter = codes(encounter[query], encounter[database])
    return (
        RetrievalSide(tuple(ids[query]), query, query_identity, query_encounter),
        RetrievalSide(tuple(ids[database]), database, gallery_identity, gallery_encounter),
    )


@dataclass(frozen=True)
class _Checked:
    """A metadata file with its checked rows."""

    file: MetadataFile
    rows: pd.DataFrame
    problems: list[Problem]
    notes: list[str]
    """Sentences on the changes that were made to cells."""


def _checked(
    root: str,
    metadata_file: str | None,
    columns: Columns,
    unknown_identities: Iterable[str],
    *,
    check_files: bool,
    require_identity: bool,
    split: str | None = None,
    skip: bool = True,
) -> _Checked:
    file, imported = read_or_import(
        root, metadata_file, columns, require_identity=require_identity, skip=skip
    )
    check_columns(file, columns, require_identity=require_identity)
    file, notes = clean_cells(file, columns)
    file, relative = relative_paths(file, columns, root)
    notes = [*imported, *notes, *relative]
    dates = read_dates(file.column(columns.date))
    notes += [f"{columns.date}: {note}" for note in dates.notes]
    if dates.unread and not columns.dates_count:
        notes.append(
            f"{columns.date}: {counted(len(dates.unread), 'cell')} such as "
            f"{file.column(columns.date)[dates.unread[0]]!r} cannot be read as a date, so taken as "
            "empty"
        )
    boxes = read_boxes(file, columns)
    notes += boxes.notes
    rows = contract_rows(file, columns, frozenset(unknown_identities), dates, boxes)
    missing: dict[int, list[str]] = {}
    if check_files:
        rows, missing, renamed = find_files(rows, root)
        notes += renamed
    problems = row_problems(
        file,
        rows,
        columns,
        dates,
        boxes,
        root=root,
        missing=missing,
        require_identity=require_identity,
    )
    if split is not None:
        in_split = (rows["split"] == split_value(split)).to_numpy()
        problems = [problem for problem in problems if in_split[problem.index]]
    return _Checked(file, rows, problems, notes)


def _named(columns: Columns) -> list[str]:
    """The columns whose cells are names of identities, splits, encounters or viewpoints."""
    names = (columns.identity, columns.split, *columns.encounter, columns.viewpoint)
    return list(dict.fromkeys(name for name in names if name))


def _rejected(rows: pd.DataFrame, problems: Sequence[Problem]) -> list[Rejected]:
    """One entry per bad row, with all its reasons."""
    reasons: dict[int, list[str]] = {}
    for problem in problems:
        reasons.setdefault(problem.index, []).append(f"{problem.text}.")
    ids, paths, lines = (rows[name].tolist() for name in ("image_id", "path", "row"))
    return [
        Rejected(ids[i], paths[i], int(lines[i]), "metadata", " ".join(texts))
        for i, texts in sorted(reasons.items())
    ]
