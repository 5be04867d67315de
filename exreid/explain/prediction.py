"""A query with its candidates, and contact sheets: right and wrong by shape, word and colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from exreid.explain.canvas import (
    INK,
    PAPER,
    QUIET,
    Colour,
    below_each_other,
    beside,
    blank,
    fitted,
    paragraph,
    shortened,
    text_width,
    write,
)

RIGHT, WRONG, UNKNOWN = (0, 90, 150), (196, 84, 0), (95, 98, 104)
"""A blue and an orange that stay apart in every kind of colour blindness and in grey."""
GROUND = (236, 237, 239)
TEXT_PX = 14
FRAME_PX = 4
ROW = 7
"""Images beside each other: a query, five candidates, and the first right one."""


@dataclass(frozen=True)
class CaptionedImage:
    """One image of a picture, and the text under it."""

    image_rgb: np.ndarray
    title: str
    lines: tuple[str, ...] = ()
    is_match: bool | None = None
    """Whether it shows the query's identity; None where that is not known."""
    is_query: bool = False
    note: str | None = None
    """A warning in the image, such as "same encounter"."""


def draw_predictions(
    heading: str, images: Sequence[CaptionedImage], *, cell_wh_px: tuple[int, int] = (232, 176)
) -> np.ndarray:
    """A query and its candidates in order.

    A frame, a word and a sign in front of it tell right from wrong: a full frame and a tick in a
    disc, a broken frame and a cross in a square.
    """
    gap = 14
    cells = [_cell(image, cell_wh_px) for image in images]
    rows = [beside(_level(cells[i : i + ROW]), gap) for i in range(0, len(cells), ROW)]
    width = max(row.shape[1] for row in rows)
    above = paragraph(heading, width, round(1.25 * TEXT_PX))
    return _with_margin(below_each_other([above, *rows], 8), gap)


def draw_contact_sheet(
    title: str,
    pairs: Sequence[tuple[str, CaptionedImage, CaptionedImage]],
    *,
    columns: int = 3,
    cell_wh_px: tuple[int, int] = (190, 144),
) -> np.ndarray:
    """Many answers at a glance: (heading, query, its first candidate) each, row by row."""
    tiles = []
    for heading, query, first in pairs:
        both = beside(_level([_cell(query, cell_wh_px), _cell(first, cell_wh_px)]), 4)
        head = blank((both.shape[1], round(1.7 * TEXT_PX)))
        text = shortened(heading, both.shape[1], TEXT_PX, bold=True)
        write(head, (0, 1.2 * TEXT_PX), text, size_px=TEXT_PX, bold=True)
        tiles.append(below_each_other([head, both]))
    if not tiles:
        tiles = [paragraph("None.", 2 * cell_wh_px[0], TEXT_PX, colour=QUIET)]
    rows = [beside(_level(tiles[i : i + columns]), 28) for i in range(0, len(tiles), columns)]
    width = max(row.shape[1] for row in rows)
    sheet = below_each_other([paragraph(title, width, round(1.3 * TEXT_PX)), *rows], 16)
    return _with_margin(sheet, 16)


def draw_crops(
    title: str, crops: Sequence[tuple[str, np.ndarray]], *, columns: int = 5, side_px: int = 200
) -> np.ndarray:
    """Images as a run takes them, each under its words (animal, file), row by row."""
    tiles = []
    for words, image_rgb in crops:
        head = blank((side_px, round(1.7 * TEXT_PX)))
        text = shortened(words, side_px, TEXT_PX, bold=True)
        write(head, (0, 1.2 * TEXT_PX), text, size_px=TEXT_PX, bold=True)
        tiles.append(below_each_other([head, fitted(image_rgb, (side_px, side_px), GROUND)]))
    rows = [beside(tiles[i : i + columns], 12) for i in range(0, len(tiles), columns)]
    width = max(row.shape[1] for row in rows)
    return _with_margin(below_each_other([paragraph(title, width, TEXT_PX), *rows], 12), 16)


def _cell(shown: CaptionedImage, wh_px: tuple[int, int]) -> np.ndarray:
    """An image in its frame under its verdict, and its words."""
    width, height = wh_px
    colour, word = _verdict(shown)
    bar = blank((width, round(1.75 * TEXT_PX)), colour)
    _sign(bar, shown, 0.55 * TEXT_PX)
    write(bar, (2.1 * TEXT_PX, 1.25 * TEXT_PX), word, size_px=TEXT_PX, colour=PAPER, bold=True)
    inner = fitted(shown.image_rgb, (width - 2 * FRAME_PX, height - 2 * FRAME_PX), GROUND)
    panel = blank(wh_px, PAPER)
    _frame(panel, colour, broken=shown.is_match is False and not shown.is_query)
    panel[FRAME_PX : height - FRAME_PX, FRAME_PX : width - FRAME_PX] = inner
    if shown.note:
        _note(panel, shown.note)
    words = blank((width, round((1.45 * (1 + len(shown.lines)) + 0.4) * TEXT_PX)))
    title = shortened(shown.title, width, TEXT_PX, bold=True)
    write(words, (0, 1.25 * TEXT_PX), title, size_px=TEXT_PX, bold=True)
    for number, line in enumerate(shown.lines, start=1):
        place = (0, (1.25 + 1.4 * number) * TEXT_PX)
        write(
            words,
            place,
            shortened(line, width, TEXT_PX - 1),
            size_px=TEXT_PX - 1,
            colour=QUIET,
        )
    return below_each_other([bar, panel, words])


def _verdict(shown: CaptionedImage) -> tuple[Colour, str]:
    if shown.is_query:
        return INK, "query"
    if shown.is_match is None:
        return UNKNOWN, "not known"
    return (RIGHT, "same animal") if shown.is_match else (WRONG, "other animal")


def _sign(bar: np.ndarray, shown: CaptionedImage, size: float) -> None:
    """Query: a ring. Right: a tick in a disc. Wrong: a cross in a square. Not known: a bar."""
    colour, _ = _verdict(shown)
    x, y, r = round(1.15 * TEXT_PX), bar.shape[0] // 2, round(size)
    thick = {"thickness": 2, "lineType": cv2.LINE_AA}
    if shown.is_query:
        cv2.circle(bar, (x, y), r - 1, PAPER, **thick)
    elif shown.is_match is None:
        cv2.rectangle(bar, (x - r, y - 2), (x + r, y + 1), PAPER, -1)
    elif shown.is_match:
        cv2.circle(bar, (x, y), r + 1, PAPER, -1, cv2.LINE_AA)
        tick = np.array([(x - r + 3, y), (x - 1, y + r - 4), (x + r - 2, y - r + 4)], np.int32)
        cv2.polylines(bar, [tick], False, colour, **thick)
    else:
        cv2.rectangle(bar, (x - r, y - r), (x + r, y + r), PAPER, -1)
        inner = r - 3
        for turn in (1, -1):
            ends = [(x + s * inner, y + s * turn * inner) for s in (-1, 1)]
            cv2.line(bar, ends[0], ends[1], colour, **thick)


def _frame(panel: np.ndarray, colour: Colour, *, broken: bool) -> None:
    height, width = panel.shape[:2]
    across, down = np.arange(width), np.arange(height)
    on_across = across % 16 < 10 if broken else across >= 0
    on_down = down % 16 < 10 if broken else down >= 0
    for rows in (slice(0, FRAME_PX), slice(height - FRAME_PX, height)):
        panel[rows, on_across] = colour
    for columns in (slice(0, FRAME_PX), slice(width - FRAME_PX, width)):
        panel[on_down, columns] = colour


def _note(panel: np.ndarray, note: str) -> None:
    size = TEXT_PX - 2
    width = text_width(note, size, bold=True) + size
    top, left = panel.shape[0] - round(1.7 * size) - FRAME_PX, FRAME_PX
    panel[top : top + round(1.7 * size), left : left + width] = (250, 240, 190)
    place = (left + size / 2, top + 1.25 * size)
    write(panel, place, note, size_px=size, bold=True)


def _level(cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The cells at one height."""
    height = max(cell.shape[0] for cell in cells)
    return [
        cell
        if cell.shape[0] == height
        else np.vstack([cell, blank((cell.shape[1], height - cell.shape[0]))])
        for cell in cells
    ]


def _with_margin(image: np.ndarray, margin: int) -> np.ndarray:
    whole = blank((image.shape[1] + 2 * margin, image.shape[0] + 2 * margin))
    whole[margin:-margin, margin:-margin] = image
    return whole
