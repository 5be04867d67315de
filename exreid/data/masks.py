"""Masks: COCO run lengths and polygons, checked before anything trusts them.

pycocotools is C code that believes its input, and metadata files come from other people: run
lengths are therefore read here (the tests hold them against pycocotools), and pycocotools is
given only polygons of bounded size, and masks to encode.
"""

from __future__ import annotations

import ast
import json
from typing import Any

import numpy as np
from pycocotools import mask as coco

from exreid.errors import MaskError

MAX_MASK_PIXELS = 2**27
"""A mask that claims more pixels is refused before memory is taken for it."""
MAX_OUTLINE_PX = 1_000_000
"""The longest outline of a polygon mask, for the same reason."""

_GROUPS_PER_RUN = 7  # 7 groups of 5 bits hold any run below 2 ** 34
# How each of EXIF's eight orientations turns a stored array into the displayed one.
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
    """A run length's dict or a list of polygons, out of JSON or a Python literal where it is text.

    A COCO annotation gives its "segmentation". Raises MaskError where it is neither.

    >>> parse_mask("{'size': [1, 2], 'counts': [1, 1]}")
    {'size': [1, 2], 'counts': [1, 1]}
    """
    parsed = _literal(value) if isinstance(value, str) else value
    if isinstance(parsed, dict) and "segmentation" in parsed:
        parsed = parsed["segmentation"]
    if not isinstance(parsed, dict | list) or not parsed:
        raise MaskError(f"mask is no COCO run length and no polygon: {_shown(value)}.")
    return parsed


def decode_mask(
    value: str | dict[str, Any] | list[Any], image_wh_px: tuple[int, int]
) -> np.ndarray:
    """The mask as booleans (H, W). Polygons take the image's size; a run length brings its own.

    Raises MaskError where it cannot be decoded; see `fit_mask_to_image` for the size.
    """
    mask = parse_mask(value)
    if isinstance(mask, list):
        mask = _run_length_of_polygons(mask, image_wh_px)
    height, width = _size_of(mask)
    counts = mask.get("counts")
    if isinstance(counts, list):
        runs = _checked_runs(counts)
    elif isinstance(counts, str | bytes):
        runs = _runs_of(counts)
    else:
        raise MaskError("mask has no 'counts' (text or a list of whole numbers).")
    total = int(runs.sum())
    if total != height * width:
        raise MaskError(
            f"undecodable mask: its runs cover {total} pixels, its size {width} x {height} "
            f"(width x height) has {height * width}."
        )
    # COCO counts down the columns and begins with background.
    is_animal = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_animal, runs).reshape(width, height).T


def encode_mask(mask_HW: np.ndarray) -> str:
    """Booleans (H, W) as the JSON text of a compressed COCO run length."""
    encoded = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    height, width = encoded["size"]
    return json.dumps({"size": [height, width], "counts": encoded["counts"].decode("ascii")})


def fit_mask_to_image(
    mask_HW: np.ndarray, displayed_wh_px: tuple[int, int], exif_orientation: int
) -> np.ndarray:
    """The mask as it lies on the displayed image, which is the stored one turned as EXIF says.

    A mask of the displayed size is used as it is; one that fits only the stored image is turned
    as the image is. (Where both sizes are the same, the mask is taken to lie on the displayed
    image.) Raises MaskError for any other size.
    """
    height, width = mask_HW.shape
    if (width, height) == displayed_wh_px:
        return mask_HW
    turned: np.ndarray = _TURNS.get(exif_orientation, _TURNS[1])(mask_HW)
    if turned.shape[::-1] == displayed_wh_px:
        return turned
    raise MaskError(
        f"mask is {width} x {height} pixels, the image {displayed_wh_px[0]} x "
        f"{displayed_wh_px[1]} (width x height)."
    )


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise MaskError(f"mask is neither JSON nor a Python literal: {_shown(text)}.") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 44 else f"{text[:40]} ..."


def _size_of(mask: dict[str, Any]) -> tuple[int, int]:
    size = mask.get("size")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(type(side) is int and side > 0 for side in size)
    ):
        raise MaskError(f"mask's size {_shown(size)} is not [height, width] in pixels.")
    if size[0] * size[1] > MAX_MASK_PIXELS:
        raise MaskError(f"mask's size {_shown(size)} is over {MAX_MASK_PIXELS} pixels.")
    return size[0], size[1]


def _checked_runs(counts: list[Any]) -> np.ndarray:
    if not all(type(run) is int and 0 <= run <= MAX_MASK_PIXELS for run in counts):
        raise MaskError(f"mask's counts are not whole numbers from 0 to {MAX_MASK_PIXELS}.")
    return np.array(counts, dtype=np.int64)


def _runs_of(text: str | bytes) -> np.ndarray:
    """The run lengths of COCO's compressed text, int64 (cocoapi, maskApi.c, rleFrString).

    Each number is a sequence of 5-bit groups, low group first, in characters from "0" (48); bit
    32 says that more follow, bit 16 of the last group is the sign. From the fourth run on, the
    number is the difference to the run two before.
    """
    data = text.encode() if isinstance(text, str) else text
    groups = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    wrong = np.flatnonzero((groups < 0) | (groups > 63))
    if len(wrong):
        raise MaskError(f"undecodable mask: byte {data[wrong[0]]} at {wrong[0]} is no run length.")
    last = np.flatnonzero((groups & 32) == 0)
    first = np.concatenate([[0], last + 1])[: len(last)]
    if len(last) == 0 or last[-1] != len(groups) - 1:
        raise MaskError("undecodable mask: its last run is cut off.")
    lengths = last - first + 1
    if lengths.max() > _GROUPS_PER_RUN:
        raise MaskError("undecodable mask: a run is longer than any image.")
    place = np.arange(len(groups)) - np.repeat(first, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * place), first)
    numbers -= ((groups[last] & 16) != 0) * (np.int64(1) << (5 * lengths))
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    if runs.min() < 0:
        raise MaskError("undecodable mask: a run has a negative length.")
    return runs


def _run_length_of_polygons(polygons: list[Any], image_wh_px: tuple[int, int]) -> dict[str, Any]:
    width, height = image_wh_px
    rings = polygons if isinstance(polygons[0], list | tuple) else [polygons]
    outline_px = 0.0
    checked: list[list[float]] = []
    for ring in rings:
        try:
            points = np.array(ring, dtype=np.float64).reshape(-1, 2)
        except (ValueError, TypeError, OverflowError):
            points = np.empty((0, 2))
        if len(points) < 3 or not np.isfinite(points).all():
            raise MaskError("mask's polygon is no list x, y, x, y, ... of at least 3 points.")
        outline_px += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
        if np.abs(points).max() > 2 * max(width, height) or outline_px > MAX_OUTLINE_PX:
            raise MaskError(f"mask's polygon runs far outside the image of {width} x {height}.")
        checked.append(points.reshape(-1).tolist())
    merged = coco.merge(coco.frPyObjects(checked, height, width))
    return {"size": [height, width], "counts": merged["counts"]}
