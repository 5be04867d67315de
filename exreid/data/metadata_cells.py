"""The cells of a metadata table, made comparable: one spelling of a name, None for an empty
cell."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from exreid.data.metadata_formats import clean_text
from exreid.data.metadata_table import Columns, MetadataFile
from exreid.storage.urls import is_remote

SHOWN_GROUPS = 3
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d*)?(?:[eE][+-]?\d+)?")
_DIGITS = re.compile(r"0*(\d+)(?:[.,]0+(?!\d))?")


def clean_cells(file: MetadataFile, columns: Columns) -> tuple[MetadataFile, list[str]]:
    """The file with the cells of the used columns made comparable, and sentences on the changes.

    Ids are not changed. Paths are only stripped: their Unicode form is the disk's.
    """
    cells = file.cells.copy(deep=False)
    changed, emptied = [], []
    missing = frozenset(clean_text(word).casefold() for word in columns.missing_values)
    for name in columns.used:
        if name not in cells.columns:
            continue
        given = list(cells[name])
        clean = str.strip if name == columns.path else clean_text
        tidy = [None if cell is None else clean(cell) or None for cell in given]
        kept = [None if cell is None or cell.casefold() in missing else cell for cell in tidy]
        other = Counter(a for a, b in zip(given, tidy, strict=True) if a != b and a is not None)
        words = Counter(a for a, b in zip(tidy, kept, strict=True) if a != b and a is not None)
        if other:
            changed.append(f"{name} {other.total()} ({_shown(other)})")
        if words:
            emptied.append(f"{name} {words.total()} ({_shown(words)})")
        if other or words:
            cells[name] = pd.Series(kept, index=cells.index, dtype=object)
    notes = []
    if changed:
        notes.append(
            "cells read without the white space around them, and in Unicode's composed form: "
            + "; ".join(changed)
        )
    if emptied:
        notes.append(
            f"cells read as empty: {'; '.join(emptied)}. dataset.missing_values says which words "
            "mean that"
        )
    return replace(file, cells=cells, as_given=file.cells), notes


def relative_paths(
    file: MetadataFile, columns: Columns, root: str
) -> tuple[MetadataFile, list[str]]:
    """The file with absolute paths inside the data set's folder made relative to it, and a note.

    Other absolute paths are not changed; they are an error later, where paths are checked.
    """
    cells = file.cells.copy(deep=False)
    whole = root if is_remote(root) else os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111
    start = whole.rstrip("/") + "/"
    given = list(cells[columns.path])
    inside = [cell is not None and cell.startswith(start) for cell in given]
    if not any(inside):
        return file, []
    paths = [
        cell[len(start) :].lstrip("/") if below else cell
        for cell, below in zip(given, inside, strict=True)
    ]
    cells[columns.path] = pd.Series(paths, index=cells.index, dtype=object)
    note = f"{columns.path}: {sum(inside)} absolute paths inside {start} are read relative to it"
    return replace(file, cells=cells), [note]


def similar_names(names: Iterable[str | None]) -> list[Counter[str]]:
    """Names that differ only by case, by spaces or by how a number is written, with their counts.

    >>> [sorted(group) for group in similar_names(["Kira", "kira", "1", "01", "1.0", "2"])]
    [['01', '1', '1.0'], ['Kira', 'kira']]
    """
    counts = Counter(name for name in names if name is not None)
    groups: dict[str, Counter[str]] = {}
    for name in sorted(counts):
        groups.setdefault(_folded(name), Counter())[name] = counts[name]
    return [group for group in groups.values() if len(group) > 1]


def similar_notes(columns: Iterable[tuple[str, Sequence[str | None]]]) -> list[str]:
    """A sentence for each column (its name and cells) with names that are probably one."""
    notes = []
    for column, cells in columns:
        groups = similar_names(cells)
        if groups:
            shown = "; ".join(
                " and ".join(f"{name!r} ({count})" for name, count in group.items())
                for group in groups[:SHOWN_GROUPS]
            )
            more = f"; and {len(groups) - SHOWN_GROUPS} more" if len(groups) > SHOWN_GROUPS else ""
            notes.append(
                f"{column}: names that differ only by case or by how a number is written count as "
                f"different: {shown}{more}. Write each one way"
            )
    return notes


def _folded(name: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    if _NUMBER.fullmatch(text):
        return repr(float(text.replace(",", ".")))
    return _DIGITS.sub(r"\1", text)


def _shown(counts: Counter[str]) -> str:
    parts = [f"{text[:40]!r} {count}" for text, count in counts.most_common(SHOWN_GROUPS)]
    more = [f"{len(counts) - SHOWN_GROUPS} more"] if len(counts) > SHOWN_GROUPS else []
    return ", ".join([*parts, *more])
