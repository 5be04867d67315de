"""Boxes: read in every form that tables have, and what is seen of a photograph by them."""

import io
import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exreid.data.boxes import as_fractions, box_in_image, box_text, read_numbers
from exreid.data.images import Preprocessing, prepare_image, prepare_matte, used_part
from exreid.data.masks import encode_mask
from exreid.errors import MaskError
from exreid.records import region_parts, region_text

WH = (96, 80)
PLAIN = Preprocessing(
    image_wh_px=(48, 40),
    resize="stretch",
    crop_pct=1.0,
    interpolation="bicubic",
    no_background=False,
    crop="auto",
    crop_margin=0.0,
    fill_rgb=(9, 9, 9),
    reduced_decode=False,
)
whole = st.integers(0, 400)
side = st.integers(4, 400)


def _picture(wh=WH) -> Image.Image:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 255, (wh[1] // 8, wh[0] // 8, 3), np.uint8)
    return Image.fromarray(small).resize(wh, Image.Resampling.BICUBIC)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@given(
    whole, whole, side, side, st.sampled_from(["{}, {}, {}, {}", "[{}, {}, {}, {}]", "{} {} {} {}"])
)
def test_a_box_reads_the_same_in_every_form(x, y, w, h, form):
    cells = [form.format(x, y, w, h)]
    assert read_numbers(cells) == [x, y, w, h]
    assert read_numbers([str(x), str(y), f"{w},0", str(h)]) == [x, y, w, h]
    assert read_numbers([f"array([{x}., {y}., {w}., {h}.])"]) == [x, y, w, h]
    assert read_numbers([f"{x},5; {y}; {w}; {h}"]) == [x + 0.5, y, w, h]
    text = box_text([x, y, w, h], "xywh_px")
    assert json.loads(text) == [x, y, w, h]
    assert box_text([x, y, x + w, y + h], "xyxy_px") == text
    big = (1000, 800)
    fractions = box_text([x / 1000, y / 800, w / 1000, h / 800], "xywh_norm")
    for found in (box_in_image(fractions, big), box_in_image(text, big)):
        edges = (found.left, found.top, found.right, found.bottom)
        assert edges == pytest.approx((x, y, x + w, y + h))
    tenth = box_in_image(as_fractions(text, big), (100, 80))
    assert (tenth.left, tenth.bottom) == pytest.approx((x / 10, (y + h) / 10))


@pytest.mark.parametrize(
    "cell", ["1, 2, 3", "a box", "[1, 2, nan, 4]", "1, 2, 3, 4, 5", "[[1, 2], [3, 4]"]
)
def test_what_is_no_box_is_refused(cell):
    with pytest.raises(ValueError, match="is not a box of four numbers"):
        read_numbers([cell])


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([60, 40, 80, 70], "set dataset.bbox_format=xyxy_px"),
        ([40, 20, 60, 20], r"outside the image of 96 x 80 pixels by more than 2%"),
        ([10, 60, 50, 35], "stored pixels"),
        ([-5, 0, 50, 50], "more than 2%"),
    ],
)
def test_a_box_that_leaves_the_photograph_says_what_it_looks_like(numbers, says):
    with pytest.raises(MaskError, match=says):
        box_in_image(box_text(numbers, "xywh_px"), WH)
    a_little = box_in_image("[-1.5, -1, 98, 82]", WH)
    assert (a_little.left, a_little.top, a_little.right, a_little.bottom) == (0, 0, 96, 80)


@pytest.mark.parametrize("margin", [0.0, 0.25, 9.0])
def test_a_crop_to_the_box_is_that_of_pil(margin):
    picture = _picture()
    pre = replace(PLAIN, crop_margin=margin)
    pad = round(margin * 40)
    edges = (max(0, 20 - pad), max(0, 30 - pad), min(96, 60 + pad), min(80, 60 + pad))
    by_hand = picture.crop(edges).resize((48, 40), Image.Resampling.BICUBIC)
    cropped = prepare_image(_png(picture), region_text(None, "[20, 30, 40, 30]"), pre)
    np.testing.assert_array_equal(cropped, np.asarray(by_hand))


def test_a_box_around_the_mask_is_the_crop_to_the_mask():
    mask_HW = np.zeros((80, 96), bool)
    mask_HW[30:60, 20:60] = np.random.default_rng(0).random((30, 40)) > 0.5
    mask_HW[[30, 59], [20, 59]] = True
    mask, data = encode_mask(mask_HW), _png(_picture())
    for margin in (0.0, 0.1):
        for background in (False, True):
            pre = replace(PLAIN, crop_margin=margin, no_background=background, crop="mask")
            seen = prepare_image(data, mask, pre)
            both = region_text(mask, "[20, 30, 40, 30]")
            for crop in ("auto", "box", "mask"):
                np.testing.assert_array_equal(
                    prepare_image(data, both, replace(pre, crop=crop)), seen
                )
    np.testing.assert_array_equal(
        prepare_image(data, mask, PLAIN), prepare_image(data, None, PLAIN)
    )


@pytest.mark.parametrize("theta", [math.pi / 2, -math.pi / 2, math.pi])
def test_a_turned_box_is_upright_as_numpy_turns_it(theta):
    """By right angles no pixel is mixed: the crop is np.rot90 of the box that lies in the image."""
    picture, (x, y, w, h) = _picture((96, 96)), (30, 40, 20, 30)
    pre = replace(PLAIN, image_wh_px=(w, h))
    upright = prepare_image(
        _png(picture), region_text(None, box_text([x, y, w, h], "xywh_px", theta)), pre
    )
    middle, (across, down) = (x + w / 2, y + h / 2), (w, h) if theta == math.pi else (h, w)
    left, top = int(middle[0] - across / 2), int(middle[1] - down / 2)
    seen = np.asarray(picture)[top : top + down, left : left + across]
    np.testing.assert_allclose(upright, np.rot90(seen, round(theta / (math.pi / 2))), atol=1)


@pytest.mark.parametrize("theta", [0.3, -0.7, 1.2])
def test_a_turned_box_is_upright_as_opencv_turns_it(theta):
    picture, (x, y, w, h) = _picture((192, 160)), (70, 60, 50, 40)
    pre = replace(PLAIN, image_wh_px=(w, h))
    region = region_text(None, box_text([x, y, w, h], "xywh_px", theta))
    upright = prepare_image(_png(picture), region, pre).astype(int)
    # What MiewID does: turn the image about the box's centre, then cut the upright box.
    centre = (x + w / 2 - 0.5, y + h / 2 - 0.5)
    turn = cv2.getRotationMatrix2D(centre, math.degrees(theta), 1.0)
    turned = cv2.warpAffine(np.asarray(picture), turn, picture.size, flags=cv2.INTER_CUBIC)
    by_opencv = turned[y : y + h, x : x + w].astype(int)
    assert np.abs(upright - by_opencv).mean() < 1.5
    other = prepare_image(
        _png(picture), region_text(None, box_text([x, y, w, h], "xywh_px", -theta)), pre
    )
    assert np.abs(other - by_opencv).mean() > 10  # the test can tell the direction


def test_the_matte_and_the_background_are_of_the_box_without_a_mask():
    data = _png(_picture())
    region = region_text(None, "[20, 30, 40, 30]")
    pre = replace(PLAIN, crop="none", image_wh_px=WH)
    inside = np.zeros((80, 96), bool)
    inside[30:60, 20:60] = True
    np.testing.assert_array_equal(prepare_matte(data, region, pre) > 0, inside)
    filled = prepare_image(data, region, replace(pre, no_background=True))
    assert (filled[~inside] == 9).all()
    np.testing.assert_array_equal(filled[inside], np.asarray(_picture())[inside])


def test_a_box_lies_on_the_photograph_as_it_is_displayed():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright
    stream = io.BytesIO()
    _picture().save(stream, "PNG", exif=exif)
    part = used_part(stream.getvalue(), region_text(None, "[10, 60, 60, 36]"), "auto", 0.0)
    assert part.corners_42.tolist() == [[10, 60], [70, 60], [70, 96], [10, 96]]
    shown = _picture().transpose(Image.Transpose.ROTATE_270).crop((10, 60, 70, 96))
    pre = replace(PLAIN, image_wh_px=(60, 36))
    seen = prepare_image(stream.getvalue(), region_text(None, "[10, 60, 60, 36]"), pre)
    np.testing.assert_array_equal(seen, np.asarray(shown))


@pytest.mark.parametrize("crop", ["box", "mask"])
def test_without_box_and_mask_a_crop_is_refused_or_whole(crop):
    data = _png(_picture())
    with pytest.raises(MaskError, match="no mask and no box"):
        prepare_image(data, None, replace(PLAIN, crop=crop))
    kept = prepare_image(data, None, replace(PLAIN, crop=crop, no_mask="whole"))
    np.testing.assert_array_equal(kept, prepare_image(data, None, PLAIN))


def test_keys_say_how_boxes_are_used_and_are_the_old_ones_where_nothing_is_new():
    old = {"crop_to_mask": False}
    assert {**PLAIN.describe(), **old} == PLAIN.describe()
    assert "crop" not in replace(PLAIN, crop="mask").describe()
    kinds = [
        json.dumps(replace(PLAIN, crop=one).describe()) for one in ("auto", "none", "box", "mask")
    ]
    assert len(set(kinds)) == 4
    assert region_text("mask", None) == "mask"
    assert region_text(None, None) is None
    assert region_parts(region_text("m", "[1]")) == ("m", "[1]")
