"""Mask images: each belongs to one photograph, and says where the animal is or is refused."""

import numpy as np
import pytest
from PIL import Image

from exreid.data.mask_images import mask_files, read_masks
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
    assert _names(found, tmp_path) == {
        "cam1/IMG_1.JPG": {0: "cam1/IMG_1.png"},
        "cam2/IMG_1.JPG": {0: "cam2/IMG_1.PNG"},
        "cam3/IMG_7.jpg": {0: "img_7.tif"},
    }


def _names(found, folder):
    return {
        path: {number: file.relative_to(folder).as_posix() for number, file in files.items()}
        for path, files in found.items()
    }


def test_masks_beside_each_other_are_of_one_photograph_unless_another_is_called_so(tmp_path):
    _touch(tmp_path, "c/a#1.png", "c/a#2.png", "b_1.png", "b_2.png", "b_2_1.png", "d_0.png")
    _touch(tmp_path, "IMG_0007.png", "e_1.png", "e_3.png", "f.png", "f_1.png")
    paths = ["c/a.jpg", "b.jpg", "b_2.jpg", "d.jpg", "IMG.jpg", "e.jpg", "f.jpg"]
    assert _names(mask_files(tmp_path, paths), tmp_path) == {
        "c/a.jpg": {1: "c/a#1.png", 2: "c/a#2.png"},
        "b.jpg": {1: "b_1.png"},
        "b_2.jpg": {0: "b_2.png"},
        "d.jpg": {0: "d_0.png"},
        "f.jpg": {0: "f.png"},
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
        (["a#1.png", "a#1.tif"], ["a.jpg"], "a.jpg could have the mask"),
        (["a.png", "a#1.png"], ["a.jpg"], "a.jpg could have the mask.*NAME#1.png"),
        (["a#1.png"], ["cam1/a.jpg", "cam2/a.jpg"], "could be the mask"),
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
    np.testing.assert_array_equal(read_masks({0: tmp_path / "m.png"})[1], ANIMAL)


def test_a_smoothed_edge_is_cut_in_the_middle(tmp_path):
    _smooth().save(tmp_path / "m.png")
    expected = np.kron(ANIMAL, np.ones((4, 4))).astype(bool)
    assert (read_masks({0: tmp_path / "m.png"})[1] != expected).mean() < 0.02


NUMBERS = np.zeros((20, 30), np.uint8)
NUMBERS[2:12, 1:9], NUMBERS[5:18, 15:28] = 2, 1
SEAM = NUMBERS.copy()
SEAM[2:12, 9], SEAM[4, 15:28] = 255, 255
COLOURS = ([0, 0, 0], [128, 0, 0], [0, 128, 0])


def _indexed(numbers):
    """As Pascal VOC and DAVIS keep objects: an index for each, painted by a palette."""
    image = Image.fromarray(numbers).convert("P")
    image.putdata(numbers.reshape(-1).tolist())
    image.putpalette([n for rgb in COLOURS for n in rgb] + [7] * 756 + [224, 224, 192])
    return image


def _mots():
    """KITTI MOTS: 16 bits, a thousand for the class, and 10000 where nobody looks."""
    values = np.where(NUMBERS > 0, 2000 + NUMBERS.astype(np.uint16), 0)
    values[0, :5] = 10_000
    return Image.fromarray(values.astype(np.uint16))


@pytest.mark.parametrize(
    "image",
    [
        *(Image.fromarray(NUMBERS), Image.fromarray(SEAM), _indexed(NUMBERS), _indexed(SEAM)),
        *(_mots(), Image.fromarray(np.array(COLOURS, np.uint8)[NUMBERS])),
    ],
    ids=["grey", "grey with a seam", "indexed", "indexed with a seam", "MOTS", "CVAT's colours"],
)
def test_animals_that_an_image_numbers_are_read_one_by_one(tmp_path, image):
    image.save(tmp_path / "m.png")
    masks = read_masks({0: tmp_path / "m.png"})
    assert sorted(masks) == [1, 2]
    for number, mask_HW in masks.items():
        np.testing.assert_array_equal(mask_HW, number == NUMBERS)


def test_a_smoothed_mask_in_grey_indices_is_still_one_animal(tmp_path):
    """Its indices are 0, 1, 2, ..., and none of them is an animal."""
    _smooth().convert("RGB").quantize(16).save(tmp_path / "m.png")
    masks = read_masks({0: tmp_path / "m.png"})
    expected = np.kron(ANIMAL, np.ones((4, 4))).astype(bool)
    assert len(masks) == 1
    assert (masks[1] != expected).mean() < 0.02


def test_one_of_several_mask_files_with_two_animals_is_refused(tmp_path):
    Image.fromarray(NUMBERS).save(tmp_path / "a#1.png")
    with pytest.raises(MaskError, match="a#1.png: has 2 animals"):
        read_masks({1: tmp_path / "a#1.png"})


def _half_transparent():
    image = _colour((255, 255, 255)).convert("RGBA")
    image.putalpha(_grey(255))
    return image


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray((ANIMAL + np.eye(20, 30)).astype(np.uint8)), "its value 2 is of 7 pixels"),
        (
            Image.fromarray(
                np.where(ANIMAL, 8, 3).astype(np.uint8) * (1 - np.eye(20, 30, dtype=np.uint8))
            ),
            "3 colours",
        ),
        (Image.fromarray(np.where(ANIMAL, 255, 200).astype(np.uint8)), "2 colours or greys"),
        (Image.effect_noise((30, 20), 50).convert("RGB"), "colours or greys"),
        (_half_transparent(), "partly transparent"),
    ],
)
def test_what_may_mean_something_else_is_refused_by_name(tmp_path, image, says):
    image.save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=f"m.png.*{says}"):
        read_masks({0: tmp_path / "m.png"})


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(MaskError, match="m.png: not a mask image"):
        read_masks({0: tmp_path / "m.png"})
