"""Masks that are image files: which belongs to which photograph, and where the animal is on it."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from exreid.data.images import foreign_bytes, open_image
from exreid.errors import ImageError, MaskError
from exreid.storage.urls import read_bytes

MASK_ENDINGS = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif"))
SHARE_OF_ENDS = 0.9
"""Of a grey mask, black and white alone make up so much; what is between smooths an edge."""


def mask_files(folder: Path, paths: Sequence[str]) -> dict[str, Path]:
    """Of each photograph (its path) that has one, its mask image: NAME.png where the photograph is
    NAME.jpg, in the same subfolder of ``folder``, or in ``folder`` itself.

    MaskError where a mask could be of several photographs or a photograph's of several masks, and
    where there is no mask for any.
    """
    if not folder.is_dir():
        raise MaskError(f"--masks: {folder} is no folder of mask images.")
    masks: dict[str, list[Path]] = defaultdict(list)
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent) / name
            if file.suffix.lower() in MASK_ENDINGS:
                masks[_key(file.relative_to(folder).as_posix())].append(file)
    asking: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        key, bare = _key(path), _key(PurePosixPath(path).name)
        if key in masks or bare in masks:
            asking[key if key in masks else bare].append(path)
    for key, photographs in asking.items():
        if len(photographs) > 1:
            raise MaskError(
                f"--masks: {masks[key][0]} could be the mask of {photographs[0]} and of "
                f"{photographs[1]}. Put masks into the photographs' own subfolders, and give every "
                "photograph a name of its own."
            )
        if len(masks[key]) > 1:
            raise MaskError(
                f"--masks: {photographs[0]} could have the mask {masks[key][0]} or "
                f"{masks[key][1]}. Leave one there."
            )
    if not asking:
        raise MaskError(
            f"--masks: {folder} has no mask for any of the {len(paths)} photographs; it should "
            f"hold {PurePosixPath(paths[0]).stem if paths else 'NAME'}.png and so on."
        )
    return {photographs[0]: masks[key][0] for key, photographs in asking.items()}


def read_mask_image(file: Path) -> np.ndarray:
    """Where the animal is on a mask image, bool (H, W): white on black, 1 on 0, or one colour on
    black. MaskError for what may mean something else."""
    try:
        data = read_bytes(str(file.parent), file.name)
        with foreign_bytes():
            return _animal(data, file)
    except ImageError as error:
        raise MaskError(f"{file}: not a mask image: {error}") from error


def _animal(data: bytes, file: Path) -> np.ndarray:
    with open_image(data) as image:
        if image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
            alpha_HW = np.asarray(image.convert("RGBA"))[..., 3]
            if alpha_HW.min() != alpha_HW.max():
                raise MaskError(
                    f"{file}: is partly transparent: is the animal what can be seen, or what is "
                    "white? Save it as black and white, without transparency."
                )
        if image.mode in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "RGBa"):
            values_HW = _one_number(np.asarray(image.convert("RGB")))
        elif image.mode in ("LA", "La"):
            values_HW = np.asarray(image.convert("L")).astype(np.int64)
        else:
            values_HW = np.asarray(image).astype(np.int64)
    values, counts = np.unique(values_HW, return_counts=True)
    if values[0] == 0 and len(values) <= 2:
        return values_HW > 0
    if len(values) == 1:
        return np.ones(values_HW.shape, bool)
    ends = counts[0] + counts[-1]
    if values[0] == 0 and values[-1] in (255, 65535) and ends >= SHARE_OF_ENDS * counts.sum():
        return values_HW > values[-1] // 2
    raise MaskError(
        f"{file}: holds {len(values)} colours or greys, and a mask has two: black, and one for the "
        "animal. Of a picture with several animals or classes, save the one animal alone."
    )


def _one_number(rgb_HWC: np.ndarray) -> np.ndarray:
    """Each colour as a number: grey as it is, 0 for black, others above 65,535."""
    red, green, blue = (rgb_HWC[..., i].astype(np.int64) for i in range(3))
    grey = (red == green) & (green == blue)
    return np.where(grey, red, ((red + 1) << 16) | (green << 8) | blue)


def _key(path: str) -> str:
    """A path without its ending, in one Unicode form and case."""
    stem = str(PurePosixPath(path).with_suffix(""))
    return unicodedata.normalize("NFC", stem).casefold()
