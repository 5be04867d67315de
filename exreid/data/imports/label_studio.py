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
    """Whether JSON is Label Studio's "JSON-MIN": a list of photographs with their annotations."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"annotation_id", "annotator"} <= first.keys()


def whole_tasks(content: object) -> list[object]:
    """JSON-MIN as the tasks of the full export. JSON-MIN has no ids of regions: the results of one
    region are recognised by its place."""
    tasks: list[object] = []
    for i, entry in enumerate(entries_of(content, "the file")):
        data: dict[str, object] = {}
        results: list[dict[str, object]] = []
        for name, value in entry.items():
            if not (isinstance(value, list) and value and isinstance(value[0], dict)):
                if name not in _OF_TASKS:
                    data[name] = value
                continue
            for item in entries_of(value, f"[{i}].{name}"):
                where = {key: item[key] for key in _PLACES if key in item}
                sizes = {key: item.get(key) for key in ("original_width", "original_height")}
                kind = next(
                    (key for key in item if key in _REGIONS or key.endswith("labels")), None
                )
                if kind is None:
                    field = next((key for key in ("choices", "text") if key in item), None)
                    kind = field or _SHAPES.get(frozenset(where), "rectangle")
                key = json.dumps(where, sort_keys=True)
                result = {"id": key, "type": kind, "from_name": name, "value": item, **sizes}
                results.append({**result, "image_rotation": item.get("image_rotation")})
        tasks.append({"data": data, "annotations": [{"result": results}]})
    return tasks


_OF_TASKS = frozenset(
    ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
)
_PLACES = ("x", "y", "width", "height", "rotation", "points", "rle")
_SHAPES = {frozenset(("points",)): "polygon", frozenset(("rle",)): "brush"}


def read_label_studio(content: object) -> Reading:
    """The regions of Label Studio's JSON: rectangles, polygons and brushes, each an animal. A
    choice or a text of a region or of the task names it, if its field is called like an
    identity."""
    left_out: Counter[str] = Counter()
    animals: list[Animal] = []
    for i, task in enumerate(entries_of(content, "the file")):
        data = task.get("data")
        data = data if isinstance(data, dict) else {}
        images = [key for key, value in data.items() if isinstance(value, str) and _is_image(value)]
        if len(images) != 1:
            raise MetadataError(f"[{i}].data: names {len(images)} photographs, not one: {data}.")
        results = _results_of(task, f"[{i}]")
        task_animals = _regions(results, str(data[images[0]]), f"[{i}]", left_out)
        task_fields = {key: text_of(value) for key, value in data.items() if key != images[0]}
        regions = {
            text_of(result.get("id")) for result in results if result.get("type") in _REGIONS
        }
        task_fields |= _fields(
            [result for result in results if text_of(result.get("id")) not in regions]
        )
        for animal in task_animals:
            animals.append(replace(animal, cells=with_animal_name({**task_fields, **animal.cells})))
        if not task_animals:
            left_out["photographs without a region"] += 1
    return Reading("Label Studio's masks and boxes", animals, left_out)


def _results_of(task: Mapping[str, object], place: str) -> list[dict[str, object]]:
    """The results of one photograph's only annotation."""
    annotations = entries_of(
        task.get("annotations", task.get("completions")) or [], f"{place}.annotations"
    )
    finished = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if len(finished) > 1:
        raise MetadataError(
            f"{place}: has {len(finished)} annotations of one photograph. Keep one of each task."
        )
    return entries_of(finished[0].get("result") or [], f"{place}.result") if finished else []


_REGIONS = ("rectanglelabels", "polygonlabels", "brushlabels", "rectangle", "polygon", "brush")


def _is_image(text: str) -> bool:
    ending = PurePosixPath(plain_path(text)).suffix.lower()
    return ending in (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".avif")


def _regions(
    results: Sequence[dict[str, object]], path: str, place: str, left_out: Counter[str]
) -> list[Animal]:
    """The animals in the regions of one photograph, each with the fields of its id. (Fields of the
    whole photograph do not have a region's id.)"""
    animals: dict[object, Animal] = {}
    for n, result in enumerate(results):
        kind, where = str(result.get("type")), f"{place}.result[{n}]"
        key = text_of(result.get("id")) or where
        if kind not in _REGIONS:
            if kind.endswith("labels") and kind != "labels":
                left_out[f"regions of the kind {kind}"] += 1
            continue
        if key in animals:  # a shape and its label can be two results of one id
            continue
        value, stated = result.get("value"), size_of(result, "original_width", "original_height")
        if not isinstance(value, dict) or stated is None:
            raise MetadataError(f"{where}: has no value, or no original_width and original_height.")
        if result.get("image_rotation"):
            raise MetadataError(
                f"{where}: was drawn on the photograph turned by hand. Draw it anew."
            )
        box, theta, mask = _label_studio_shape(kind, value, stated, where)
        own = _fields(
            [other for other in results if other.get("id") == result.get("id") is not None]
            or [result]
        )
        animals[key] = Animal(path, where, own, box, theta, mask, stated)
    return list(animals.values())


def _fields(results: Sequence[Mapping[str, object]]) -> Cells:
    """Labels, choices and texts, by their names in the project."""
    fields: Cells = {}
    for result in results:
        value = result.get("value")
        if not isinstance(value, dict):
            continue
        for key in ("choices", "text", *(name for name in value if name.endswith("labels"))):
            text = value.get(key)
            text = text[0] if isinstance(text, list) and len(text) == 1 else text
            if text and isinstance(text, str):
                name = "label" if key.endswith("labels") else str(result.get("from_name"))
                fields[name] = text
    return fields


def _label_studio_shape(
    kind: str, value: Mapping[str, object], wh_px: tuple[int, int], place: str
) -> tuple[StatedBox | None, float | None, str | Mask | None]:
    """Box, angle and mask of a region; Label Studio's numbers are per cent of the photograph."""
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
