"""CSVs that people open in a spreadsheet: no cell of theirs is run as a formula.

Names and paths come from tables and folders that were sent. A spreadsheet takes a cell that begins
with =, +, - or @ for a formula; so it gets an apostrophe before it, which says "text". Reading
removes it again. Tables for programs (Parquet, ``split.csv``) have the texts as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import pandas as pd

Cell = TypeVar("Cell")
FORMULA = re.compile(r"'*[=+\-@\t\r]")
SAFE_FORMULA = re.compile(r"'[=+\-@\t\r]")
NUMBER_CELL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def safe_cell(cell: Cell) -> Cell | str:
    """The cell, with an apostrophe where a spreadsheet would take it for a formula.

    >>> safe_cell("=HYPERLINK(A1)"), safe_cell("-cam/1.jpg"), safe_cell("-0.5"), safe_cell(-1)
    ("'=HYPERLINK(A1)", "'-cam/1.jpg", '-0.5', -1)
    """
    formula = isinstance(cell, str) and FORMULA.match(cell) and not NUMBER_CELL.fullmatch(cell)
    return f"'{cell}" if formula else cell


def cell_as_it_was(cell: str) -> str:
    """The cell that `safe_cell` changed, as it was.

    >>> cell_as_it_was("'=1+1"), cell_as_it_was("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def csv_text(frame: pd.DataFrame) -> str:
    """A table as the text of such a CSV."""
    safe = frame.rename(columns=safe_cell)
    for place, kind in enumerate(safe.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(place, [safe_cell(cell) for cell in safe.iloc[:, place]])
    return safe.to_csv(index=False)


def read_cells(file: Path) -> pd.DataFrame:
    """Such a CSV's cells as text, as they were."""
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    return frame.rename(columns=lambda name: cell_as_it_was(str(name))).map(cell_as_it_was)
