"""Masks that are image files: the photograph of each, and the pixels of each animal."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from exreid.data.boxes import MIN_AREA_PX
from exreid.data.image_files import image_errors, open_image
from exreid.errors import ImageError, MaskError
from exreid.storage.urls import read_bytes

MASK_ENDINGS = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif"))
SHARE_OF_ENDS = 0.9
"""The least share of black and white pixels in a grey mask; the others smooth an edge."""
MOST_ANIMALS = 60
"""In one mask image; an image of more values is a picture."""
MOST_GREY = 65_535
"""A larger number is a colour's; see `_colour_numbers`."""
NUMBERED = re.compile(r"(.+)([#_](?:\d|[1-9]\d))")
"""A mask's name, and the animal's number in it; ``IMG_0007`` has none."""


def mask_files(folder: Path, paths: Sequence[str]) -> dict[str, dict[int, Path]]:
    """The mask images of each photograph (by its path) that has some: of NAME.jpg, NAME.png (number
    0), or NAME#1.png, NAME#2.png or NAME_1.png, NAME_2.png, an animal in each; in the same
    subfolder of ``folder``, or in ``folder`` itself.

    MaskError if a mask could be of several photographs, if a photograph could have several, and if
    no photograph has a mask.
    """
    if not folder.is_dir():
        raise MaskError(f"--masks: {folder} is not a folder of mask images.")
    masks: dict[str, list[Path]] = defaultdict(list)
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent) / name
            if file.suffix.lower() in MASK_ENDINGS:
                masks[_key(file.relative_to(folder).as_posix())].append(file)
    keys = {key for path in paths for key in _keys(path)}
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for key in masks:
        numbered = None if key in keys else NUMBERED.fullmatch(key)
        if numbered is not None:
            parts[numbered[1]][numbered[2]] = key
    asking: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for key in _keys(path):
            if key in masks or _count(parts.get(key, {})):
                asking[key].append(path)
                break
    if not asking:
        raise MaskError(
            f"--masks: {folder} has no mask for any of the {len(paths)} photographs; it should "
            f"contain {PurePosixPath(paths[0]).stem if paths else 'NAME'}.png and so on."
        )
    return {
        photographs[0]: _files_of(photographs, masks, masks.get(key, []), parts.get(key, {}))
        for key, photographs in asking.items()
    }


def _files_of(
    photographs: Sequence[str],
    masks: dict[str, list[Path]],
    whole: Sequence[Path],
    parts: dict[str, str],
) -> dict[int, Path]:
    """The mask images of one photograph, by their numbers; MaskError if there is a choice.

    An underscore and a number may also be part of another photograph's name; so beside NAME.png
    only numbers after # count.
    """
    sure = {end: key for end, key in parts.items() if end[0] == "#"}
    numbered = parts if not whole else sure
    files = [*((0, file) for file in whole)]
    files += [(int(end[1:]), file) for end, key in numbered.items() for file in masks[key]]
    files.sort()
    if len(photographs) > 1:
        raise MaskError(
            f"--masks: {files[0][1]} could be the mask of {photographs[0]} and of "
            f"{photographs[1]}. Put masks into subfolders like the photographs', and give "
            "every photograph another name."
        )
    numbers = [number for number, _ in files]
    if len(set(numbers)) < len(numbers) or (whole and len(files) > 1):
        raise MaskError(
            f"--masks: {photographs[0]} could have the mask {files[0][1]} or {files[1][1]}. Leave "
            "one there, or number one for each animal: NAME#1.png, NAME#2.png."
        )
    return dict(files)


def _count(parts: dict[str, str]) -> int:
    """The number of a photograph's numbered masks: with underscores, only 1, 2, ... or 0, 1, ..."""
    if any(end[0] == "#" for end in parts):
        return len(parts)
    numbers = sorted(int(end[1:]) for end in parts)
    counted = numbers in ([*range(len(parts))], [*range(1, len(parts) + 1)])
    return len(parts) if counted else 0


def read_masks(files: dict[int, Path]) -> dict[int, np.ndarray]:
    """The pixels of each animal of a photograph, bool (H, W), by its number: that of its image, or,
    in an image of several animals, its value (see `mask_files`).

    MaskError for an image that may have another meaning.
    """
    if set(files) == {0}:
        return _read(files[0])
    read: dict[int, np.ndarray] = {}
    for number, file in files.items():
        masks = _read(file)
        if len(masks) > 1:
            raise MaskError(
                f"{file}: has {len(masks)} animals, and is one of several masks of a photograph: "
                "each should have one animal."
            )
        read[number] = next(iter(masks.values()))
    return read


def _read(file: Path) -> dict[int, np.ndarray]:
    try:
        data = read_bytes(str(file.parent), file.name)
        with image_errors():
            return _animals(data, file)
    except ImageError as error:
        raise MaskError(f"{file}: not a mask image: {error}") from error


def _animals(data: bytes, file: Path) -> dict[int, np.ndarray]:
    with open_image(data) as image:
        if image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
            alpha_HW = np.asarray(image.convert("RGBA"))[..., 3]
            if alpha_HW.min() != alpha_HW.max():
                raise MaskError(
                    f"{file}: is partly transparent: is the animal what can be seen, or what is "
                    "white? Save it as black and white, without transparency."
                )
        index_HW = np.asarray(image).astype(np.int64) if image.mode == "P" else None
        if image.mode in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "RGBa"):
            values_HW = _colour_numbers(np.asarray(image.convert("RGB")))
        elif image.mode in ("LA", "La"):
            values_HW = np.asarray(image.convert("L")).astype(np.int64)
        else:
            values_HW = np.asarray(image).astype(np.int64)
    values, counts = np.unique(values_HW, return_counts=True)
    if values[0] == 0 and len(values) <= 2:
        return {1: values_HW > 0}
    if len(values) == 1:
        return {1: np.ones(values_HW.shape, bool)}
    several = _instances(_numbered(values_HW, values, index_HW), file)
    if several:
        return several
    ends = counts[0] + counts[-1]
    if values[0] == 0 and values[-1] in (255, 65535) and ends >= SHARE_OF_ENDS * counts.sum():
        return {1: values_HW > values[-1] // 2}
    raise MaskError(
        f"{file}: has {len(values)} colours or greys, and a mask has two: black, and one for the "
        "animal. Of several animals, number them 1, 2, 3, ... in greys or indexed colours, or save "
        "each alone: NAME#1.png, NAME#2.png. Of a picture of classes, save only the animal."
    )


def _numbered(values_HW: np.ndarray, values: np.ndarray, index_HW: np.ndarray | None) -> np.ndarray:
    """The animals' numbers: greys as they are; of indexed colours the index, if 0 is black; of
    other colours their number in Pascal VOC's palette, as CVAT paints them."""
    if values[-1] <= MOST_GREY:
        return values_HW
    if index_HW is not None and np.array_equal(index_HW == 0, values_HW == 0):
        return index_HW
    number_of = {_colour_numbers(_voc_colour(n))[0, 0]: n for n in range(256)}
    if not number_of.keys() >= set(values.tolist()):
        return values_HW
    numbers = np.array([number_of[value] for value in values.tolist()])
    return numbers[np.searchsorted(values, values_HW)]


def _voc_colour(number: int) -> np.ndarray:
    """uint8 (1, 1, 3): Pascal VOC's colour of a number, its bits dealt out to red, green, blue."""
    rgb = [sum((number >> (3 * j + i) & 1) << (7 - j) for j in range(8)) for i in range(3)]
    return np.array([[rgb]], np.uint8)


def _instances(values_HW: np.ndarray, file: Path) -> dict[int, np.ndarray]:
    """The pixels of each animal of an image that numbers them: 1, 2, 3, ... on 0, or a thousand for
    each class more (KITTI MOTS, Cityscapes); empty for other values.

    255 (10000 with classes) is the seam between animals and background, as in Pascal VOC, if it
    covers less than they do. MaskError for a number of too few pixels.
    """
    values, counts = np.unique(values_HW, return_counts=True)
    if values[0] != 0 or len(values) > MOST_ANIMALS + 2:
        return {}
    area_of = dict(zip(values[1:].tolist(), counts[1:].tolist(), strict=True))
    for seam in (255, 10_000):
        rest = sum(area_of.values()) - area_of.get(seam, 0)
        if seam in area_of and area_of[seam] < rest:
            del area_of[seam]
    numbers = sorted(area_of)
    in_class = len({value // 1000 for value in numbers}) == 1 and numbers[0] >= 1000
    if not in_class and numbers != [*range(1, len(numbers) + 1)]:
        return {}
    for value, area in area_of.items():
        if area < MIN_AREA_PX:
            raise MaskError(
                f"{file}: its value {value} is of {area} pixels: too few for an animal. A mask of "
                "one animal is black and white; a mask of several numbers them 1, 2, 3, ..."
            )
    return {n: values_HW == value for n, value in enumerate(numbers, start=1)}


def _colour_numbers(rgb_HWC: np.ndarray) -> np.ndarray:
    """Each colour as a number: the value of a grey, 0 for black, others above 65,535."""
    red, green, blue = (rgb_HWC[..., i].astype(np.int64) for i in range(3))
    grey = (red == green) & (green == blue)
    return np.where(grey, red, ((red + 1) << 16) | (green << 8) | blue)


def _keys(path: str) -> tuple[str, str]:
    """The keys that a photograph's mask is looked up by: its path, then its name alone."""
    return _key(path), _key(PurePosixPath(path).name)


def _key(path: str) -> str:
    """A path without its ending, in one Unicode form and case."""
    stem = str(PurePosixPath(path).with_suffix(""))
    return unicodedata.normalize("NFC", stem).casefold()
