"""The metadata table: read as text, its columns named, and everything wrong with it found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import fsspec
import numpy as np
import pandas as pd

from exreid.data.storage import is_remote, join, missing_files
from exreid.errors import MetadataError
from exreid.records import ImageTable, Rejected

DEFAULT_FILES = ("CzechLynxDataset-Metadata-Real.csv", "metadata.csv", "metadata.parquet")
SHOWN_PROBLEMS = 5
_DATE_FORMATS = ("%d.%m.%Y", "%d/%m/%Y", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


@dataclass(frozen=True)
class Columns:
    """Which column of the file means what. Columns in ``required`` must be there."""

    path: str = "path"
    identity: str = "unique_name"
    split: str | None = "split-time_closed"
    mask: str | None = "mask"
    encounter: tuple[str, ...] = ()
    viewpoint: str | None = None
    date: str | None = "date"
    image_id: str = "image_id"
    required: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row; ``row`` is its line in the file, the header being line 1."""

    index: int
    row: int
    column: str
    value: str
    text: str
    """What is wrong, and the remedy."""


def read_table(root: str, metadata_file: str | None = None) -> tuple[pd.DataFrame, str]:
    """The metadata as text (None where a cell is empty), and where it was read from.

    CSV (comma or semicolon) or Parquet, below the root, absolute, or any fsspec URL. Without a
    name, `DEFAULT_FILES` are looked for in the root.
    """
    source = _find(root, metadata_file)
    try:
        if source.endswith((".parquet", ".pq")):
            with fsspec.open(source, "rb") as stream:
                return _as_text(pd.read_parquet(stream)), source
        with fsspec.open(source, "rb") as stream:
            data: bytes = stream.read()
    except FileNotFoundError as error:
        raise MetadataError(
            f"{source}: no such metadata file. Set dataset.root and dataset.metadata_file."
        ) from error
    except (OSError, ValueError) as error:
        raise MetadataError(f"{source}: cannot be read: {error}") from error
    return _parse_csv(data, source), source


def load_images(
    root: str,
    *,
    metadata_file: str | None = None,
    columns: Columns,
    unknown_identities: Iterable[str] = ("unknown",),
    on_error: Literal["raise", "skip"] = "raise",
    check_files: bool = True,
    require_identity: bool = True,
) -> tuple[ImageTable, list[Rejected]]:
    """The data set's images, checked; with ``on_error="skip"`` bad rows are left out and listed.

    An identity that is empty or among ``unknown_identities`` is None, and a problem only where
    ``require_identity``. Raises MetadataError naming the file, the lines and the remedy.
    """
    original, source = read_table(root, metadata_file)
    _check_columns(original, columns, source)
    rows, problems = _contract_rows(original, columns, frozenset(unknown_identities))
    if not require_identity:
        problems = [problem for problem in problems if problem.column != columns.identity]
    if check_files:
        problems += _missing_file_problems(root, rows, columns, {p.index for p in problems})
    problems.sort(key=lambda problem: problem.row)
    if problems and on_error == "raise":
        shown = [f"  line {p.row}: {p.text}" for p in problems[:SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        shown += [f"  and {more} more; exreid validate lists them all"] if more else []
        head = f"{source}: {len(problems)} problems. dataset.on_error=skip leaves such rows out."
        raise MetadataError("\n".join([head, *shown]))
    rejected = _rejected(rows, problems)
    good = np.setdiff1d(np.arange(len(rows)), [problem.index for problem in problems])
    return ImageTable(rows, original, root, source).take(good), rejected


def select_split(table: ImageTable, value: str) -> np.ndarray:
    """Positions of the rows whose split is ``value``; MetadataError where there are none."""
    positions = np.flatnonzero((table.rows["split"] == value).to_numpy())
    if len(positions) == 0:
        counts = table.rows["split"].value_counts(dropna=False)
        there = ", ".join(f"{name!r} ({count})" for name, count in counts.items()) or "none"
        raise MetadataError(
            f"{table.source}: no image has the split {value!r}; the splits are {there}. Set "
            "dataset.split_col, dataset.query_split_value and dataset.database_split_value."
        )
    return positions


def codes(
    values_a: Sequence[str | None] | np.ndarray, values_b: Sequence[str | None] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int32 codes shared by both lists, by sorted text; -1 for None."""
    known = sorted({value for value in (*values_a, *values_b) if value is not None})
    code_of = {value: code for code, value in enumerate(known)}
    coded = [
        np.array([-1 if v is None else code_of[v] for v in values], dtype=np.int32)
        for values in (values_a, values_b)
    ]
    return coded[0], coded[1]


def normalised_path(path: str) -> str:
    """A path below the root with forward slashes; ValueError where it leaves the root.

    This is about the text alone: a symbolic link inside the root is the user's own.

    >>> normalised_path("a\\\\./b.jpg")
    'a/b.jpg'
    """
    text = path.replace("\\", "/")
    if text.startswith("/") or re.match(r"^[A-Za-z]:|^[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise ValueError("is absolute")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in text:
        raise ValueError("leaves the data set's folder")
    if not parts:
        raise ValueError("is empty")
    return "/".join(parts)


def _find(root: str, metadata_file: str | None) -> str:
    if metadata_file is not None:
        absolute = is_remote(metadata_file) or metadata_file.startswith("/")
        return metadata_file if absolute else join(root, metadata_file)
    for name in DEFAULT_FILES:
        candidate = join(root, name)
        file_system, inner = fsspec.core.url_to_fs(candidate)
        if file_system.exists(inner):
            return candidate
    raise MetadataError(
        f"{root}: no metadata file; looked for {', '.join(DEFAULT_FILES)}. "
        "Set dataset.root, or dataset.metadata_file."
    )


def _parse_csv(data: bytes, source: str) -> pd.DataFrame:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MetadataError(
            f"{source}: not UTF-8 (byte {error.start}). Save it as CSV UTF-8."
        ) from error
    header = text.split("\n", 1)[0]
    separator = ";" if ";" in header and "," not in header else ","
    import io

    try:
        frame = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, na_values=[""]
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MetadataError(f"{source}: not a CSV table: {str(error).strip()}") from error
    return _as_text(frame)


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text, or None; whole floats lose their point, as 12.0 in 12."""

    def cell(value: object) -> str | None:
        if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NaT:
            return None
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return str(int(value))
        return str(value) or None

    return pd.DataFrame(
        {name: np.array([cell(v) for v in frame[name]], dtype=object) for name in frame.columns},
        dtype=object,
    )


def _check_columns(frame: pd.DataFrame, columns: Columns, source: str) -> None:
    keys = {columns.path: "dataset.path_col", columns.identity: "dataset.label_col"}
    keys |= dict.fromkeys(columns.encounter, "dataset.encounter_cols")
    optional = {
        columns.split: "dataset.split_col (or dataset.make_split)",
        columns.mask: "dataset.mask_col",
        columns.viewpoint: "dataset.viewpoint_col",
        columns.date: "dataset.date_col",
    }
    keys |= {name: key for name, key in optional.items() if name in columns.required and name}
    there = list(frame.columns)
    for name, key in keys.items():
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise MetadataError(
                f"{source}: no column {name!r}.{hint} It has {', '.join(there)}. Set {key}."
            )


def _contract_rows(
    frame: pd.DataFrame, columns: Columns, unknown: frozenset[str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """The contract's columns, and what is wrong in them."""
    lines = np.arange(len(frame)) + 2
    problems: list[Problem] = []

    def report(i: int, column: str, text: str) -> None:
        value = frame[column].iloc[i]
        problems.append(Problem(i, int(lines[i]), column, str(value), text))

    def cells(name: str | None) -> list[str | None]:
        return frame[name].tolist() if name in frame.columns else [None] * len(frame)

    paths = _paths(cells(columns.path), columns.path, report)
    identities: list[str | None] = []
    for i, value in enumerate(cells(columns.identity)):
        known = value is not None and value not in unknown
        identities.append(value if known else None)
        if not known:
            report(
                i,
                columns.identity,
                f"{paths[i]}: its {columns.identity} is not known ({value!r}). Fill it in.",
            )
    ids: list[str | None] = (
        [given or path for given, path in zip(cells(columns.image_id), paths, strict=True)]
        if columns.image_id in frame.columns
        else list(cells(columns.path))
    )
    _report_repeats(
        ids, columns.image_id if columns.image_id in frame.columns else columns.path, report
    )
    rows = pd.DataFrame(
        {
            "image_id": pd.Series([i if i is not None else "" for i in ids], dtype=object),
            "path": pd.Series(paths, dtype=object),
            "identity": pd.Series(identities, dtype=object),
            "split": pd.Series(cells(columns.split), dtype=object),
            "mask": pd.Series(cells(columns.mask), dtype=object),
            "encounter": pd.Series(_encounters(frame, columns.encounter), dtype=object),
            "date": _dates(cells(columns.date), columns.date, report),
            "viewpoint": pd.Series(cells(columns.viewpoint), dtype=object),
            "row": lines,
        }
    )
    return rows, problems


def _paths(values: list[str | None], column: str, report: object) -> list[str]:
    assert callable(report)
    paths: list[str] = []
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        try:
            path = normalised_path(value or "")
        except ValueError as error:
            report(i, column, f"path {value!r} {error}. Paths are relative to dataset.root.")
            paths.append(value or "")
            continue
        if path in first:
            report(
                i,
                column,
                f"path {value!r} stands in line {first[path] + 2} already. Remove one of them.",
            )
        first.setdefault(path, i)
        paths.append(path)
    return paths


def _report_repeats(ids: list[str | None], column: str, report: object) -> None:
    assert callable(report)
    if column == "path":
        return  # repeated paths are reported as such
    first: dict[str | None, int] = {}
    for i, name in enumerate(ids):
        if name in first:
            report(
                i,
                column,
                f"{column} {name!r} stands in line {first[name] + 2} already. Ids must be unique.",
            )
        first.setdefault(name, i)


def _encounters(frame: pd.DataFrame, names: tuple[str, ...]) -> list[str | None]:
    if not names:
        return [None] * len(frame)
    parts = zip(*(frame[name] for name in names), strict=True)
    # The length before each part keeps ("a", "b-c") and ("a-b", "c") apart.
    return [
        None if any(part is None for part in row) else "|".join(f"{len(p)}:{p}" for p in row)
        for row in parts
    ]


def _dates(values: list[str | None], column: str | None, report: object) -> pd.Series:
    assert callable(report)
    text = pd.Series(values, dtype=object)
    dates = pd.Series(pd.NaT, index=text.index, dtype="datetime64[s]")
    for form in _DATE_FORMATS:
        open_rows = dates.isna() & text.notna()
        if not open_rows.any():
            break
        parsed = pd.to_datetime(text[open_rows], format=form, errors="coerce")
        dates.loc[open_rows] = parsed.astype("datetime64[s]")
    for i in np.flatnonzero((dates.isna() & text.notna()).to_numpy()):
        report(
            int(i),
            column,
            f"date {values[i]!r} is none of 14.03.2016, 14/03/2016 and "
            "2016-03-14. Correct it, or empty the cell.",
        )
    return dates


def _missing_file_problems(
    root: str, rows: pd.DataFrame, columns: Columns, bad: set[int]
) -> list[Problem]:
    candidates = [i for i in range(len(rows)) if i not in bad]
    paths = rows["path"].tolist()
    missing = missing_files(root, [paths[i] for i in candidates])
    return [
        Problem(
            candidates[m],
            int(rows["row"].iloc[candidates[m]]),
            columns.path,
            paths[candidates[m]],
            f"no such file {join(root, paths[candidates[m]])}. Check dataset.root, or remove the "
            "row.",
        )
        for m in sorted(missing)
    ]


def _rejected(rows: pd.DataFrame, problems: list[Problem]) -> list[Rejected]:
    """One entry per bad row, with all its reasons."""
    reasons: dict[int, list[str]] = {}
    for problem in problems:
        reasons.setdefault(problem.index, []).append(problem.text)
    return [
        Rejected(
            str(rows["image_id"].iloc[i]),
            str(rows["path"].iloc[i]),
            int(rows["row"].iloc[i]),
            "metadata",
            " ".join(texts),
        )
        for i, texts in sorted(reasons.items())
    ]
