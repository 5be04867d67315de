"""Small pictures of photographs, with their masks made as small."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from exreid.data.boxes import as_fractions
from exreid.data.image_files import load_image
from exreid.data.images import Preprocessing, prepare_matte, used_wh_px
from exreid.data.masks import encode_mask
from exreid.records import region_parts, region_text

THUMBNAIL_QUALITY = 85


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, turned as the photograph is displayed."""

    jpeg: bytes
    region: str | None
    """The animal's region on it (`exreid.records.region_text`): the mask as JSON text of a COCO run
    length, the box in fractions."""


def make_thumbnail(data: bytes, region: str | None, longer_side_px: int) -> Thumbnail:
    """A file's bytes and its animal's region, made small; nothing is enlarged.

    Raises ImageError or MaskError as `exreid.data.images` does.
    """
    pre = Preprocessing(
        image_wh_px=(longer_side_px, longer_side_px),
        resize="stretch",
        crop_pct=1.0,
        interpolation="bicubic",
        no_background=False,
        crop="none",
        crop_margin=0.0,
        fill_rgb=(128, 128, 128),
    )
    width, height = used_wh_px(data, region, pre)
    scale = min(1.0, longer_side_px / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = load_image(data, min_side_px=min(size)).image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    mask, bbox = region_parts(region)
    if bbox:
        bbox = as_fractions(bbox, (width, height))
    if mask:
        pre = replace(pre, image_wh_px=size)
        mask = encode_mask(np.asarray(prepare_matte(data, mask, pre)) >= 128)
    return Thumbnail(out.getvalue(), region_text(mask, bbox))
