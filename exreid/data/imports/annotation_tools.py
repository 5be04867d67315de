"""Masks and boxes drawn or found by tools: CVAT's XML, Label Studio's JSON, SAM's JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np

from exreid.data.imports.animals import (
    NAME,
    Animal,
    Box,
    Cells,
    Reading,
    entries_of,
    numbers_of,
    size_of,
    text_of,
)
from exreid.data.imports.brush import decode_brush
from exreid.data.imports.columns import ROLES
from exreid.data.imports.photographs import plain_path
from exreid.data.masks import MAX_MASK_PIXELS, Mask, encode_mask
from exreid.errors import MetadataError

NAMES = frozenset(ROLES[NAME]) | {"id", "individualid"}
"""What an attribute or a field that names the animal is called, in any case."""


def is_label_studio(content: object) -> bool:
    """Whether JSON is Label Studio's full export: a list of tasks."""
    first = content[0] if isinstance(content, list) and content else None
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and ("annotations" in first or "completions" in first)
    )


def is_sam(content: object) -> bool:
    """Whether JSON is SAM's: of SA-1B, or the list of its mask generator."""
    if isinstance(content, dict):
        return isinstance(content.get("image"), dict) and isinstance(
            content.get("annotations"), list
        )
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "segmentation" in first and "stability_score" in first


def read_cvat(text: str) -> Reading:
    """The shapes of an XML file "CVAT for images 1.1": boxes, polygons and brushed masks, each an
    animal; an attribute named like an identity names it.

    MetadataError for other XML, with the image's name where one is wrong.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MetadataError("is XML with a DOCTYPE, which CVAT does not write; it is not read.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise MetadataError(f"is damaged or cut off XML: {error}.") from error
    if root.tag != "annotations" or root.find("track") is not None:
        raise MetadataError(
            "is no XML of 'CVAT for images 1.1'. In CVAT: Export task dataset, that format."
        )
    left_out: Counter[str] = Counter()
    animals = []
    for image in root.iter("image"):
        path = image.get("name") or ""
        stated = size_of(image.attrib, "width", "height")
        shapes = [one for one in image if one.tag in ("box", "polygon", "mask")]
        others = [one for one in image if one.tag not in ("box", "polygon", "mask")]
        for one in others:
            left_out[f"shapes of the kind {one.tag}"] += 1
        if not shapes:
            left_out["photographs without a box, polygon or mask"] += 1
        if shapes and stated is None:
            raise MetadataError(f"the image {path!r} has no width and height.")
        for n, one in enumerate(shapes):
            place = f"image {path!r}, shape {n + 1}"
            attributes = {
                a.get("name") or "": (a.text or "").strip() for a in one.iter("attribute")
            }
            cells = _named({"label": one.get("label"), **attributes})
            try:
                box, theta, mask = _cvat_shape(one, stated or (1, 1))
            except (ValueError, TypeError) as error:
                raise MetadataError(f"{place}: is damaged: {error}.") from error
            animals.append(Animal(path, place, cells, box, theta, mask, stated))
    return Reading("CVAT's masks and boxes", animals, left_out)


def _cvat_shape(
    one: ElementTree.Element, wh_px: tuple[int, int]
) -> tuple[Box | None, float | None, str | Mask | None]:
    """Box, turn and mask of a shape; ValueError where it is damaged."""

    def read(name: str) -> float:
        value = float(one.get(name) or "nan")
        if not math.isfinite(value):
            raise ValueError(f"its {name} is {one.get(name)!r}")
        return value

    if one.tag == "box":
        x1, y1, x2, y2 = (read(name) for name in ("xtl", "ytl", "xbr", "ybr"))
        turn = math.radians(float(one.get("rotation") or 0))
        return Box((x1, y1, x2 - x1, y2 - y1)), turn or None, None
    if one.tag == "polygon":
        points = [
            float(n) for pair in (one.get("points") or "").split(";") for n in pair.split(",")
        ]
        return None, None, [points]
    left, top, width, height = (int(read(name)) for name in ("left", "top", "width", "height"))
    runs = np.array([int(run) for run in (one.get("rle") or "").split(",")], dtype=np.int64)
    if min(left, top, *runs) < 0 or runs.sum() != width * height:
        raise ValueError(f"its runs cover {runs.sum()} pixels, its size {width} x {height}")
    if wh_px[0] * wh_px[1] > MAX_MASK_PIXELS or left + width > wh_px[0] or top + height > wh_px[1]:
        raise ValueError("it leaves the image")
    mask_HW = np.zeros(wh_px[::-1], bool)
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask_HW[top : top + height, left : left + width] = part
    return None, None, encode_mask(mask_HW)


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
            animals.append(replace(animal, cells=_named({**told, **animal.cells})))
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
) -> tuple[Box | None, float | None, str | Mask | None]:
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
        return Box((middle_x - w / 2, middle_y - h / 2, w, h)), theta or None, None
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


def read_sam(contents: Mapping[str, object]) -> Reading:
    """The masks of SAM's JSON files, by their names: one animal each.

    A photograph with several masks is left out, as nobody has said which of them is the animal.
    """
    left_out: Counter[str] = Counter()
    animals = []
    for file, content in contents.items():
        stated, path = None, PurePosixPath(file).stem
        masks = content
        if isinstance(content, dict):
            image = content.get("image")
            image = image if isinstance(image, dict) else {}
            path = text_of(image.get("file_name")) or path
            stated, masks = size_of(image, "width", "height"), content.get("annotations")
        found = entries_of(masks, file)
        if len(found) != 1:
            left_out[
                "photographs with no mask or several, and nothing says which is the animal"
            ] += 1
            continue
        mask = found[0].get("segmentation")
        if not isinstance(mask, dict) or "counts" not in mask:
            raise MetadataError(
                f"{file}: its segmentation is no run length. SamAutomaticMaskGenerator writes one "
                "with output_mode='coco_rle'."
            )
        score = text_of(found[0].get("predicted_iou"))
        animals.append(Animal(path, file, {"predicted_iou": score}, None, None, mask, stated))
    return Reading("SAM's masks", animals, left_out)


def _named(fields: Mapping[str, str | None]) -> Cells:
    """The fields, the one that names the animal as such; MetadataError where two could."""
    names = [key for key in fields if key.lower().replace(" ", "_") in NAMES - {"label"}]
    if len(names) > 1:
        raise MetadataError(f"its fields {' and '.join(names)} could both name the animal.")
    if not names:
        return dict(fields)
    return {NAME: fields[names[0]], **{k: v for k, v in fields.items() if k != names[0]}}
