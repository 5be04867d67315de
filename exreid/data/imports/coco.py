"""COCO's JSON with identities: as Wildbook, LILA and annotation tools write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from exreid.data.imports.animals import (
    NAME,
    Animal,
    Cells,
    Reading,
    StatedBox,
    entries_of,
    numbers_of,
    one_of,
    other_cells,
    size_of,
    text_of,
    without_repeats,
)
from exreid.data.masks import Mask
from exreid.errors import MetadataError

IDENTITY_KEYS = (
    *("name", "individual_id", "individual_uuid", "identity", "individual", "individualID"),
    "individual_ids",
)
"""Keys of an annotation that name the animal, the surest first. (Wildbook's ``individual_ids`` are
the annotations of the animal where a ``name`` is beside them.)"""
DATE_KEYS = ("date_captured", "datetime", "date", "timestamp")
ENCOUNTER_KEYS = ("seq_id", "encounter", "encounter_id", "sequence_id")
SITE_KEYS = ("location", "site", "location_id")
VIEWPOINT_KEYS = ("viewpoint", "viewpoint1")
_OF_IMAGES = {"id", "uuid", "file_name", "width", "height", "license", "coco_url", "flickr_url"}
_OF_ANNOTATIONS = {
    *(
        "id",
        "image_id",
        "image_uuid",
        "category_id",
        "bbox",
        "segmentation",
        "area",
        "iscrowd",
        "theta",
    ),
    *("keypoints", "num_keypoints", "segmentation_bbox"),
}


def is_coco(content: object) -> bool:
    """Whether JSON has COCO's outline."""
    if not isinstance(content, dict):
        return False
    images = content.get("images")
    return (
        isinstance(images, list)
        and isinstance(content.get("annotations"), list)
        and (not images or (isinstance(images[0], dict) and "file_name" in images[0]))
    )


def read_coco(
    content: object, *, identity: str | None = None, category: str | None = None
) -> Reading:
    """The animals of a COCO file. ``identity``: the annotations' key that names them, or
    ``category``. ``category``: only annotations of this category are taken.

    MetadataError, with its place, for what COCO does not allow.
    """
    if not isinstance(content, dict) or not is_coco(content):
        raise MetadataError(
            "is not a COCO file: it has no lists images (file_name) and annotations."
        )
    images = _by_id(entries_of(content["images"], "images"), "images")
    annotations = entries_of(content["annotations"], "annotations")
    kinds = {
        str(annotation.get("id")): text_of(annotation.get("name"))
        for annotation in entries_of(content.get("categories") or [], "categories")
    }
    names = {
        str(annotation.get("uuid", annotation.get("id"))): text_of(annotation.get("name"))
        for annotation in entries_of(content.get("individuals") or [], "individuals")
    }
    key = _identity_key(annotations, identity)
    left_out: Counter[str] = Counter()
    animals = []
    for i, annotation in enumerate(annotations):
        place = f"annotations[{i}]"
        image = images.get(str(annotation.get("image_id", annotation.get("image_uuid"))))
        if image is None:
            raise MetadataError(
                f"{place}: its image_id {annotation.get('image_id')!r} is the id of no image."
            )
        kind = kinds.get(str(annotation.get("category_id")))
        if annotation.get("iscrowd") and not isinstance(annotation.get("segmentation"), dict):
            left_out["annotations of crowds"] += 1
        elif category is not None and kind != category:
            left_out[f"annotations of the category {kind}"] += 1
        else:
            name = kind if key == "category" else _name_of(annotation, key, place)
            animals.append(_animal(annotation, image, place, kind, names.get(str(name), name)))
    used = {animal.path for animal in animals}
    empty = sum(image.get("file_name") not in used for image in images.values())
    left_out["photographs without an annotation"] += empty
    animals, repeats = without_repeats(animals)
    notes = [f"animals are named by {key!r} of the annotations" if key else "no key names animals"]
    if key is None:
        notes[0] += "; --identity says which does, such as --identity category"
    return Reading("COCO", animals, +(left_out + repeats), notes)


def _by_id(images: Sequence[dict[str, object]], listed: str) -> dict[str, dict[str, object]]:
    by_id: dict[str, dict[str, object]] = {}
    for i, image in enumerate(images):
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise MetadataError(f"{listed}[{i}]: has no file_name.")
        for name in {str(image[key]) for key in ("id", "uuid") if image.get(key) is not None}:
            if name in by_id:
                raise MetadataError(f"{listed}[{i}]: its id {name!r} is that of another image.")
            by_id[name] = image
    return by_id


def _identity_key(annotations: Sequence[dict[str, object]], wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted != "category" and not any(
            text_of(annotation.get(wanted)) for annotation in annotations
        ):
            keys = sorted({key for annotation in annotations for key in annotation})
            raise MetadataError(
                f"no annotation has a {wanted!r} that could name its animal; they have "
                f"{', '.join(keys) or 'nothing'}."
            )
        return wanted
    for key in IDENTITY_KEYS:
        if any(text_of(annotation.get(key)) for annotation in annotations):
            return key
    return None


def _name_of(annotation: Mapping[str, object], key: str | None, place: str) -> str | None:
    value = annotation.get(key) if key else None
    if isinstance(value, list):
        if len(value) > 1:
            raise MetadataError(
                f"{place}: its {key} names {len(value)} animals, {value}. Name the key with one "
                "with --identity, or --identity category."
            )
        value = value[0] if value else None
    return text_of(value)


def _animal(
    annotation: dict[str, object],
    image: dict[str, object],
    place: str,
    kind: str | None,
    name: str | None,
) -> Animal:
    both = {**image, **annotation}
    cells: Cells = {
        **other_cells(image, {*_OF_IMAGES, *DATE_KEYS, *ENCOUNTER_KEYS, *SITE_KEYS}, "image_"),
        **other_cells(
            annotation, {*_OF_ANNOTATIONS, *IDENTITY_KEYS, *VIEWPOINT_KEYS}, "annotation_"
        ),
        NAME: name,
        "annotation_id": text_of(annotation.get("id")),
        "category": kind,
        "date": one_of(both, DATE_KEYS),
        "encounter": one_of(both, ENCOUNTER_KEYS),
        "site": one_of(both, SITE_KEYS),
        "viewpoint": one_of(both, VIEWPOINT_KEYS),
    }
    theta = annotation.get("theta")
    if theta is not None and numbers_of([theta], 1) is None:
        raise MetadataError(f"{place}: its theta {theta!r} is not a number of radians.")
    return Animal(
        str(image["file_name"]),
        place,
        cells,
        _box_of(annotation, place),
        float(theta) if isinstance(theta, int | float) else None,
        _mask_of(annotation, place),
        size_of(image, "width", "height"),
    )


def _box_of(annotation: dict[str, object], place: str) -> StatedBox | None:
    value = annotation.get("bbox")
    if value is None or value == []:
        return None
    box = numbers_of(value, 4)
    if box is None:
        raise MetadataError(f"{place}: its bbox {value!r} is not a list [x, y, width, height].")
    if max(box) <= 1 and any(n != int(n) for n in box):
        raise MetadataError(
            f"{place}: its bbox {box} looks like fractions; COCO's is in pixels. Multiply x and "
            "width by the photograph's width, y and height by its height."
        )
    x, y, w, h = box
    return StatedBox((x, y, w, h))


def _mask_of(annotation: dict[str, object], place: str) -> Mask | None:
    value = annotation.get("segmentation")
    if value is None or value in ([], {}, [[]]):
        return None
    if not isinstance(value, list | dict):
        raise MetadataError(
            f"{place}: its segmentation is neither a run length nor a list of polygons."
        )
    return value
