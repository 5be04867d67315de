"""Where, when, of which flank and which sex each image of a table is, as arrays.

Letters: N images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from exreid.errors import MetadataError
from exreid.metrics.population import LEFT, RIGHT
from exreid.records import ImageTable

PLACES = {
    "latitude": (("latitude", "lat", "decimallatitude"), 90.0),
    "longitude": (("longitude", "lon", "long", "lng", "decimallongitude"), 180.0),
}
"""Names of columns with latitude and longitude, and the largest value in degrees."""
CELL = re.compile(r"(\d+(?:\.\d+)?)(km|m)E(\d+)N(\d+)", re.IGNORECASE)
"""A cell of the European reference grid (EEA), such as 10kmE459N295: its size, and its lower left
corner in sizes."""
SEXES = (frozenset(("f", "female")), frozenset(("m", "male")))


@dataclass(frozen=True, eq=False)
class Traits:
    """What is known of N images besides their pictures."""

    flank_N: np.ndarray
    """int8: 0 left, 1 right, -1 unknown or another view."""
    sex_N: np.ndarray
    """int8: 0 female, 1 male, -1 unknown."""
    degrees_N2: np.ndarray
    """float64, latitude and longitude; NaN where unknown."""
    cell_km_N2: np.ndarray
    """float64, east and north of a grid cell's lower left corner; NaN where unknown."""
    cell_size_km: float
    """The largest side of the cells."""
    day_N: np.ndarray
    """float64, days since 1970; NaN where unknown."""
    timed_N: np.ndarray
    """bool: the time of the day is known."""


def traits_of(table: ImageTable) -> Traits:
    """By ``viewpoint`` and ``date`` of the rows, and by the columns sex, latitude and longitude, or
    cell_code, of the file. MetadataError names a cell that cannot be read."""
    rows = table.rows
    moment_N = rows["date"].to_numpy("datetime64[s]")
    day_N = np.where(
        np.isnat(moment_N), np.nan, moment_N.astype("datetime64[s]").astype(np.int64) / 86400
    )
    cells = _column(table, ("cell_code",))
    read_N = [None if cell is None else _cell(table, i, cell) for i, cell in enumerate(cells)]
    return Traits(
        _codes(rows["viewpoint"].tolist(), (LEFT, RIGHT)),
        _codes(_column(table, ("sex",)), SEXES),
        np.stack([_degrees(table, which) for which in PLACES], axis=1),
        np.array([(np.nan, np.nan) if cell is None else cell[1:] for cell in read_N]).reshape(
            -1, 2
        ),
        max((cell[0] for cell in read_N if cell is not None), default=0.0),
        day_N,
        ~np.isnan(day_N) & (np.nan_to_num(day_N) % 1 != 0),
    )


def _column(table: ImageTable, names: Sequence[str]) -> list[str | None]:
    """The cells of the first of these columns that the file has, in any case of its letters."""
    lowered = {str(name).lower(): name for name in reversed(list(table.original.columns))}
    name = next((lowered[name] for name in names if name in lowered), None)
    if name is None:
        return [None] * len(table)
    cells = (None if pd.isna(cell) else str(cell).strip() for cell in table.original[name])
    return [cell or None for cell in cells]


def _codes(cells: Sequence[str | None], words: Sequence[frozenset[str]]) -> np.ndarray:
    code = {word: np.int8(number) for number, group in enumerate(words) for word in group}
    known = (code.get(str(cell).strip().lower(), np.int8(-1)) for cell in cells)
    return np.fromiter(known, np.int8, len(cells))


def _degrees(table: ImageTable, which: str) -> np.ndarray:
    names, most = PLACES[which]

    def read(i: int, cell: str) -> float:
        try:
            degrees = float(cell.replace(",", "."))
        except ValueError:
            degrees = np.inf
        if not abs(degrees) <= most:
            _wrong(table, i, which, cell, f"a number of degrees from {-most:g} to {most:g}")
        return degrees

    return _numbers(_column(table, names), read)


def _numbers(cells: Sequence[str | None], read: Callable[[int, str], float]) -> np.ndarray:
    values = (np.nan if cell is None else read(i, cell) for i, cell in enumerate(cells))
    return np.fromiter(values, np.float64, len(cells))


def _cell(table: ImageTable, i: int, text: str) -> tuple[float, float, float]:
    """Size, and east and north of the lower left corner, in km."""
    found = CELL.fullmatch(text)
    if found is None:
        _wrong(table, i, "cell_code", text, "a cell such as 10kmE459N295")
    assert found is not None
    size = float(found[1]) / (1000 if found[2].lower() == "m" else 1)
    return size, int(found[3]) * size, int(found[4]) * size


def _wrong(table: ImageTable, i: int, column: str, cell: str, wanted: str) -> None:
    row = table.rows.iloc[i]
    raise MetadataError(
        f"{table.source}, {row['image_id']} (line {row['row']}): {column} is {cell!r}, not "
        f"{wanted}. Mend the cell, empty it, or set benchmark.gate.max_km_per_day=null."
    )
