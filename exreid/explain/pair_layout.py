"""Two images side by side, and lines between them.

Letters: X points. Points are (x, y) in pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from exreid.explain.canvas import (
    PAPER,
    QUIET,
    Colour,
    Overlay,
    as_colour,
    as_rgb,
    below_each_other,
    beside,
    blank,
    colour_bar,
    colours_of,
    outlined,
    paragraph,
    resized,
    shortened,
    text_width,
    write,
)

OUTLIER_STRENGTH = 0.4
DUSK = (72, 74, 76)
SUBPIXEL_BITS = 4
WH = tuple[int, int]


@dataclass(frozen=True)
class ImagePair:
    """A query and a gallery image, as a network's inputs."""

    query_rgb: np.ndarray
    """uint8 (H, W, 3)."""
    gallery_rgb: np.ndarray
    query_mask: np.ndarray | None = None
    """bool (H, W): the animal's pixels; None where they are not known."""
    gallery_mask: np.ndarray | None = None
    titles: tuple[str, str] = ("Query", "Candidate")

    @property
    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """The query, then the gallery image; ValueError where one is no picture."""
        return as_rgb(self.query_rgb), as_rgb(self.gallery_rgb)

    @property
    def masks(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The masks of both."""
        return self.query_mask, self.gallery_mask


@dataclass(frozen=True)
class PairLayout:
    """The layout of two images of one height side by side."""

    pair: ImagePair
    width_px: int
    wh_px: tuple[WH, WH]
    scale: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, pair: ImagePair, width_px: int) -> PairLayout:
        """Room for both in ``width_px``."""
        gap = max(6, width_px // 150)
        aspects = [image.shape[1] / image.shape[0] for image in pair.images]
        # Two tall images would make a picture that is too high for a page: they are drawn smaller.
        height = min((width_px - gap) / sum(aspects), 0.62 * width_px)
        sizes = [(max(1, int(height * aspect)), max(1, round(height))) for aspect in aspects]
        scales = [
            (size[0] / image.shape[1], size[1] / image.shape[0])
            for size, image in zip(sizes, pair.images, strict=True)
        ]
        return cls(pair, width_px, (sizes[0], sizes[1]), (scales[0], scales[1]))

    @property
    def gap_px(self) -> int:
        """Between panels."""
        return max(6, self.width_px // 150)

    @property
    def size_px(self) -> int:
        """Of the lettering."""
        return max(11, self.width_px // 75)

    @property
    def second_left_px(self) -> int:
        """Where the second image begins."""
        return self.wh_px[0][0] + self.gap_px

    def place(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Both images in one panel."""
        panel = blank((self.width_px, self.wh_px[0][1]))
        for left, image, size in zip(
            (0, self.second_left_px), (first, second), self.wh_px, strict=True
        ):
            panel[:, left : left + size[0]] = resized(image, size)
        return panel

    def picture(self, below: Sequence[np.ndarray], caption: str, *, written: bool) -> Overlay:
        """The titles, the images as they are, and these panels under them; with ``written`` the
        caption below."""
        panels = [self._heading(), self.place(*self.pair.images), *below]
        if written:
            panels.append(paragraph(caption, self.width_px, self.size_px))
        return Overlay(below_each_other(panels, self.gap_px), caption)

    def outline(self, panel: np.ndarray) -> None:
        """Draw the edges of the masks into the panel, in place."""
        lefts = (0, self.second_left_px)
        for left, mask, size in zip(lefts, self.pair.masks, self.wh_px, strict=True):
            if mask is not None:
                small = resized(np.asarray(mask, np.uint8) * np.uint8(255), size) >= 128
                outlined(panel[:, left : left + size[0]], small)

    def points(self, xy_X2: np.ndarray, side: int) -> np.ndarray:
        """Pixels of the first (side 0) or second image (side 1) as places in the panel."""
        left = (0, self.second_left_px)[side]
        return np.asarray((xy_X2 + 0.5) * self.scale[side] - 0.5 + (left, 0))

    def _heading(self) -> np.ndarray:
        panel = blank((self.width_px, round(1.5 * self.size_px)))
        ends = self.second_left_px, self.width_px
        for left, end, title in zip((0, ends[0]), ends, self.pair.titles, strict=True):
            place = (left, round(1.15 * self.size_px))
            text = shortened(title, end - left - self.size_px, self.size_px, bold=True)
            write(panel, place, text, size_px=self.size_px, bold=True)
        return panel

    def legend(self, low: float, verified: bool, outside: bool) -> np.ndarray:
        """A panel with the colour bar of confidences and what the lines mean."""
        size = self.size_px
        bar = colour_bar(round(0.32 * self.width_px), size, (low, 1.0), "Confidence of a match")
        panel = blank((self.width_px - bar.shape[1], bar.shape[0]))
        left, middle = 3 * size, bar.shape[0] // 2
        entries = [("solid", "inlier"), ("faint", "outlier")] if verified else []
        entries += [("cross", "off the mask")] if outside else []
        colour = as_colour(colours_of(np.array([0.6]))[0])
        for kind, text in entries:
            end = left + round(2.2 * size)
            # On the dark of the pictures, where the lines are seen.
            panel[middle - size : middle + size, left - size // 2 : end + size // 2] = DUSK
            start_2, end_2 = np.array([left, middle]), np.array([end, middle])
            if kind == "cross":
                draw_cross(panel, (start_2 + end_2) / 2, size / 3)
            else:
                solid = kind == "solid"
                draw_line(panel, start_2, end_2, colour=colour, width_px=size / 10, solid=solid)
            place = (end + size, middle + size // 3)
            write(panel, place, text, size_px=size, colour=QUIET)
            left = end + text_width(text, size) + 3 * size
        return beside([bar, panel])


def draw_line(
    panel: np.ndarray,
    start_2: np.ndarray,
    end_2: np.ndarray,
    *,
    colour: Colour,
    width_px: float,
    solid: bool,
) -> None:
    """A line with a dark edge, so that it stands out from light and dark ground alike; or a faint
    one without."""
    width = max(1, round(width_px)) if solid else 1
    low = np.floor(np.minimum(start_2, end_2)).astype(int) - width - 3
    high = np.ceil(np.maximum(start_2, end_2)).astype(int) + width + 4
    left, top = np.maximum(low, 0).tolist()
    part = panel[top : high[1], left : high[0]]
    start, end = _fixed(start_2 - (left, top)), _fixed(end_2 - (left, top))
    if solid:
        edge = part.copy()
        cv2.line(edge, start, end, (0, 0, 0), width + 2, cv2.LINE_AA, SUBPIXEL_BITS)
        part[:] = cv2.addWeighted(part, 0.45, edge, 0.55, 0)
    drawn = part.copy()
    cv2.line(drawn, start, end, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)
    strength = 0.95 if solid else OUTLIER_STRENGTH
    part[:] = cv2.addWeighted(part, 1 - strength, drawn, strength, 0)


def draw_dot(panel: np.ndarray, point_2: np.ndarray, colour: Colour, radius_px: float) -> None:
    """A dot with a dark edge."""
    fine = 1 << SUBPIXEL_BITS
    for size, fill in ((radius_px + 1.2, (0, 0, 0)), (radius_px, colour)):
        around = round(size * fine)
        cv2.circle(panel, _fixed(point_2), around, fill, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_cross(panel: np.ndarray, point_2: np.ndarray, size_px: float) -> None:
    """A light cross with a dark edge."""
    for width, colour in ((4, (0, 0, 0)), (2, PAPER)):
        for turn in (1, -1):
            reach_2 = np.array([size_px, turn * size_px])
            start, end = _fixed(point_2 - reach_2), _fixed(point_2 + reach_2)
            cv2.line(panel, start, end, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.round(np.asarray(point, np.float64) * (1 << SUBPIXEL_BITS)).astype(int).tolist()
    return x, y


def quiet(image: np.ndarray) -> np.ndarray:
    """Half grey and a little darker: coloured lines stand out, and the coat can still be seen."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.asarray(0.8 * (0.4 * image + 0.6 * grey), np.uint8)
