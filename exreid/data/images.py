"""Photographs to a model's input: background, crop and resize."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from PIL import Image

from exreid.data.boxes import Box, box_around, box_in_image
from exreid.data.image_files import (
    MAX_IMAGE_PIXELS,
    REDUCED_DECODE_GAP,
    Decoded,
    OpenedImage,
    decode,
    image_errors,
    read_header,
)
from exreid.data.masks import decode_mask, fit_mask_to_image
from exreid.errors import ImageError, MaskError
from exreid.records import Json, region_parts

IMAGES_VERSION = 2
"""Raise it when the code of this stage changes its pixels."""

NO_REGION = (
    "it has no mask and no box. Give it one, or set dataset.no_mask=whole or skip, or "
    "dataset.no_background=false and dataset.crop=none."
)
MIN_ANIMAL_PX = 16
"""A mask of fewer pixels shows no animal, unless the photograph is as small."""

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


Crop = Literal["auto", "none", "box", "mask"]


def crop_description(crop: Crop) -> dict[str, Json]:
    """The crop of an image, for cache keys: without boxes as in versions that had none."""
    changed: dict[str, Json] = {"crop": crop} if crop in ("none", "box") else {}
    return {"crop_to_mask": crop == "mask", **changed}


def with_crop(described: dict[str, Json], crop: Crop) -> dict[str, Json]:
    """A description whose ``crop`` is replaced by `crop_description`."""
    whole: dict[str, Json] = {}
    for name, value in described.items():
        whole |= crop_description(crop) if name == "crop" else {name: value}
    return whole


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes the backbone's input."""

    image_wh_px: tuple[int, int]
    """Width and height of the result."""
    resize: Literal["crop", "stretch", "pad"]
    """"crop" is timm's evaluation transform (the shorter side to size / crop_pct, then the
    centre), "stretch" ignores the aspect, "pad" keeps it between bars of ``fill_rgb``."""
    crop_pct: float
    """With "crop": the centre crop's part of the resized shorter side, as in timm."""
    interpolation: Literal["bicubic", "bilinear", "lanczos"]
    no_background: bool
    crop: Crop
    """"auto": to the box, if the image has one. "box", "mask": to the given box, to the box around
    the mask; to the other one if the image has only that."""
    crop_margin: float
    """Margin around the box, as a fraction of its longer side."""
    fill_rgb: tuple[int, int, int]
    reduced_decode: bool = True
    """Decode a large JPEG at 1/2, 1/4 or 1/8, never below `REDUCED_DECODE_GAP` times the size it
    is resized to. On 50 photographs of animals the resized pixels then differ from those of the
    whole decode by 0.6 of 255 on average at 1/2 (PSNR 49 dB, at worst 46) and by 0.9 at 1/4
    (46 dB, at worst 43); see benchmarks/decode.py for the time that it saves."""
    no_mask: Literal["raise", "whole"] = "raise"
    """For a photograph without the wanted mask or box: MaskError, or the whole photograph."""

    def describe(self) -> dict[str, Json]:
        """Everything that the pixels depend on, for cache keys."""
        described = {"stage_version": IMAGES_VERSION, **asdict(self)}
        described = with_crop(described, self.crop)
        if self.no_mask == "raise":  # the same pixels as before this key existed
            del described["no_mask"]
        return described

    def resized_wh_px(self, image_wh_px: tuple[int, int]) -> tuple[int, int]:
        """The size that an image of this size is resized to, before "crop" cuts or "pad" adds."""
        width, height = image_wh_px
        out_width, out_height = self.image_wh_px
        if self.resize == "stretch":
            return out_width, out_height
        if self.resize == "pad":
            scale = min(out_width / width, out_height / height)
            return max(1, round(width * scale)), max(1, round(height * scale))
        # As torchvision does: one side exactly, the other truncated.
        if out_width * height >= out_height * width:
            side = math.floor(out_width / self.crop_pct)
            return side, int(side * height / width)
        side = math.floor(out_height / self.crop_pct)
        return int(side * width / height), side


def prepare_image(data: bytes, region: str | None, pre: Preprocessing) -> np.ndarray:
    """A file's bytes and the animal's region (`exreid.records.region_text`) to uint8 RGB
    (height, width, 3) of ``pre.image_wh_px``.

    The region is read only if ``pre`` needs it. Raises ImageError or MaskError; the caller adds
    file and row.
    """
    with image_errors():
        return _prepared(read_header(data), region, pre)


def _prepared(opened: OpenedImage, region: str | None, pre: Preprocessing) -> np.ndarray:
    animal_HW = None
    if pre.no_background and (region or pre.no_mask == "raise"):
        animal_HW = _animal_of(opened, region)
    part = _used_part(opened, region, pre, animal_HW)
    part_wh = (round(part.wh[0]), round(part.wh[1]))
    resized_wh = pre.resized_wh_px(part_wh)
    if resized_wh[0] * resized_wh[1] > MAX_IMAGE_PIXELS:
        raise ImageError(
            f"image of {part_wh[0]} x {part_wh[1]} pixels is too narrow to be resized."
        )
    scale = 1.0
    if pre.reduced_decode:
        scale = REDUCED_DECODE_GAP * max(resized_wh[0] / part_wh[0], resized_wh[1] / part_wh[1])
    decoded = decode(opened, scale, pre.fill_rgb)
    image = decoded.image
    if animal_HW is not None:
        background_HW = ~_mask_at(animal_HW, image.size)
        image.paste(pre.fill_rgb, mask=Image.fromarray(background_HW))
    return np.asarray(_resized(*_cut(decoded, part, pre.fill_rgb), resized_wh, pre))


def prepare_matte(data: bytes, region: str | None, pre: Preprocessing) -> np.ndarray:
    """The animal's pixels in the result of `prepare_image`: uint8 (height, width), 255 on the
    animal.

    Edges are grey where the mask covers part of a pixel; padding is 0. The image's pixels are not
    decoded.
    """
    with image_errors():
        return _matte(read_header(data), region, pre)


def _matte(opened: OpenedImage, region: str | None, pre: Preprocessing) -> np.ndarray:
    animal_HW = _animal_of(opened, region)
    part = _used_part(opened, region, pre, animal_HW)
    resized_wh = pre.resized_wh_px((round(part.wh[0]), round(part.wh[1])))
    matte = Image.fromarray(np.ascontiguousarray(animal_HW).view(np.uint8) * np.uint8(255))
    extent = (0, 0, *opened.full_wh_px)
    whole = Decoded(matte, opened.full_wh_px, extent, opened.exif_orientation)
    return np.asarray(_resized(*_cut(whole, part, pre.fill_rgb), resized_wh, pre))


def used_part(data: bytes, region: str | None, crop: Crop, crop_margin: float) -> Box:
    """The part of the displayed photograph that is kept, in the photograph's pixels; all of it if
    there is nothing to crop to. The pixels are not decoded."""
    with image_errors():
        opened = read_header(data)
        return _part(opened, region, crop, crop_margin) or Box(0, 0, *opened.full_wh_px)


def used_wh_px(data: bytes, region: str | None, pre: Preprocessing) -> tuple[int, int]:
    """Width and height at full scale of the part that ``pre`` resizes: the whole displayed image,
    or its crop. The pixels are not decoded."""
    with image_errors():
        part = _used_part(read_header(data), region, pre)
    return round(part.wh[0]), round(part.wh[1])


def _used_part(
    opened: OpenedImage,
    region: str | None,
    pre: Preprocessing,
    animal_HW: np.ndarray | None = None,
) -> Box:
    """The part that ``pre`` resizes; ``animal_HW`` is of `_animal_of`, if it is known."""
    part = _part(opened, region, pre.crop, pre.crop_margin, animal_HW)
    if part is None and pre.crop in ("box", "mask") and pre.no_mask == "raise":
        raise MaskError(NO_REGION)
    return part or Box(0, 0, *opened.full_wh_px)


def _part(
    opened: OpenedImage,
    region: str | None,
    crop: Crop,
    margin: float,
    animal_HW: np.ndarray | None = None,
) -> Box | None:
    mask, bbox = region_parts(region)
    if crop == "none" or not (bbox or (mask and crop != "auto")):
        return None
    if bbox and not (mask and crop == "mask"):
        box = box_in_image(bbox, opened.full_wh_px)
    else:
        known_HW = animal_HW if mask else None
        box = box_around(_mask_of(opened, mask) if known_HW is None else known_HW)
    return box.grown(margin, opened.full_wh_px)


def _animal_of(opened: OpenedImage, region: str | None) -> np.ndarray:
    """bool (H, W): the displayed image's pixels in the mask, or, without one, in the box."""
    mask, bbox = region_parts(region)
    if bbox and not mask:
        return box_in_image(bbox, opened.full_wh_px).pixels(opened.full_wh_px)
    return _mask_of(opened, mask)


def _mask_of(opened: OpenedImage, mask_value: str | None) -> np.ndarray:
    """The mask on the displayed image at full scale, never empty."""
    if not mask_value:
        raise MaskError(NO_REGION)
    mask_HW = decode_mask(mask_value, opened.full_wh_px)
    mask_HW = fit_mask_to_image(mask_HW, opened.full_wh_px, opened.exif_orientation)
    if not mask_HW.any():
        raise MaskError(
            "its mask is empty: no pixel is the animal. Give it one, or set "
            "dataset.no_background=false and dataset.crop=none."
        )
    animal_px = int(np.count_nonzero(mask_HW))
    if animal_px < MIN_ANIMAL_PX and mask_HW.size > 100 * MIN_ANIMAL_PX:
        raise MaskError(
            f"its mask has {animal_px} of {mask_HW.size} pixels: too few for an animal. It looks "
            "damaged, or given in another unit than pixels."
        )
    return mask_HW


def _mask_at(mask_HW: np.ndarray, wh_px: tuple[int, int]) -> np.ndarray:
    """The mask at another size: the pixels of which it covers at least half, or, if there are none,
    any part."""
    height, width = mask_HW.shape
    if (width, height) == wh_px:
        return np.ascontiguousarray(mask_HW)
    # Masks are stored column by column, and PIL reads rows: so the transposed mask is resized.
    coverage_WH = Image.fromarray(np.ascontiguousarray(mask_HW.T).view(np.uint8) * np.uint8(255))
    coverage_HW = np.asarray(coverage_WH.resize(wh_px[::-1], Image.Resampling.BOX)).T
    covered_HW = coverage_HW >= 128
    return np.ascontiguousarray(covered_HW if covered_HW.any() else coverage_HW > 0)


def _cut(
    decoded: Decoded, part: Box, fill_rgb: tuple[int, int, int]
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """An image, and the edges in it of this part of the photograph, turned upright."""
    left, top, right, bottom = decoded.box
    across = (right - left) / decoded.full_wh_px[0]
    down = (bottom - top) / decoded.full_wh_px[1]
    if not part.theta_rad:
        return decoded.image, (
            left + part.left * across,
            top + part.top * down,
            left + part.right * across,
            top + part.bottom * down,
        )
    size = (max(1, round(part.wh[0] * across)), max(1, round(part.wh[1] * down)))
    first, second, _, fourth = part.corners_42 * [across, down] + [left, top]
    by_x, by_y = (second - first) / size[0], (fourth - first) / size[1]
    upright = decoded.image.transform(
        size,
        Image.Transform.AFFINE,
        (by_x[0], by_y[0], first[0], by_x[1], by_y[1], first[1]),
        Image.Resampling.BICUBIC,
        fillcolor=fill_rgb if decoded.image.mode == "RGB" else 0,
    )
    return upright, (0, 0, *size)


def _resized(
    image: Image.Image,
    box: tuple[float, float, float, float],
    resized_wh: tuple[int, int],
    pre: Preprocessing,
) -> Image.Image:
    # The filter would reach beyond the box: pixels outside are cut off first.
    left, top = math.floor(box[0]), math.floor(box[1])
    around = (left, top, min(image.width, math.ceil(box[2])), min(image.height, math.ceil(box[3])))
    if around != (0, 0, *image.size):
        image = image.crop(around)
        right, bottom = min(box[2] - left, image.width), min(box[3] - top, image.height)
        box = (box[0] - left, box[1] - top, right, bottom)
    image = image.resize(resized_wh, _RESAMPLING[pre.interpolation], box=box)
    width, height = pre.image_wh_px
    if pre.resize == "crop":
        left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
        return image.crop((left, top, left + width, top + height))
    if image.size == (width, height):
        return image
    canvas = Image.new(image.mode, (width, height), pre.fill_rgb if image.mode == "RGB" else 0)
    canvas.paste(image, (round((width - image.width) / 2), round((height - image.height) / 2)))
    return canvas
