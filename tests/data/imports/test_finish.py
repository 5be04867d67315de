"""Boxes lie on the photograph as people see it; names of rows do not depend on their order."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exreid.data.image_files import displayed_wh_px
from exreid.data.imports.animals import Animal, Reading, StatedBox
from exreid.data.imports.finish import finished
from exreid.data.imports.photographs import HEAD_BYTES, read_sizes
from exreid.errors import MetadataError

BOX = (4, 6, 10, 8)


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_a_box_of_stored_pixels_lies_where_pillow_turns_it(tmp_path, orientation):
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[6:14, 4:14] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    from PIL import ImageOps

    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))[..., 0]
    ys, xs = np.nonzero(shown)
    x, y, w, h = BOX
    ring = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    animal = Animal("a.png", "1", {}, StatedBox(BOX), mask=ring, stated_wh_px=(60, 40))
    cells = finished(Reading("x", [animal]), str(tmp_path), "x").cells
    left, top = xs.min(), ys.min()
    expected = [left, top, xs.max() + 1 - left, ys.max() + 1 - top]
    assert json.loads(cells["bbox"][0]) == expected
    points = np.array(json.loads(cells["mask"][0])[0]).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [left, top]
    assert np.ptp(points, axis=0).tolist() == expected[2:]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)))
def test_names_of_rows_do_not_depend_on_the_order(tmp_path_factory, order):
    folder = tmp_path_factory.getbasetemp() / "order"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    boxes = [(0, 0, 5, 5), (0, 9, 5, 5), (0, 9, 6, 5), (10, 0, 5, 5), (10, 1, 5, 5)]
    animals = [Animal("a.png", str(i), {"k": str(i)}, StatedBox(boxes[i])) for i in order]
    cells = finished(Reading("x", animals), str(folder), "x").cells
    assert {int(k): name for k, name in zip(cells["k"], cells["image_id"], strict=True)} == {
        i: f"a.png#{i + 1}" for i in range(5)
    }


def test_a_box_that_fits_only_the_stored_pixels_says_so(photos):
    animal = Animal("a.jpg", "line 2", {}, StatedBox((10, 0, 45, 20)))
    with pytest.raises(MetadataError, match=r"line 2: .*40 x 60.*fits the stored pixels"):
        finished(Reading("x", [animal]), photos(turned=["a.jpg"]), "x")


def test_a_box_just_over_the_edge_is_cut(photos):
    animal = Animal("a.jpg", "line 2", {}, StatedBox((-1, 20, 62, 20.5)))
    cells = finished(Reading("x", [animal]), photos("a.jpg"), "x").cells
    assert json.loads(cells["bbox"][0]) == [0, 20, 60, 20]


def test_a_turned_box_may_leave_the_photograph_where_its_middle_does_not(photos):
    root = photos("a.jpg")
    animal = Animal("a.jpg", "line 2", {}, StatedBox((15, -5, 10, 30)), theta=1.5)
    cells = finished(Reading("x", [animal]), root, "x").cells
    assert json.loads(cells["bbox"][0]) == [15, -5, 10, 30]
    away = Animal("a.jpg", "line 2", {}, StatedBox((70, -5, 10, 30)), theta=1.5)
    with pytest.raises(MetadataError, match="leaves the photograph"):
        finished(Reading("x", [away]), root, "x")


def test_sizes_are_read_from_headers_and_what_is_wrong_is_told(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.webp")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=95)
    assert (tmp_path / "large.jpg").stat().st_size > 2**19
    sizes = read_sizes(str(tmp_path), ["a.webp", "b.jpg", "large.jpg"])
    assert sizes["a.webp"].displayed_wh_px == (60, 40)
    assert "b.jpg: not an image" in sizes["b.jpg"]
    assert sizes["large.jpg"].displayed_wh_px == (1200, 900)
    assert displayed_wh_px((tmp_path / "large.jpg").read_bytes()[:HEAD_BYTES]) == ((1200, 900), 1)
