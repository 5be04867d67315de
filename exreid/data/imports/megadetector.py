"""MegaDetector's files, in each of their forms.

- ``fractions``: ``{"images": [{"file", "detections": [{"category": "1", "conf", "bbox"}]}]}``,
  boxes as fractions [x, y, width, height] (https://lila.science/megadetector-output-format);
  SpeciesNet's ``{"predictions": [{"filepath", "detections"}]}`` is the same inside.
- ``list``: ``[{"file", "detections": [{"category": "animal", "confidence", "bbox"}]}]``, boxes in
  pixels [x1, y1, x2, y2] (https://microsoft.github.io/MegaDetector/output_format).
- ``columns``: ``{"annotations": [{"img_id", "bbox": [[x1, y1, x2, y2], ...], "category": [0, ...],
  "confidence": [...]}], "categories"}``, pixels (PyTorch-Wildlife's save_detection_json).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from exreid.data.boxes import BOX_SLACK
from exreid.data.imports.animals import (
    Animal,
    Cells,
    Reading,
    StatedBox,
    entries_of,
    numbers_of,
    text_of,
)
from exreid.errors import MetadataError

Form = Literal["fractions", "list", "columns"]
CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
USUAL_CONFIDENCE, USUAL_CONFIDENCE_V4 = 0.2, 0.8
"""MegaDetector's typical thresholds, for files that state none."""
VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts"))


def form_of(content: object) -> Form | None:
    """The form of the file by its keys; None if it is not a detector's."""
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, dict) and "file" in first and {"detections", "failure"} & set(first):
            return "list"
        return None
    if not isinstance(content, dict):
        return None
    images, annotations = content.get("images"), content.get("annotations")
    if isinstance(images, list) and annotations is None:
        named = not images or (isinstance(images[0], dict) and "file" in images[0])
        return "fractions" if named and ("detection_categories" in content or images) else None
    if isinstance(content.get("predictions"), list):
        return "fractions"
    if isinstance(annotations, list) and images is None:
        first = annotations[0] if annotations else None
        return "columns" if isinstance(first, dict) and "img_id" in first else None
    return None


@dataclass(frozen=True)
class _Detection:
    path: str
    place: str
    category: str
    confidence: float
    box: StatedBox


def read_megadetector(
    content: object, *, min_confidence: float | None = None, category: str = "animal"
) -> Reading:
    """The animals of a detector's file: boxes and confidences, without names.

    ``min_confidence``: None takes the file's typical threshold. MetadataError, with its place, for
    content that the form does not allow, such as keys, categories or boxes of another form.
    """
    form = form_of(content)
    if form is None:
        raise MetadataError("is not a file of MegaDetector in any of its forms.")
    left_out: Counter[str] = Counter()
    detections = list(_detections(content, form, left_out))
    names = sorted({detection.category for detection in detections})
    if detections and category not in names:
        raise MetadataError(
            f"has no detection of the category {category!r}; its categories are "
            f"{', '.join(names)}. Name one with --category."
        )
    least, why = (min_confidence, "as asked for") if min_confidence is not None else _usual(content)
    animals = []
    for detection in detections:
        if detection.category != category:
            left_out[f"detections of the category {detection.category}"] += 1
        elif detection.confidence < least:
            left_out[f"detections of a confidence under {least:g}"] += 1
        else:
            cells: Cells = {"confidence": f"{detection.confidence:g}"}
            animals.append(Animal(detection.path, detection.place, cells, detection.box))
    unit = (
        "as fractions [x, y, width, height]"
        if form == "fractions"
        else "in pixels [x1, y1, x2, y2]"
    )
    notes = [f"boxes {unit}", f"detections count from a confidence of {least:g} on ({why})"]
    return Reading("MegaDetector's file", animals, left_out, notes)


def _usual(content: object) -> tuple[float, str]:
    """The least confidence of a detection that counts, and where it comes from."""
    info = content.get("info") if isinstance(content, dict) else None
    info = info if isinstance(info, dict) else {}
    metadata = info.get("detector_metadata")
    threshold = metadata.get("typical_detection_threshold") if isinstance(metadata, dict) else None
    if (
        isinstance(threshold, int | float)
        and not isinstance(threshold, bool)
        and 0 <= threshold <= 1
    ):
        return float(threshold), "the file's own typical threshold"
    detector = str(info.get("detector") or "").lower()
    if "v4" in detector or "v3" in detector or "v2" in detector:
        return USUAL_CONFIDENCE_V4, f"usual for {info['detector']}; the file says none"
    return USUAL_CONFIDENCE, "usual for MegaDetector; the file says none"


def _of_fractions(content: dict[str, object], left_out: Counter[str]) -> Iterator[_Detection]:
    listed = "images" if "images" in content else "predictions"
    categories = content.get("detection_categories") or CATEGORIES
    if not isinstance(categories, dict):
        raise MetadataError("detection_categories is not an object.")
    names = {str(key): str(name) for key, name in categories.items()}
    for i, image in enumerate(entries_of(content[listed], listed)):
        place = f"{listed}[{i}]"
        path = _path_of(image, "file" if listed == "images" else "filepath", place)
        for j, entry in enumerate(_detections_of(image, path, place, left_out)):
            where = f"{place}.detections[{j}]"
            if "confidence" in entry or "conf" not in entry:
                raise MetadataError(_mixed(where, "conf", entry))
            key = entry.get("category")
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise MetadataError(f"{where}: has no category, or {key!r}.")
            share, box = _share(entry["conf"], where), _fractions(entry, where)
            if str(key) in names:
                yield _Detection(path, where, names[str(key)], share, box)
            else:  # by the format this is not a detection
                left_out[f"detections of the category {key!r}, which the file does not name"] += 1


def _of_list(content: list[object], left_out: Counter[str]) -> Iterator[_Detection]:
    for i, image in enumerate(entries_of(content, "the file")):
        path = _path_of(image, "file", f"[{i}]")
        for j, entry in enumerate(_detections_of(image, path, f"[{i}]", left_out)):
            where = f"[{i}].detections[{j}]"
            if "conf" in entry or "confidence" not in entry:
                raise MetadataError(_mixed(where, "confidence", entry))
            name = entry.get("category")
            if not isinstance(name, str) or name.isdecimal():
                raise MetadataError(
                    f"{where}: its category {name!r} is not a word such as 'animal', as in the "
                    "rest of this form."
                )
            yield _Detection(
                path,
                where,
                name,
                _share(entry["confidence"], where),
                _corners(entry.get("bbox"), where),
            )


def _of_columns(content: dict[str, object], left_out: Counter[str]) -> Iterator[_Detection]:
    names = content.get("categories")
    names = names if isinstance(names, dict) else {}
    for i, image in enumerate(entries_of(content["annotations"], "annotations")):
        place = f"annotations[{i}]"
        path = _path_of(image, "img_id", place)
        columns = [image.get(name) for name in ("bbox", "category", "confidence")]
        lists = [column for column in columns if isinstance(column, list)]
        if len(lists) < 3 or len({len(column) for column in lists}) > 1:
            raise MetadataError(
                f"{place}: bbox, category and confidence are not lists of one length."
            )
        if not lists[0]:
            left_out["photographs without a detection"] += 1
        for j, (box, key, share) in enumerate(zip(*lists, strict=True)):
            where = f"{place}.bbox[{j}]"
            name = text_of(names.get(str(key), {"0": "animal"}.get(str(key), key)))
            yield _Detection(path, where, str(name), _share(share, where), _corners(box, where))


def _detections(content: object, form: Form, left_out: Counter[str]) -> Iterator[_Detection]:
    if isinstance(content, list):
        return _of_list(content, left_out)
    assert isinstance(content, dict)  # as form_of says
    return (_of_fractions if form == "fractions" else _of_columns)(content, left_out)


def _path_of(image: dict[str, object], key: str, place: str) -> str:
    path = image.get(key)
    if not isinstance(path, str) or not path:
        raise MetadataError(f"{place}: has no {key!r} that names a photograph.")
    return path


def _detections_of(
    image: dict[str, object], path: str, place: str, left_out: Counter[str]
) -> list[dict[str, object]]:
    detections = image.get("detections")
    if detections is None and (image.get("failure") or image.get("failures")):
        left_out["photographs that the detector could not read"] += 1
        return []
    if detections is None:
        raise MetadataError(f"{place}: has neither detections nor a failure. Is the file whole?")
    if "frame_rate" in image or PurePosixPath(path).suffix.lower() in VIDEOS:
        left_out["videos"] += 1
        return []
    if detections == []:
        left_out["photographs without a detection"] += 1
    return entries_of(detections, f"{place}.detections")


def _share(value: object, place: str) -> float:
    numbers = numbers_of([value], 1)
    if numbers is None or not 0 <= numbers[0] <= 1:
        raise MetadataError(f"{place}: its confidence {value!r} is not a number from 0 to 1.")
    return numbers[0]


def _fractions(entry: dict[str, object], place: str) -> StatedBox:
    box = numbers_of(entry.get("bbox"), 4)
    if box is None:
        raise MetadataError(f"{place}: its bbox {entry.get('bbox')!r} is not a list of 4 numbers.")
    x, y, w, h = box
    if max(abs(n) for n in box) > 1 + 2 * BOX_SLACK:
        raise MetadataError(
            f"{place}: its bbox {box} is in pixels, and this form has fractions of the photograph. "
            "The file mixes two forms of MegaDetector's: write it again with one program."
        )
    if w < 0 or h < 0:
        raise MetadataError(
            f"{place}: its bbox {box} has a negative width or height; it should be "
            "[x, y, width, height] as fractions of the photograph. Correct it in the file."
        )
    if min(x, y) < -BOX_SLACK or max(x + w, y + h) > 1 + BOX_SLACK:
        raise MetadataError(
            f"{place}: its bbox {box} leaves the photograph; it should be [x, y, width, height] as "
            "fractions. Are these the corners [x1, y1, x2, y2]?"
        )
    return StatedBox((x, y, w, h), "fraction")


def _corners(value: object, place: str) -> StatedBox:
    box = numbers_of(value, 4)
    if box is None:
        raise MetadataError(f"{place}: its bbox {value!r} is not a list of 4 numbers.")
    x1, y1, x2, y2 = box
    if max(box) <= 1 + BOX_SLACK:
        raise MetadataError(
            f"{place}: its bbox {box} looks like fractions of the photograph, and this form has "
            "pixels. The file mixes two forms of MegaDetector's: write it again with one program."
        )
    if x2 < x1 or y2 < y1:
        raise MetadataError(
            f"{place}: its bbox {box} should be the corners [x1, y1, x2, y2]; are these [x, y, "
            "width, height]?"
        )
    return StatedBox((x1, y1, x2 - x1, y2 - y1))


def _mixed(place: str, key: str, entry: dict[str, object]) -> str:
    return (
        f"{place}: has no {key!r}, as in the rest of this form, but {', '.join(sorted(entry))}. "
        "The file mixes two forms of MegaDetector's, or is none: write it again with one program."
    )
