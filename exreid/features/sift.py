"""SIFT's keypoints (Lowe 2004) by OpenCV, described as RootSIFT (Arandjelovic & Zisserman 2012).

The settings are those that the published LightGlue for SIFT was trained with.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from exreid.features.detected import Detected, stacked
from exreid.models.superpoint import LUMA

CONTRAST_THRESHOLD, EDGE_THRESHOLD, LAYERS = 0.0066667, 10, 4
LENGTH = 128


class Sift:
    """Detects and describes; on the CPU, whatever the matcher runs on."""

    def __init__(self, keypoints: int) -> None:
        self.keypoints = keypoints
        self.sift = cv2.SIFT_create(  # type: ignore[attr-defined]
            nOctaveLayers=LAYERS,
            contrastThreshold=CONTRAST_THRESHOLD,
            edgeThreshold=EDGE_THRESHOLD,
        )

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """See `exreid.features.local.Detect`."""
        grey = torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA, device=images.device))
        grey_BHW = (grey * 255).to(torch.uint8).cpu().numpy()
        masks = [None] * len(grey_BHW) if mask is None else mask.cpu().numpy()
        detected = [self._detect(*pair) for pair in zip(grey_BHW, masks, strict=True)]
        on_device = [tuple(part.to(images.device) for part in parts) for parts in detected]
        return stacked(on_device)

    def _detect(self, grey_HW: np.ndarray, mask_HW: np.ndarray | None) -> tuple[torch.Tensor, ...]:
        points, descriptors = self.sift.detectAndCompute(grey_HW, None)
        rows = [(*p.pt, p.size, np.deg2rad(p.angle), p.response) for p in points]
        table = np.array(rows, np.float32).reshape(-1, 5)
        kept = best_of_each_pixel(table, grey_HW.shape, mask_HW)[: self.keypoints]
        raw = np.zeros((0, LENGTH), np.float32) if descriptors is None else descriptors[kept]
        return (
            torch.from_numpy(table[kept, :2].copy()),
            torch.from_numpy(root_sift(raw)),
            torch.from_numpy(table[kept, 4:].copy()),
            torch.from_numpy(table[kept, 2:4].copy()),
        )


def best_of_each_pixel(
    table_K5: np.ndarray, shape_hw: tuple[int, ...], mask_HW: np.ndarray | None
) -> np.ndarray:
    """Indices of the rows (x, y, size, angle, response), by falling response, one of each pixel:
    SIFT has a row for each direction of a place, and of equal responses the smallest angle is kept.
    """
    height, width = shape_hw
    column = np.clip(np.round(table_K5[:, 0] - 0.5).astype(int), 0, width - 1)
    row = np.clip(np.round(table_K5[:, 1] - 0.5).astype(int), 0, height - 1)
    order = np.lexsort((np.abs(table_K5[:, 3]), -table_K5[:, 4]))
    if mask_HW is not None:
        order = order[mask_HW[row[order], column[order]]]
    _, first = np.unique((row * width + column)[order], return_index=True)
    kept: np.ndarray = order[np.sort(first)]
    return kept


def root_sift(descriptors_KL: np.ndarray) -> np.ndarray:
    """The square roots of histograms that add up to 1: descriptors of length 1."""
    total = np.maximum(np.abs(descriptors_KL).sum(axis=1, keepdims=True), 1e-6)
    root = np.sqrt(np.maximum(descriptors_KL / total, 1e-6))
    rooted: np.ndarray = root / np.maximum(np.linalg.norm(root, axis=1, keepdims=True), 1e-6)
    return rooted.astype(np.float32)
