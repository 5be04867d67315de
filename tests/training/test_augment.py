"""Each random change against torchvision or a plain loop, and the same for any batch."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from exreid.config.training import AugmentConfig
from exreid.training import augment as module
from exreid.training.augment import UNIFORMS, augment
from exreid.training.sampling import uniforms

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
COLOURS = {"mean_rgb": MEAN, "std_rgb": STD}
NOTHING = AugmentConfig(
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    blur=0.0,
    erase=0.0,
)
EVERYTHING = AugmentConfig(horizontal_flip=0.5, blur=0.5, erase=0.5, background=0.5)


def _with(**changes):
    return NOTHING.model_copy(update=changes)


def _images(count=6, channels=3, size=32):
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, size, size, channels), np.uint8))


def _normalised(images_BHWC):
    """Images as `augment` gives them, with nothing random done to them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images_BHWC[..., :3].permute(0, 3, 1, 2).float() / 255.0 - mean) / std


def _draws(count=6, epoch=0):
    return uniforms(0, epoch, range(count), UNIFORMS)


def _set(rows, **values):
    rows = rows.copy()
    for name, value in values.items():
        rows[:, module._NAMES.index(name)] = value
    return rows


def _pixels(normalised):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return normalised * std + mean


def test_nothing_asked_for_is_the_normalisation_alone():
    images = _images()
    out = augment(images, _draws(), NOTHING, **COLOURS)
    torch.testing.assert_close(out, _normalised(images), rtol=0, atol=0)
    expected = tv.normalize(images.permute(0, 3, 1, 2) / 255.0, MEAN, STD)
    torch.testing.assert_close(out, expected)


def test_an_image_is_changed_the_same_way_in_any_batch():
    images, draws = _images(8, channels=4), _draws(8)
    whole = augment(images, draws, EVERYTHING, **COLOURS)
    parts = [augment(images[i : i + 1], draws[i : i + 1], EVERYTHING, **COLOURS) for i in range(8)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    other = augment(images, _draws(8, epoch=1), EVERYTHING, **COLOURS)
    assert ((other - whole).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_mirror_images_only_where_asked():
    images = _images()
    rows = _draws()
    plain = _normalised(images)
    assert torch.equal(augment(images, rows, NOTHING, **COLOURS), plain)
    flipped = augment(images, rows, _with(horizontal_flip=0.5), **COLOURS)
    chosen = rows[:, module._NAMES.index("flip")] < 0.5
    assert 0 < chosen.sum() < len(chosen)
    for i, is_chosen in enumerate(chosen):
        expected = plain[i].flip(-1) if is_chosen else plain[i]
        assert torch.equal(flipped[i], expected)
    # With a crop, the mirror image comes from the same resampling.
    crop = _with(crop_area=(0.5, 0.5), horizontal_flip=1.0)
    straight = augment(images, _set(rows, left=0.3), _with(crop_area=(0.5, 0.5)), **COLOURS)
    mirrored = augment(images, _set(rows, left=0.3), crop, **COLOURS)
    torch.testing.assert_close(mirrored, straight.flip(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("left", "top"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)])
def test_a_crop_shows_its_part_of_the_image(left, top):
    # A ramp shows which columns and rows a crop holds.
    ramp = np.zeros((1, 64, 64, 3), np.uint8)
    ramp[0, :, :, 0] = np.arange(64) * 4
    ramp[0, :, :, 1] = (np.arange(64) * 4)[:, None]
    config = _with(crop_area=(0.25, 0.25), crop_aspect=(1.0, 1.0))
    rows = _set(_draws(1), left=left, top=top)
    out = _pixels(augment(torch.from_numpy(ramp), rows, config, **COLOURS))[0] * 255 / 4
    first_x, first_y = 32 * left, 32 * top
    # Output pixel j shows the place (j + 0.5) / 2 - 0.5 of the crop.
    places = (torch.arange(64) + 0.5) / 2 - 0.5
    inner = slice(2, -2)
    torch.testing.assert_close(out[0, 10, inner], first_x + places[inner], rtol=0, atol=0.02)
    torch.testing.assert_close(out[1, inner, 10], first_y + places[inner], rtol=0, atol=0.02)


def test_the_crop_has_the_area_and_aspect_asked_for():
    rows = _draws(200)
    ramp = np.zeros((200, 64, 64, 3), np.uint8)
    ramp[..., 0] = np.arange(64) * 4
    ramp[..., 1] = (np.arange(64) * 4)[:, None]
    config = _with(crop_area=(0.3, 0.8), crop_aspect=(0.8, 1.25))
    out = _pixels(augment(torch.from_numpy(ramp), rows, config, **COLOURS)) * 255 / 4
    across = (out[:, 0, 32, 48] - out[:, 0, 32, 16]) / 32
    down = (out[:, 1, 48, 32] - out[:, 1, 16, 32]) / 32
    area, aspect = across * down, across / down
    assert area.min() > 0.29
    assert area.max() < 0.81
    assert area.std() > 0.1
    assert aspect.min() > 0.79
    assert aspect.max() < 1.26
    assert aspect.std() > 0.1


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1.0])
def test_colours_as_torchvision_changes_them(uniform):
    images = _images(3)
    pixels = images.permute(0, 3, 1, 2) / 255.0
    factor = 0.6 + 0.8 * uniform
    for name, reference in (
        ("brightness", tv.adjust_brightness),
        ("contrast", tv.adjust_contrast),
        ("saturation", tv.adjust_saturation),
    ):
        rows = _set(_draws(3), **{name: uniform})
        out = _pixels(augment(images, rows, _with(**{name: 0.4}), **COLOURS))
        expected = torch.stack([reference(image, factor) for image in pixels])
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-3, msg=name)


def test_the_chosen_images_are_blurred_as_torchvision_does():
    images = _images(4)
    rows = _set(_draws(4), sigma=0.5)
    rows[:, module._NAMES.index("blur")] = [0.1, 0.9, 0.1, 0.9]
    out = _pixels(augment(images, rows, _with(blur=0.5, blur_sigma_px=(1.0, 2.0)), **COLOURS))
    pixels = images.permute(0, 3, 1, 2) / 255.0
    side = 2 * 6 + 1
    for i in (0, 2):
        expected = tv.gaussian_blur(pixels[i], [side, side], [1.5, 1.5])
        torch.testing.assert_close(out[i], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(out[1::2], pixels[1::2], rtol=0, atol=1e-6)


def test_an_erased_rectangle_has_the_area_asked_for():
    images, rows = _images(100, size=48), _draws(100)
    out = augment(images, rows, _with(erase=0.5, erase_area=(0.1, 0.2)), **COLOURS)
    plain = _normalised(images)
    changed = (out != plain).any(dim=1)
    chosen = torch.from_numpy(rows[:, module._NAMES.index("erase")] < 0.5)
    assert torch.equal(changed.any(dim=(1, 2)), chosen)
    share = changed[chosen].float().mean(dim=(1, 2))
    assert share.min() > 0.07
    assert share.max() < 0.24
    assert (out[changed.unsqueeze(1).expand_as(out)] == 0).all()
    for mask in changed[chosen]:
        rows_in, columns_in = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows_in[0] : rows_in[-1] + 1, columns_in[0] : columns_in[-1] + 1]
        assert box.float().mean() > 0.99, "a rectangle has no holes"


def test_only_the_background_is_replaced_and_only_where_chosen():
    images = _images(40, channels=4)
    images[..., 3] = 0
    images[:, 8:24, 4:20, 3] = 255
    rows = _draws(40)
    out = augment(images, rows, _with(background=0.5), **COLOURS)
    plain = _normalised(images)
    torch.testing.assert_close(out[:, :, 8:24, 4:20], plain[:, :, 8:24, 4:20])
    changed = ((out - plain).abs() > 1e-3).any(dim=(1, 2, 3))
    chosen = torch.from_numpy(rows[:, module._NAMES.index("background")] < 0.5)
    assert torch.equal(changed, chosen)
    behind = _pixels(out[chosen])[:, :, 0, 0]
    assert behind.std() > 0.1, "each image has a background of its own"
