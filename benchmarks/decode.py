"""Decoding large JPEGs at reduced scale against decoding them whole: time, and pixels moved."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from _report import Report, arguments, interleaved_s
from PIL import Image

from exreid.data.images import Preprocessing, prepare_image

SIZES_WH_PX = ((1152, 864), (4000, 3000), (5656, 4242))
WHOLE = Preprocessing(
    image_wh_px=(224, 224),
    resize="crop",
    crop_pct=0.875,
    interpolation="bicubic",
    no_background=False,
    crop="none",
    crop_margin=0.0,
    fill_rgb=(0, 0, 0),
    reduced_decode=False,
)


def photograph(width_px: int, height_px: int) -> bytes:
    """A JPEG with detail at every scale."""
    random = np.random.default_rng(0)
    picture = np.zeros((height_px, width_px, 3), np.float32)
    for cells in (8, 64, 512):
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width_px, height_px), Image.Resampling.BICUBIC)
        picture += np.asarray(layer) / 3.0
    stream = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def main() -> None:
    """Measure each size and target."""
    options = arguments(__doc__ or "")
    report = Report("prepare_image: JPEG decoded at reduced scale against whole")
    for width, height in SIZES_WH_PX[:2] if options.quick else SIZES_WH_PX:
        data = photograph(width, height)
        for side in (224, 384):
            whole = replace(WHOLE, image_wh_px=(side, side))
            reduced = replace(whole, reduced_decode=True)
            seconds = interleaved_s(
                {
                    "whole": lambda d=data, p=whole: prepare_image(d, None, p),  # type: ignore[misc]
                    "reduced": lambda d=data, p=reduced: prepare_image(d, None, p),  # type: ignore[misc]
                },
                repeats=5 if options.quick else 15,
            )
            moved = np.abs(
                prepare_image(data, None, whole).astype(int) - prepare_image(data, None, reduced)
            ).mean()
            name = f"{width * height / 1e6:.0f} megapixel to {side}"
            report.add(f"{name}, whole", 1000 * seconds["whole"], "ms")
            ratio = seconds["whole"] / seconds["reduced"]
            report.add(f"{name}, reduced", 1000 * seconds["reduced"], "ms", "whole", ratio)
            report.add(f"{name}, mean pixel difference", float(moved), "of 255")
    report.show(options.json)


if __name__ == "__main__":
    main()
