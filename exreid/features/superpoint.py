"""SuperPoint's keypoints: the best of its score map, none near a better one or the border."""

from __future__ import annotations

import torch

from exreid.features.detected import Detected
from exreid.models.aliked import suppressed
from exreid.models.checkpoints import fit_state_dict, read_checkpoint
from exreid.models.published import published_weights
from exreid.models.superpoint import SuperPoint, sampled

THRESHOLD = 0.0005
RADIUS_PX = 4
"""The least distance of a keypoint from a better one, and from the border."""


class SuperPointDetector:
    """See `exreid.models.superpoint` for the network."""

    def __init__(self, network: SuperPoint, keypoints: int) -> None:
        self.network, self.keypoints = network, keypoints

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """See `exreid.features.local.Detect`."""
        scores, maps = self.network(images)
        kept = suppressed(scores, RADIUS_PX)
        kept = kept.masked_fill(kept <= THRESHOLD, 0.0)
        height, width = kept.shape[1:]
        if mask is not None:
            kept = kept.masked_fill(~mask[:, :height, :width], 0.0)
        best, pixel = kept.flatten(1).topk(min(self.keypoints, height * width), dim=1)
        points = torch.stack([pixel % width, pixel // width], dim=2).float()
        counts = (best > 0).sum(dim=1)
        return Detected(points, sampled(maps, points), counts, score_BK=best)


def load_superpoint() -> SuperPoint:
    """The network with its published weights, which are downloaded once."""
    file = published_weights("superpoint")
    network = SuperPoint()
    fit_state_dict(network, read_checkpoint(file, key="benchmark.local_features"), source=str(file))
    return network.eval().requires_grad_(False)
