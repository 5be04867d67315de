"""Photographs to arrays: decoding, orientation, background, crop and resize."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from exreid.data.boxes import Box, box_in_image
from exreid.data.masks import decode_mask, fit_mask_to_image
from exreid.errors import ImageError, MaskError
from exreid.records import Json, region_parts

IMAGES_VERSION = 2
"""Raise it when the code of this stage changes its pixels."""

REDUCED_DECODE_GAP = 2
"""A JPEG decoded at reduced scale stays at least this many times larger than it is wanted."""

MAX_IMAGE_PIXELS = 2**27
"""A larger image is refused before it is decoded: a few bytes can claim any size."""

NO_REGION = (
    "it has no mask and no box. Give it one, or set dataset.no_mask=whole or skip, or "
    "dataset.no_background=false and dataset.crop=none."
)
MIN_ANIMAL_PX = 16
"""A mask of fewer pixels shows no animal, unless the photograph is as small."""

EXIF_ORIENTATION = 0x0112
HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"))
"""How the files of phones begin, after 8 bytes; PIL reads them with another package."""
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Crop = Literal["auto", "none", "box", "mask"]


def crop_description(crop: Crop) -> dict[str, Json]:
    """How an image is cropped, for cache keys: as it was before there were boxes, where they say
    the same."""
    said: dict[str, Json] = {"crop": crop} if crop in ("none", "box") else {}
    return {"crop_to_mask": crop == "mask", **said}


def with_crop(described: dict[str, Json], crop: Crop) -> dict[str, Json]:
    """A description with `crop_description` where it has ``crop``."""
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
    """With "crop": the centre crop's part of the resized shorter side, as timm has it."""
    interpolation: Literal["bicubic", "bilinear", "lanczos"]
    no_background: bool
    crop: Crop
    """"auto": to the box where the image has one. "box", "mask": to the box given, to the box
    around the mask; to the other where an image has but that."""
    crop_margin: float
    """Margin around the box, as a fraction of its longer side."""
    fill_rgb: tuple[int, int, int]
    reduced_decode: bool = True
    """Decode a large JPEG at 1/2, 1/4 or 1/8, never below `REDUCED_DECODE_GAP` times the size it
    is resized to. On 50 photographs of animals the resized pixels then differ from those of the
    whole decode by 0.6 of 255 on average at 1/2 (PSNR 49 dB, at worst 46) and by 0.9 at 1/4
    (46 dB, at worst 43); see benchmarks/decode.py for the time that it saves."""
    no_mask: Literal["raise", "whole"] = "raise"
    """A photograph without mask and box where one is wanted: MaskError, or taken whole."""

    def describe(self) -> dict[str, Json]:
        """Everything that the pixels depend on, for cache keys."""
        described = {"stage_version": IMAGES_VERSION, **asdict(self)}
        described = with_crop(described, self.crop)
        if self.no_mask == "raise":  # whose pixels are those of before there was a choice
            del described["no_mask"]
        return described

    def resized_wh_px(self, image_wh_px: tuple[int, int]) -> tuple[int, int]:
        """What an image of this size is resized to, before "crop" cuts or "pad" adds."""
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


@dataclass(frozen=True)
class Decoded:
    """A decoded photograph, as it is displayed."""

    image: Image.Image
    """RGB, possibly at reduced scale; ``np.asarray`` gives uint8 (H, W, 3)."""
    full_wh_px: tuple[int, int]
    """Size of the displayed photograph at full scale."""
    box: tuple[float, float, float, float]
    """Where the photograph lies in ``image`` (left, top, right, bottom): at reduced scale its
    last row and column may be only part of a pixel."""
    exif_orientation: int
    """1 to 8; 1 where the file says nothing."""


def load_image(
    data: bytes, *, min_side_px: int | None = None, fill_rgb: tuple[int, int, int] = (0, 0, 0)
) -> Decoded:
    """Decode a file's bytes to RGB, turned as EXIF says.

    With ``min_side_px``, a JPEG may be decoded at 1/2, 1/4 or 1/8, as long as its shorter side
    stays `REDUCED_DECODE_GAP` times larger. Grey of up to 16 bit is scaled to 8 bit, by as many
    bits (8, 10, 12, 14 or 16) as its brightest pixel takes. Transparent pixels are laid over
    ``fill_rgb``, of several frames the first is taken.

    Raises ImageError for whatever cannot be decoded whole; the caller adds file and row. (A JPEG
    whose bytes are damaged but complete may decode to wrong pixels: the format has no checksum.)
    """
    with foreign_bytes():
        return _loaded(_open(data), min_side_px, fill_rgb)


def _loaded(opened: _Opened, min_side_px: int | None, fill_rgb: tuple[int, int, int]) -> Decoded:
    shorter = min(opened.full_wh_px)
    scale = 1.0 if min_side_px is None else REDUCED_DECODE_GAP * min_side_px / shorter
    return _decode(opened, scale, fill_rgb)


def prepare_image(data: bytes, region: str | None, pre: Preprocessing) -> np.ndarray:
    """A file's bytes and where the animal is (`exreid.records.region_text`) to uint8 RGB
    (height, width, 3) of ``pre.image_wh_px``.

    The region is looked at only where ``pre`` needs it. Raises ImageError or MaskError; the
    caller adds file and row.
    """
    with foreign_bytes():
        return _prepared(_open(data), region, pre)


def _prepared(opened: _Opened, region: str | None, pre: Preprocessing) -> np.ndarray:
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
    decoded = _decode(opened, scale, pre.fill_rgb)
    image = decoded.image
    if animal_HW is not None:
        background_HW = ~_mask_at(animal_HW, image.size)
        image.paste(pre.fill_rgb, mask=Image.fromarray(background_HW))
    return np.asarray(_resized(*_cut(decoded, part, pre.fill_rgb), resized_wh, pre))


def prepare_matte(data: bytes, region: str | None, pre: Preprocessing) -> np.ndarray:
    """Where the animal is in what `prepare_image` gives: uint8 (height, width), 255 on the animal.

    Edges are grey where the mask covers part of a pixel; what is padded is 0. The image's pixels
    are not decoded.
    """
    with foreign_bytes():
        return _matte(_open(data), region, pre)


def _matte(opened: _Opened, region: str | None, pre: Preprocessing) -> np.ndarray:
    animal_HW = _animal_of(opened, region)
    part = _used_part(opened, region, pre, animal_HW)
    resized_wh = pre.resized_wh_px((round(part.wh[0]), round(part.wh[1])))
    matte = Image.fromarray(np.ascontiguousarray(animal_HW).view(np.uint8) * np.uint8(255))
    extent = (0, 0, *opened.full_wh_px)
    whole = Decoded(matte, opened.full_wh_px, extent, opened.exif_orientation)
    return np.asarray(_resized(*_cut(whole, part, pre.fill_rgb), resized_wh, pre))


def used_part(data: bytes, region: str | None, crop: Crop, crop_margin: float) -> Box:
    """What is kept of the displayed photograph, in its own pixels; the whole of it where there is
    nothing to crop to. The pixels are not decoded."""
    with foreign_bytes():
        opened = _open(data)
        return _part(opened, region, crop, crop_margin) or Box(0, 0, *opened.full_wh_px)


def used_wh_px(data: bytes, region: str | None, pre: Preprocessing) -> tuple[int, int]:
    """Width and height at full scale of what ``pre`` resizes: the whole displayed image, or what
    it is cropped to. The pixels are not decoded."""
    with foreign_bytes():
        part = _used_part(_open(data), region, pre)
    return round(part.wh[0]), round(part.wh[1])


def _used_part(
    opened: _Opened,
    region: str | None,
    pre: Preprocessing,
    animal_HW: np.ndarray | None = None,
) -> Box:
    """What ``pre`` resizes; ``animal_HW`` is of `_animal_of`, where it is known."""
    part = _part(opened, region, pre.crop, pre.crop_margin, animal_HW)
    if part is None and pre.crop in ("box", "mask") and pre.no_mask == "raise":
        raise MaskError(NO_REGION)
    return part or Box(0, 0, *opened.full_wh_px)


def _part(
    opened: _Opened,
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
        box = _box_around(_mask_of(opened, mask) if known_HW is None else known_HW)
    return box.grown(margin, opened.full_wh_px)


def _animal_of(opened: _Opened, region: str | None) -> np.ndarray:
    """bool (H, W): the displayed image's pixels in the mask, or, without one, in the box."""
    mask, bbox = region_parts(region)
    if bbox and not mask:
        return box_in_image(bbox, opened.full_wh_px).pixels(opened.full_wh_px)
    return _mask_of(opened, mask)


def displayed_wh_px(data: bytes) -> tuple[tuple[int, int], int]:
    """Width and height of the photograph as it is displayed, and its EXIF orientation (1 to 8).

    The first part of a file is enough where its header is in it. ImageError otherwise.
    """
    with foreign_bytes():
        opened = _open(data)
    return opened.full_wh_px, opened.exif_orientation


@contextmanager
def foreign_bytes() -> Iterator[None]:
    """Whatever a photograph's bytes lead its reader to ends as ImageError (or MaskError)."""
    try:
        yield
    except (ImageError, MaskError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"image is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image, or of a format that cannot be read.") from error
    except MemoryError as error:
        raise ImageError(
            "damaged image, or too large: it asks for more memory than there is."
        ) from error
    except Exception as error:  # PIL's readers raise OSError, SyntaxError, struct.error, ...
        raise ImageError(f"damaged image: {type(error).__name__}: {error}.") from error


@dataclass(frozen=True)
class _Opened:
    """An image whose header is read, and whose pixels are not."""

    stored: Image.Image
    full_wh_px: tuple[int, int]
    exif_orientation: int


def open_image(data: bytes) -> Image.Image:
    """PIL's image of a file's bytes, its header read; within `foreign_bytes`."""
    if not data:
        raise ImageError("file is empty (0 bytes).")
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        _read_heif_too()
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise ImageError("a damaged HEIC photograph.") from error
    if data.startswith(b"version https://git-lfs"):
        raise ImageError("a Git LFS pointer, not the photograph itself. Run git lfs pull.")
    return Image.open(io.BytesIO(data))


def _open(data: bytes) -> _Opened:
    image = open_image(data)
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(
            f"image of {width} x {height} pixels is over the limit of {MAX_IMAGE_PIXELS} "
            "pixels. Make it smaller."
        )
    tag = image.getexif().get(EXIF_ORIENTATION, 1)
    orientation = tag if isinstance(tag, int) and tag in _TRANSPOSE else 1
    wh = (height, width) if orientation >= 5 else (width, height)
    return _Opened(image, wh, orientation)


def _read_heif_too() -> None:
    """Let PIL read HEIC and HEIF; ImageError where the package for that is not installed."""
    try:
        import pi_heif
    except ImportError as error:
        raise ImageError(
            "a HEIC photograph, as phones take them. pip install 'exreid[heif]' reads it; or "
            "convert it to JPEG."
        ) from error
    pi_heif.register_heif_opener()


def _decode(opened: _Opened, scale: float, fill_rgb: tuple[int, int, int]) -> Decoded:
    """The pixels, at ``scale`` or larger where the format allows it, and displayed side up."""
    image = opened.stored
    extent = (0.0, 0.0, float(image.width), float(image.height))
    if scale < 1 and image.format in ("JPEG", "MPO"):
        width, height = image.size
        # draft() keeps at least this; the rounding keeps 448.0000001 from becoming 449.
        least = (math.ceil(round(width * scale, 3)), math.ceil(round(height * scale, 3)))
        drafted = image.draft(image.mode, least)
        extent = extent if drafted is None else drafted[1]
    image.load()
    rgb = _as_rgb(image, fill_rgb)
    turn = _TRANSPOSE.get(opened.exif_orientation)
    turned = rgb if turn is None else rgb.transpose(turn)
    box = _turned(extent[2:], turned.size, opened.exif_orientation)
    return Decoded(turned, opened.full_wh_px, box, opened.exif_orientation)


def _turned(
    extent_wh: tuple[float, float], displayed_wh: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Where the stored image's corner of this extent lies once the image is turned."""
    across, down = extent_wh[::-1] if orientation >= 5 else extent_wh
    left = displayed_wh[0] - across if orientation in (2, 3, 6, 7) else 0.0
    top = displayed_wh[1] - down if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + across, top + down


def _as_rgb(image: Image.Image, fill_rgb: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"its pixels run from {values.min()} to {values.max()}, not 16 bit.")
        bits = max(8, 2 * math.ceil(int(values.max()).bit_length() / 2))
        return Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("its pixels are fractions. Save it with 8 or 16 bits per channel.")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (*fill_rgb, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _mask_of(opened: _Opened, mask_value: str | None) -> np.ndarray:
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
            f"its mask has {animal_px} of {mask_HW.size} pixels: that is no animal. It looks "
            "damaged, or given in another unit than pixels."
        )
    return mask_HW


def _mask_at(mask_HW: np.ndarray, wh_px: tuple[int, int]) -> np.ndarray:
    """The mask at another size: the pixels of which it covers at least half, or, where it is too
    small for that, any part."""
    height, width = mask_HW.shape
    if (width, height) == wh_px:
        return np.ascontiguousarray(mask_HW)
    # Masks come column by column; PIL reads rows, so a mask is resized lying on its side.
    coverage_WH = Image.fromarray(np.ascontiguousarray(mask_HW.T).view(np.uint8) * np.uint8(255))
    coverage_HW = np.asarray(coverage_WH.resize(wh_px[::-1], Image.Resampling.BOX)).T
    covered_HW = coverage_HW >= 128
    return np.ascontiguousarray(covered_HW if covered_HW.any() else coverage_HW > 0)


def _box_around(mask_HW: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _cut(
    decoded: Decoded, part: Box, fill_rgb: tuple[int, int, int]
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """An image, and where in it lies this part of the photograph, upright."""
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
    # The filter would reach beyond the box: what lies there is cut off, to the whole pixel.
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
