"""What a detector gives for a batch of images."""

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
    """The detector's own, falling; None: it says nothing."""


def stacked(found: list[tuple[torch.Tensor, ...]]) -> Detected:
    """Of images with different numbers of keypoints: each one's keypoints, descriptors, scores
    (K, 1), and frame where there is one."""
    most = max(len(parts[0]) for parts in found)

    def padded(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, 0, 0, most - len(values)))

    columns = [torch.stack([padded(part) for part in parts]) for parts in zip(*found, strict=True)]
    counts = torch.tensor([len(parts[0]) for parts in found])
    points, descriptors, scores = columns[:3]
    frame = columns[3] if len(columns) > 3 else None
    return Detected(points, descriptors, counts, frame, scores[..., 0])
