"""A metadata file's bytes as cells: CSV and Parquet, text decoded, white space and Unicode made
uniform; other formats are an error that names them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from exreid.errors import MetadataError
from exreid.storage.spreadsheets import SAFE_FORMULA, cell_as_it_was

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_AS_CSV = "Save it as CSV UTF-8 (in Excel: Save As, CSV UTF-8)"
_UNPACKED = "exreid import {source} --out metadata.parquet unpacks it and makes a table"
_BINARY = (
    (
        b"PK\x03\x04",
        f"a zip file: {_UNPACKED}; or a damaged Excel workbook. {_AS_CSV}",
    ),
    (b"\xd0\xcf\x11\xe0", f"an old Excel workbook. {_AS_CSV}"),
    (b"\x1f\x8b", "a gzip file. Unpack it"),
    (b"SQLite format 3", "an SQLite database. Export the table as CSV UTF-8"),
    (b"%PDF", f"a PDF file. {_AS_CSV}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself. Run git lfs pull"),
)
IS_PARQUET = b"PAR1"
_ENDS = re.compile(r"^[\s\u00ad\u200b-\u200f\u2060\ufeff]+|[\s\u00ad\u200b-\u200f\u2060\ufeff]+$")
_OTHER_SPACES = re.compile(r"[^\S\t\n\r ]")


def clean_text(text: str) -> str:
    """The text without white space and invisible characters at its ends; spaces as plain spaces;
    Unicode composed (NFC).

    >>> clean_text(" Zoe\\u0308\\u00a0")
    'Zoë'
    """
    if text.isascii():
        return text.strip()
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate is not text
    return _OTHER_SPACES.sub(" ", _ENDS.sub("", unicodedata.normalize("NFC", text)))


def decoded_text(data: bytes, source: str) -> str:
    """The text of a table: UTF-8, or UTF-16 and UTF-32 as Excel and Windows write them.

    MetadataError for any other file, naming its format.
    """
    for mark, kind in _BINARY:
        if data.startswith(mark):
            description = kind.format(source=source)
            raise MetadataError(f"{source}: is {description}.")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None:
        encoding = _without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        kind = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise MetadataError(
            f"{source}: not {kind} (byte {error.start}). {_AS_CSV}; from R, "
            'write.csv(..., fileEncoding = "UTF-8").'
        ) from error
    if "\0" in text:
        raise MetadataError(f"{source}: is not text: it has null bytes. {_AS_CSV}.")
    _refuse_json(text, source)
    return text


def split_header(text: str) -> tuple[str, int, str]:
    """The separator, the number of lines of Excel's ``sep=;`` (0 or 1), and the text after them."""
    first, _, rest = text.partition("\n")
    declared = first.strip().strip('"').lower()
    if declared.startswith("sep=") and len(declared) <= 5:
        return first.strip().strip('"')[4:] or "\t", 1, rest
    header = _outside_quotes(first)
    return max(SEPARATORS, key=header.count), 0, text


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2]) if line.count('"') % 2 == 0 else line


def _without_mark(data: bytes) -> str:
    """The encoding of text without a mark: in UTF-16 every second byte of an ASCII header is 0."""
    start = data[:64]
    if len(start) >= 4 and start[1:64:2].count(0) * 2 == len(start):
        return "utf-16-le"
    if len(start) >= 4 and start[0:64:2].count(0) * 2 == len(start):
        return "utf-16-be"
    return "utf-8-sig"


def _refuse_json(text: str, source: str) -> None:
    if text.lstrip()[:1] not in ("{", "["):
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(content, list | dict):
        raise MetadataError(f"{source}: is JSON: call it .json, and see exreid import --help.")


def parse_csv(data: bytes, source: str) -> tuple[pd.DataFrame, np.ndarray, frozenset[str]]:
    """The cells, the line where each row begins, and the names that several columns have."""
    separator, skipped, text = split_header(decoded_text(data, source))
    try:
        with warnings.catch_warnings():
            # pandas only warns if rows are longer than the header, and drops the surplus cells.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                dtype=object,
                index_col=False,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning) as error:
        reason = str(error).strip()
        if isinstance(error, pd.errors.ParserWarning):
            reason = (
                "its rows have more cells than the header has names. Name all columns, or delete "
            )
            reason += "those without a name (a loss of data otherwise)"
        raise MetadataError(f"{source}: not a CSV table: {reason}") from error
    frame.columns = frame.columns.astype(str)
    line_N = np.arange(len(frame)) + 2 + skipped
    if text.rstrip("\r\n").count("\n") >= len(frame) + 1:  # a cell, or the header, has line breaks
        breaks_N = np.zeros(len(frame), dtype=np.int64)
        for i in range(frame.shape[1]):
            cells = frame.iloc[:, i]
            breaks_N += [cell.count("\n") if isinstance(cell, str) else 0 for cell in cells]
        in_header = sum(name.count("\n") for name in frame.columns)
        line_N += in_header + np.cumsum(breaks_N) - breaks_N
    repeated = _repeated_names(text, separator)
    frame.columns = free_names(frame.columns)
    if SAFE_FORMULA.search(text):  # as in tables that exreid writes for people
        frame = frame.map(lambda cell: cell_as_it_was(cell) if isinstance(cell, str) else cell)
        frame = frame.astype(object)  # a column without a value has become one of numbers
    return frame.where(frame.notna(), None), line_N, repeated


def _repeated_names(text: str, separator: str) -> frozenset[str]:
    """The column names that occur more than once, which pandas would read as "name.1"."""
    try:
        header = next(csv.reader(io.StringIO(text), delimiter=separator), [])
    except csv.Error:
        return frozenset()
    counts = Counter(clean_text(name) for name in header)
    return frozenset(name for name, count in counts.items() if count > 1 and name)


def free_names(names: Iterable[str]) -> list[str]:
    """Column names cleaned by `clean_text`, except those that two columns would then share."""
    given = list(names)
    clean = [clean_text(name) for name in given]
    counts = Counter(clean)
    return [new if counts[new] == 1 else old for old, new in zip(given, clean, strict=True)]


def parse_parquet(data: bytes, source: str) -> pd.DataFrame:
    """The cells as text: whole numbers without a point, lists and structs as JSON."""
    try:
        table = pq.read_table(io.BytesIO(data))
        cells = {
            name: np.array([*map(_text_of, table.column(i).to_pylist()), None], dtype=object)[:-1]
            for name, i in zip(
                free_names(table.column_names), range(table.num_columns), strict=True
            )
        }
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MetadataError(f"{source}: not a Parquet table: {error}") from error
    return pd.DataFrame(cells, dtype=object)


def _text_of(value: object) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, default=_json_of)
    return str(value)


def _json_of(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
