"""Lettering, colours and panels of all pictures, on uint8 RGB arrays (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from exreid.storage.files import written_whole

INK, QUIET, PAPER = (28, 30, 34), (105, 110, 118), (255, 255, 255)
CONFIDENCE_MAP = "plasma"
"""Rises evenly in brightness, so that it is read in grey and by colour-blind readers too; unlike
viridis it keeps off the greens of vegetation."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Overlay:
    """A picture and its caption."""

    image_rgb: np.ndarray
    """uint8 (H, W, 3)."""
    caption: str


@cache
def font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows most alphabets."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size_px)


def colours_of(value_N: np.ndarray, name: str = CONFIDENCE_MAP) -> np.ndarray:
    """uint8 RGB (N, 3) of values from 0 to 1. The darkest part of a map is left out: it would be
    lost on a dark coat."""
    import matplotlib

    place_N = 0.18 + 0.79 * np.clip(np.asarray(value_N, np.float64), 0.0, 1.0)
    rgba = matplotlib.colormaps[name](place_N)
    return np.asarray(np.round(255 * np.asarray(rgba)[..., :3]), np.uint8)


def as_colour(rgb_3: np.ndarray) -> Colour:
    """Three bytes as plain numbers."""
    red, green, blue = (int(value) for value in rgb_3)
    return red, green, blue


def as_rgb(image: np.ndarray) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3), contiguous; ValueError for anything else."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"a picture needs uint8 RGB (H, W, 3), not {image.dtype} {image.shape}.")
    return np.ascontiguousarray(image)


def resized(image: np.ndarray, wh_px: tuple[int, int]) -> np.ndarray:
    """The image (any channels) at another size, smooth whether it grows or shrinks."""
    height, width = image.shape[:2]
    if (width, height) == wh_px:
        return image
    shrinks = wh_px[0] < width
    return np.asarray(
        cv2.resize(image, wh_px, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    )


def fitted(image: np.ndarray, box_wh_px: tuple[int, int], colour: Colour = PAPER) -> np.ndarray:
    """The whole image in the middle of a box of that size."""
    height, width = image.shape[:2]
    scale = min(box_wh_px[0] / width, box_wh_px[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    panel = blank(box_wh_px, colour)
    left, top = (box_wh_px[0] - inner[0]) // 2, (box_wh_px[1] - inner[1]) // 2
    panel[top : top + inner[1], left : left + inner[0]] = resized(image, inner)
    return panel


def blank(wh_px: tuple[int, int], colour: Colour = PAPER) -> np.ndarray:
    """An empty panel."""
    return np.full((wh_px[1], wh_px[0], 3), colour, np.uint8)


def text_width(text: str, size_px: int, *, bold: bool = False) -> int:
    """The width of the text in pixels."""
    return int(np.ceil(font(size_px, bold=bold).getlength(text)))


def write(
    image: np.ndarray,
    xy_px: tuple[float, float],
    text: str,
    *,
    size_px: int,
    colour: Colour = INK,
    bold: bool = False,
    anchor: str = "ls",
) -> None:
    """Write into the image, in place; ``anchor`` as Pillow has it ("ls": left, on the line)."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    draw.text(xy_px, text, fill=colour, font=font(size_px, bold=bold), anchor=anchor)
    image[:] = np.asarray(canvas)


def wrapped(text: str, width_px: int, size_px: int, *, bold: bool = False) -> list[str]:
    """The text in lines that fit; a word that is wider is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size_px, bold=bold) <= width_px:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width_px, size_px, bold=bold))
    return lines


def shortened(text: str, width_px: int, size_px: int, *, bold: bool = False) -> str:
    """The text, with an ellipsis where it is too wide: of words their middle goes, of a path its
    front, since the last digits tell one photograph from the next. A path after " · " is cut, and
    what is before it stays."""
    if text_width(text, size_px, bold=bold) <= width_px:
        return text
    before, dot, path = text.rpartition(" · ")
    if "/" not in path:
        before, dot, path = "", "", text
    keeps_front = "/" not in path
    for keep in range(len(path) - 1, 0, -1):
        front = -(-keep // 2) if keeps_front else 0
        short = f"{before}{dot}{path[:front]}…{path[len(path) - keep + front :]}"
        if text_width(short, size_px, bold=bold) <= width_px:
            return short
    return shortened(before, width_px, size_px, bold=bold) if before else "…"


def paragraph(
    text: str, width_px: int, size_px: int, *, colour: Colour = INK, margin_px: int = 0
) -> np.ndarray:
    """A panel of that width with the text, wrapped."""
    lines = wrapped(text, width_px - 2 * margin_px, size_px)
    step = round(1.45 * size_px)
    panel = blank((width_px, step * len(lines) + size_px // 2))
    for number, line in enumerate(lines):
        place = (margin_px, round(1.1 * size_px) + number * step)
        write(panel, place, line, size_px=size_px, colour=colour)
    return panel


def below_each_other(
    panels: Sequence[np.ndarray], gap_px: int = 0, colour: Colour = PAPER
) -> np.ndarray:
    """Panels under each other, each at the left."""
    width = max(panel.shape[1] for panel in panels)
    height = sum(panel.shape[0] for panel in panels) + gap_px * (len(panels) - 1)
    whole = blank((width, height), colour)
    top = 0
    for panel in panels:
        whole[top : top + panel.shape[0], : panel.shape[1]] = panel
        top += panel.shape[0] + gap_px
    return whole


def beside(panels: Sequence[np.ndarray], gap_px: int = 0, colour: Colour = PAPER) -> np.ndarray:
    """Panels beside each other, each at the top."""
    turned = [panel.transpose(1, 0, 2) for panel in panels]
    return np.ascontiguousarray(below_each_other(turned, gap_px, colour).transpose(1, 0, 2))


def colour_bar(
    width_px: int,
    size_px: int,
    ends: tuple[float, float],
    title: str,
    *,
    name: str = CONFIDENCE_MAP,
) -> np.ndarray:
    """A horizontal colour bar with its title and the values at both ends and in the middle."""
    low, high = ends
    margin = text_width(f"{low:.2f}", size_px) // 2 + 2
    panel = blank((width_px, round(3.4 * size_px)))
    write(panel, (margin, size_px), title, size_px=size_px)
    bar_width, top = width_px - 2 * margin, round(1.4 * size_px)
    colours = colours_of(np.linspace(0, 1, bar_width), name)
    panel[top : top + round(0.65 * size_px), margin : margin + bar_width] = colours
    for share in (0.0, 0.5, 1.0):
        x = margin + share * (bar_width - 1)
        label = f"{low + share * (high - low):.2f}"
        write(panel, (x, 3.05 * size_px), label, size_px=size_px, colour=QUIET, anchor="ms")
    return panel


def outlined(image: np.ndarray, mask_HW: np.ndarray, colour: Colour = PAPER) -> None:
    """Draw the mask's edge into the image, in place: a thin light line on a dark line."""
    contours, _ = cv2.findContours(
        mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    drawn: Any = contours
    cv2.drawContours(image, drawn, -1, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.drawContours(image, drawn, -1, colour, 1, cv2.LINE_AA)


def save_png(file: Path, image: np.ndarray) -> None:
    """Write the picture under a temporary name, then rename."""
    with written_whole(file) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", compress_level=4)
