"""Label Studio's JSON, whole and "JSON-MIN": rectangles, polygons and brushes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from exreid.data.imports.animals import (
    Animal,
    Cells,
    Reading,
    StatedBox,
    entries_of,
    numbers_of,
    size_of,
    text_of,
)
from exreid.data.imports.annotation_tools import with_animal_name
from exreid.data.imports.brush import decode_brush
from exreid.data.imports.photographs import plain_path
from exreid.data.masks import Mask, encode_mask
from exreid.errors import MetadataError


def is_label_studio(content: object) -> bool:
    """Whether JSON is Label Studio's full export: a list of tasks."""
    first = content[0] if isinstance(content, list) and content else None
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and ("annotations" in first or "completions" in first)
    )


def is_label_studio_min(content: object) -> bool:
    """Whether JSON is Label Studio's "JSON-MIN": a list of photographs with what was said."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"annotation_id", "annotator"} <= first.keys()


def whole_tasks(content: object) -> list[object]:
    """JSON-MIN as the tasks of the whole export. What belongs to one region has lost its id there,
    and is known by where the region is."""
    tasks: list[object] = []
    for i, entry in enumerate(entries_of(content, "the file")):
        data: dict[str, object] = {}
        results: list[dict[str, object]] = []
        for name, value in entry.items():
            if not (isinstance(value, list) and value and isinstance(value[0], dict)):
                if name not in _OF_TASKS:
                    data[name] = value
                continue
            for one in entries_of(value, f"[{i}].{name}"):
                where = {key: one[key] for key in _PLACES if key in one}
                sizes = {key: one.get(key) for key in ("original_width", "original_height")}
                kind = next((key for key in one if key in _REGIONS or key.endswith("labels")), None)
                if kind is None:
                    said = next((key for key in ("choices", "text") if key in one), None)
                    kind = said or _SHAPES.get(frozenset(where), "rectangle")
                key = json.dumps(where, sort_keys=True)
                result = {"id": key, "type": kind, "from_name": name, "value": one, **sizes}
                results.append({**result, "image_rotation": one.get("image_rotation")})
        tasks.append({"data": data, "annotations": [{"result": results}]})
    return tasks


_OF_TASKS = frozenset(
    ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
)
_PLACES = ("x", "y", "width", "height", "rotation", "points", "rle")
_SHAPES = {frozenset(("points",)): "polygon", frozenset(("rle",)): "brush"}


def read_label_studio(content: object) -> Reading:
    """The regions of Label Studio's JSON: rectangles, polygons and brushes, each an animal; a
    choice or a text of a region, or of the task, that is called like an identity names it."""
    left_out: Counter[str] = Counter()
    animals: list[Animal] = []
    for i, task in enumerate(entries_of(content, "the file")):
        data = task.get("data")
        data = data if isinstance(data, dict) else {}
        images = [key for key, value in data.items() if isinstance(value, str) and _is_image(value)]
        if len(images) != 1:
            raise MetadataError(f"[{i}].data: names {len(images)} photographs, not one: {data}.")
        results = _results_of(task, f"[{i}]")
        found = _regions(results, str(data[images[0]]), f"[{i}]", left_out)
        told = {key: text_of(value) for key, value in data.items() if key != images[0]}
        regions = {text_of(one.get("id")) for one in results if one.get("type") in _REGIONS}
        told |= _fields([one for one in results if text_of(one.get("id")) not in regions])
        for animal in found:
            animals.append(replace(animal, cells=with_animal_name({**told, **animal.cells})))
        if not found:
            left_out["photographs without a region"] += 1
    return Reading("Label Studio's masks and boxes", animals, left_out)


def _results_of(task: Mapping[str, object], place: str) -> list[dict[str, object]]:
    """What was drawn and said of one photograph, by one person."""
    given = entries_of(
        task.get("annotations", task.get("completions")) or [], f"{place}.annotations"
    )
    done = [one for one in given if not one.get("was_cancelled")]
    if len(done) > 1:
        raise MetadataError(
            f"{place}: has {len(done)} annotations of one photograph. Keep one of each task."
        )
    return entries_of(done[0].get("result") or [], f"{place}.result") if done else []


_REGIONS = ("rectanglelabels", "polygonlabels", "brushlabels", "rectangle", "polygon", "brush")


def _is_image(text: str) -> bool:
    ending = PurePosixPath(plain_path(text)).suffix.lower()
    return ending in (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".avif")


def _regions(
    results: Sequence[dict[str, object]], path: str, place: str, left_out: Counter[str]
) -> list[Animal]:
    """The regions of one photograph by their ids, each with the fields that belong to it.

    What was said of the whole photograph has the id of no region.
    """
    found: dict[object, Animal] = {}
    for n, one in enumerate(results):
        kind, where = str(one.get("type")), f"{place}.result[{n}]"
        key = text_of(one.get("id")) or where
        if kind not in _REGIONS:
            if kind.endswith("labels") and kind != "labels":
                left_out[f"regions of the kind {kind}"] += 1
            continue
        if key in found:  # a shape and its label can be two results of one id
            continue
        value, stated = one.get("value"), size_of(one, "original_width", "original_height")
        if not isinstance(value, dict) or stated is None:
            raise MetadataError(f"{where}: has no value, or no original_width and original_height.")
        if one.get("image_rotation"):
            raise MetadataError(
                f"{where}: was drawn on the photograph turned by hand. Draw it anew."
            )
        box, theta, mask = _label_studio_shape(kind, value, stated, where)
        own = _fields(
            [two for two in results if two.get("id") == one.get("id") is not None] or [one]
        )
        found[key] = Animal(path, where, own, box, theta, mask, stated)
    return list(found.values())


def _fields(results: Sequence[Mapping[str, object]]) -> Cells:
    """Labels, choices and texts, by the names that the project gave them."""
    fields: Cells = {}
    for one in results:
        value = one.get("value")
        if not isinstance(value, dict):
            continue
        for key in ("choices", "text", *(name for name in value if name.endswith("labels"))):
            told = value.get(key)
            told = told[0] if isinstance(told, list) and len(told) == 1 else told
            if told and isinstance(told, str):
                name = "label" if key.endswith("labels") else str(one.get("from_name"))
                fields[name] = told
    return fields


def _label_studio_shape(
    kind: str, value: Mapping[str, object], wh_px: tuple[int, int], place: str
) -> tuple[StatedBox | None, float | None, str | Mask | None]:
    """Box, turn and mask of a region; Label Studio's numbers are per cent of the photograph."""
    width, height = wh_px
    if kind.startswith("rectangle"):
        numbers = numbers_of([value.get(n) for n in ("x", "y", "width", "height")], 4)
        turn = numbers_of([value.get("rotation") or 0], 1)
        if numbers is None or turn is None:
            raise MetadataError(f"{place}: its rectangle has no x, y, width, height.")
        x, y, w, h = (n / 100 * side for n, side in zip(numbers, wh_px * 2, strict=True))
        theta = math.radians((turn[0] + 180) % 360 - 180)
        # A rectangle is turned about its first corner, and a box about its middle.
        middle_x = x + (w * math.cos(theta) - h * math.sin(theta)) / 2
        middle_y = y + (w * math.sin(theta) + h * math.cos(theta)) / 2
        return StatedBox((middle_x - w / 2, middle_y - h / 2, w, h)), theta or None, None
    if kind.startswith("polygon"):
        points = value.get("points")
        pairs = [numbers_of(point, 2) for point in points] if isinstance(points, list) else []
        good = [pair for pair in pairs if pair is not None]
        if len(good) < 3 or len(good) < len(pairs):
            raise MetadataError(f"{place}: its polygon has no points [x, y] of at least 3.")
        flat = [
            round(n / 100 * side, 2) for pair in good for n, side in zip(pair, wh_px, strict=True)
        ]
        return None, None, [flat]
    mask_HW = decode_brush(value.get("rle"), (height, width), place)
    return None, None, encode_mask(mask_HW)
