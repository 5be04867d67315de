"""COCO's JSON with identities, in the keys that `exreid.data.imports.coco` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.records import Json


def coco_content(export: Export) -> dict[str, Json]:
    """The file: an annotation for each animal, a category for each species.

    ``name`` is the known animal, ``new_animal`` one that is new. Masks are as they came; boxes are
    on the displayed photograph, whose size is stated.
    """
    number_of = {path: i for i, path in enumerate(export.paths, 1)}
    first = {one.path: one for one in reversed(export.animals)}
    kinds = list(dict.fromkeys(one.species or "animal" for one in export.animals))
    return {
        "info": {
            "description": export.name,
            **({"contributor": export.classified_by} if export.classified_by else {}),
        },
        "images": [_image(first[path], number) for path, number in number_of.items()],
        "annotations": [
            {
                "id": i,
                "image_id": number_of[one.path],
                "category_id": kinds.index(one.species or "animal") + 1,
                **_annotation(one),
            }
            for i, one in enumerate(export.animals, 1)
        ],
        "categories": [{"id": i, "name": kind} for i, kind in enumerate(kinds, 1)],
    }


def _image(one: ExportedAnimal, number: int) -> dict[str, Json]:
    width, height = one.wh_px
    image: dict[str, Json] = {
        "id": number,
        "file_name": one.path,
        "width": width,
        "height": height,
        "date_captured": one.date_text,
        "location": one.site,
    }
    return {name: value for name, value in image.items() if value is not None}


def _annotation(one: ExportedAnimal) -> dict[str, Json]:
    content: dict[str, Json] = {
        "iscrowd": 0,
        "name": one.animal,
        "new_animal": one.new_animal,
        "decision": one.decision,
        "nearest_known": one.nearest,
        "probability": one.probability,
        "seq_id": one.encounter,
        "viewpoint": one.viewpoint,
    }
    if one.box is not None:
        width, height = one.box.wh
        content["bbox"] = [round(n, 2) for n in (one.box.left, one.box.top, width, height)]
        content["area"] = one.mask_px or round(width * height, 2)
        content["theta"] = one.box.theta_rad or None
    if one.mask is not None:
        content["segmentation"] = cast(Json, one.mask)  # its counts untouched
    return {name: value for name, value in content.items() if value is not None}


def write_coco(export: Export, file: Path) -> None:
    """Write the file."""
    content = coco_content(export)
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False, default=_ascii)
    file.write_text(text + "\n", encoding="utf-8")


def _ascii(counts: object) -> str:
    """The counts of a mask that came as bytes, which JSON lacks."""
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
