"""The output of a detector for a batch of images."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Detected(NamedTuple):
    """Keypoints of B images, the best first, with rows beyond an image's count for padding."""

    keypoints_BK2: torch.Tensor
    descriptors_BKL: torch.Tensor
    count_B: torch.Tensor
    frame_BKF: torch.Tensor | None = None
    """Size in pixels and angle in radians, of detectors that measure them."""
    score_BK: torch.Tensor | None = None
    """The detector's score of each keypoint, falling; None: it has none."""


def stacked(images: list[tuple[torch.Tensor, ...]]) -> Detected:
    """A batch of images with different numbers of keypoints. Each image: keypoints (K, 2),
    descriptors (K, L), scores (K, 1) and, of some detectors, frames (K, F)."""
    most = max(len(parts[0]) for parts in images)

    def padded(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, 0, 0, most - len(values)))

    columns = [torch.stack([padded(part) for part in parts]) for parts in zip(*images, strict=True)]
    counts = torch.tensor([len(parts[0]) for parts in images])
    points, descriptors, scores = columns[:3]
    frame = columns[3] if len(columns) > 3 else None
    return Detected(points, descriptors, counts, frame, scores[..., 0])
