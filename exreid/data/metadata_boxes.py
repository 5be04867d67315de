"""The boxes of a metadata table, and the ids of photographs with several rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from exreid.data.boxes import box_numbers, box_text, looks_like_fractions, read_numbers
from exreid.data.metadata_table import Columns, MetadataFile
from exreid.progress import counted
from exreid.records import region_parts


@dataclass(frozen=True)
class Boxes:
    """The boxes of a table's rows, as texts of `exreid.data.boxes.box_text`."""

    text_N: list[str | None]
    unread: dict[int, str]
    """By row: why its box cannot be used."""
    notes: list[str]


def read_boxes(file: MetadataFile, columns: Columns) -> Boxes:
    """The boxes in the columns for them, if the file has these; without a format, [x, y, width,
    height] in pixels unless all are fractions."""
    count = len(file.cells)
    names = [name for name in columns.bbox if name in file.cells.columns]
    if len(names) < len(columns.bbox) or not names:
        return Boxes([None] * count, {}, [])
    numbers: dict[int, list[float]] = {}
    unread: dict[int, str] = {}
    for i, cells in enumerate(zip(*(file.column(name) for name in names), strict=True)):
        try:
            box = read_numbers(cells)
        except ValueError as error:
            unread[i] = str(error)
            continue
        if box is not None:
            numbers[i] = box
    how, notes = columns.bbox_format, []
    if how is None and numbers:
        how = "xywh_norm" if looks_like_fractions(list(numbers.values())) else "xywh_px"
        name = ", ".join(names)
        boxes = counted(len(numbers), "box", "boxes")
        notes = [f"{name}: {boxes}, read as {how}; see dataset.bbox_format and crop"]
    text_N: list[str | None] = [None] * count
    theta_N = file.column(columns.theta)
    for i, box in numbers.items():
        try:
            text_N[i] = box_text(box, how or "xywh_px", _theta(theta_N[i]))
        except ValueError as error:
            unread[i] = str(error)
    return Boxes(text_N, unread, notes)


def _theta(cell: str | None) -> float:
    try:
        theta_rad = float((cell or "0").replace(",", "."))
    except ValueError:
        theta_rad = float("nan")
    if not abs(theta_rad) <= 7:
        raise ValueError(f"has the angle theta {cell!r}, which is none in radians")
    return theta_rad


def numbered_ids(paths: Sequence[str], regions: Sequence[str | None]) -> dict[int, str]:
    """``path#n`` for each row whose path other rows have with another region. n counts a
    photograph's boxes from left to right, and then its masks by their text, so that the order of
    rows does not matter. If a row of a path has no region, none of that path's rows is numbered.

    >>> numbered_ids(["a", "b", "a"], ["[50, 0, 9, 9]\\0", None, "[6, 0, 9, 9]\\0"])
    {0: 'a#2', 2: 'a#1'}
    """
    regions_of: dict[str, set[str | None]] = defaultdict(set)
    for path, region in zip(paths, regions, strict=True):
        regions_of[path].add(region)

    def place(region: str) -> tuple[list[float], str]:
        mask, bbox = region_parts(region)
        return box_numbers(bbox) if bbox else [], mask or ""

    number = {
        (path, region): n
        for path, region_set in regions_of.items()
        if len(region_set) > 1 and path and None not in region_set
        for n, region in enumerate(
            sorted((region for region in region_set if region), key=place), start=1
        )
    }
    pairs = enumerate(zip(paths, regions, strict=True))
    return {i: f"{pair[0]}#{number[pair]}" for i, pair in pairs if pair in number}
