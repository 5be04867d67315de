"""Random changes of a batch of training images, on its device.

Each image's changes come from its own row of uniform numbers (see `sampling.uniforms`): the same
image in the same epoch is changed the same way, whatever batch or worker it falls to.

Letters: B batch, H height, W width, C channels (3, or 4 with the mask).
"""

from __future__ import annotations

import math

import kornia
import numpy as np
import torch
from torch.nn import functional

from exreid.config.training import AugmentConfig

NOISE_CELLS = 6
"""The random background is noise of this many cells across and down, enlarged smoothly."""

_NAMES = (
    *("area", "aspect", "left", "top", "flip", "brightness", "contrast", "saturation"),
    *("blur", "sigma", "erase", "erase_area", "erase_aspect", "erase_left", "erase_top"),
    *("background", "strength"),
)
UNIFORMS = len(_NAMES) + 3 * NOISE_CELLS * NOISE_CELLS
"""Uniform numbers that `augment` takes for each image."""


def augment(
    images_BHWC: torch.Tensor,
    uniforms_BU: np.ndarray,
    config: AugmentConfig,
    *,
    mean_rgb: tuple[float, float, float],
    std_rgb: tuple[float, float, float],
) -> torch.Tensor:
    """uint8 images (B, H, W, 3 or 4) to changed, normalised ones: float32 (B, 3, H, W).

    A fourth channel is the mask, 255 on the animal. ``mean_rgb`` and ``std_rgb`` are fractions;
    erased pixels get the mean.
    """
    device = images_BHWC.device
    rows_UB = torch.from_numpy(uniforms_BU[:, : len(_NAMES)].T.astype(np.float32))
    u = dict(zip(_NAMES, rows_UB.to(device), strict=True))
    # Which images are blurred is known without asking the device.
    u["blur"] = rows_UB[_NAMES.index("blur")]
    pixels = images_BHWC.permute(0, 3, 1, 2).float() / 255.0
    images = pixels[:, :3]
    if pixels.shape[1] == 4 and config.background > 0:
        noise = torch.from_numpy(uniforms_BU[:, len(_NAMES) :]).to(device, torch.float32)
        images = replace_background(images, pixels[:, 3:], noise, u, config)
    images = crop_and_flip(images, u, config)
    images = change_colours(images, u, config)
    images = blur(images, u, config)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean_rgb, std_rgb))
    normalised = erase((images - mean) / std, u, config)
    return normalised.contiguous(memory_format=torch.channels_last)


def replace_background(
    images: torch.Tensor,
    mask_B1HW: torch.Tensor,
    noise: torch.Tensor,
    u: dict[str, torch.Tensor],
    config: AugmentConfig,
) -> torch.Tensor:
    """Smooth coloured noise where the mask is 0, with chance ``config.background``."""
    cells = noise.view(-1, 3, NOISE_CELLS, NOISE_CELLS)
    # Between one flat colour and a different one in each cell.
    spread = u["strength"].view(-1, 1, 1, 1)
    cells = cells.mean(dim=(2, 3), keepdim=True).lerp(cells, spread)
    behind = functional.interpolate(
        cells, images.shape[-2:], mode="bicubic", align_corners=False
    ).clamp(0, 1)
    keep = torch.where(_chosen(u["background"], config.background), mask_B1HW, 1.0)
    return behind.lerp(images, keep)


def crop_and_flip(
    images: torch.Tensor, u: dict[str, torch.Tensor], config: AugmentConfig
) -> torch.Tensor:
    """Random resized crop and mirror image in one bilinear resampling.

    The crop's area is uniform and its aspect log-uniform; a side that would not fit is cut to
    the image's own.
    """
    height, width = images.shape[-2:]
    flip = torch.where(u["flip"] < config.horizontal_flip, -1.0, 1.0)
    if config.crop_area == (1.0, 1.0) and config.crop_aspect == (1.0, 1.0):
        mirrored = images.flip(-1)
        return torch.where(flip.view(-1, 1, 1, 1) < 0, mirrored, images)
    area = _between(u["area"], *config.crop_area)
    aspect = _between(u["aspect"], *map(math.log, config.crop_aspect)).exp()
    across, down = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    centre_x = width * (across / 2 + u["left"] * (1 - across)) - 0.5
    centre_y = height * (down / 2 + u["top"] * (1 - down)) - 0.5
    zero = torch.zeros_like(across)
    scale_x, scale_y = flip / across, 1.0 / down
    # From the image's pixels to the crop's: the crop's centre goes to the middle.
    matrix_B23 = torch.stack(
        [
            torch.stack([scale_x, zero, (width - 1) / 2 - scale_x * centre_x], dim=1),
            torch.stack([zero, scale_y, (height - 1) / 2 - scale_y * centre_y], dim=1),
        ],
        dim=1,
    )
    return kornia.geometry.transform.warp_affine(
        images, matrix_B23, (height, width), mode="bilinear", padding_mode="border"
    )


def change_colours(
    images: torch.Tensor, u: dict[str, torch.Tensor], config: AugmentConfig
) -> torch.Tensor:
    """Brightness, then contrast about the image's mean grey, then saturation."""
    enhance = kornia.enhance
    if config.brightness:
        factor = _around_one(u["brightness"], config.brightness)
        images = enhance.adjust_brightness_accumulative(images, factor)
    if config.contrast:
        factor = _around_one(u["contrast"], config.contrast)
        images = enhance.adjust_contrast_with_mean_subtraction(images, factor)
    if config.saturation:
        factor = _around_one(u["saturation"], config.saturation)
        images = enhance.adjust_saturation_with_gray_subtraction(images, factor)
    return images


def blur(images: torch.Tensor, u: dict[str, torch.Tensor], config: AugmentConfig) -> torch.Tensor:
    """A Gaussian blur of the chosen images, its sigma uniform."""
    chosen = torch.nonzero(u["blur"] < config.blur).flatten().to(images.device)
    if len(chosen) == 0:
        return images
    sigma = _between(u["sigma"], *config.blur_sigma_px)[chosen]
    side = 2 * math.ceil(3 * config.blur_sigma_px[1]) + 1
    blurred = kornia.filters.gaussian_blur2d(
        images[chosen], side, torch.stack([sigma, sigma], dim=1)
    )
    return images.index_copy(0, chosen, blurred)


def erase(images: torch.Tensor, u: dict[str, torch.Tensor], config: AugmentConfig) -> torch.Tensor:
    """A rectangle of zeros (the mean colour, once normalised) in the chosen images."""
    if config.erase == 0:
        return images
    height, width = images.shape[-2:]
    area = _between(u["erase_area"], *config.erase_area)
    aspect = _between(u["erase_aspect"], -math.log(3.0), math.log(3.0)).exp()
    across = ((area * aspect).sqrt() * width).round().clamp(1, width)
    down = ((area / aspect).sqrt() * height).round().clamp(1, height)
    left = (u["erase_left"] * (width - across + 1)).floor()
    top = (u["erase_top"] * (height - down + 1)).floor()
    x = torch.arange(width, device=images.device).view(1, 1, 1, -1)
    y = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    inside = (
        (x >= _broad(left))
        & (x < _broad(left + across))
        & (y >= _broad(top))
        & (y < _broad(top + down))
    )
    return images.masked_fill(inside & _chosen(u["erase"], config.erase), 0.0)


def _between(uniform_B: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + uniform_B * (high - low)


def _around_one(uniform_B: torch.Tensor, width: float) -> torch.Tensor:
    return _between(uniform_B, 1.0 - width, 1.0 + width)


def _chosen(uniform_B: torch.Tensor, chance: float) -> torch.Tensor:
    return _broad(uniform_B < chance)


def _broad(values_B: torch.Tensor) -> torch.Tensor:
    return values_B.view(-1, 1, 1, 1)
