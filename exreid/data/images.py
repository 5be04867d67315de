"""Photographs to arrays: decoding, orientation, background, crop and resize."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from exreid.data.masks import decode_mask, fit_mask_to_image
from exreid.errors import ImageError, MaskError

STAGE_VERSION = 1
"""Raise it when the code of this stage changes its pixels."""

REDUCED_DECODE_GAP = 2
"""A JPEG decoded at reduced scale stays at least this many times larger than the target."""

EXIF_ORIENTATION = 0x0112
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes the backbone's input."""

    image_wh_px: tuple[int, int]
    """Width and height of the result."""
    resize: Literal["crop", "stretch", "pad"]
    crop_pct: float
    """With "crop": the centre crop's part of the resized shorter side, as timm has it."""
    interpolation: Literal["bicubic", "bilinear", "lanczos"]
    no_background: bool
    crop_to_mask: bool
    crop_margin: float
    """Margin around the mask's box, as a fraction of the box's longer side."""
    fill_rgb: tuple[int, int, int]
    reduced_decode: bool = True

    def describe(self) -> dict[str, Any]:
        """Everything that the pixels depend on, for cache keys."""
        return {"stage_version": STAGE_VERSION, **asdict(self)}

    @property
    def decoded_side_px(self) -> int:
        """The shorter side that a decoded photograph needs for this result."""
        shorter = min(self.image_wh_px)
        return (
            math.floor(shorter / self.crop_pct) if self.resize == "crop" else max(self.image_wh_px)
        )


@dataclass(frozen=True)
class Decoded:
    """A decoded photograph, as it is displayed."""

    image: Image.Image
    """RGB, possibly at reduced scale."""
    full_wh_px: tuple[int, int]
    """Size of the displayed photograph at full scale."""
    exif_orientation: int


def load_image(
    data: bytes, *, min_side_px: int | None = None, fill_rgb: tuple[int, int, int] = (0, 0, 0)
) -> Decoded:
    """Decode a file's bytes to RGB, turned as EXIF says.

    With ``min_side_px``, a JPEG may be decoded at 1/2, 1/4 or 1/8, as long as its shorter side
    stays `REDUCED_DECODE_GAP` times larger. 16-bit grey is scaled to 8 bit, transparent pixels
    are laid over ``fill_rgb``. ImageError for anything unreadable; the caller adds file and row.
    """
    if not data:
        raise ImageError("file is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
            full_wh = image.size
            orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
            if min_side_px is not None and image.format == "JPEG":
                # draft() keeps at least the size asked for on both sides.
                side = REDUCED_DECODE_GAP * min_side_px
                scale = min(1.0, side / min(full_wh))
                wanted = (math.ceil(full_wh[0] * scale), math.ceil(full_wh[1] * scale))
                image.draft(image.mode, wanted)
            image.load()
            turned = ImageOps.exif_transpose(image)
            image = turned if turned is not None else image
            rgb = _as_rgb(image, fill_rgb)
    except ImageError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, Warning) as error:
        raise ImageError(f"not a readable image: {error}.") from error
    except Exception as error:
        # PIL's decoders raise OSError, SyntaxError, struct.error, ... on damaged files.
        raise ImageError(f"damaged image: {type(error).__name__}: {error}.") from error
    swapped = orientation in (5, 6, 7, 8)
    return Decoded(rgb, full_wh[::-1] if swapped else full_wh, orientation)


def prepare_image(data: bytes, mask_value: str | None, pre: Preprocessing) -> np.ndarray:
    """A file's bytes and its mask to uint8 RGB (height, width, 3) of ``pre.image_wh_px``.

    Raises ImageError or MaskError; the caller adds file and row.
    """
    min_side = pre.decoded_side_px if pre.reduced_decode and not pre.crop_to_mask else None
    decoded = load_image(data, min_side_px=min_side, fill_rgb=pre.fill_rgb)
    image = decoded.image
    if pre.no_background or pre.crop_to_mask:
        mask_HW = _mask_on(decoded, mask_value)
        if pre.no_background:
            pixels = np.array(image)
            pixels[~mask_HW] = pre.fill_rgb
            image = Image.fromarray(pixels)
        if pre.crop_to_mask:
            image = image.crop(_box_with_margin(mask_HW, pre.crop_margin))
    return np.asarray(_resized(image, pre))


def _as_rgb(image: Image.Image, fill_rgb: tuple[int, int, int]) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"its pixels run from {values.min()} to {values.max()}, not 16 bit.")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("its pixels are fractions; save it with 8 or 16 bits per channel.")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (*fill_rgb, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")


def _mask_on(decoded: Decoded, mask_value: str | None) -> np.ndarray:
    """The mask at the decoded image's scale."""
    if mask_value is None:
        raise MaskError(
            "it has no mask. Give it one, or set dataset.no_background and dataset.crop_to_mask "
            "to false."
        )
    mask_HW = decode_mask(mask_value, decoded.full_wh_px)
    mask_HW = fit_mask_to_image(mask_HW, decoded.full_wh_px, decoded.exif_orientation)
    if not mask_HW.any():
        raise MaskError("its mask is empty: no pixel is the animal.")
    if decoded.image.size != decoded.full_wh_px:
        whole = Image.fromarray(mask_HW.astype(np.uint8) * 255)
        reduced = whole.resize(decoded.image.size, Image.Resampling.BOX)
        mask_HW = np.asarray(reduced) >= 128
    return mask_HW


def _box_with_margin(mask_HW: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    pad = round(margin * max(right - left, bottom - top))
    height, width = mask_HW.shape
    return (
        max(0, int(left) - pad),
        max(0, int(top) - pad),
        min(width, int(right) + pad),
        min(height, int(bottom) + pad),
    )


def _resized(image: Image.Image, pre: Preprocessing) -> Image.Image:
    width, height = pre.image_wh_px
    resampling = _RESAMPLING[pre.interpolation]
    if pre.resize == "stretch":
        return image.resize((width, height), resampling)
    if pre.resize == "pad":
        return ImageOps.pad(image, (width, height), resampling, color=pre.fill_rgb)
    # As torchvision does: the shorter side exactly, the longer one truncated.
    side = math.floor(min(width, height) / pre.crop_pct)
    short = min(image.size)
    scaled = (int(side * image.width / short), int(side * image.height / short))
    image = image.resize(scaled, resampling)
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))
