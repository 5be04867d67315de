"""Photographs in Python: paths, arrays, images of Pillow's."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from exreid.errors import ConfigError, ImageError, MaskError
from exreid.progress import counted
from exreid.storage.urls import is_remote, read_bytes

if TYPE_CHECKING:
    import PIL.Image

PathLike = str | Path
Image = Union[PathLike, "np.ndarray", "PIL.Image.Image"]
"""A photograph: its file or URL, a uint8 RGB array (H, W, 3), or an image of Pillow's, which is
turned as its EXIF says."""
Images = Image | Sequence[Image]
"""Photographs: one, or several. An array (N, H, W, 3) is several."""


MaskLike = Union[str, Mapping[str, object], "np.ndarray", None]
"""The animal's pixels: COCO RLE or polygons, as JSON or as a dict; an array (H, W), bool or 0 and
not 0; None: unknown."""


def as_list(images: Images) -> list[Image]:
    """A list of photographs, also of a single one."""
    from PIL import Image as Pillow

    single = isinstance(images, str | Path | Pillow.Image)
    if single or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]  # type: ignore[list-item]
    return list(images)  # type: ignore[arg-type]


def file_of(image: Image, place: int = 0) -> bytes:
    """A photograph as the bytes of a file; arrays and images of Pillow's as PNG, without loss.

    ``place`` is its index in a list, for messages. ImageError for any other value.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    if isinstance(image, str | Path):
        return _read(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(
                f"image {place}: an array should be RGB, uint8, of shape (H, W, 3); it is "
                f"{image.dtype} of shape {image.shape}."
            )
        picture, exif = Pillow.fromarray(np.ascontiguousarray(image)), Pillow.Exif()
    elif isinstance(image, Pillow.Image):
        turned = ImageOps.exif_transpose(image)
        picture, exif = turned.convert("RGB"), turned.getexif()
    else:
        raise ImageError(
            f"image {place}: {type(image).__name__} is not a photograph. Give a path, an array "
            "(H, W, 3) or an image of Pillow's."
        )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1, exif=exif)
    return buffer.getvalue()


def regions_of(masks: MaskLike | Sequence[MaskLike], count: int) -> list[str | None]:
    """A mask for each of ``count`` photographs, as text; None for all without masks. MaskError for
    another number of masks, or an array of another shape."""
    from exreid.data.masks import encode_mask

    single = masks is None or isinstance(masks, str | Mapping)
    if single or (isinstance(masks, np.ndarray) and masks.ndim == 2):
        masks = [None] * count if masks is None else [masks]  # type: ignore[list-item]
    mask_list: list[MaskLike] = list(masks)  # type: ignore[arg-type]
    if len(mask_list) != count:
        told = f"{counted(len(mask_list), 'mask')} for {counted(count, 'photograph')}"
        raise MaskError(f"{told}: give each one, or None.")
    regions: list[str | None] = []
    for place, mask in enumerate(mask_list):
        if isinstance(mask, np.ndarray):
            if mask.ndim != 2:
                raise MaskError(f"mask {place}: an array should be (H, W), not {mask.shape}.")
            regions.append(encode_mask(mask != 0))
        else:
            regions.append(json.dumps(mask) if isinstance(mask, Mapping) else mask)
    return regions


@contextmanager
def named(image: Image, place: int) -> Iterator[None]:
    """Within the with-block, an ImageError or MaskError gets the photograph's name."""
    name = str(image) if isinstance(image, str | Path) else f"image {place}"
    try:
        yield
    except (ImageError, MaskError) as error:
        text = str(error)
        raise type(error)(text if name in text else f"{name}: {text}") from error


def on_disk(images: Sequence[Image], folder: Path) -> list[Path]:
    """The photographs as files: paths as they are; arrays and images of Pillow's are written into
    the folder as ``image_0.png`` and so on. ConfigError for a mixture."""
    paths = [Path(image) for image in images if isinstance(image, str | Path)]
    if len(paths) == len(images):
        return paths
    if paths:
        raise ConfigError(
            "paths and images in one list: give either paths, or arrays and images of Pillow's."
        )
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(images) - 1))
    for place, image in enumerate(images):
        file = folder / f"image_{place:0{digits}}.png"
        file.write_bytes(file_of(image, place))
        paths.append(file)
    return paths


def _read(path: PathLike) -> bytes:
    if isinstance(path, str) and is_remote(path):
        root, _, name = path.rpartition("/")
        return read_bytes(root, name)
    local = Path(path).expanduser()
    return read_bytes(str(local.parent), local.name)
