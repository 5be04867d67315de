"""A table's row on its photograph: the animal's box and mask, and the time of the photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from exreid.data.boxes import Box, box_around, box_in_image
from exreid.data.exports.animals import ExportedAnimal
from exreid.data.imports.folders import read_times
from exreid.data.imports.photographs import PhotoSize
from exreid.data.masks import Mask, decode_mask, fit_mask_to_image, parse_mask
from exreid.data.traits import PLACES
from exreid.errors import MaskError

SPECIES = ("scientificname", "scientific_name", "species")
PhotographRow = Mapping[str, Any]
"""image_id, path, mask, bbox, date, encounter, visit (the encounter's name for people), viewpoint,
site, and the metadata's own columns."""


def moments_of(root: str, rows: Sequence[PhotographRow]) -> list[tuple[datetime | None, bool]]:
    """When each row's photograph was taken, and whether its time is known: by the row's date; if
    that has no time, by the photograph's EXIF, if that is of the same day."""
    stated = [pd.Timestamp(row["date"]) if row["date"] is not None else None for row in rows]
    untimed = {str(row["path"]) for row, date in zip(rows, stated, strict=True) if not _timed(date)}
    paths = sorted(untimed)
    by_exif = dict(zip(paths, read_times(root, paths), strict=True))
    moments: list[tuple[datetime | None, bool]] = []
    for row, date in zip(rows, stated, strict=True):
        exif = by_exif.get(str(row["path"]))
        taken = None if exif is None or np.isnat(exif) else pd.Timestamp(exif)
        if taken is not None and date in (None, taken.normalize()):
            moments.append((taken.to_pydatetime(), True))
        else:
            moments.append((None if date is None else date.to_pydatetime(), _timed(date)))
    return moments


def _timed(moment: pd.Timestamp | None) -> bool:
    return moment is not None and moment != moment.normalize()


def placed(row: PhotographRow, size: PhotoSize, unread: list[str]) -> ExportedAnimal:
    """The row's animal with its box and mask on the photograph; without a box, the box around the
    mask. Masks and boxes that cannot be read are added to ``unread``."""
    wh_px = size.displayed_wh_px
    box: Box | None = None
    mask: Mask | None = None
    mask_px = 0
    drawn = False
    try:
        if row["bbox"] is not None:
            box = box_in_image(str(row["bbox"]), wh_px)
        if row["mask"] is not None:
            mask = parse_mask(str(row["mask"]))
            decoded = decode_mask(mask, wh_px)
            mask_HW = fit_mask_to_image(decoded, wh_px, size.exif_orientation)
            mask_px = int(np.count_nonzero(mask_HW))
            if box is None and mask_px:
                box, drawn = box_around(mask_HW), True
    except MaskError as error:
        mask, mask_px = None, 0
        unread.append(f"{row['image_id']}: {error}")
    return replace(described(row, wh_px), box=box, drawn=drawn, mask=mask, mask_px=mask_px)


def described(row: PhotographRow, wh_px: tuple[int, int]) -> ExportedAnimal:
    """The row's animal with what the row says of it, without its box and mask."""
    return ExportedAnimal(
        image_id=str(row["image_id"]),
        path=str(row["path"]),
        wh_px=wh_px,
        encounter=_text(row["visit"]),
        site=_text(row["site"]),
        viewpoint=_text(row["viewpoint"]),
        latitude=_degrees(row, "latitude"),
        longitude=_degrees(row, "longitude"),
        species=_first(row, SPECIES),
    )


def _text(cell: object) -> str | None:
    return None if cell is None or str(cell) == "" else str(cell)


def _first(row: PhotographRow, names: Sequence[str]) -> str | None:
    lowered = {str(name).removesuffix(" (metadata)").lower(): cell for name, cell in row.items()}
    return next((text for name in names if (text := _text(lowered.get(name)))), None)


def _degrees(row: PhotographRow, which: str) -> float | None:
    names, most = PLACES[which]
    try:
        degrees = float((_first(row, names) or "").replace(",", "."))
    except ValueError:
        return None
    return degrees if abs(degrees) <= most else None
