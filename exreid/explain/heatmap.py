"""Where on the animal the evidence lies: matched keypoints as a density over the image."""

from __future__ import annotations

import cv2
import numpy as np

from exreid.explain.canvas import Overlay, as_rgb, colours_of, resized
from exreid.explain.overlay import MatchedKeypoints
from exreid.explain.pair_layout import ImagePair, PairLayout

SIGMA_SHARE = 0.035
"""Width of one keypoint's spot, as a share of the image's longer side."""
HEATMAP_SIDE_PX = 384
"""Densities are smooth: they are computed at this size at most, and enlarged."""
STRENGTH = 0.75
HEAT_MAP = "inferno"


def evidence_density(
    xy_X2: np.ndarray,
    weight_X: np.ndarray,
    image_wh_px: tuple[int, int],
    *,
    mask_HW: np.ndarray | None = None,
    sigma_px: float | None = None,
) -> np.ndarray:
    """The density of the evidence: float32 (H, W) from 0 to 1, 1 at the densest place.

    The sum of a Gaussian of ``sigma_px`` (None: `SIGMA_SHARE` of the longer side) around each
    point (pixels, centres at whole numbers) times its weight, such as a match's confidence; then 0
    outside the mask. All zeros where nothing weighs anything.
    """
    width, height = image_wh_px
    if mask_HW is not None and mask_HW.shape != (height, width):
        raise ValueError(f"a mask of shape {mask_HW.shape} does not fit {width} x {height} pixels.")
    sigma = SIGMA_SHARE * max(width, height) if sigma_px is None else sigma_px
    scale = min(1.0, HEATMAP_SIDE_PX / max(width, height), 16.0 / sigma)
    work_w, work_h = max(1, round(width * scale)), max(1, round(height * scale))
    # The mean over a cell's place is what counts, so that a rounded size moves nothing.
    x = (np.asarray(xy_X2, np.float64)[:, 0] + 0.5) * work_w / width - 0.5
    y = (np.asarray(xy_X2, np.float64)[:, 1] + 0.5) * work_h / height - 0.5
    # A Gaussian in x times one in y: the sum over points is a matrix product.
    column_XW = np.exp(-0.5 * ((np.arange(work_w) - x[:, None]) / (sigma * work_w / width)) ** 2)
    row_XH = np.exp(-0.5 * ((np.arange(work_h) - y[:, None]) / (sigma * work_h / height)) ** 2)
    small = (row_XH * np.asarray(weight_X, np.float64)[:, None]).T @ column_XW
    density = cv2.resize(small.astype(np.float32), image_wh_px, interpolation=cv2.INTER_LINEAR)
    if mask_HW is not None:
        density = np.where(mask_HW, density, np.float32(0))
    peak = float(density.max(initial=0.0))
    return np.asarray(density / peak if peak > 0 else np.zeros_like(density), np.float32)


def heat_layer(density_HW: np.ndarray, *, strength: float = STRENGTH) -> np.ndarray:
    """The density as uint8 RGBA (H, W, 4), clear where there is nothing: a layer that a page lays
    over the image and switches off to show the coat."""
    density = np.clip(density_HW, 0.0, 1.0)
    alpha = np.round(255 * strength * density**0.7).astype(np.uint8)
    return np.dstack([colours_of(density, HEAT_MAP), alpha])


def blend(rgb: np.ndarray, density_HW: np.ndarray, *, strength: float = STRENGTH) -> np.ndarray:
    """The image (uint8, H, W, 3) with the density over it; a density of another size is
    stretched onto it."""
    rgb = as_rgb(rgb)
    wh_px = (rgb.shape[1], rgb.shape[0])
    layer = heat_layer(resized(np.asarray(density_HW, np.float32), wh_px), strength=strength)
    alpha = layer[..., 3:].astype(np.float32) / 255
    return np.round(rgb * (1 - alpha) + layer[..., :3] * alpha).astype(np.uint8)


def draw_evidence(
    pair: ImagePair,
    matches: MatchedKeypoints,
    *,
    width_px: int = 1200,
    with_caption: bool = False,
) -> Overlay:
    """The two images side by side, plain above, below with the density of their matched
    keypoints, weighted by confidence and clipped to the masks.

    Points are in pixels of the two images.
    """
    points = (matches.query_xy_X2, matches.gallery_xy_X2)
    hot = [
        blend(
            image,
            evidence_density(xy_X2, matches.confidence_X, image.shape[1::-1], mask_HW=mask),
        )
        for image, xy_X2, mask in zip(pair.images, points, pair.masks, strict=True)
    ]
    layout = PairLayout.of(pair, width_px)
    caption = (
        "Where the matched points lie close together, weighted by their confidence; bright is most."
        if len(matches)
        else "No point of the two was matched."
    )
    return layout.picture([layout.place(*hot)], caption, written=with_caption)
