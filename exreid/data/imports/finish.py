"""From the animals of a source to exreid's own table, in pixels of the displayed photographs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from exreid.data.boxes import BOX_SLACK
from exreid.data.imports.animals import FIRST_COLUMNS, NAME, Animal, Reading, StatedBox, is_name
from exreid.data.imports.photographs import PhotoSize, find_photographs, read_sizes
from exreid.data.masks import Mask, parse_mask
from exreid.data.metadata_boxes import numbered_ids
from exreid.data.metadata_checks import SHOWN_PROBLEMS
from exreid.errors import MaskError, MetadataError
from exreid.progress import counted
from exreid.records import region_text

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom, or left, top, width, height."""


@dataclass(frozen=True)
class Imported:
    """A table with a row for each animal on a photograph, and what was left out."""

    cells: pd.DataFrame
    """Text, or None; the columns of `FIRST_COLUMNS` that have a value, then the others."""
    root: str
    """The folder that the paths are relative to."""
    form: str
    photographs: int
    identities: int
    left_out: Counter[str]
    notes: list[str]

    def report(self) -> list[str]:
        """Lines on the table, on what was left out, and on how the source was read."""
        named = sum(map(is_name, self.cells[NAME])) if NAME in self.cells else 0
        head = (
            f"{self.form}: {counted(len(self.cells), 'row')}, "
            f"{counted(self.photographs, 'photograph')}, "
            f"{counted(self.identities, 'animal')} by name, "
            f"{counted(len(self.cells) - named, 'row')} without a name."
        )
        lines = [head]
        left_out = self.left_out.most_common()
        lines += [f"Left out: {reason} ({count:,})." for reason, count in left_out]
        return lines + [f"{note[:1].upper()}{note[1:]}." for note in self.notes]


def finished(reading: Reading, root: str, source: str, *, skip: bool = False) -> Imported:
    """The table of a reader's animals, with paths below ``root``.

    MetadataError for photographs that are missing or cannot be read, and for boxes and sizes that
    do not fit them; with ``skip`` such rows are left out and counted.
    """
    if not reading.animals:
        raise MetadataError(f"{source}: has no animal to take. {_left_out_text(reading.left_out)}")
    located = find_photographs(root, [animal.path for animal in reading.animals])
    if not located.path_of:
        raise MetadataError(
            f"{source}: none of its {len(located.missing)} photographs is below {root}, such as "
            f"{located.missing[0]!r}. Name the images' folder with --root (dataset.root)."
        )
    sizes = read_sizes(root, list(located.path_of.values()))
    kept: list[Animal] = []
    problems: list[tuple[str, str]] = []
    for animal in reading.animals:
        try:
            kept.append(_placed(animal, located.path_of, sizes, root))
        except MetadataError as error:
            problems.append((animal.place, str(error)))
    if problems and not skip:
        shown = [f"  {place}: {text}" for place, text in problems[:SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        shown += [f"  and {more} more."] if more else []
        unusable = counted(len(problems), "entry", "entries")
        head = f"{source}: {unusable} cannot be used. --on-error skip leaves such out."
        raise MetadataError("\n".join([head, *shown]))
    left_out = reading.left_out + Counter({"entries that cannot be used": len(problems)})
    notes = [*reading.notes, *located.notes]
    notes += [f"left out, {place}: {text.rstrip('.')}" for place, text in problems[:SHOWN_PROBLEMS]]
    if not kept:
        raise MetadataError(f"{source}: no entry of it can be used. {_left_out_text(left_out)}")
    cells = _table(kept)
    names = {name for name in cells.get(NAME, []) if is_name(name)}
    return Imported(
        cells, root, reading.form, cells["path"].nunique(), len(names), +left_out, notes
    )


def _placed(
    animal: Animal, path_of: dict[str, str], sizes: dict[str, PhotoSize | str], root: str
) -> Animal:
    """The animal with its path below the root, and with its box and mask in displayed pixels."""
    if animal.path not in path_of:
        raise MetadataError(f"no such photograph below {root}: {animal.path}.")
    path = path_of[animal.path]
    size = sizes[path]
    if isinstance(size, str):
        raise MetadataError(size)
    turn = _turn(animal, size)
    box, mask = animal.box, animal.mask
    if box is not None:
        corners = _turned_box(_pixels(box, size, turn), size, turn)
        _check_box(corners, size, animal.theta or 0.0)
        box = StatedBox(_inside(corners, size) if not animal.theta else _xywh(corners))
    if isinstance(mask, str):
        mask = _parsed(mask)
    if isinstance(mask, dict):
        _check_mask_size(mask, size)
    elif mask is not None and turn:
        mask = _turned_polygons(mask, size)
    theta = None if not animal.theta else animal.theta
    if theta is not None and turn:
        raise MetadataError(
            f"its box is turned (theta), and lies on the stored pixels of {path}, which its "
            "orientation tag turns again. Draw it on the photograph as it is displayed."
        )
    return replace(animal, path=path, box=box, mask=mask, theta=theta)


def _turn(animal: Animal, size: PhotoSize) -> bool:
    """Whether the source describes the stored pixels of a photograph that EXIF turns."""
    stated = animal.stated_wh_px
    if stated is None or stated == size.displayed_wh_px:
        return False
    if stated == size.stored_wh_px:
        return True
    width, height = size.displayed_wh_px
    raise MetadataError(
        f"the file says that {animal.path} has {stated[0]} x {stated[1]} pixels, and it has "
        f"{width} x {height} (width x height). Take the photographs that the file was made on."
    )


def _pixels(box: StatedBox, size: PhotoSize, turn: bool) -> Corners:
    """Left, top, right, bottom of a box in pixels."""
    width, height = size.stored_wh_px if turn else size.displayed_wh_px
    scale_x, scale_y = (width, height) if box.unit == "fraction" else (1, 1)
    x, y, w, h = box.xywh
    return x * scale_x, y * scale_y, (x + w) * scale_x, (y + h) * scale_y


def _turned_box(corners: Corners, size: PhotoSize, turn: bool) -> Corners:
    if not turn:
        return corners
    left, top, right, bottom = corners
    xs, ys = _turned_points(np.array([[left, top], [right, bottom]]), size).T
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def _turned_points(points_P2: np.ndarray, size: PhotoSize) -> np.ndarray:
    """Points (x, y) of the stored pixels, on the displayed image (EXIF's orientations 5 to 8)."""
    width, height = size.stored_wh_px
    x, y = points_P2[:, 0], points_P2[:, 1]
    turned = {
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[size.exif_orientation]
    return np.stack(turned, axis=1)


def _check_box(corners: Corners, size: PhotoSize, theta: float) -> None:
    """MetadataError if the box, turned by ``theta`` about its middle, leaves the photograph."""
    width, height = size.displayed_wh_px
    left, top, right, bottom = corners
    if right - left <= 0 or bottom - top <= 0:
        raise MetadataError(f"its box [x, y, w, h] {list(_xywh(corners))} has no area.")
    if theta:  # a turned box may leave the photograph, but not its middle
        left = right = (left + right) / 2
        top = bottom = (top + bottom) / 2
    over = max(-left / width, -top / height, right / width - 1, bottom / height - 1)
    if over > BOX_SLACK:
        hint = ""
        if size.exif_orientation >= 5 and right <= height and bottom <= width:
            hint = (
                " It fits the stored pixels, which the photograph's orientation tag turns: give it "
                "on the photograph as it is displayed."
            )
        raise MetadataError(
            f"its box [x, y, w, h] {list(_xywh(corners))} leaves the photograph of {width} x "
            f"{height} pixels.{hint}"
        )


def _inside(corners: Corners, size: PhotoSize) -> Corners:
    """Left, top, width, height of the part of a box on the photograph."""
    width, height = size.displayed_wh_px
    left, top, right, bottom = corners
    return _xywh((max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)))


def _xywh(corners: Corners) -> Corners:
    left, top, right, bottom = (round(float(n), 2) for n in corners)
    return left, top, round(right - left, 2), round(bottom - top, 2)


def _parsed(mask: str) -> Mask:
    try:
        return parse_mask(mask)
    except MaskError as error:
        raise MetadataError(str(error)) from error


def _check_mask_size(mask: dict[str, object], size: PhotoSize) -> None:
    """MetadataError if a run length has neither the displayed nor the stored size."""
    stated = mask.get("size")
    if not isinstance(stated, list | tuple) or len(stated) != 2:
        return
    if (stated[1], stated[0]) not in (size.displayed_wh_px, size.stored_wh_px):
        width, height = size.displayed_wh_px
        raise MetadataError(
            f"its mask is {stated[1]} x {stated[0]} pixels, the photograph {width} x {height} "
            "(width x height)."
        )


def _turned_polygons(mask: list[object], size: PhotoSize) -> list[object]:
    rings = mask if isinstance(mask[0], list | tuple) else [mask]
    try:
        return [
            _turned_points(np.array(ring, dtype=float).reshape(-1, 2), size).reshape(-1).tolist()
            for ring in rings
        ]
    except (ValueError, TypeError) as error:
        raise MetadataError("its polygon is not a list x, y, x, y, ...") from error


def _table(animals: Sequence[Animal]) -> pd.DataFrame:
    """The rows as text, in the source's order."""
    rows = []
    for animal in animals:
        cells = dict(animal.cells)
        cells["path"] = animal.path
        cells["bbox"] = None if animal.box is None else json.dumps(list(animal.box.xywh))
        cells["theta"] = None if animal.theta is None else repr(round(animal.theta, 6))
        cells["mask"] = None if animal.mask is None else _mask_text(animal.mask)
        rows.append(cells)
    regions = [region_text(row["mask"], row["bbox"]) for row in rows]
    for i, name in numbered_ids([animal.path for animal in animals], regions).items():
        if not rows[i].get("image_id"):
            rows[i]["image_id"] = name
    frame = pd.DataFrame(rows, dtype=object)
    frame = frame.where(frame.notna(), None).dropna(axis=1, how="all")
    first = [name for name in FIRST_COLUMNS if name in frame.columns]
    return frame[[*first, *[name for name in frame.columns if name not in first]]]


def _mask_text(mask: str | Mask) -> str:
    def plain(value: object) -> str:
        return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)

    return mask if isinstance(mask, str) else json.dumps(mask, default=plain)


def _left_out_text(left_out: Counter[str]) -> str:
    reasons = "; ".join(f"{reason} ({count:,})" for reason, count in left_out.most_common())
    return f"Left out: {reasons}." if reasons else ""
