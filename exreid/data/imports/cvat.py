"""CVAT's XML: boxes, polygons and masks of photographs, and tracks of a video's frames."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np

from exreid.data.imports.animals import Animal, Cells, Reading, StatedBox, size_of
from exreid.data.imports.annotation_tools import with_animal_name
from exreid.data.masks import MAX_MASK_PIXELS, Mask, encode_mask
from exreid.errors import MetadataError

SHAPES = ("box", "polygon", "mask")
FRAMES = "ffmpeg -i VIDEO -start_number 0 -qscale:v 2 FOLDER/frame_%06d.jpg"


def read_cvat(text: str, photographs: Sequence[str]) -> Reading:
    """The shapes of an XML file "CVAT for images 1.1" or "CVAT for video 1.1": boxes, polygons and
    brushed masks, each an animal; an attribute named like an identity names it.

    A video's frames are among the ``photographs``. MetadataError for other XML, and, with the
    image's name, for a wrong shape.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MetadataError("is XML with a DOCTYPE, which CVAT does not write; it is not read.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise MetadataError(f"is damaged or cut off XML: {error}.") from error
    if root.tag != "annotations":
        raise MetadataError(
            "is not XML of 'CVAT for images 1.1'. In CVAT: Export task dataset, that format."
        )
    if root.find("track") is not None:
        return _video(root, photographs)
    left_out: Counter[str] = Counter()
    animals = []
    for image in root.iter("image"):
        path = image.get("name") or ""
        stated = size_of(image.attrib, "width", "height")
        shapes = [shape for shape in image if shape.tag in SHAPES]
        for shape in image:
            if shape.tag not in SHAPES:
                left_out[f"shapes of the kind {shape.tag}"] += 1
        if not shapes:
            left_out["photographs without a box, polygon or mask"] += 1
        if shapes and stated is None:
            raise MetadataError(f"the image {path!r} has no width and height.")
        for n, shape in enumerate(shapes):
            place = f"image {path!r}, shape {n + 1}"
            animals.append(_animal(shape, path, place, {"label": shape.get("label")}, stated))
    return Reading("CVAT's masks and boxes", animals, left_out)


def _video(root: ElementTree.Element, photographs: Sequence[str]) -> Reading:
    """The shapes of tracks, each an animal on a frame. The frames of a video are one encounter.
    Only the frames in the file are taken; nothing is interpolated between them."""
    source = root.findtext("meta/task/source") or root.findtext("meta/task/name")
    size = root.find("meta/task/original_size")
    stated = None
    if size is not None:
        sides = {name: size.findtext(name) or "" for name in ("width", "height")}
        stated = size_of(sides, "width", "height")
    if stated is None:
        raise MetadataError("has tracks, and no original_size of the frames (width and height).")
    left_out: Counter[str] = Counter()
    shapes: list[tuple[int, ElementTree.Element, str, Cells]] = []
    for track in root.iter("track"):
        track_cells: Cells = {
            "label": track.get("label"),
            "track": track.get("id"),
            "encounter": source,
        }
        for shape in track:
            place = f"track {track.get('id')}, frame {shape.get('frame')}"
            if shape.tag not in SHAPES:
                left_out[f"shapes of the kind {shape.tag}"] += 1
            elif shape.get("outside") == "1":
                left_out["frames that an animal has left"] += 1
            elif not (shape.get("frame") or "").isdecimal():
                raise MetadataError(f"{place}: has no number of a frame.")
            else:
                shapes.append((int(shape.get("frame") or 0), shape, place, track_cells))
    path_of, notes = _frames(root, sorted({frame for frame, *_ in shapes}), photographs)
    animals = [
        _animal(shape, path_of[frame], place, track_cells, stated)
        for frame, shape, place, track_cells in shapes
    ]
    return Reading("CVAT's tracks", animals, left_out, notes)


def _frames(
    root: ElementTree.Element, wanted: Sequence[int], photographs: Sequence[str]
) -> tuple[dict[int, str], list[str]]:
    """The photograph of each frame: frame_000012.jpg; or, if the task has exactly as many frames as
    there are photographs, the photograph at the frame's place in the order of names."""
    by_stem: dict[str, list[str]] = {}
    for path in photographs:
        by_stem.setdefault(PurePosixPath(path).stem.lower(), []).append(path)
    by_frame = {frame: by_stem.get(f"frame_{frame:06d}", []) for frame in wanted}
    several = next((paths for paths in by_frame.values() if len(paths) > 1), None)
    if several:
        raise MetadataError(f"a frame could be {several[0]} or {several[1]}: name --root.")
    if all(by_frame.values()):
        return {frame: paths[0] for frame, paths in by_frame.items()}, []
    task = {name: root.findtext(f"meta/task/{name}") or "" for name in ("size", "start_frame")}
    filtered = root.findtext("meta/task/frame_filter") or ""
    whole = task["start_frame"] in ("", "0") and filtered in ("", "step=1")
    in_order = whole and task["size"] == str(len(photographs))
    missing = next(frame for frame, paths in by_frame.items() if not paths)
    if any(by_frame.values()) or not in_order:
        raise MetadataError(
            f"frame {missing} of its tracks is not a photograph below the images' folder (--root): "
            f"it should be called frame_{missing:06d}.jpg. {FRAMES} writes them. Tasks of "
            "photographs are better exported as 'CVAT for images 1.1', which has their names."
        )
    note = f"its {len(photographs)} frames are taken for the photographs in the order of names"
    return dict(enumerate(sorted(photographs))), [note]


def _animal(
    shape: ElementTree.Element,
    path: str,
    place: str,
    fields: Mapping[str, str | None],
    stated: tuple[int, int] | None,
) -> Animal:
    attributes = {a.get("name") or "": (a.text or "").strip() for a in shape.iter("attribute")}
    cells = with_animal_name({**fields, **attributes})
    try:
        box, theta, mask = _cvat_shape(shape, stated or (1, 1))
    except (ValueError, TypeError) as error:
        raise MetadataError(f"{place}: is damaged: {error}.") from error
    return Animal(path, place, cells, box, theta, mask, stated)


def _cvat_shape(
    shape: ElementTree.Element, wh_px: tuple[int, int]
) -> tuple[StatedBox | None, float | None, str | Mask | None]:
    """Box, angle and mask of a shape; ValueError if it is damaged."""

    def read(name: str) -> float:
        value = float(shape.get(name) or "nan")
        if not math.isfinite(value):
            raise ValueError(f"its {name} is {shape.get(name)!r}")
        return value

    if shape.tag == "box":
        x1, y1, x2, y2 = (read(name) for name in ("xtl", "ytl", "xbr", "ybr"))
        turn = math.radians(float(shape.get("rotation") or 0))
        return StatedBox((x1, y1, x2 - x1, y2 - y1)), turn or None, None
    if shape.tag == "polygon":
        points = [
            float(n) for pair in (shape.get("points") or "").split(";") for n in pair.split(",")
        ]
        return None, None, [points]
    left, top, width, height = (int(read(name)) for name in ("left", "top", "width", "height"))
    runs = np.array([int(run) for run in (shape.get("rle") or "").split(",")], dtype=np.int64)
    if min(left, top, *runs) < 0 or runs.sum() != width * height:
        raise ValueError(f"its runs cover {runs.sum()} pixels, its size {width} x {height}")
    if wh_px[0] * wh_px[1] > MAX_MASK_PIXELS or left + width > wh_px[0] or top + height > wh_px[1]:
        raise ValueError("it leaves the image")
    mask_HW = np.zeros(wh_px[::-1], bool)
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask_HW[top : top + height, left : left + width] = part
    return None, None, encode_mask(mask_HW)
