"""The rows of a metadata table in exreid's own columns: paths, ids, splits and encounters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from exreid.data.dates import Dates
from exreid.data.metadata_boxes import Boxes, numbered_ids
from exreid.data.metadata_formats import clean_text
from exreid.data.metadata_table import Columns, MetadataFile
from exreid.errors import MetadataError
from exreid.progress import counted
from exreid.records import region_text
from exreid.storage.urls import missing_files, names_on_disk


def contract_rows(
    file: MetadataFile,
    columns: Columns,
    unknown_identities: frozenset[str],
    dates: Dates,
    boxes: Boxes,
) -> pd.DataFrame:
    """The columns of `ImageTable`, in the file's order. The ids of a photograph with several rows
    have the number of the region.

    Values that cannot be used are None (dates NaT; a path is kept): `row_problems` lists them.
    """
    given = file.column(columns.path)
    paths = [_path_or_text(value) for value in given]
    has_ids = columns.image_id in file.cells.columns
    masks = file.column(columns.mask)
    regions = [region_text(*pair) for pair in zip(masks, boxes.text_N, strict=True)]
    numbered = numbered_ids(paths, regions)
    named = paths if has_ids else [path or "" for path in given]
    places = [numbered.get(i, path) for i, path in enumerate(named)]
    ids = zip(file.column(columns.image_id), places, strict=True)
    identities = file.column(columns.identity)
    unknown = frozenset(clean_text(name).casefold() for name in unknown_identities)
    text = {
        "image_id": [name or path or "" for name, path in ids],
        "path": paths,
        "identity": [
            name if name and name.casefold() not in unknown else None for name in identities
        ],
        "split": [split_value(value) for value in file.column(columns.split)],
        "mask": masks,
        "bbox": boxes.text_N,
        "encounter": joined_text([file.column(name) for name in columns.encounter], len(given)),
        "viewpoint": file.column(columns.viewpoint),
    }
    rows = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in text.items()})
    rows["date"] = pd.Series(dates.moment_N, dtype="datetime64[s]")
    rows["row"] = file.line_N
    return rows


def find_files(
    rows: pd.DataFrame, root: str
) -> tuple[pd.DataFrame, dict[int, list[str]], list[str]]:
    """The rows with their paths as the disk spells them; the rows without a file, each with files
    of similar names; and a sentence on files that have another spelling.

    Another Unicode form or case is accepted if exactly one file fits.
    """
    paths = rows["path"].tolist()
    index_P = [i for i, path in enumerate(paths) if is_inside(path)]
    try:
        absent = [index_P[m] for m in sorted(missing_files(root, [paths[i] for i in index_P]))]
    except (OSError, ImportError, ValueError) as error:
        raise MetadataError(f"{root}: cannot be listed: {error}. Check dataset.root.") from error
    missing: dict[int, list[str]] = {}
    renamed: dict[int, str] = {}
    for i, on_disk in zip(absent, names_on_disk(root, [paths[i] for i in absent]), strict=True):
        if isinstance(on_disk, str):
            renamed[i] = on_disk
        else:
            missing[i] = on_disk or []
    if not renamed:
        return rows, missing, []
    first, name = next(iter(renamed.items()))
    note = (
        f"read under another case or Unicode form: {counted(len(renamed), 'file')}, such as "
        f"{name!r} for {paths[first]!r}"
    )
    spelled = [renamed.get(i, path) for i, path in enumerate(paths)]
    return rows.assign(path=pd.Series(spelled, dtype=object)), missing, [note]


def is_inside(path: str) -> bool:
    """Whether this is a `normalised_path`."""
    try:
        return normalised_path(path) == path
    except ValueError:
        return False


def normalised_path(path: str) -> str:
    """A path below the root with forward slashes; ValueError if it leaves the root.

    Only the text is checked: a symbolic link inside the root is the user's choice.

    >>> normalised_path("a\\\\./b.jpg")
    'a/b.jpg'
    """
    text = path.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not text.strip("./ ") and ".." not in parts and not text.startswith("/"):
        raise ValueError("is empty")
    if text.startswith("/") or re.match(r"[A-Za-z]:", parts[0]):
        raise ValueError("is absolute")
    # fsspec reads a protocol after "::" anywhere.
    if "://" in text or "::" in text:
        raise ValueError("is absolute: it names a protocol")
    if ".." in parts or "\0" in text:
        raise ValueError("leaves the data set's folder")
    return "/".join(parts)


def split_value(text: str | None) -> str | None:
    """A value of the split column; truth values in lower case.

    >>> split_value("TRUE"), split_value("Train")
    ('true', 'Train')
    """
    return text.lower() if text and text.lower() in ("true", "false") else text


def joined_text(parts: Sequence[Sequence[str | None]], count: int) -> list[str | None]:
    """One text for the parts of each row, None if a part is None; other parts give another text."""
    if not parts:
        return [None] * count
    # The length before each part keeps ("a", "b-c") and ("a-b", "c") apart.
    return [
        "|".join(f"{len(part)}:{part}" for part in row if part is not None)
        if None not in row
        else None
        for row in zip(*parts, strict=True)
    ]


LENGTH_AND_COLON = re.compile(r"(\d+):")


def encounter_name(encounter: str | None) -> str | None:
    """An encounter's name for people: of a `joined_text`, the parts without their lengths.

    >>> encounter_name("5:north|2:17"), encounter_name("cam1 2024-05-01 22:00:00")
    ('north / 17', 'cam1 2024-05-01 22:00:00')
    """
    parts, rest = [], encounter or ""
    while match := LENGTH_AND_COLON.match(rest):
        end = match.end() + int(match[1])
        if end > len(rest) or rest[end : end + 1] not in ("", "|"):
            break
        parts.append(rest[match.end() : end])
        rest = rest[end + 1 :]
    return encounter if rest or not parts else " / ".join(parts)


def with_part(encounter: str | None, part: str) -> str | None:
    """The encounter's name with one part more.

    >>> with_part("5:north|2:17", "r1"), with_part("cam1 2024-05-01", "r1")
    ('5:north|2:17|2:r1', 'cam1 2024-05-01 r1')
    """
    if encounter is None:
        return None
    joined = encounter_name(encounter) != encounter
    return f"{encounter}|{len(part)}:{part}" if joined else f"{encounter} {part}"


def _path_or_text(value: str | None) -> str:
    try:
        return normalised_path(value or "")
    except ValueError:
        return value or ""
