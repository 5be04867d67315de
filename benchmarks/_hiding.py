"""Hiding parts of an image: what an explanation points at, and other parts of the same area.

An explanation is true where hiding what it points at costs more of the score than hiding anything
else of the same area (Petsiuk, Das & Saenko 2018, "RISE", call it deletion).
"""

from __future__ import annotations

import cv2
import numpy as np

from exreid.explain.heatmap import evidence_density

FILL_SHARE = 0.06
"""Width of the blur that a hidden part is filled with, as a share of the longer side."""
EDGE_PX = 2.0
HIDING_SIDE_PX = 96
"""The filling is smooth: it is computed at this size, and enlarged."""
LEAST_WEIGHT = 1e-3


def densest_region(density_HW: np.ndarray, share: float, within_HW: np.ndarray) -> np.ndarray:
    """bool (H, W): the densest pixels within a part, together ``share`` of its area."""
    place = np.flatnonzero(within_HW)
    count = round(share * len(place))
    order = np.argsort(-density_HW.ravel()[place], kind="stable")
    region = np.zeros(density_HW.size, bool)
    region[place[order[:count]]] = True
    return region.reshape(density_HW.shape)


def random_points(within_HW: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """float32 (count, 2): points (x, y) drawn evenly from a part of the image."""
    row, column = np.nonzero(within_HW)
    drawn = random.integers(0, len(row), count)
    return np.stack([column[drawn], row[drawn]], axis=1).astype(np.float32)


def region_of_points(
    xy_X2: np.ndarray, weight_X: np.ndarray, share: float, within_HW: np.ndarray
) -> np.ndarray:
    """bool (H, W): where these points are densest, together ``share`` of the part."""
    size = (within_HW.shape[1], within_HW.shape[0])
    return densest_region(evidence_density(xy_X2, weight_X, size), share, within_HW)


def hidden(image_HWC: np.ndarray, region_HW: np.ndarray) -> np.ndarray:
    """The image, the region filled smoothly from what surrounds it, so that no edge is made."""
    gone_HW = np.asarray(region_HW, np.float32)
    if not region_HW.any():
        return image_HWC.copy()
    fill_HWC = _surroundings(image_HWC.astype(np.float32), 1.0 - gone_HW)
    alpha = np.maximum(gone_HW, cv2.GaussianBlur(gone_HW, (0, 0), EDGE_PX))[..., None]
    return np.round(image_HWC * (1 - alpha) + fill_HWC * alpha).astype(np.uint8)


def _surroundings(image_HWC: np.ndarray, keep_HW: np.ndarray) -> np.ndarray:
    """For each place the mean colour of the kept places around it; of the whole where there are
    none."""
    if not keep_HW.any():
        return np.broadcast_to(image_HWC.mean(axis=(0, 1)), image_HWC.shape)
    height, width = keep_HW.shape
    scale = min(1.0, HIDING_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    keep = cv2.resize(keep_HW, size, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(image_HWC * keep_HW[..., None], size, interpolation=cv2.INTER_AREA)
    filled, known = np.zeros_like(colour), np.zeros(keep.shape, bool)
    # Wider and wider, until the largest hole is filled from its surroundings.
    sigma = FILL_SHARE * max(size)
    while not known.all():
        weight = cv2.GaussianBlur(keep, (0, 0), sigma)
        blurred = cv2.GaussianBlur(colour, (0, 0), sigma)
        new = ~known & (weight > LEAST_WEIGHT)
        filled[new] = blurred[new] / weight[new, None]
        known |= new
        sigma *= 2
    return np.asarray(cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR))
