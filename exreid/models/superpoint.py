"""SuperPoint: keypoints and descriptors of DeTone, Malisiewicz & Rabinovich 2018, "SuperPoint:
Self-supervised interest point detection and description".

Written from the paper; the layers are named as the published weights name them. Those weights are
Magic Leap's, for non-commercial research alone: this package has none, users download them.

Letters: B images of one size, K keypoints, C channels; maps have an eighth of the image's size.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CELL_PX = 8
"""Side of the square of pixels that one place of the maps covers."""
DESCRIPTOR_LENGTH = 256
ENCODER = ((1, 64), (64, 64), (64, 128), (128, 128))
"""Channels in and out of each stage: two 3 x 3 convolutions, then (but for the last) a halving."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: what red, green and blue count in grey."""


class SuperPoint(nn.Module):
    """The network; `fit_state_dict` fills in its weights."""

    def __init__(self) -> None:
        super().__init__()
        for stage, (before, after) in enumerate(ENCODER, start=1):
            setattr(self, f"conv{stage}a", nn.Conv2d(before, after, 3, padding=1))
            setattr(self, f"conv{stage}b", nn.Conv2d(after, after, 3, padding=1))
        last = ENCODER[-1][1]
        self.convPa = nn.Conv2d(last, 256, 3, padding=1)
        self.convPb = nn.Conv2d(256, CELL_PX**2 + 1, 1)
        self.convDa = nn.Conv2d(last, 256, 3, padding=1)
        self.convDb = nn.Conv2d(256, DESCRIPTOR_LENGTH, 1)

    def forward(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of RGB fractions whose sides are multiples of 8: the probability (B, H, W) that a pixel
        is a keypoint, and descriptors (B, C, H / 8, W / 8) of length 1."""
        weight_3 = torch.tensor(LUMA, device=images_B3HW.device)
        features = torch.einsum("bchw,c->bhw", images_B3HW, weight_3)[:, None]
        for stage in range(1, len(ENCODER) + 1):
            features = getattr(self, f"conv{stage}a")(features).relu()
            features = getattr(self, f"conv{stage}b")(features).relu()
            if stage < len(ENCODER):
                features = functional.max_pool2d(features, 2)
        logits = self.convPb(self.convPa(features).relu())
        # The last channel means "no keypoint in this cell".
        inside = logits.softmax(dim=1)[:, :-1]
        scores = functional.pixel_shuffle(inside, CELL_PX)[:, 0]
        descriptors = self.convDb(self.convDa(features).relu())
        return scores, functional.normalize(descriptors, dim=1)


def sampled(descriptors_BCHW: torch.Tensor, keypoint_BK2: torch.Tensor) -> torch.Tensor:
    """Descriptors (B, K, C) at pixels (x, y), between the cells' centres, of length 1.

    The published sampling puts the first cell's centre at pixel 3.5 and stretches the rest so that
    the map's far corner falls on the image's: kept, as the weights of LightGlue were trained on it.
    """
    height, width = descriptors_BCHW.shape[2:]
    size = torch.tensor([width, height], device=keypoint_BK2.device) * CELL_PX
    place = (keypoint_BK2 - (CELL_PX - 1) / 2) / (size - (CELL_PX + 1) / 2)
    grid = (place * 2 - 1)[:, None]
    read_BC1K = functional.grid_sample(descriptors_BCHW, grid, mode="bilinear", align_corners=True)
    return functional.normalize(read_BC1K[:, :, 0].transpose(1, 2), dim=2)
