"""The problems that rows of a metadata table can have, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from exreid.data.dates import DATE_FORMS, Dates
from exreid.data.metadata_boxes import Boxes
from exreid.data.metadata_rows import is_inside, normalised_path
from exreid.data.metadata_table import Columns, MetadataFile
from exreid.records import region_text
from exreid.storage.urls import exists, is_remote, join

SHOWN_PROBLEMS = 5
"""Of the bad rows of a file, the number that an error message lists."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row."""

    index: int
    """The row's index in the table, from 0."""
    row: int
    """Its line in the file, the header being line 1."""
    column: str
    value: str | None
    problem: str
    remedy: str

    @property
    def text(self) -> str:
        """What is wrong, and the remedy."""
        return f"{self.problem}. {self.remedy}"


def row_problems(
    file: MetadataFile,
    rows: pd.DataFrame,
    columns: Columns,
    dates: Dates,
    boxes: Boxes,
    *,
    root: str,
    missing: Mapping[int, list[str]],
    require_identity: bool,
) -> list[Problem]:
    """All problems of the rows, by line; ``missing`` is of `find_files`."""
    problems = [*_path_problems(file, columns, root), *_box_problems(file, columns, boxes)]
    if columns.dates_count:
        problems += _date_problems(file, columns, dates)
    if require_identity:
        problems += _identity_problems(file, rows, columns)
    bad = {problem.index for problem in problems}
    still = {i: near for i, near in missing.items() if i not in bad}
    problems += _missing_file_problems(file, rows, columns, root, still)
    bad = {problem.index for problem in problems}
    given_paths = file.column(columns.path)
    remedy = (
        "Two animals of one photograph need their boxes (dataset.bbox_cols) or masks "
        "(dataset.mask_col), each row another; or remove one of the rows"
    )
    problems += _repeats(file, columns.path, _animals(rows, given_paths), bad, remedy)
    repeated = {problem.index for problem in problems if problem.column == columns.path}
    ids = [None if i in repeated else name for i, name in enumerate(rows["image_id"])]
    problems += _repeats(file, columns.image_id, [name or None for name in ids], bad)
    return sorted(problems, key=lambda problem: problem.index)


def _path_problems(file: MetadataFile, columns: Columns, root: str) -> Iterator[Problem]:
    for i, value in enumerate(file.column(columns.path)):
        try:
            normalised_path(value or "")
        except ValueError as error:
            yield Problem(
                i,
                int(file.line_N[i]),
                columns.path,
                value,
                f"{columns.path} {'' if value is None else f'{value!r} '}{error}",
                _path_remedy(value or "", columns.path, root),
            )


def _path_remedy(value: str, column: str, root: str) -> str:
    """The remedy for a path that is not below the root."""
    text = value.replace("\\", "/")
    if "://" in text:
        return (
            "Paths are relative to dataset.root: download the photographs, or set dataset.root to "
            "the URL that all of them begin with, and cut it off here"
        )
    for place in [i + 1 for i, letter in enumerate(text) if letter == "/"]:
        if not is_remote(root) and is_inside(text[place:]) and exists(root, text[place:]):
            return (
                f"Paths are relative to dataset.root, which has such files: cut {value[:place]!r} "
                f"off the cells of {column}"
            )
    return (
        "Paths are relative to dataset.root: cut off what comes before that, or set dataset.root "
        "to the folder that all of them are in"
    )


def _box_problems(file: MetadataFile, columns: Columns, boxes: Boxes) -> Iterator[Problem]:
    name = ", ".join(columns.bbox)
    for i, why in boxes.unread.items():
        cells = ", ".join(str(file.column(column)[i]) for column in columns.bbox)
        yield Problem(
            i,
            int(file.line_N[i]),
            name,
            cells,
            f"{name} {cells[:60]!r} {why}",
            "Correct it (dataset.bbox_cols, dataset.bbox_format), or empty the cell",
        )


def _date_problems(file: MetadataFile, columns: Columns, dates: Dates) -> Iterator[Problem]:
    values = file.column(columns.date)
    for i in dates.unread:
        yield Problem(
            i,
            int(file.line_N[i]),
            str(columns.date),
            values[i],
            f"{columns.date} {values[i]!r} is not a date that can be read ({DATE_FORMS})",
            "Correct it, or empty the cell",
        )


def _identity_problems(
    file: MetadataFile, rows: pd.DataFrame, columns: Columns
) -> Iterator[Problem]:
    values, paths = file.given(columns.identity), rows["path"].tolist()
    for i in np.flatnonzero(rows["identity"].isna()).tolist():
        given = "empty" if values[i] is None else repr(values[i])
        yield Problem(
            i,
            int(file.line_N[i]),
            columns.identity,
            values[i],
            f"{paths[i]}: its {columns.identity} is not known ({given})",
            "Fill it in, or remove the row",
        )


def _missing_file_problems(
    file: MetadataFile,
    rows: pd.DataFrame,
    columns: Columns,
    root: str,
    missing: Mapping[int, list[str]],
) -> Iterator[Problem]:
    paths, lines = rows["path"].tolist(), rows["row"].tolist()
    first = next(iter(missing), None)
    remedy = "Check dataset.root, or remove the row"
    if first is not None and (folder_column := _folder_column(file, first, paths[first], root)):
        column, path = folder_column
        remedy = (
            f"The column {column!r} names the folders of such files: make one column of both "
            f"({path!r}), and set dataset.path_col to it"
        )
    for i, near in missing.items():
        yield Problem(
            i,
            int(lines[i]),
            columns.path,
            paths[i],
            f"no such file {join(root, paths[i])}",
            f"{' and '.join(near)} differ from it by case alone: name one of them"
            if near
            else remedy,
        )


def _folder_column(file: MetadataFile, i: int, path: str, root: str) -> tuple[str, str] | None:
    """The column with the folder of the row's file, as Timelapse writes it, and the whole path."""
    for name in [] if is_remote(root) else file.cells.columns:
        whole = f"{file.cells[name].iloc[i]}/{path}".replace("\\", "/")
        if is_inside(whole) and exists(root, whole):
            return str(name), whole
    return None


def _repeats(
    file: MetadataFile,
    column: str,
    values: Sequence[str | None],
    bad: set[int],
    remedy: str = "Each must be unique: remove one of the rows",
) -> Iterator[Problem]:
    """Every row that repeats a value, except the first good row with it."""
    kept: dict[str, int] = {}
    for i, value in enumerate(values):
        if value is not None and (value not in kept or (kept[value] in bad and i not in bad)):
            kept[value] = i
    for i, value in enumerate(values):
        if value is None or kept[value] == i:
            continue
        line, shown = int(file.line_N[kept[value]]), value.partition("\0")[0]
        word = "already" if kept[value] < i else "too"
        yield Problem(
            i,
            int(file.line_N[i]),
            column,
            shown,
            f"{column} {shown!r} is in line {line} {word}",
            remedy,
        )


def _animals(rows: pd.DataFrame, given: Sequence[str | None]) -> list[str | None]:
    """A text for each row that no other row may have: its path, and its box or mask if every row of
    that path has one."""
    pairs = zip(rows["mask"], rows["bbox"], strict=True)
    regions = [region_text(*pair) for pair in pairs]
    paths = rows["path"].tolist()
    whole = {path for path, region in zip(paths, regions, strict=True) if region is None}
    return [
        None if cell is None else path if path in whole else f"{path}\0{region}"
        for cell, path, region in zip(given, paths, regions, strict=True)
    ]
