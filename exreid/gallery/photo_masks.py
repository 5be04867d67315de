"""The mask images of new photographs: a mask for each row, or a row for each mask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.data.boxes import Box, box_around, box_in_image
from exreid.data.image_files import displayed_wh_px
from exreid.data.mask_images import mask_files, read_masks
from exreid.data.masks import encode_mask, fit_mask_to_image
from exreid.data.photos import FoundPhotos
from exreid.errors import MaskError
from exreid.progress import counted, tell
from exreid.storage.urls import read_bytes

INSIDE = 0.5
"""The least share of a mask's pixels that are inside the box of the same animal."""


def with_mask_images(
    rows: pd.DataFrame, photo_N: Sequence[int], photos: FoundPhotos, folder: Path
) -> tuple[pd.DataFrame, list[int]]:
    """The rows with the masks of ``folder``, and for each the index of the row that it was made of.

    A row without a box becomes a row for each animal of its photograph's masks, with the box
    around the mask; rows with boxes get the masks inside their boxes. MaskError.
    """
    files = mask_files(folder, photos.paths)
    rows_of: dict[int, list[int]] = {}
    for i, photo in enumerate(photo_N):
        rows_of.setdefault(photo, []).append(i)
    source: list[int] = []
    changed: list[dict[str, str]] = []
    several = 0
    for photo, path in enumerate(photos.paths):
        rows_of_photo = rows_of[photo]
        masks = read_masks(files[path]) if path in files else {}
        if not masks:
            changes: list[dict[str, str]] = [{} for _ in rows_of_photo]
        elif len(rows_of_photo) == len(masks) == 1:
            changes = [{"mask": encode_mask(next(iter(masks.values())))}]
        elif len(rows_of_photo) == 1 and rows["bbox"].iloc[rows_of_photo[0]] is None:
            several += 1
            fitted = _as_displayed(masks, photos.root, path)[0]
            changes = [_animal(path, number, mask) for number, mask in fitted.items()]
            rows_of_photo = rows_of_photo * len(masks)
        else:
            changes = _by_box(rows.iloc[rows_of_photo], masks, photos.root, path)
        source += rows_of_photo
        changed += changes
    if several:
        told = counted(several, "photograph shows", "photographs show")
        tell(f"--masks: {told} several animals; each is asked for alone.")
    result = rows.iloc[source].reset_index(drop=True)
    for i, cells in enumerate(changed):
        for name, text in cells.items():
            result.loc[i, name] = text
    return result, source


def _animal(path: str, number: int, mask_HW: np.ndarray) -> dict[str, str]:
    """Id, mask and box of one of several animals."""
    box = box_around(mask_HW)
    xywh = [int(n) for n in (box.left, box.top, *box.wh)]
    return {
        "image_id": f"{path}#{number}",
        "mask": encode_mask(mask_HW),
        "bbox": json.dumps(xywh),
    }


def _by_box(
    rows: pd.DataFrame, masks: dict[int, np.ndarray], root: str, path: str
) -> list[dict[str, str]]:
    """For each row the mask inside its box, by the largest overlap, each mask once."""
    if rows["bbox"].isna().any():
        raise MaskError(
            f"--masks: {path} has {len(rows)} rows in the table, not all with a box, so that masks "
            "and animals cannot be matched. Give each its box, or all masks in the table."
        )
    as_displayed, wh_px = _as_displayed(masks, root, path)
    fitted = list(as_displayed.values())
    boxes = [box_in_image(text, wh_px) for text in rows["bbox"]]
    overlap_RM = np.array([[_overlap(box, box_around(mask)) for mask in fitted] for box in boxes])
    changes: list[dict[str, str]] = [{} for _ in boxes]
    for _ in range(min(overlap_RM.shape)):
        row, column = divmod(int(overlap_RM.argmax()), len(fitted))
        overlap_RM[row], overlap_RM[:, column] = -1, -1
        mask_HW = fitted[column]
        if mask_HW[boxes[row].pixels(wh_px)].sum() < INSIDE * mask_HW.sum():
            raise MaskError(
                f"--masks: no mask of {path} lies in the box {rows['bbox'].iloc[row]}. Masks and "
                "boxes should be of the same photographs and animals."
            )
        changes[row] = {"mask": encode_mask(mask_HW)}
    return changes


def _as_displayed(
    masks: dict[int, np.ndarray], root: str, path: str
) -> tuple[dict[int, np.ndarray], tuple[int, int]]:
    """The masks on the displayed photograph, and its size."""
    wh_px, orientation = displayed_wh_px(read_bytes(root, path))
    try:
        fitted = {n: fit_mask_to_image(mask, wh_px, orientation) for n, mask in masks.items()}
    except MaskError as error:
        raise MaskError(f"--masks: {path}: {error}") from error
    return fitted, wh_px


def _overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, as if neither was turned."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    both = max(width, 0) * max(height, 0)
    union = first.wh[0] * first.wh[1] + second.wh[0] * second.wh[1] - both
    return both / union if union else 0.0
