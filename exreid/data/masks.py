"""Masks: COCO run lengths and polygons, checked before they are used.

pycocotools is C code that does not check its input, and metadata files come from other people: run
lengths are therefore read here (the tests compare with pycocotools), and pycocotools is given only
polygons of bounded size, and masks to encode.
"""

from __future__ import annotations

import ast
import json
import re
from itertools import chain
from typing import cast

import numpy as np
from pycocotools import mask as coco

from exreid.errors import MaskError

Mask = dict[str, object] | list[object]
"""A run length, or polygons."""

MAX_MASK_PIXELS = 2**27
"""A mask that claims more pixels is refused before memory is taken for it."""
MAX_OUTLINE_PX = 1_000_000
"""The longest outline of a polygon mask, for the same reason."""

POLYGON_SLACK = 0.05
"""How far a polygon may run over the image's edge, as a fraction of that side."""

_GROUPS_PER_RUN = 7  # 7 groups of 5 bits are enough for any run below 2 ** 34
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


def parse_mask(value: str | Mask) -> Mask:
    """A run length's dict or a list of polygons; text is read as JSON or as a Python literal.

    Of a COCO annotation, alone or in a list, its "segmentation"; of a LabelMe shape its "points".
    Raises MaskError for anything else, naming what it looks like.

    >>> parse_mask("{'size': [1, 2], 'counts': [1, 1]}")
    {'size': [1, 2], 'counts': [1, 1]}
    """
    parsed = _literal(value) if isinstance(value, str) else value
    if isinstance(parsed, list) and len(parsed) == 1 and isinstance(parsed[0], dict):
        parsed = parsed[0]
    if isinstance(parsed, dict):
        parsed = parsed.get("segmentation", parsed.get("points", parsed))
    if not isinstance(parsed, dict | list) or not parsed:
        raise MaskError(f"mask is neither a COCO run length nor a polygon: {_shown(value)}.")
    if hint := _other_format(parsed):
        raise MaskError(f"mask is neither a COCO run length nor a polygon: {hint}.")
    return parsed


def decode_mask(value: str | Mask, image_wh_px: tuple[int, int]) -> np.ndarray:
    """The mask as booleans (H, W), for polygons in the image's size, for a run length in its own.

    Raises MaskError if it cannot be decoded, or if the polygons do not fit such an image; see
    `fit_mask_to_image` for the size.
    """
    try:
        return _decoded(parse_mask(value), image_wh_px)
    except MaskError:
        raise
    except Exception as error:  # numpy and pycocotools raise anything for such text
        raise MaskError(f"undecodable mask: {type(error).__name__}: {error}.") from error


def _decoded(mask: Mask, image_wh_px: tuple[int, int]) -> np.ndarray:
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
    """The mask on the displayed image, which is the stored image turned as EXIF says.

    A mask of the displayed size is used as it is; a mask that fits only the stored image is turned
    as the image is. (If both sizes are the same, the mask is taken as one of the displayed image.)
    Raises MaskError for any other size.
    """
    height, width = mask_HW.shape
    if (width, height) == displayed_wh_px:
        return mask_HW
    turned: np.ndarray = _TURNS.get(exif_orientation, _TURNS[1])(mask_HW)
    if turned.shape[::-1] == displayed_wh_px:
        return turned
    looks = ""
    if (height, width) == displayed_wh_px:
        looks = " Its size looks like [width, height]; COCO's is [height, width]."
    elif abs(width * displayed_wh_px[1] - height * displayed_wh_px[0]) <= width + height:
        looks = (
            f" It looks drawn on the photograph at {width / displayed_wh_px[0]:.3g} of its size: "
            "scale it, or name the photograph that it was drawn on."
        )
    raise MaskError(
        f"mask is {width} x {height} pixels, the image {displayed_wh_px[0]} x "
        f"{displayed_wh_px[1]} (width x height).{looks}"
    )


def _other_format(parsed: Mask) -> str:
    """The format that a wrong mask looks like, and the remedy; "" if the mask may be right."""
    as_rle = "give COCO's run lengths"
    if isinstance(parsed, dict):
        if "bbox" in parsed and "counts" not in parsed:
            return f"it looks like a box (bbox); {as_rle} or a polygon"
        if "rle" in parsed or "original_width" in parsed:
            return f"it looks like Label Studio's own; export as COCO, or {as_rle}"
        if "counts" not in parsed and "size" not in parsed:
            return f"it has the keys {_shown(sorted(map(str, parsed)))}, not size and counts"
        return ""
    if all(isinstance(part, dict) for part in parsed):
        return f"it has {len(parsed)} masks; give the one of the row's animal"
    if len(parsed) == 4 and all(isinstance(number, int | float) for number in parsed):
        return f"it looks like a box, 4 numbers; {as_rle} or a polygon of 3 points or more"
    return ""


def _other_text(text: str) -> str:
    """The format that text looks like which is not JSON."""
    if re.fullmatch(r"[^{}\[\]]+\.(png|tiff?|bmp|gif|jpe?g|npy)", text.strip(), re.IGNORECASE):
        return " It looks like the name of a file; the column must have the masks themselves."
    if re.fullmatch(r"[\d\s]+", text):
        return " It looks like pairs of start and length; give COCO's run lengths."
    if "array(" in text or "np." in text:
        return " It looks like numpy's own print; write it with json.dumps(... .tolist())."
    if len(text) in (255, 32_759, 32_767) or text.lstrip()[:1] in ("{", "["):
        return " It looks cut off: Excel cuts cells at 32,767 characters. Use Parquet or CSV."
    return ""


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise MaskError(
            f"mask is neither JSON nor a Python literal: {_shown(text)}.{_other_text(text)}"
        ) from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 44 else f"{text[:40]} ..."


def _size_of(mask: dict[str, object]) -> tuple[int, int]:
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


def _checked_runs(counts: list[object]) -> np.ndarray:
    if not all(type(run) is int and 0 <= run <= MAX_MASK_PIXELS for run in counts):
        raise MaskError(f"mask's counts are not whole numbers from 0 to {MAX_MASK_PIXELS}.")
    return np.array(counts, dtype=np.int64)


def _runs_of(text: str | bytes) -> np.ndarray:
    """The run lengths of COCO's compressed text, int64 (cocoapi, maskApi.c, rleFrString).

    Each number is a sequence of 5-bit groups, low group first, in characters from "0" (48); bit
    32 means that more follow, bit 16 of the last group is the sign. From the fourth run on, the
    number is the difference to the run two before.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if data[:2] in (b"b'", b'b"'):  # the print of bytes, which no run length begins with
        data = ast.literal_eval(data.decode())
    groups = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    wrong = np.flatnonzero((groups < 0) | (groups > 63))
    if len(wrong):
        raise MaskError(
            f"undecodable mask: byte {data[wrong[0]]} at {wrong[0]} is not part of a run length."
        )
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


def _run_length_of_polygons(
    polygons: list[object], image_wh_px: tuple[int, int]
) -> dict[str, object]:
    width, height = image_wh_px
    rings = polygons if isinstance(polygons[0], list | tuple) else [polygons]
    if len(rings) >= 3 and all(isinstance(p, list | tuple) and len(p) == 2 for p in rings):
        rings = [
            list(chain.from_iterable(cast(list[list[object]], rings)))
        ]  # a single ring, point by point
    outline_px = 0.0
    checked: list[list[float]] = []
    for ring in rings:
        try:
            points = np.array(ring, dtype=np.float64).reshape(-1, 2)
        except (ValueError, TypeError, OverflowError):
            points = np.empty((0, 2))
        if len(points) < 3 or not np.isfinite(points).all():
            raise MaskError("mask's polygon is not a list x, y, x, y, ... of at least 3 points.")
        outline_px += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
        if np.abs(points).max() > 2 * max(width, height) or outline_px > MAX_OUTLINE_PX:
            raise MaskError(f"mask's polygon runs far outside the image of {width} x {height}.")
        checked.append(points.reshape(-1).tolist())
    _check_place(np.concatenate(checked).reshape(-1, 2), (width, height))
    merged = coco.merge(coco.frPyObjects(checked, height, width))
    return {"size": [height, width], "counts": merged["counts"]}


def _check_place(points_P2: np.ndarray, image_wh_px: tuple[int, int]) -> None:
    """MaskError if the polygons' points cannot be pixels of this image."""
    width, height = image_wh_px
    low, high = points_P2.min(axis=0), points_P2.max(axis=0)
    about = f"mask's polygon runs from {low.tolist()} to {high.tolist()}"
    size = f"{width} x {height} pixels"
    if high.max() <= 1.5 and min(image_wh_px) > 8:
        raise MaskError(
            f"{about}: it looks like fractions of the image of {size}. Multiply x by the width, y "
            "by the height."
        )
    if _looks_like_per_cent(points_P2, image_wh_px):
        raise MaskError(
            f"{about}: it looks like per cent of the image of {size}. Multiply x by width / 100, "
            "y by height / 100; or, where it is right, give it as run lengths."
        )
    slack = np.maximum(2, POLYGON_SLACK * np.array(image_wh_px))
    if (low >= -slack).all() and (high <= np.array(image_wh_px) + slack).all():
        return
    turned = (low >= -slack[::-1]).all() and (high <= np.array((height, width)) + slack).all()
    looks = (
        "it looks drawn on the stored pixels of a photograph that its orientation tag turns, or "
        "has y before x. Draw it as the photograph is displayed, or give it as run lengths of the "
        "stored size"
        if turned
        else "it looks drawn on a photograph of another size. Scale it"
    )
    raise MaskError(f"{about}, outside the image of {size}: {looks}.")


def _looks_like_per_cent(points_P2: np.ndarray, image_wh_px: tuple[int, int]) -> bool:
    """Whether all points are in the corner of 100 x 100 pixels, where hardly an animal would be.
    The smaller the image, the more of the 100 the points have to span."""
    shorter = min(image_wh_px)
    if shorter <= 200 or points_P2.max() > 100 or points_P2.min() < 0:
        return False
    span = float(np.ptp(points_P2, axis=0).min())
    has_parts = bool(np.any(points_P2 != np.round(points_P2)))
    if shorter >= 1000:
        return True
    return span >= (60 if not has_parts else 40 if shorter < 500 else 0)
