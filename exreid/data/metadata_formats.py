"""The format of a metadata file: text decoded, its separator found, white space and Unicode made
uniform; other formats are an error that names them."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata

from exreid.errors import MetadataError

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
