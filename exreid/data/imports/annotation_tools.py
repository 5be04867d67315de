"""Names of animals in annotation tools' fields, and SAM's JSON: masks without names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from exreid.data.imports.animals import (
    NAME,
    Animal,
    Cells,
    Reading,
    entries_of,
    size_of,
    text_of,
)
from exreid.data.imports.columns import ROLES
from exreid.errors import MetadataError

NAME_FIELDS = frozenset(ROLES[NAME]) | {"id", "individualid"}
"""Names, in any case, of attributes and fields that name the animal."""


def with_animal_name(fields: Mapping[str, str | None]) -> Cells:
    """The fields, with the one that names the animal as `NAME`; MetadataError if two could be
    it."""
    names = [key for key in fields if key.lower().replace(" ", "_") in NAME_FIELDS - {"label"}]
    if len(names) > 1:
        raise MetadataError(f"its fields {' and '.join(names)} could both name the animal.")
    if not names:
        return dict(fields)
    return {NAME: fields[names[0]], **{k: v for k, v in fields.items() if k != names[0]}}


def is_sam(content: object) -> bool:
    """Whether JSON is SAM's: of SA-1B, or the list of its mask generator."""
    if isinstance(content, dict):
        return isinstance(content.get("image"), dict) and isinstance(
            content.get("annotations"), list
        )
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "segmentation" in first and "stability_score" in first


def read_sam(contents: Mapping[str, object]) -> Reading:
    """The masks of SAM's JSON files (``contents`` by file name): one animal each.

    A photograph with several masks is left out: the file does not say which of them is the animal.
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
        entries = entries_of(masks, file)
        if len(entries) != 1:
            left_out[
                "photographs with no mask or several, and nothing says which is the animal"
            ] += 1
            continue
        mask = entries[0].get("segmentation")
        if not isinstance(mask, dict) or "counts" not in mask:
            raise MetadataError(
                f"{file}: its segmentation is not a run length. SamAutomaticMaskGenerator writes "
                "run lengths with output_mode='coco_rle'."
            )
        score = text_of(entries[0].get("predicted_iou"))
        animals.append(Animal(path, file, {"predicted_iou": score}, None, None, mask, stated))
    return Reading("SAM's masks", animals, left_out)
