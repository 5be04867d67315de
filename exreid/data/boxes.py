"""Boxes: read from a table's cells, and placed on the photograph as it is displayed.

A box is kept as text, as a mask is: ``[x, y, w, h]`` in pixels; a dictionary, if it has an angle or
is in fractions of the photograph, whose size is not known before the file is opened.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from exreid.errors import MaskError

BoxFormat = Literal["xywh_px", "xyxy_px", "xywh_norm"]
BOX_SLACK = 0.02
"""How far a box may run over the image's edge, as a fraction of that side: detectors round."""
MIN_AREA_PX = 16
"""A smaller box shows no animal."""
BOX_FORMS = "[x, y, width, height], in pixels, or as dataset.bbox_format says"


@dataclass(frozen=True)
class Box:
    """A rectangle on the displayed photograph, in its pixels; x runs right, y down."""

    left: float
    top: float
    right: float
    bottom: float
    theta_rad: float = 0.0
    """How far the rectangle is turned about its centre, clockwise as one looks at it."""

    @property
    def wh(self) -> tuple[float, float]:
        """Its width and height, before it is turned."""
        return self.right - self.left, self.bottom - self.top

    @property
    def corners_42(self) -> np.ndarray:
        """float64 (4, 2): its corners (x, y), the upper left one first, clockwise."""
        width, height = self.wh
        turn = _rotation(self.theta_rad)
        around = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
        centre = [(self.left + self.right) / 2, (self.top + self.bottom) / 2]
        corners_42: np.ndarray = around @ turn.T + centre
        return corners_42

    @property
    def around(self) -> Box:
        """The upright box around it."""
        if not self.theta_rad:
            return self
        (left, top), (right, bottom) = self.corners_42.min(axis=0), self.corners_42.max(axis=0)
        return Box(float(left), float(top), float(right), float(bottom))

    def grown(self, margin: float, image_wh_px: tuple[int, int]) -> Box:
        """The box with a margin, a fraction of its longer side, on each side. Whole pixels, inside
        the image; a turned box may reach over its edge."""
        if self.theta_rad:
            pad = margin * max(self.wh)
            edges = (self.left - pad, self.top - pad, self.right + pad, self.bottom + pad)
            return Box(*edges, self.theta_rad)
        left, top = math.floor(self.left), math.floor(self.top)
        right, bottom = math.ceil(self.right), math.ceil(self.bottom)
        pad = round(margin * max(right - left, bottom - top))
        return Box(
            max(0, left - pad),
            max(0, top - pad),
            min(image_wh_px[0], right + pad),
            min(image_wh_px[1], bottom + pad),
        )

    def pixels(self, image_wh_px: tuple[int, int]) -> np.ndarray:
        """bool (H, W): the image's pixels that are in the box, at least in part."""
        canvas = Image.new("L", image_wh_px)
        draw = ImageDraw.Draw(canvas)
        if self.theta_rad:
            draw.polygon([(x - 0.5, y - 0.5) for x, y in self.corners_42.tolist()], fill=1)
        else:
            edges = (math.floor(self.left), math.floor(self.top))
            draw.rectangle((*edges, math.ceil(self.right) - 1, math.ceil(self.bottom) - 1), fill=1)
        return np.asarray(canvas).astype(bool)


def box_around(mask_HW: np.ndarray) -> Box:
    """The box around the pixels of a mask, bool (H, W); without area if the mask is empty.

    >>> box_around(np.array([[False, False, False], [False, True, True]])).corners_42.tolist()
    [[1.0, 1.0], [3.0, 1.0], [3.0, 2.0], [1.0, 2.0]]
    """
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not len(rows):
        return Box(0.0, 0.0, 0.0, 0.0)
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _rotation(theta_rad: float) -> np.ndarray:
    cos, sin = math.cos(theta_rad), math.sin(theta_rad)
    return np.array([[cos, -sin], [sin, cos]])


def read_numbers(cells: Sequence[str | None]) -> list[float] | None:
    """The four numbers of a box, from one cell (a list, JSON, or text with commas or spaces) or
    from four cells; None if all are empty. ValueError says what is wrong.

    >>> read_numbers(["[1, 2.5, 30, 40]"]), read_numbers(["1 2,5 30 40"])
    ([1.0, 2.5, 30.0, 40.0], [1.0, 2.5, 30.0, 40.0])
    """
    if all(cell is None for cell in cells):
        return None
    if len(cells) == 1:
        text = re.sub(r"\bnp\.(?:float|int)\d+\(([^()]*)\)", r"\1", cells[0] or "")
        text = re.sub(r"^\s*(?:array|np\.array)?\s*[(\[]+|[)\]]+\s*$", "", text)
        parts = [part for part in re.split(r"\s*[,;]\s*|\s+", text.strip()) if part]
        if len(parts) != 4:  # with decimal commas, spaces or semicolons are between the numbers
            parts = [part.strip(",") for part in re.split(r"\s*;\s*|,?\s+", text.strip())]
    else:
        parts = [cell or "" for cell in cells]
    try:
        numbers = [float(part.replace(",", ".")) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"is not a box of four numbers ({BOX_FORMS})")
    return numbers


def looks_like_fractions(boxes: Sequence[Sequence[float]]) -> bool:
    """Whether all boxes are fractions of their photographs: no box in pixels is as small."""
    return bool(boxes) and max(max(map(abs, box)) for box in boxes) <= 1 + BOX_SLACK


def box_text(numbers: Sequence[float], how: BoxFormat, theta_rad: float = 0.0) -> str:
    """The text of a box in tables and cache keys. ValueError for a box without area.

    >>> box_text([10, 20, 40, 60], "xyxy_px"), box_text([0, 0, 0.5, 1], "xywh_norm", 0.1)
    ('[10, 20, 30, 40]', '{"xywh_norm": [0, 0, 0.5, 1], "theta": 0.1}')
    """
    x, y, width, height = numbers
    if how == "xyxy_px":
        width, height = width - x, height - y
    if width <= 0 or height <= 0:
        looks = " It looks like [x, y, width, height]: set dataset.bbox_format." * (
            how == "xyxy_px" and min(numbers[2:]) > 0
        )
        raise ValueError(f"has no width or no height ({how}).{looks}".removesuffix("."))
    if how != "xywh_norm" and width * height < MIN_AREA_PX:
        raise ValueError(f"is of fewer than {MIN_AREA_PX} pixels: too few for an animal")
    xywh = [int(n) if float(n).is_integer() else n for n in (x, y, width, height)]
    if how != "xywh_norm" and not theta_rad:
        return json.dumps(xywh)
    content: dict[str, object] = {"xywh_norm" if how == "xywh_norm" else "xywh_px": xywh}
    return json.dumps({**content, "theta": theta_rad} if theta_rad else content)


def box_numbers(text: str) -> list[float]:
    """Left, top, width and height of a `box_text`, in its unit."""
    content = json.loads(text)
    numbers: list[float] = content if isinstance(content, list) else next(iter(content.values()))
    return numbers


def box_in_image(text: str, image_wh_px: tuple[int, int]) -> Box:
    """A box of `box_text` on an image of this size. MaskError if it runs over the image's edge by
    more than `BOX_SLACK`; for a turned box, if its centre is outside."""
    content = json.loads(text)
    content = content if isinstance(content, dict) else {"xywh_px": content}
    theta_rad = float(content.get("theta", 0.0))
    x, y, w, h = map(float, content.get("xywh_px") or content["xywh_norm"])
    width, height = image_wh_px
    if "xywh_norm" in content:
        x, y, w, h = x * width, y * height, w * width, h * height
    if theta_rad:
        if not (0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height):
            raise MaskError(_outside((x, y, w, h), image_wh_px))
        return Box(x, y, x + w, y + h, theta_rad)
    if not _fits((x, y, x + w, y + h), image_wh_px):
        raise MaskError(_outside((x, y, w, h), image_wh_px))
    return Box(max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h))


def as_fractions(text: str, image_wh_px: tuple[int, int]) -> str:
    """A box of an image of this size in fractions, so that it fits smaller copies of the image."""
    box, (width, height) = box_in_image(text, image_wh_px), image_wh_px
    x, y, w, h = (box.left / width, box.top / height, box.wh[0] / width, box.wh[1] / height)
    return box_text((x, y, w, h), "xywh_norm", box.theta_rad)


def _fits(edges: tuple[float, float, float, float], wh: tuple[int, int]) -> bool:
    slack = (BOX_SLACK * wh[0], BOX_SLACK * wh[1])
    return (
        min(edges[0] + slack[0], edges[1] + slack[1]) >= 0
        and edges[2] <= wh[0] + slack[0]
        and edges[3] <= wh[1] + slack[1]
    )


def _outside(xywh: tuple[float, float, float, float], wh: tuple[int, int]) -> str:
    """The error of a box outside the image: what it looks like, and the remedy."""
    x, y, w, h = xywh
    looks = "Correct it, or name the photograph that it was drawn on."
    if w > x and h > y and _fits(xywh, wh):
        looks = "It looks like [x1, y1, x2, y2]: set dataset.bbox_format=xyxy_px."
    elif _fits((x, y, x + w, y + h), wh[::-1]):
        looks = (
            "It looks drawn on the stored pixels of a photograph that its orientation tag turns. "
            "Draw it as the photograph is displayed."
        )
    numbers = ", ".join(f"{number:.6g}" for number in xywh)
    return (
        f"its box [x, y, w, h] = [{numbers}] runs outside the image of {wh[0]} x {wh[1]} pixels by "
        f"more than {BOX_SLACK:.0%}. {looks}"
    )
