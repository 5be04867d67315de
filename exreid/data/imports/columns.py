"""Tables with a row for each animal on a photograph: wildlife-datasets', MiewID's, any other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from exreid.data.boxes import BOX_SLACK, BoxFormat, read_numbers
from exreid.data.imports.animals import NAME, SPLIT, Animal, Cells, Reading, StatedBox, other_cells
from exreid.errors import MetadataError

ROLES = {
    "path": (
        *("path", "file_path", "filepath", "file_name", "filename", "file", "image", "image_path"),
        *("image_name", "photo", "photograph", "photo_path"),
    ),
    NAME: (
        *(NAME, "identity", "individual", "individual_id", "individual_name", "animal"),
        *("animal_id", "name", "known_as", "label"),
    ),
    SPLIT: ("split",),
    "date": ("date", "datetime", "date_time", "timestamp", "date_captured", "taken"),
    "encounter": ("encounter", "encounter_id", "event", "event_id", "sighting", "visit"),
    "bbox": ("bbox", "bounding_box", "box"),
    "theta": ("theta",),
    "mask": ("mask", "segmentation"),
    "viewpoint": ("viewpoint", "orientation", "side", "flank", "pose"),
    "site": ("site", "location", "location_id", "station", "camera", "deployment_id"),
    "source": ("source",),
    "image_id": ("image_id",),
}
"""The columns that exreid uses, each with its names in other tables, in any case, with spaces,
hyphens or underscores between words."""
BOX_COLUMNS: tuple[tuple[tuple[str, ...], BoxFormat | None], ...] = (
    (("x", "y", "w", "h"), None),
    (("x", "y", "width", "height"), None),
    (("bbox_x", "bbox_y", "bbox_w", "bbox_h"), None),
    (("bbox_x", "bbox_y", "bbox_width", "bbox_height"), None),
    (("bboxx", "bboxy", "bboxwidth", "bboxheight"), None),
    (("x1", "y1", "x2", "y2"), "xyxy_px"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy_px"),
    (("x_min", "y_min", "x_max", "y_max"), "xyxy_px"),
    (("box_left", "box_top", "box_right", "box_bottom"), "xyxy_px"),
)
"""Names of four columns that together are a box."""


@dataclass(frozen=True)
class TableForm:
    """A table as a program writes it."""

    title: str
    needs: tuple[frozenset[str], ...]
    """A table with all columns of one of these sets has this form."""
    box_format: BoxFormat | None
    identity: str | None = None
    path: str | None = None


TABLE_FORMS = {
    "wildlife-datasets": TableForm(
        "wildlife-datasets' table",
        (frozenset(("image_id", "identity", "path")),),
        "xywh_px",
        "identity",
        "path",
    ),
    "miewid": TableForm(
        "MiewID's table",
        (
            frozenset(("file_path", "name", "theta")),
            frozenset(("file_path", "name", "viewpoint", "x", "y", "w", "h")),
            frozenset(("file_path", "name", "viewpoint", "bbox")),
        ),
        "xywh_px",
        "name",
        "file_path",
    ),
}
"""Tables whose columns are published."""


def forms_of(names: Sequence[str]) -> list[str]:
    """The names of the `TABLE_FORMS` that a table with these columns can have."""
    there = set(names)
    return [
        key for key, form in TABLE_FORMS.items() if any(needed <= there for needed in form.needs)
    ]


def read_columns(
    cells: pd.DataFrame,
    lines: Sequence[int],
    form: TableForm | None = None,
    *,
    named: Mapping[str, str] | None = None,
    box_format: BoxFormat | None = None,
) -> Reading:
    """The animals of a table of text, a row each; every column is kept.

    ``named``: the column of a role of `ROLES`; the other roles are found by their columns' names.
    MetadataError if no column is the path, if two columns could have a role, and, with the row's
    line, for a wrong box.
    """
    cells = _with_whole_paths(cells, named or {})
    roles, notes = roles_of(list(cells.columns), form, named or {})
    corners, from_names = _box_columns(list(cells.columns)) if "bbox" not in roles else ((), None)
    rows = [{str(k): v for k, v in row.items()} for row in cells.to_dict("records")]
    boxes = _box_numbers(rows, lines, roles.get("bbox"), corners)
    chosen = box_format or from_names or (form.box_format if form else None)
    if any(box is not None for box in boxes):
        chosen = chosen or _guess(boxes)
        notes.append(f"boxes read as {chosen}")
    used = {*roles.values(), *corners}
    animals = []
    for row, line, numbers in zip(rows, lines, boxes, strict=True):
        place = f"line {line}"
        role_cells = {role: _cell(row[column]) for role, column in roles.items()}
        if not role_cells["path"]:
            raise MetadataError(f"{place}: its {roles['path']} is empty.")
        kept: Cells = {
            **other_cells(row, used, "given_"),
            **{
                role: role_cells[role]
                for role in role_cells
                if role not in ("path", "bbox", "theta", "mask")
            },
        }
        animals.append(
            Animal(
                role_cells["path"],
                place,
                kept,
                None if numbers is None else _box(numbers, chosen, place),
                _theta(role_cells.get("theta"), place),
                role_cells.get("mask")
                if role_cells.get("mask") not in ("[]", "{}", "[[]]")
                else None,
            )
        )
    return Reading(form.title if form else "table", animals, notes=notes)


def _with_whole_paths(cells: pd.DataFrame, named: Mapping[str, str]) -> pd.DataFrame:
    """The table with a ``path``, where Timelapse has a photograph's folder and name in two
    columns."""
    if not {"File", "RelativePath"} <= set(cells.columns) or "path" in {*cells.columns, *named}:
        return cells
    folders = [_cell(folder) for folder in cells["RelativePath"]]
    paths = [
        f"{folder}/{file}" if folder else file
        for folder, file in zip(folders, cells["File"], strict=True)
    ]
    return cells.assign(path=pd.Series(paths, index=cells.index, dtype=object))


def _cell(value: object) -> str | None:
    text = value.strip() if isinstance(value, str) else None
    return text if text and text.lower() not in ("nan", "none", "nat", "null") else None


def _plain(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # individualID, RelativePath
    return re.sub(r"[\s\-_.]+", "_", words.strip()).lower()


def roles_of(
    names: list[str], form: TableForm | None, named: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The column of each role that has one, and a sentence on columns that have other names."""
    roles: dict[str, str] = {}
    for role, column in named.items():
        if role not in ROLES or column not in names:
            raise MetadataError(
                f"--column {role}={column}: it has the columns {', '.join(names)}, and they can be "
                f"{', '.join(ROLES)}."
            )
        roles[role] = column
    if form is not None:
        roles = {
            **{
                role: exact for role, exact in (("path", form.path), (NAME, form.identity)) if exact
            },
            **roles,
        }
    for role, known in ROLES.items():
        taken = set(roles.values())
        fits = [
            name for name in names if (name == role or _plain(name) in known) and name not in taken
        ]
        if role in roles or not fits:
            continue
        exact = [name for name in fits if name == role]
        if len(fits) > 1 and not exact:
            raise MetadataError(
                f"{' and '.join(repr(name) for name in fits)} could both be its {role}. Say which: "
                f"--column {role}={fits[0]}."
            )
        roles[role] = (exact or fits)[0]
    if "path" not in roles:
        raise MetadataError(
            f"no column names the photographs; it has {', '.join(names[:40])}. Say which does: "
            "--column path=NAME."
        )
    renamed = [f"{role} is {column!r}" for role, column in roles.items() if role != column]
    return roles, [f"columns: {', '.join(renamed)}"] if renamed else []


def _box_columns(names: list[str]) -> tuple[tuple[str, ...], BoxFormat | None]:
    by_plain = {_plain(name): name for name in reversed(names)}
    by_plain |= {name.lower(): name for name in reversed(names)}
    for columns, box_format in BOX_COLUMNS:
        if all(column in by_plain for column in columns):
            return tuple(by_plain[column] for column in columns), box_format
    return (), None


def _box_numbers(
    rows: Sequence[dict[str, object]],
    lines: Sequence[int],
    column: str | None,
    corners: Sequence[str],
) -> list[list[float] | None]:
    names = [column] if column else list(corners)
    boxes: list[list[float] | None] = []
    for row, line in zip(rows, lines, strict=True):
        cells = [_cell(row[name]) for name in names]
        cells = [None if cell in ("[]", "()") else cell for cell in cells]
        try:
            boxes.append(read_numbers(cells) if cells else None)
        except ValueError as error:
            text = ", ".join(str(cell) for cell in cells)
            raise MetadataError(f"line {line}: its {', '.join(names)} {text!r} {error}.") from None
    return boxes


def _guess(boxes: Sequence[list[float] | None]) -> BoxFormat:
    """The only format that fits all boxes; MetadataError if several fit."""
    known = [box for box in boxes if box is not None]
    if all(max(box) <= 1 for box in known) and any(n != int(n) for box in known for n in box):
        fits: list[BoxFormat] = ["xywh_norm"] if all(_is_fraction(box) for box in known) else []
    else:
        fits = ["xywh_px"]
        if all(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in known):
            fits.append("xyxy_px")
    if len(fits) != 1:
        raise MetadataError(
            f"its boxes, such as {known[0]}, could be {' or '.join(fits) or 'nothing known'}. Say "
            "which with --bbox-format xywh_px, xyxy_px or xywh_norm."
        )
    return fits[0]


def _is_fraction(box: Sequence[float]) -> bool:
    x, y, w, h = box
    return min(box) >= 0 and max(x + w, y + h) <= 1 + BOX_SLACK


def _box(numbers: Sequence[float], box_format: BoxFormat | None, place: str) -> StatedBox:
    a, b, c, d = numbers
    if box_format == "xyxy_px":
        if c <= a or d <= b:
            raise MetadataError(f"{place}: its box {list(numbers)} is not x1, y1, x2, y2.")
        return StatedBox((a, b, c - a, d - b))
    if box_format == "xywh_norm":
        if not _is_fraction(numbers):
            raise MetadataError(f"{place}: its box {list(numbers)} is not fractions x, y, w, h.")
        return StatedBox((a, b, c, d), "fraction")
    if max(numbers) <= 1 and any(n != int(n) for n in numbers):
        raise MetadataError(
            f"{place}: its box {list(numbers)} looks like fractions of the photograph, not pixels. "
            "--bbox-format xywh_norm reads them."
        )
    return StatedBox((a, b, c, d))


def _theta(text: str | None, place: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not abs(value) <= 2 * math.pi + 0.01:
        raise MetadataError(f"{place}: its theta {text!r} is not an angle in radians.")
    return value
