"""Excel's workbooks (.xlsx) as tables of text."""

from __future__ import annotations

import io
import zipfile
from datetime import date, datetime, time
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.errors import ConfigError, MetadataError
from exreid.storage.spreadsheets import FORMULA

MAX_UNPACKED_BYTES = 2**30
WIDEST = 60
"""The largest width of a column, in characters."""
Rows = list[list[object]]


def is_workbook(data: bytes) -> bool:
    """Whether a file's bytes are an Excel workbook (.xlsx)."""
    if not data.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_workbook(
    data: bytes, source: str, sheet: str | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """The cells of ``sheet``, or of the only sheet with cells, as text or None, and their rows.

    The first row with a cell names the columns. Whole numbers have no point, dates are ISO.
    MetadataError for several sheets, for formulas that were never computed, and if openpyxl is not
    installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise MetadataError(
            f"{source}: is an Excel workbook. pip install 'exreid[tables]' reads it; or save it as "
            "CSV UTF-8 (in Excel: Save As, CSV UTF-8)."
        ) from error
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
            raise MetadataError(f"{source}: unpacks to more than {MAX_UNPACKED_BYTES} bytes.")
    try:
        values = _sheets(openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True))
        formulas = _sheets(openpyxl.load_workbook(io.BytesIO(data), read_only=True))
    except Exception as error:  # for damaged XML openpyxl raises anything
        raise MetadataError(f"{source}: a damaged workbook: {error}.") from error
    filled = [name for name, rows in values.items() if rows]
    if sheet is None and len(filled) != 1:
        raise MetadataError(
            f"{source}: has {len(filled)} sheets with cells: {', '.join(filled) or 'none'}. Say "
            "which: exreid import table FILE --sheet NAME --out metadata.parquet."
        )
    name = filled[0] if sheet is None else sheet
    if name not in filled:
        raise MetadataError(
            f"{source}: has no sheet {name!r} with cells, but {', '.join(filled) or 'none'}."
        )
    _refuse_uncomputed(values[name], formulas[name], source, name)
    return _as_table(values[name], source, name)


def write_workbook(frame: pd.DataFrame, file: Path) -> None:
    """Write a table as a workbook of one sheet. Texts stay texts: ``007`` keeps its zeros, and
    ``=1+1`` is not a formula. ConfigError for characters that a workbook cannot have, and if
    openpyxl is not installed."""
    try:
        import openpyxl
        from openpyxl.utils.exceptions import IllegalCharacterError
    except ImportError as error:
        raise ConfigError(
            f"{file.name}: an Excel workbook is written by a package that is not installed. pip "
            "install 'exreid[tables]'; --to table --out FILE.csv needs none."
        ) from error
    book = openpyxl.Workbook()
    sheet = book.active
    for row, values in enumerate([frame.columns, *frame.to_numpy(dtype=object)], 1):
        for column, value in enumerate(values, 1):
            if value is None or value != value or value == "":  # noqa: PLR0124 - NaN
                continue
            cell = sheet.cell(row, column)
            try:
                cell.value = value
            except IllegalCharacterError as error:
                raise ConfigError(
                    f"{file.name}, row {row}: {value!r} has a character that no workbook can have. "
                    "Rename it."
                ) from error
            if isinstance(value, str):
                cell.data_type, cell.number_format = "s", "@"
                cell.quotePrefix = bool(FORMULA.match(value))
            if row == 1:
                cell.font = openpyxl.styles.Font(bold=True)
    for column, name in enumerate(frame.columns, 1):
        longest = max([len(str(name)), *map(len, frame[name].dropna().astype(str))])
        letter = openpyxl.utils.get_column_letter(column)
        sheet.column_dimensions[letter].width = min(longest + 2, WIDEST)
    sheet.freeze_panes = "A2"
    book.save(file)


def _sheets(workbook: object) -> dict[str, Rows]:
    sheets = {}
    for sheet in workbook.worksheets:  # type: ignore[attr-defined]
        sheet.reset_dimensions()  # some programs write wrong dimensions
        rows = [list(row) for row in sheet.iter_rows(values_only=True)]
        while rows and not any(cell is not None for cell in rows[-1]):
            rows.pop()
        sheets[str(sheet.title)] = rows
    return sheets


def _refuse_uncomputed(values: Rows, formulas: Rows, source: str, sheet: str) -> None:
    for number, (row, written) in enumerate(zip(values, formulas, strict=False), 1):
        for value, text in zip(row, written, strict=False):
            if value is None and text is not None:
                raise MetadataError(
                    f"{source}, sheet {sheet}, row {number}: the formula {str(text)[:40]!r} has no "
                    "value. Open the file in a spreadsheet program and save it there."
                )


def _as_table(rows: Rows, source: str, sheet: str) -> tuple[pd.DataFrame, np.ndarray]:
    first = next(i for i, row in enumerate(rows) if any(cell is not None for cell in row))
    names = [_text(cell) for cell in rows[first]]
    width = max(i + 1 for i, name in enumerate(names) if name)
    cells: list[list[str | None]] = []
    for number, row in enumerate(rows[first + 1 :], first + 2):
        texts = [_text(cell) for cell in row]
        if any(texts[width:]):
            raise MetadataError(
                f"{source}, sheet {sheet}, row {number}: has a cell in a column without a name."
            )
        cells.append([*texts, *[None] * (width - len(texts))][:width])
    header = [name or f"unnamed {i + 1}" for i, name in enumerate(names[:width])]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise MetadataError(
            f"{source}: several columns are called {twice[0]!r}: rename all but one."
        )
    return pd.DataFrame(cells, columns=header, dtype=object), np.arange(len(cells)) + first + 2


def _text(cell: object) -> str | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime):
        whole_day = cell.time() == time()
        return cell.date().isoformat() if whole_day else cell.isoformat(" ", "seconds")
    if isinstance(cell, date | time):
        return cell.isoformat()
    return str(cell)
