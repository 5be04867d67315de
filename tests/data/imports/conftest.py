"""A folder of photographs, small and of known sizes."""

import numpy as np
import pytest
from PIL import Image

WIDE = (60, 40)


@pytest.fixture
def photos(tmp_path):
    """``photos("a.jpg", "cam/b.jpg", turned="c.jpg")``: files of 60 x 40 pixels; a turned one is
    stored so, and displayed as 40 x 60 (EXIF orientation 6)."""

    def make(*names, turned=(), root="photos"):
        folder = tmp_path / root
        for name in (*names, *turned):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(abs(hash(name)) % 2**32)
            image = Image.fromarray(rng.integers(0, 255, (*WIDE[::-1], 3), dtype=np.uint8))
            exif = Image.Exif()
            if name in turned:
                exif[0x0112] = 6
            image.save(file, exif=exif)
        return str(folder)

    return make
