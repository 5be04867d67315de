"""Masks: COCO run lengths and polygons, decoded by pycocotools after they were checked.

pycocotools is C code that trusts its input; a hostile or damaged string is refused before.
"""

from __future__ import annotations

import ast
import json
from typing import Any

import numpy as np
from pycocotools import mask as coco

from exreid.errors import MaskError

# Of EXIF's eight orientations: how each turns a stored array into the displayed one.
_TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a.T[::-1, ::-1],
    8: lambda a: a.T[::-1],
}


def parse_mask(value: str | dict[str, Any] | list[Any]) -> dict[str, Any] | list[Any]:
    """A mask's dict or list of polygons, out of JSON or a Python literal where it is text."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text)
        except ValueError:
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
                raise MaskError(
                    f"mask is neither JSON nor a Python literal: {str(value)[:40]!r}."
                ) from error
    if isinstance(value, dict) and "segmentation" in value:
        value = value["segmentation"]
    if not isinstance(value, dict | list) or not value:
        raise MaskError(f"mask is no COCO run length and no polygon: {str(value)[:40]!r}.")
    return value


def decode_mask(
    value: str | dict[str, Any] | list[Any], image_wh_px: tuple[int, int]
) -> np.ndarray:
    """The mask as booleans (H, W). Polygons take the image's size; a run length brings its own.

    MaskError where it cannot be decoded.
    """
    mask = parse_mask(value)
    if isinstance(mask, list):
        return _decode_polygons(mask, image_wh_px)
    height, width = _size_of(mask)
    counts = mask.get("counts")
    if isinstance(counts, list):
        runs = counts
        if not all(isinstance(run, int) and run >= 0 for run in runs):
            raise MaskError("mask's counts are not whole numbers of at least 0.")
    elif isinstance(counts, str | bytes):
        text = counts.encode() if isinstance(counts, str) else counts
        runs = _runs_of(text)
    else:
        raise MaskError("mask has no 'counts' (text or a list).")
    if sum(runs) != height * width:
        raise MaskError(
            f"undecodable mask: its runs cover {sum(runs)} pixels, its size "
            f"{width} x {height} has {width * height}."
        )
    # COCO counts down the columns, beginning with background.
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def encode_mask(mask_HW: np.ndarray) -> str:
    """Booleans (H, W) as a JSON string of compressed COCO run lengths."""
    encoded = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    height, width = encoded["size"]
    return json.dumps({"size": [height, width], "counts": encoded["counts"].decode("ascii")})


def fit_mask_to_image(
    mask_HW: np.ndarray, displayed_wh_px: tuple[int, int], exif_orientation: int
) -> np.ndarray:
    """The mask as it lies on the displayed image.

    A mask of the displayed size is used as it is; one that only fits the stored image, before
    its EXIF orientation, is turned as the image is. MaskError for any other size.
    """
    height, width = mask_HW.shape
    if (width, height) == displayed_wh_px:
        return mask_HW
    turned: np.ndarray = _TURNS.get(exif_orientation, _TURNS[1])(mask_HW)
    if (turned.shape[1], turned.shape[0]) == displayed_wh_px:
        return turned
    raise MaskError(
        f"mask is {width} x {height} pixels, the image {displayed_wh_px[0]} x "
        f"{displayed_wh_px[1]} (width x height)."
    )


def _size_of(mask: dict[str, Any]) -> tuple[int, int]:
    size = mask.get("size")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(isinstance(side, int) and 0 < side < 2**16 for side in size)
    ):
        raise MaskError(f"mask's size {size!r} is not [height, width] in pixels.")
    return int(size[0]), int(size[1])


def _runs_of(text: bytes) -> list[int]:
    """The run lengths of COCO's compressed text.

    Each number is a sequence of 5-bit groups, low group first, in characters from "0" (48); bit
    32 says that more follow, bit 16 of the last group is the sign. From the third run on, the
    number is the difference to the run two before (cocoapi, maskApi.c, rleFrString).
    """
    runs: list[int] = []
    number = shift = 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64:
            raise MaskError(f"undecodable mask: character {chr(byte)!r} is no run length.")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        if len(runs) > 2:
            number += runs[-2]
        if number < 0:
            raise MaskError("undecodable mask: a run has a negative length.")
        runs.append(number)
        number = shift = 0
    if shift:
        raise MaskError("undecodable mask: its last run is cut off.")
    return runs


def _decode_polygons(polygons: list[Any], image_wh_px: tuple[int, int]) -> np.ndarray:
    width, height = image_wh_px
    rings = polygons if isinstance(polygons[0], list | tuple) else [polygons]
    for ring in rings:
        numbers = isinstance(ring, list | tuple) and all(
            isinstance(x, int | float) and np.isfinite(x) and abs(x) < 2**20 for x in ring
        )
        if not numbers or len(ring) < 6 or len(ring) % 2:
            raise MaskError("mask's polygon is no list x, y, x, y, ... of at least 3 points.")
    encoded = coco.frPyObjects([list(map(float, ring)) for ring in rings], height, width)
    decoded: np.ndarray = coco.decode(coco.merge(encoded)).astype(bool)
    return decoded
