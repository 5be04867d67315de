"""COCO's JSON with identities, in the keys that `exreid.data.imports.coco` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.records import Json


def coco_content(export: Export) -> dict[str, Json]:
    """The file: an annotation for each animal, a category for each species.

    ``name`` is the known animal, ``new_animal`` a new one. Masks are those of the source; boxes are
    on the displayed photograph, whose size is stated.
    """
    number_of = {path: i for i, path in enumerate(export.paths, 1)}
    first = {entry.path: entry for entry in reversed(export.animals)}
    kinds = list(dict.fromkeys(entry.species or "animal" for entry in export.animals))
    return {
        "info": {
            "description": export.name,
            **({"contributor": export.classified_by} if export.classified_by else {}),
        },
        "images": [_image(first[path], number) for path, number in number_of.items()],
        "annotations": [
            {
                "id": i,
                "image_id": number_of[entry.path],
                "category_id": kinds.index(entry.species or "animal") + 1,
                **_annotation(entry),
            }
            for i, entry in enumerate(export.animals, 1)
        ],
        "categories": [{"id": i, "name": kind} for i, kind in enumerate(kinds, 1)],
    }


def _image(entry: ExportedAnimal, number: int) -> dict[str, Json]:
    width, height = entry.wh_px
    image: dict[str, Json] = {
        "id": number,
        "file_name": entry.path,
        "width": width,
        "height": height,
        "date_captured": entry.date_text,
        "location": entry.site,
    }
    return {name: value for name, value in image.items() if value is not None}


def _annotation(entry: ExportedAnimal) -> dict[str, Json]:
    content: dict[str, Json] = {
        "iscrowd": 0,
        "name": entry.animal,
        "new_animal": entry.new_animal,
        "decision": entry.decision,
        "nearest_known": entry.nearest,
        "probability": entry.probability,
        "seq_id": entry.encounter,
        "viewpoint": entry.viewpoint,
    }
    if entry.box is not None:
        width, height = entry.box.wh
        content["bbox"] = [round(n, 2) for n in (entry.box.left, entry.box.top, width, height)]
        content["area"] = entry.mask_px or round(width * height, 2)
        content["theta"] = entry.box.theta_rad or None
    if entry.mask is not None:
        content["segmentation"] = cast(Json, entry.mask)  # with unchanged counts
    return {name: value for name, value in content.items() if value is not None}


def write_coco(export: Export, file: Path) -> None:
    """Write the file."""
    content = coco_content(export)
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False, default=_ascii)
    file.write_text(text + "\n", encoding="utf-8")


def _ascii(counts: object) -> str:
    """The counts of a mask, which may be bytes, as text."""
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
