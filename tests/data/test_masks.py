"""Masks: every spelling decodes to what pycocotools reads, and nothing hostile gets further."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools import mask as coco

from exreid.data.masks import decode_mask, encode_mask, fit_mask_to_image, parse_mask
from exreid.errors import MaskError

RUN_CHARACTERS = "".join(map(chr, range(48, 112)))


def _by_pycocotools(height, width, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycocotools 2.0 and numpy 2 disagree on `copy`
        encoded = {"size": [height, width], "counts": counts.encode()}
        return coco.decode(encoded).astype(bool)


def _runs(mask_HW):
    flat = np.concatenate([[False], mask_HW.T.reshape(-1)])
    return np.diff([0, *np.flatnonzero(np.diff(flat)), flat.size - 1]).tolist()


def _blocks(seed=0):
    random = np.random.default_rng(seed)
    return np.kron(random.random((5, 7)) > 0.5, np.ones((9, 8))).astype(bool)


def test_masks_in_every_spelling_decode_to_the_same():
    mask_HW = _blocks()
    compressed = json.loads(encode_mask(mask_HW))
    plain = {"size": compressed["size"], "counts": _runs(mask_HW)}
    as_bytes = {**compressed, "counts": compressed["counts"].encode()}
    annotation = {"id": 7, "segmentation": compressed}
    spellings = (compressed, plain, as_bytes, annotation)
    texts = (*(json.dumps(v) for v in (compressed, plain, annotation)), *map(str, spellings))
    for value in (*spellings, *texts):
        np.testing.assert_array_equal(decode_mask(value, (1, 1)), mask_HW)
    np.testing.assert_array_equal(_by_pycocotools(45, 56, compressed["counts"]), mask_HW)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_a_mask_survives_encoding(height, width, share, seed):
    mask_HW = np.random.default_rng(seed).random((height, width)) < share
    text = encode_mask(mask_HW)
    np.testing.assert_array_equal(decode_mask(text, (width, height)), mask_HW)
    np.testing.assert_array_equal(
        _by_pycocotools(height, width, json.loads(text)["counts"]), mask_HW
    )


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=60), st.text(RUN_CHARACTERS, max_size=60)),
    st.integers(-2, 9),
    st.integers(-2, 9),
)
def test_any_text_decodes_as_pycocotools_does_or_is_refused(counts, height, width):
    try:
        mask_HW = decode_mask({"size": [height, width], "counts": counts}, (4, 4))
    except MaskError:
        return
    np.testing.assert_array_equal(mask_HW, _by_pycocotools(height, width, counts))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_run_length_decodes_as_pycocotools_does_or_is_refused(data):
    good = json.loads(encode_mask(_blocks(data.draw(st.integers(0, 3)))))["counts"]
    place = data.draw(st.integers(0, len(good) - 1))
    swapped = data.draw(st.sampled_from(RUN_CHARACTERS))
    counts = good[:place] + swapped + good[place + data.draw(st.integers(0, 2)) :]
    try:
        mask_HW = decode_mask({"size": [45, 56], "counts": counts}, (56, 45))
    except MaskError:
        return
    np.testing.assert_array_equal(mask_HW, _by_pycocotools(45, 56, counts))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.sampled_from(["size", "counts", "segmentation"]), inner, max_size=3)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES)
def test_any_value_decodes_or_is_refused(value):
    for spelling in (json.dumps(value), str(value)):
        try:
            mask_HW = decode_mask(spelling, (6, 5))
        except MaskError:
            continue
        assert mask_HW.ndim == 2
        assert mask_HW.dtype == bool


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("__import__('os').system('x')", "neither JSON nor"),
        ("{", "neither JSON nor"),
        ("[" * 100_000, "neither JSON nor"),
        ("[]", "neither a COCO run length nor a polygon"),
        ("3", "neither a COCO run length nor a polygon"),
        ("", "neither JSON nor"),
        ({"counts": "04"}, "size None"),
        ({"size": [2, 2]}, "no 'counts'"),
        ({"size": [2.0, 2], "counts": "04"}, r"size \[2\.0, 2\]"),
        ({"size": [0, 2], "counts": ""}, r"size \[0, 2\]"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "over 134217728 pixels"),
        ({"size": [2, 2], "counts": ""}, "cut off"),
        ({"size": [2, 2], "counts": "o"}, "cut off"),
        ({"size": [2, 2], "counts": "0é"}, "byte 195 at 1"),
        ({"size": [2, 2], "counts": "\ud800"}, "byte 237 at 0"),
        ('{"size": [2, 2], "counts": "\\ud800"}', "byte 237 at 0"),
        ({"size": [2, 2], "counts": "oooooooo0"}, "longer than any image"),
        ({"size": [2, 2], "counts": "O"}, "negative"),
        ({"size": [3, 2], "counts": "13"}, "cover 4 pixels, its size 2 x 3 .* has 6"),
        ({"size": [2, 2], "counts": [2, -1, 3]}, "whole numbers"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "whole numbers"),
        ([[1, 2]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, 10**400]], "at least 3 points"),
        ([["a", 2, 3, 4, 5, 6]], "at least 3 points"),
        ([[0, 0, 10**9, 0, 5, 5]], "far outside the image of 8 x 8"),
        ([[0, 0, 8, 8] * 100_000], "far outside"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_reason(value, says):
    with pytest.raises(MaskError, match=says):
        decode_mask(value, (8, 8))


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"segmentation": p}, json.dumps, str])
def test_polygons_cover_their_inside(wrap):
    polygons = [[10, 5, 30, 5, 30, 25, 10, 25], [0, 0, 4, 0, 4, 4, 0, 4]]
    mask_HW = decode_mask(wrap(polygons), (40, 30))
    assert mask_HW.shape == (30, 40)
    assert mask_HW[6:24, 11:29].all()
    assert mask_HW[:4, :4].all()
    assert mask_HW.sum() == pytest.approx(416, abs=45)


def test_one_flat_polygon_is_a_list_of_one():
    flat = [10, 5, 30, 5, 30, 25, 10, 25]
    assert (decode_mask(flat, (40, 30)) == decode_mask([flat], (40, 30))).all()
    assert parse_mask(json.dumps(flat)) == flat


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_stored_image_is_turned_as_pillow_turns_the_image(orientation):
    stored_HW = np.random.default_rng(1).random((5, 8)) > 0.5
    image = Image.fromarray(stored_HW.astype(np.uint8))
    image.getexif()[0x0112] = orientation
    displayed_HW = np.asarray(ImageOps.exif_transpose(image)).astype(bool)
    displayed_wh = displayed_HW.shape[::-1]
    fitted = fit_mask_to_image(displayed_HW, displayed_wh, orientation)
    np.testing.assert_array_equal(fitted, displayed_HW)
    if orientation > 4:  # only then the size tells the stored image apart
        fitted = fit_mask_to_image(stored_HW, displayed_wh, orientation)
        np.testing.assert_array_equal(fitted, displayed_HW)


def test_a_mask_of_another_size_names_both_sizes():
    with pytest.raises(MaskError, match=r"mask is 8 x 5 pixels, the image 5 x 8 \(width x height"):
        fit_mask_to_image(np.ones((5, 8), bool), (5, 8), 1)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([40, 60, 240, 140], "looks like a box"),
        ({"bbox": [0.1, 0.2, 0.5, 0.5]}, "looks like a box"),
        ({"rle": [0, 1], "original_width": 3}, "Label Studio"),
        ({"category": "lynx"}, r"the keys \['category'\]"),
        ([{"segmentation": []}, {"segmentation": []}], "has 2 masks"),
        ("masks/a0_0.png", "name of a file"),
        ("9641 140 9881 140", "start and length"),
        ("array([1., 2.])", "numpy's own print"),
        ('{"size": [240, 320], "counts": "l]9', "cut off"),
    ],
)
def test_a_mask_of_another_format_is_named_for_what_it_looks_like(value, says):
    with pytest.raises(MaskError, match=says):
        decode_mask(value, (320, 240))


def test_spellings_that_mean_one_thing_only_are_read():
    square = [10, 5, 30, 5, 30, 25, 10, 25]
    mask_HW = decode_mask([square], (40, 30))
    points = [[10, 5], [30, 5], [30, 25], [10, 25]]
    rle = json.loads(encode_mask(mask_HW))
    printed = {**rle, "counts": str(rle["counts"].encode())}
    for value in (points, {"points": points, "label": "lynx"}, [{"segmentation": rle}], printed):
        np.testing.assert_array_equal(decode_mask(json.dumps(value), (40, 30)), mask_HW)


@pytest.mark.parametrize(
    ("polygon", "wh", "says"),
    [
        ([0.1, 0.2, 0.9, 0.2, 0.9, 0.8], (320, 240), "looks like fractions.*320 x 240"),
        ([0, 0, 1, 0, 1, 1, 0, 1], (4000, 3000), "looks like fractions"),
        ([12.5, 25.0, 87.5, 25.0, 87.5, 83.3, 12.5, 83.3], (320, 240), "looks like per cent"),
        ([10, 10, 90, 10, 90, 90], (640, 480), "looks like per cent"),
        ([40, 40, 60, 40, 60, 60], (4000, 3000), "looks like per cent"),
        ([100, 2500, 2900, 2500, 2900, 2900], (3000, 2000), "photograph of another size"),
        ([500, 100, 2900, 100, 2900, 1900], (2000, 3000), "orientation tag"),
        ([400, 60, 600, 60, 600, 200], (320, 240), "outside the image of 320 x 240"),
        ([-200, 60, 100, 60, 100, 200], (320, 240), "outside the image"),
    ],
)
def test_a_polygon_that_cannot_lie_on_the_image_is_named_for_what_it_looks_like(polygon, wh, says):
    with pytest.raises(MaskError, match=says):
        decode_mask([polygon], wh)


@pytest.mark.parametrize(
    ("polygon", "wh"),
    [
        ([10, 10, 90, 10, 90, 90], (100, 100)),
        ([10.5, 10.5, 90, 10, 90, 90], (128, 128)),
        ([20, 20, 60, 20, 60, 60], (320, 240)),
        ([40.5, 60.5, 120.2, 60.5, 120.2, 200.1], (320, 240)),
        ([-3, 10, 322, 10, 322, 242], (320, 240)),
        ([0, 0, 1, 0, 1, 1, 0, 1], (2, 2)),
    ],
)
def test_a_polygon_that_may_lie_on_the_image_is_taken(polygon, wh):
    assert decode_mask([polygon], wh).any()


def test_a_mask_of_another_size_is_named_for_what_it_looks_like():
    with pytest.raises(MaskError, match=r"\[width, height\]; COCO's is \[height, width\]"):
        fit_mask_to_image(np.ones((320, 240), bool), (320, 240), 1)
    with pytest.raises(MaskError, match="at 0.5 of its size"):
        fit_mask_to_image(np.ones((120, 160), bool), (320, 240), 1)
