"""Metadata, masks and images: what is right comes through, what is broken is named."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools import mask as coco
from timm.data import create_transform

from exreid.data.images import Preprocessing, load_image, prepare_image
from exreid.data.masks import decode_mask, encode_mask
from exreid.data.metadata import Columns, codes, load_images, normalised_path, select_split
from exreid.errors import ImageError, MaskError, MetadataError

COLUMNS = Columns(split="split", encounter=("visit",))


def _preprocessing(**changes):
    plain = {
        "image_wh_px": (64, 64),
        "resize": "stretch",
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "no_background": False,
        "crop_to_mask": False,
        "crop_margin": 0.0,
        "fill_rgb": (255, 0, 255),
    }
    return Preprocessing(**{**plain, **changes})


def _picture(width=96, height=80, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _table(folder, **changes):
    (folder / "img").mkdir(exist_ok=True)
    for i in range(4):
        _picture(seed=i).save(folder / f"img/{i}.png")
    columns = {
        "path": [f"img/{i}.png" for i in range(4)],
        "unique_name": ["007", "007", "NA", "12"],
        "split": ["train", "test", "train", "test"],
        "visit": ["1", "2", "3", None],
        "date": ["14.03.2016", None, "2016-03-15", "16/03/2016"],
        **changes,
    }
    pd.DataFrame(columns).to_csv(folder / "metadata.csv", index=False)


def test_a_table_is_read_as_it_stands(tmp_path):
    _table(tmp_path)
    table, rejected = load_images(str(tmp_path), columns=COLUMNS)
    assert rejected == []
    assert table.rows["identity"].tolist() == ["007", "007", "NA", "12"]
    assert table.rows["image_id"].tolist() == [f"img/{i}.png" for i in range(4)]
    assert table.rows["row"].tolist() == [2, 3, 4, 5]
    assert table.rows["date"].dt.day.tolist()[0] == 14
    assert table.rows["date"].isna().tolist() == [False, True, False, False]
    assert table.rows["encounter"].isna().tolist() == [False, False, False, True]
    assert select_split(table, "test").tolist() == [1, 3]


def test_parquet_with_numbers_gives_the_same_text(tmp_path):
    _table(tmp_path)
    frame = pd.DataFrame(
        {
            "path": ["img/0.png", "img/1.png"],
            "unique_name": [7, 8],
            "split": ["train", "test"],
            "visit": [1.0, np.nan],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table, _ = load_images(str(tmp_path), metadata_file="t.parquet", columns=COLUMNS)
    assert table.rows["identity"].tolist() == ["7", "8"]
    assert table.rows["encounter"].tolist() == ["1:1", None]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": ["img/0.png", "img/./0.png", "img/2.png", "img/3.png"]}, "line 3: .*line 2 alr"),
        (
            {"path": ["../x.png", "img/1.png", "img/2.png", "img/3.png"]},
            "line 2: .*leaves the data",
        ),
        ({"path": ["/etc/passwd", "img/1.png", "img/2.png", "img/3.png"]}, "line 2: .*is absolute"),
        ({"path": ["img/0.png", "img/1.png", "img/2.png", "no.png"]}, "line 5: no such file"),
        ({"unique_name": ["a", None, "b", "c"]}, "line 3: .*not known"),
        ({"unique_name": ["a", "unknown", "b", "c"]}, "line 3: .*not known"),
        ({"date": ["40.13.2016", None, None, None]}, "line 2: date '40.13.2016'"),
    ],
)
def test_a_bad_row_is_named_or_left_out_and_listed(tmp_path, changes, says):
    _table(tmp_path, **changes)
    with pytest.raises(MetadataError, match=says):
        load_images(str(tmp_path), columns=COLUMNS)
    table, rejected = load_images(str(tmp_path), columns=COLUMNS, on_error="skip")
    assert len(table) == 3
    assert [(item.stage, bool(item.reason)) for item in rejected] == [("metadata", True)]


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path):
    _table(tmp_path)
    with pytest.raises(MetadataError, match=r"'unique_nam'.*Did you mean 'unique_name'.*label_col"):
        load_images(str(tmp_path), columns=Columns(identity="unique_nam"))


def test_an_empty_split_lists_the_splits_there_are(tmp_path):
    _table(tmp_path)
    table, _ = load_images(str(tmp_path), columns=COLUMNS)
    with pytest.raises(MetadataError, match=r"'val'; the splits are 'train' \(2\), 'test' \(2\)"):
        select_split(table, "val")


@pytest.mark.parametrize(
    "path", ["..", "a/../../b", "a\\..\\..\\b", "C:\\x", "s3://b/x", "", "a\0"]
)
def test_paths_that_leave_the_root(path):
    with pytest.raises(ValueError, match=r"leaves|absolute|empty"):
        normalised_path(path)


def test_codes_are_shared_and_sorted():
    first, second = codes(["b", None, "a"], ["c", "b"])
    assert (first.tolist(), second.tolist()) == ([1, -1, 0], [2, 1])


def test_masks_in_every_spelling_decode_to_the_same():
    random = np.random.default_rng(0)
    mask_HW = np.kron(random.random((5, 7)) > 0.5, np.ones((9, 8))).astype(bool)
    compressed = json.loads(encode_mask(mask_HW))
    flat = mask_HW.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    runs = np.diff([0, *edges, len(flat)]).tolist()
    plain = {"size": compressed["size"], "counts": runs}
    for value in (compressed, json.dumps(compressed), str(compressed), plain, json.dumps(plain)):
        np.testing.assert_array_equal(decode_mask(value, (1, 1)), mask_HW)
    expected = coco.decode({**compressed, "counts": compressed["counts"].encode()})
    np.testing.assert_array_equal(mask_HW, expected.astype(bool))


def test_a_polygon_covers_its_inside():
    mask_HW = decode_mask([[10, 5, 30, 5, 30, 25, 10, 25]], (40, 30))
    assert mask_HW.shape == (30, 40)
    assert mask_HW[6:24, 11:29].all()
    assert mask_HW.sum() == pytest.approx(400, abs=45)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.integers(-2, 9), st.integers(-2, 9))
def test_any_text_decodes_or_is_refused(counts, height, width):
    value = {"size": [height, width], "counts": counts}
    try:
        mask_HW = decode_mask(value, (4, 4))
    except MaskError:
        return
    assert mask_HW.shape == (height, width)
    if height and width:  # what is accepted is what pycocotools reads
        expected = coco.decode({"size": [height, width], "counts": counts.encode()})
        np.testing.assert_array_equal(mask_HW, expected.astype(bool))


@pytest.mark.parametrize("value", ["__import__('os').system('x')", "{", "[]", "3", "[[1,2]]"])
def test_what_is_no_mask_is_refused(value):
    with pytest.raises(MaskError):
        decode_mask(value, (8, 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_image_and_mask_alike(orientation):
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:20, 8:20] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(Image.fromarray(stored), exif=exif)
    displayed = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(np.asarray(load_image(data).image), displayed)
    pre = _preprocessing(image_wh_px=displayed.shape[1::-1], no_background=True)
    if orientation > 4:  # only then the size tells a mask of the stored image apart
        turned = prepare_image(data, encode_mask(stored[..., 0] > 0), pre)
        np.testing.assert_array_equal((turned == (255, 0, 255)).all(2), displayed[..., 0] == 0)
    as_seen = prepare_image(data, encode_mask(displayed[..., 0] > 0), pre)
    np.testing.assert_array_equal((as_seen == (255, 0, 255)).all(2), displayed[..., 0] == 0)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 333), (224, 224)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crop_is_what_timm_does_to_the_bit(width, height, interpolation):
    data = _bytes(_picture(width, height))
    transform = create_transform(
        (3, 64, 64), interpolation=interpolation, crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1)
    )
    theirs = (transform(Image.open(io.BytesIO(data))).numpy() * 255).round().astype(np.uint8)
    ours = prepare_image(data, None, _preprocessing(resize="crop", interpolation=interpolation))
    np.testing.assert_array_equal(ours, theirs.transpose(1, 2, 0))


def test_a_large_jpeg_decoded_at_reduced_scale_stays_close():
    data = _bytes(_picture(1600, 1200), "JPEG", quality=95)
    assert load_image(data, min_side_px=64).image.size == (200, 150)
    reduced = prepare_image(data, None, _preprocessing()).astype(int)
    whole = prepare_image(data, None, _preprocessing(reduced_decode=False)).astype(int)
    assert np.abs(reduced - whole).mean() < 2.0
    assert not np.array_equal(reduced, whole)


def test_a_mask_shrinks_with_a_reduced_jpeg():
    data = _bytes(_picture(1600, 1200), "JPEG")
    mask_HW = np.zeros((1200, 1600), bool)
    mask_HW[:, :800] = True
    ours = prepare_image(data, encode_mask(mask_HW), _preprocessing(no_background=True))
    assert (ours[:, 36:] == (255, 0, 255)).all()
    assert (ours[:, :28] != (255, 0, 255)).any(axis=2).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = np.linspace(0, 255, 96, dtype=np.uint8)[None].repeat(80, axis=0)
    if mode == "1":
        grey = np.where(grey < 128, 0, 255).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
        data = _bytes(image)
    elif mode == "CMYK":
        data = _bytes(Image.fromarray(grey).convert("CMYK"), "JPEG", quality=100)
    else:
        data = _bytes(Image.fromarray(grey).convert(mode))
    result = np.asarray(load_image(data).image).astype(int)
    assert np.abs(result - grey[..., None]).max() <= 4


def test_transparent_pixels_take_the_fill_colour():
    image = Image.new("RGBA", (8, 8), (1, 2, 3, 0))
    pixels = np.asarray(load_image(_bytes(image), fill_rgb=(9, 8, 7)).image)
    assert (pixels == (9, 8, 7)).all()


def _truncated():
    return _bytes(_picture(200, 200), "JPEG")[:1500]


@pytest.mark.parametrize("data", [b"", b"no image at all", _truncated(), _truncated()[:30]])
def test_a_broken_file_is_refused(data):
    with pytest.raises(ImageError):
        load_image(data)


def test_a_mask_of_the_wrong_size_names_both():
    with pytest.raises(MaskError, match="mask is 30 x 20 pixels, the image 96 x 80"):
        prepare_image(
            _bytes(_picture()),
            encode_mask(np.ones((20, 30), bool)),
            _preprocessing(no_background=True),
        )


@pytest.mark.parametrize("mask", [None, encode_mask(np.zeros((80, 96), bool))])
def test_no_mask_or_an_empty_one_is_refused_where_it_is_needed(mask):
    with pytest.raises(MaskError):
        prepare_image(_bytes(_picture()), mask, _preprocessing(no_background=True))


def test_cropping_to_the_mask_keeps_its_box():
    pixels = np.zeros((80, 96, 3), np.uint8)
    pixels[20:40, 30:70] = 255
    data = _bytes(Image.fromarray(pixels))
    mask = encode_mask(pixels[..., 0] > 0)
    assert prepare_image(data, mask, _preprocessing(crop_to_mask=True)).min() == 255
    wider = prepare_image(data, mask, _preprocessing(crop_to_mask=True, crop_margin=0.25))
    assert wider[0, 0].max() == 0
