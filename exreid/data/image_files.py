"""Image files opened and decoded: orientation, reduced scale, 8-bit RGB, PIL's errors as ours."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from exreid.errors import ImageError, MaskError

REDUCED_DECODE_GAP = 2
"""A JPEG decoded at reduced scale is at least this many times larger than the wanted size."""

MAX_IMAGE_PIXELS = 2**27
"""A larger image is refused before it is decoded: a few bytes can claim any size."""

EXIF_ORIENTATION = 0x0112
HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"))
"""Bytes 8 to 12 of phones' HEIC and HEIF files, which PIL reads with another package."""
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """A decoded photograph, as it is displayed."""

    image: Image.Image
    """RGB, possibly at reduced scale; ``np.asarray`` gives uint8 (H, W, 3)."""
    full_wh_px: tuple[int, int]
    """Size of the displayed photograph at full scale."""
    box: tuple[float, float, float, float]
    """The photograph's edges in ``image`` (left, top, right, bottom): at reduced scale its last row
    and column may be only part of a pixel."""
    exif_orientation: int
    """1 to 8; 1 if the file has none."""


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header is read, but not its pixels."""

    stored: Image.Image
    full_wh_px: tuple[int, int]
    exif_orientation: int


def load_image(
    data: bytes, *, min_side_px: int | None = None, fill_rgb: tuple[int, int, int] = (0, 0, 0)
) -> Decoded:
    """Decode a file's bytes to RGB, turned as EXIF says.

    With ``min_side_px``, a JPEG may be decoded at 1/2, 1/4 or 1/8, as long as its shorter side
    stays `REDUCED_DECODE_GAP` times larger. Grey of up to 16 bit is scaled to 8 bit, by as many
    bits (8, 10, 12, 14 or 16) as its brightest pixel takes. Transparent pixels are blended with
    ``fill_rgb``; of several frames the first is taken.

    Raises ImageError for what cannot be decoded completely; the caller adds file and row. (A JPEG
    whose bytes are damaged but complete may decode to wrong pixels: the format has no checksum.)
    """
    with image_errors():
        opened = read_header(data)
        shorter = min(opened.full_wh_px)
        scale = 1.0 if min_side_px is None else REDUCED_DECODE_GAP * min_side_px / shorter
        return decode(opened, scale, fill_rgb)


def displayed_wh_px(data: bytes) -> tuple[tuple[int, int], int]:
    """Width and height of the photograph as it is displayed, and its EXIF orientation (1 to 8).

    The first part of a file is enough if it contains the header. ImageError otherwise.
    """
    with image_errors():
        opened = read_header(data)
    return opened.full_wh_px, opened.exif_orientation


@contextmanager
def image_errors() -> Iterator[None]:
    """Within the with-block, every exception of an image's reader becomes an ImageError."""
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


def open_image(data: bytes) -> Image.Image:
    """PIL's image of a file's bytes, its header read. To be called within `image_errors`."""
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


def read_header(data: bytes) -> OpenedImage:
    """The image with its displayed size; ImageError if it has more than `MAX_IMAGE_PIXELS`."""
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
    return OpenedImage(image, wh, orientation)


def _read_heif_too() -> None:
    """Let PIL read HEIC and HEIF; ImageError if the package for that is not installed."""
    try:
        import pi_heif
    except ImportError as error:
        raise ImageError(
            "a HEIC photograph, as phones take them. pip install 'exreid[heif]' reads it; or "
            "convert it to JPEG."
        ) from error
    pi_heif.register_heif_opener()


def decode(opened: OpenedImage, scale: float, fill_rgb: tuple[int, int, int]) -> Decoded:
    """The pixels as displayed, at ``scale`` or larger if the format allows it."""
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
    """Left, top, right, bottom of the stored image's first ``extent_wh`` pixels, once it is
    turned."""
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
