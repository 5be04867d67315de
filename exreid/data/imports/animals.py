"""The result of every reader: animals on photographs, in the file's pixels or fractions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from exreid.config.dataset import MISSING_VALUES
from exreid.data.masks import Mask
from exreid.errors import MetadataError

Cells = dict[str, str | None]
"""Columns of a row: text, or None for an empty cell."""
NAME, SPLIT = "unique_name", "split-time_closed"
FIRST_COLUMNS = (
    *("image_id", "path", NAME, SPLIT, "date", "encounter", "source"),
    *("bbox", "theta", "mask", "viewpoint", "site"),
)
"""Columns that mean something to exreid, in the order in which they are written."""


_MISSING = frozenset(word.casefold() for word in (*MISSING_VALUES, "____"))


@dataclass(frozen=True)
class StatedBox:
    """An upright box, as its source states it: left, top, width, height."""

    xywh: tuple[float, float, float, float]
    unit: Literal["px", "fraction"] = "px"
    """Fractions are of the photograph's width and height."""


@dataclass(frozen=True)
class Animal:
    """One animal on one photograph, as its source describes it."""

    path: str
    """As the source writes it."""
    place: str
    """Its place in the source, for messages."""
    cells: Cells = field(default_factory=dict)
    """Its other columns."""
    box: StatedBox | None = None
    theta: float | None = None
    """The angle by which the box is turned, in radians, clockwise as seen."""
    mask: str | Mask | None = None
    stated_wh_px: tuple[int, int] | None = None
    """The photograph's size by the source; box and mask are on an image of this size."""


@dataclass(frozen=True)
class Reading:
    """The animals of a source, and what was left out."""

    form: str
    """The kind of source, in words."""
    animals: list[Animal]
    left_out: Counter[str] = field(default_factory=Counter)
    """Entries that were passed over on purpose, in words, with their count."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how the source was read."""


def text_of(value: object) -> str | None:
    """A value of JSON as a cell: whole numbers without a point, lists and objects as JSON.

    >>> text_of(12.0), text_of(""), text_of(True), text_of([1, 2])
    ('12', None, 'true', '[1, 2]')
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value) if value else None
    return str(value)


def is_name(text: str | None) -> bool:
    """Whether a cell names an animal; ``unknown`` and the like do not."""
    return bool(text) and str(text).strip().casefold() not in _MISSING


def numbers_of(value: object, count: int) -> list[float] | None:
    """A list of ``count`` finite numbers, or None."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in value):
        return None
    numbers = [float(n) for n in value]
    return numbers if all(map(math.isfinite, numbers)) else None


def size_of(entry: Mapping[str, object], width: str, height: str) -> tuple[int, int] | None:
    """The size that an entry states; None if it states none."""
    sides = []
    for name in (width, height):
        side = entry.get(name)
        if isinstance(side, str) and side.isdecimal():
            side = int(side)
        if not isinstance(side, int | float) or isinstance(side, bool) or not 0 < side < 2**31:
            return None
        sides.append(int(side))
    return sides[0], sides[1]


def entries_of(value: object, place: str) -> list[dict[str, object]]:
    """A list of JSON objects; MetadataError, with its place, for any other value."""
    if not isinstance(value, list):
        raise MetadataError(f"{place} is not a list, but {_kind(value)}.")
    for i, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise MetadataError(f"{place}[{i}] is not an object, but {_kind(entry)}.")
    return value


def one_of(entry: Mapping[str, object], names: Sequence[str]) -> str | None:
    """The first of these keys that has a value, as text."""
    return next((text for name in names if (text := text_of(entry.get(name)))), None)


def other_cells(entry: Mapping[str, object], known: Iterable[str], before: str = "") -> Cells:
    """The plain values of an entry's other keys; ``before`` is put before the names of columns that
    exreid uses."""
    skipped = set(known)
    return {
        before + name if name in FIRST_COLUMNS else name: text_of(value)
        for name, value in entry.items()
        if name not in skipped and not isinstance(value, list | dict) and text_of(value)
    }


def without_repeats(animals: Sequence[Animal]) -> tuple[list[Animal], Counter[str]]:
    """The animals without those that share a photograph with others and have neither box nor mask.
    If all entries of the photograph are of one name and have no region, the first is kept."""
    by_path: dict[str, list[int]] = {}
    for i, animal in enumerate(animals):
        by_path.setdefault(animal.path, []).append(i)
    dropped: dict[int, str] = {}
    for places in by_path.values():
        bare = [i for i in places if animals[i].box is None and animals[i].mask is None]
        if len(places) == 1 or not bare:
            continue
        same = len({animals[i].cells.get(NAME) for i in places}) == 1
        for i in bare[1:] if same and len(bare) == len(places) else bare:
            dropped[i] = (
                "entries that say the same of a photograph again"
                if same
                else "entries without box or mask, on photographs with several animals"
            )
    kept = [animal for i, animal in enumerate(animals) if i not in dropped]
    return kept, Counter(dropped.values())


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), "a number")
