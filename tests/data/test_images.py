"""Images: timm's pixels, every mode and orientation, reduced decoding, and broken files named."""

import base64
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from timm.data import create_transform

from exreid.data import image_files, images
from exreid.data.image_files import load_image
from exreid.data.images import Preprocessing, prepare_image
from exreid.data.masks import encode_mask
from exreid.errors import ImageError, MaskError

MAGENTA = (255, 0, 255)
PLAIN = Preprocessing(
    image_wh_px=(64, 64),
    resize="stretch",
    crop_pct=0.875,
    interpolation="bicubic",
    no_background=False,
    crop="none",
    crop_margin=0.0,
    fill_rgb=MAGENTA,
)
WITHOUT_BACKGROUND = replace(PLAIN, no_background=True)
FILE_SIDE_LIMIT = 128


def _picture(width=96, height=80, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _pixels(data, **options):
    return np.asarray(load_image(data, **options).image).astype(int)


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 333), (224, 224), (50, 70)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_crop_is_what_timm_does_to_the_bit(width, height, interpolation, crop_pct):
    data = _bytes(_picture(width, height), "JPEG")
    transform = create_transform(
        (3, 64, 64), interpolation=interpolation, crop_pct=crop_pct, mean=(0, 0, 0), std=(1, 1, 1)
    )
    theirs = (transform(Image.open(io.BytesIO(data))).numpy() * 255).round().astype(np.uint8)
    pre = replace(
        PLAIN,
        resize="crop",
        interpolation=interpolation,
        crop_pct=crop_pct,
        reduced_decode=False,
    )
    np.testing.assert_array_equal(prepare_image(data, None, pre), theirs.transpose(1, 2, 0))


@pytest.mark.parametrize("out", [(64, 64), (96, 40), (40, 96)])
@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("shape", [(60, 60), (300, 40), (40, 300)])
def test_every_way_fills_the_size_asked_for_and_only_padding_shows_the_fill(out, resize, shape):
    data = _bytes(Image.new("RGB", shape, (9, 99, 9)))
    pre = replace(PLAIN, image_wh_px=out, resize=resize)
    result = prepare_image(data, None, pre)
    assert result.shape == (out[1], out[0], 3)
    assert result.dtype == np.uint8
    filled = (result == MAGENTA).all(axis=2)
    if resize != "pad":
        assert not filled.any()
    else:
        aspect = min(out[0] / shape[0], out[1] / shape[1])
        covered = round(shape[0] * aspect) * round(shape[1] * aspect)
        assert (~filled).sum() == covered
        assert abs(int(filled[0].sum()) - int(filled[-1].sum())) <= out[0]


def test_stretch_and_pad_are_pillows():
    picture = _picture(150, 100)
    stretched = prepare_image(_bytes(picture), None, PLAIN)
    expected = picture.resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(stretched, np.asarray(expected))
    padded = prepare_image(_bytes(picture), None, replace(PLAIN, resize="pad"))
    expected = ImageOps.pad(picture, (64, 64), Image.Resampling.BICUBIC, color=MAGENTA)
    np.testing.assert_array_equal(padded, np.asarray(expected))


@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_jpeg_is_decoded_no_smaller_than_twice_its_target(form):
    options = {"save_all": True, "append_images": [_picture(64, 48)]} if form == "MPO" else {}
    data = _bytes(_picture(1600, 1200), form, **options)
    for side, decoded in ((64, 200), (75, 200), (76, 400), (150, 400), (300, 800), (301, 1600)):
        assert load_image(data, min_side_px=side).image.width == decoded
    assert load_image(data).image.size == (1600, 1200)
    assert load_image(data, min_side_px=64).full_wh_px == (1600, 1200)


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("crop", ["none", "mask"])
def test_reduced_decoding_moves_the_pixels_little(resize, orientation, crop):
    data = _bytes(_picture(1003, 757), "JPEG", quality=95, exif=_exif(orientation))
    width, height = load_image(data).full_wh_px
    mask_HW = np.zeros((height, width), bool)
    mask_HW[60:700, 30:720] = True
    pre = replace(PLAIN, resize=resize, crop=crop, image_wh_px=(48, 48))
    mask = encode_mask(mask_HW)
    reduced = prepare_image(data, mask, pre).astype(int)
    whole = prepare_image(data, mask, replace(pre, reduced_decode=False)).astype(int)
    assert np.abs(reduced - whole).mean() < 0.5
    assert not np.array_equal(reduced, whole)


def test_a_mask_shrinks_with_a_reduced_jpeg_and_never_to_nothing():
    data = _bytes(_picture(1600, 1200), "JPEG")
    mask_HW = np.zeros((1200, 1600), bool)
    mask_HW[:, :800] = True
    result = prepare_image(data, encode_mask(mask_HW), WITHOUT_BACKGROUND)
    assert (result[:, 34:] == MAGENTA).all()
    assert (result[:, :30] != MAGENTA).any(axis=2).all()
    mask_HW[:] = False
    mask_HW[600:604, 800:804] = True
    speck = prepare_image(data, encode_mask(mask_HW), WITHOUT_BACKGROUND)
    assert (speck != MAGENTA).any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_image_and_mask_alike(orientation):
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:20, 8:20] = 200
    data = _bytes(Image.fromarray(stored), exif=_exif(orientation))
    displayed = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = load_image(data)
    np.testing.assert_array_equal(np.asarray(decoded.image), displayed)
    assert decoded.full_wh_px == displayed.shape[1::-1]
    assert decoded.exif_orientation == orientation
    pre = replace(WITHOUT_BACKGROUND, image_wh_px=displayed.shape[1::-1])
    masks = [displayed[..., 0] > 0]
    if orientation > 4:  # only then the size tells a mask of the stored image apart
        masks.append(stored[..., 0] > 0)
    for mask_HW in masks:
        result = prepare_image(data, encode_mask(mask_HW), pre)
        np.testing.assert_array_equal((result == MAGENTA).all(2), displayed[..., 0] == 0)


@pytest.mark.parametrize("tag", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(tag):
    data = _bytes(_picture(), exif=_exif(tag))
    np.testing.assert_array_equal(_pixels(data), np.asarray(_picture()))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16", "TIFF", "I;16B"])
def test_every_mode_becomes_rgb(mode):
    grey = np.linspace(0, 255, 96, dtype=np.uint8)[None].repeat(80, axis=0)
    deep = grey.astype(np.uint16) * 257
    if mode == "1":
        grey = np.where(grey < 128, 0, 255).astype(np.uint8)
    if mode == "I;16":
        data = _bytes(Image.fromarray(deep))
    elif mode == "TIFF":
        data = _bytes(Image.fromarray(deep), "TIFF")
    elif mode == "I;16B":
        data = _bytes(Image.frombytes("I;16B", (96, 80), deep.astype(">u2").tobytes()), "TIFF")
    elif mode == "CMYK":
        data = _bytes(Image.fromarray(grey).convert("CMYK"), "JPEG", quality=100)
    else:
        data = _bytes(Image.fromarray(grey).convert(mode))
    assert np.abs(_pixels(data) - grey[..., None]).max() <= (1 if mode != "CMYK" else 4)


def test_transparent_pixels_take_the_fill_colour():
    fill = (9, 8, 7)
    half = Image.fromarray(np.full((8, 8, 4), (200, 100, 0, 128), np.uint8))
    expected = np.array([200, 100, 0]) * 128 / 255 + np.array(fill) * 127 / 255
    assert np.abs(_pixels(_bytes(half), fill_rgb=fill) - expected).max() <= 1
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([50] * 768)
    palette.putpixel((0, 0), 4)
    keyed = Image.new("RGB", (8, 8), (1, 2, 3))
    keyed.putpixel((0, 0), (50, 50, 50))
    for data in (
        _bytes(palette, transparency=3),
        _bytes(keyed, transparency=(1, 2, 3)),
        _bytes(Image.new("LA", (8, 8), (77, 0))),
    ):
        pixels = _pixels(data, fill_rgb=fill)
        assert (pixels[1:] == fill).all()
        assert tuple(pixels[0, 0]) in ((50, 50, 50), fill)


def _large_jpeg():
    return _bytes(_picture(200, 200), "JPEG")


def _corrupt_png():
    data = bytearray(_bytes(_picture()))
    data[60:90] = bytes(30)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (_large_jpeg()[:1500], "damaged image.*truncated"),
        (_large_jpeg()[:30], "damaged|not an image"),
        (_large_jpeg()[:2] + bytes(400), "damaged|not an image"),
        (_large_jpeg()[:160] + bytes(40) + _large_jpeg()[200:], "damaged|not an image"),
        (_corrupt_png(), "damaged"),
        (_bytes(Image.new("F", (4, 4)), "TIFF"), "fractions"),
        (_bytes(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "70000, not 16 bit"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(data, says):
    with pytest.raises(ImageError, match=says):
        load_image(data)
    with pytest.raises(ImageError, match=says):
        prepare_image(data, None, PLAIN)


def test_any_cut_or_flip_of_a_file_is_an_image_or_an_image_error():
    random = np.random.default_rng(0)
    for form in ("JPEG", "PNG", "TIFF", "GIF", "WEBP"):
        good = _bytes(_picture(40, 30), form)
        for _ in range(60):
            data = bytearray(good[: random.integers(1, len(good) + 1)])
            data[random.integers(0, len(data))] ^= 1 << random.integers(0, 8)
            try:
                result = prepare_image(bytes(data), None, PLAIN)
            except ImageError:
                continue
            assert result.shape == (64, 64, 3)


def test_an_image_that_claims_too_many_pixels_is_refused(monkeypatch):
    huge = _bytes(Image.new("1", (20_000, 9_000)))
    with pytest.raises(ImageError, match=r"too large|over the limit"):
        load_image(huge)
    for module in (image_files, images):
        monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", FILE_SIDE_LIMIT**2)
    with pytest.raises(ImageError, match="image of 130 x 128 pixels is over the limit of 16384"):
        load_image(_bytes(_picture(130, 128)))
    assert load_image(_bytes(_picture(128, 128))).full_wh_px == (128, 128)
    with pytest.raises(ImageError, match="1 x 4000 pixels is too narrow"):
        prepare_image(_bytes(Image.new("L", (1, 4000))), None, replace(PLAIN, resize="crop"))


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (None, "no mask.*dataset.no_background=false"),
        ("", "no mask.*dataset.no_background=false"),
        (encode_mask(np.zeros((80, 96), bool)), "mask is empty.*dataset.no_background=false"),
        (
            encode_mask(np.ones((20, 30), bool)),
            r"mask is 30 x 20 pixels, the image 96 x 80 \(width",
        ),
        (json.dumps({"size": [80, 96], "counts": "\u00ff"}), "undecodable mask"),
    ],
)
@pytest.mark.parametrize("wish", [{"no_background": True}, {"crop": "mask"}])
def test_a_mask_that_is_needed_and_unusable_is_refused(mask, says, wish):
    with pytest.raises(MaskError, match=says):
        prepare_image(_bytes(_picture()), mask, replace(PLAIN, **wish))


def test_a_mask_that_is_not_needed_is_not_looked_at():
    with_mask = prepare_image(_bytes(_picture()), "no mask at all", PLAIN)
    np.testing.assert_array_equal(with_mask, prepare_image(_bytes(_picture()), None, PLAIN))


def test_cropping_to_the_mask_keeps_its_box_and_the_margin():
    pixels = np.zeros((80, 96, 3), np.uint8)
    pixels[20:40, 30:70] = 255
    data = _bytes(Image.fromarray(pixels))
    mask = encode_mask(pixels[..., 0] > 0)
    assert prepare_image(data, mask, replace(PLAIN, crop="mask")).min() == 255
    wider = replace(PLAIN, crop="mask", crop_margin=0.25, image_wh_px=(60, 40))
    expected = Image.fromarray(pixels[10:50, 20:80])
    np.testing.assert_array_equal(prepare_image(data, mask, wider), np.asarray(expected))
    far = replace(wider, crop_margin=9.0, image_wh_px=(96, 80))
    np.testing.assert_array_equal(prepare_image(data, mask, far), pixels)


def test_the_description_is_json_and_tells_every_setting():
    described = json.loads(json.dumps(PLAIN.describe()))
    assert described.pop("stage_version") == images.IMAGES_VERSION
    assert set(described) == {*vars(PLAIN), "crop_to_mask"} - {"no_mask"}
    assert replace(PLAIN, no_mask="whole").describe()["no_mask"] == "whole"
    assert replace(PLAIN, crop_margin=0.1).describe() != PLAIN.describe()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_fewer_bits_in_a_16_bit_file_is_as_bright_as_it_was(bits, form):
    grey = np.linspace(0, 255, 96, dtype=np.uint8)[None].repeat(80, axis=0)
    deep = (grey.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    assert np.abs(_pixels(_bytes(Image.fromarray(deep), form)) - grey[..., None]).max() <= 1


def test_a_speck_is_no_animal():
    mask_HW = np.zeros((80, 96), bool)
    mask_HW[40, 40] = True
    with pytest.raises(MaskError, match="1 of 7680 pixels: too few for an animal"):
        prepare_image(_bytes(_picture()), encode_mask(mask_HW), WITHOUT_BACKGROUND)


def test_a_photograph_without_a_mask_may_be_taken_whole():
    data = _bytes(_picture())
    whole = prepare_image(data, None, PLAIN)
    for wish in ({"crop": "mask"}, {"no_background": True}):
        pre = replace(PLAIN, **wish, no_mask="whole")
        np.testing.assert_array_equal(prepare_image(data, None, pre), whole)
        assert images.used_wh_px(data, None, pre) == (96, 80)
        with pytest.raises(MaskError, match="mask is empty"):
            prepare_image(data, encode_mask(np.zeros((80, 96), bool)), pre)


def test_a_picture_that_asks_for_all_memory_is_a_bad_picture(monkeypatch):
    def load(self):
        raise MemoryError

    data = _bytes(_picture(), "BMP")
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", load)
    for read in (load_image, lambda data: prepare_image(data, None, PLAIN)):
        with pytest.raises(ImageError, match="more memory than there is"):
            read(data)


HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAIYAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAA"
    "AwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAAB"
    "AAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAI5t"
    "ZGF0AAAAgigBrwY4iS58L/fgT///j1f2X90Q2ppl/ZcTyP9kZj//11EJv/ATs0QDoheXabxaYnR/UGKpeLFSIzP7+8hW"
    "Q/Wf12zf3NwAH81Nr1u8khknR4owE2FzqL9i2pJS3K5mRC7d2vYQZVnaDfw8Zh2gJWYoJ7yrS4X8lXS1IKIi/v5xEcA="
)
"""64 x 48 pixels, left half (200, 10, 10), right half (10, 10, 200), by libheif's encoder."""


def test_a_phones_photograph_is_read_where_the_extra_is_installed():
    pytest.importorskip("pi_heif")
    pixels = _pixels(base64.b64decode(HEIC))
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[24, 10] - (200, 10, 10)).max() < 12
    assert np.abs(pixels[24, 54] - (10, 10, 200)).max() < 12


def test_a_phones_photograph_is_named_where_the_extra_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"HEIC photograph.*exreid\[heif\].*JPEG"):
        load_image(base64.b64decode(HEIC))
