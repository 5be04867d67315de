"""Mask images: each belongs to one photograph, and says where the animal is or is refused."""

import numpy as np
import pytest
from PIL import Image

from exreid.data.mask_images import mask_files, read_mask_image
from exreid.errors import MaskError

ANIMAL = np.zeros((20, 30), bool)
ANIMAL[5:15, 8:20] = True


def _touch(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def test_each_photograph_finds_its_own_mask(tmp_path):
    _touch(tmp_path, "cam1/IMG_1.png", "cam2/IMG_1.PNG", "img_7.tif")
    found = mask_files(tmp_path, ["cam1/IMG_1.JPG", "cam2/IMG_1.JPG", "cam3/IMG_7.jpg", "x.jpg"])
    assert {path: file.relative_to(tmp_path).as_posix() for path, file in found.items()} == {
        "cam1/IMG_1.JPG": "cam1/IMG_1.png",
        "cam2/IMG_1.JPG": "cam2/IMG_1.PNG",
        "cam3/IMG_7.jpg": "img_7.tif",
    }


@pytest.mark.parametrize(
    ("masks", "photographs", "says"),
    [
        (
            ["IMG_1.png"],
            ["cam1/IMG_1.JPG", "cam2/IMG_1.JPG"],
            "IMG_1.png could be the mask",
        ),
        (["a.png"], ["a.jpg", "a.png"], "could be the mask of a.jpg and of a.png"),
        (["a.png", "a.tif"], ["a.jpg"], "a.jpg could have the mask"),
        (["b.png"], ["a.jpg"], "no mask for any of the 1 photographs.*a.png"),
    ],
)
def test_what_could_be_of_two_is_refused(tmp_path, masks, photographs, says):
    _touch(tmp_path, *masks)
    with pytest.raises(MaskError, match=says):
        mask_files(tmp_path, photographs)


def _grey(value):
    return Image.fromarray(np.where(ANIMAL, value, 0).astype(np.uint8))


def _colour(rgb):
    pixels = np.zeros((*ANIMAL.shape, 3), np.uint8)
    pixels[ANIMAL] = rgb
    return Image.fromarray(pixels)


def _smooth():
    large = np.kron(ANIMAL, np.ones((8, 8))).astype(np.uint8) * 255
    return Image.fromarray(large).resize((120, 80), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "image",
    [
        *(_grey(255), _grey(1), _grey(128), _grey(38), _grey(255).convert("1")),
        *(_colour((128, 0, 0)), _colour((0, 0, 255)), _colour((255, 255, 255))),
        *(_colour((128, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE),),
        Image.fromarray(np.where(ANIMAL, 65535, 0).astype(np.uint16)),
        _colour((255, 255, 255)).convert("RGBA"),
    ],
)
def test_two_values_are_a_mask(tmp_path, image):
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask_image(tmp_path / "m.png"), ANIMAL)


def test_a_smoothed_edge_is_cut_in_the_middle(tmp_path):
    _smooth().save(tmp_path / "m.png")
    expected = np.kron(ANIMAL, np.ones((4, 4))).astype(bool)
    assert (read_mask_image(tmp_path / "m.png") != expected).mean() < 0.02


def _half_transparent():
    image = _colour((255, 255, 255)).convert("RGBA")
    image.putalpha(_grey(255))
    return image


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray((ANIMAL + np.eye(20, 30)).astype(np.uint8)), "3 colours or greys"),
        (Image.fromarray(np.where(ANIMAL, 255, 200).astype(np.uint8)), "2 colours or greys"),
        (Image.effect_noise((30, 20), 50).convert("RGB"), "colours or greys"),
        (_half_transparent(), "partly transparent"),
    ],
)
def test_what_may_mean_something_else_is_refused_by_name(tmp_path, image, says):
    image.save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=f"m.png.*{says}"):
        read_mask_image(tmp_path / "m.png")


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(MaskError, match="m.png: not a mask image"):
        read_mask_image(tmp_path / "m.png")
