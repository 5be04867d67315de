"""A backbone, local features, a loss and a metric for exreid, each as small as it can be.

Letters: B batch, D embedding length, C classes, K keypoints, Q queries.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from exreid.features.detected import Detected
from exreid.features.local import EXTRACTORS, Detect, Extractor
from exreid.metrics.retrieval import first_rank
from exreid.models.backbones import Backbone
from exreid.records import Ranking

CELLS = 4
"""Keypoints are spread over a grid of CELLS x CELLS."""


def tiny_conv(*, image_size: int | None, pretrained: bool) -> Backbone:
    """One layer of filters, pooled to 2 x 2: vectors of 64 numbers.

    With ``pretrained`` its weights are always the same; a real package would load a file here.
    """
    module = nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=7, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    if pretrained:
        draw = torch.Generator().manual_seed(0)
        for weight in module.parameters():
            weight.data = torch.randn(weight.shape, generator=draw) / 10
    return Backbone(
        name="tiny-conv",
        module=module,
        image_size=image_size or 96,
        mean_rgb=(0.5, 0.5, 0.5),
        std_rgb=(0.25, 0.25, 0.25),
        crop_pct=1.0,
        interpolation="bicubic",
        resize="stretch",
    )


def aliked_spread() -> Extractor:
    """ALIKED's keypoints, no more of one part of the photograph than of another.

    LightGlue for ALIKED matches them, since their descriptors are ALIKED's.
    """
    return Extractor(descriptor_length=128, build=_build_spread, matcher="aliked")


def _build_spread(name: str, keypoints: int) -> tuple[Detect, str]:
    """The detector, and a text that changes with its weights: part of the keys of caches."""
    detect, weights = EXTRACTORS["aliked-n16"].build("aliked-n16", 4 * keypoints)
    return Spread(detect, keypoints), weights


class Spread:
    """The best keypoints of each cell of a grid, then the next best of each, and so on."""

    def __init__(self, detect: Detect, keypoints: int) -> None:
        self.detect, self.keypoints = detect, keypoints
        self.network = detect.network
        """exreid moves it to the device that it works on."""

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """Fractions (B, 3, H, W), and where the animal is, bool (B, H, W)."""
        found = self.detect(images, mask)
        height, width = images.shape[-2:]
        size_2 = torch.tensor([width, height], device=images.device)
        cell_BK2 = (found.keypoints_BK2 / size_2 * CELLS).long().clamp(0, CELLS - 1)
        cell_BK = cell_BK2[..., 0] * CELLS + cell_BK2[..., 1]
        rows = torch.arange(cell_BK.shape[1], device=images.device)
        real_BK = rows < found.count_B[:, None]
        # Keypoints come best first, so the number of earlier ones in a cell is the place in it.
        earlier_BKK = (cell_BK[:, :, None] == cell_BK[:, None, :]) & (rows[None, :] < rows[:, None])
        place_BK = earlier_BKK.sum(dim=2).masked_fill(~real_BK, len(rows))
        kept_BK = place_BK.argsort(dim=1, stable=True)[:, : self.keypoints]
        # The first ones of an image are its best: in the order of their scores again.
        kept_BK = kept_BK.sort(dim=1).values
        kept_BK = torch.where(kept_BK < found.count_B[:, None], kept_BK, len(rows) - 1)
        return Detected(
            _at(found.keypoints_BK2, kept_BK),
            _at(found.descriptors_BKL, kept_BK),
            found.count_B.clamp(max=self.keypoints),
            score_BK=_at(found.score_BK[..., None], kept_BK)[..., 0],
        )


def _at(values_BKX: torch.Tensor, kept_BK: torch.Tensor) -> torch.Tensor:
    return values_BKX.gather(1, kept_BK[..., None].expand(-1, -1, values_BKX.shape[2]))


class NormSoftmax(nn.Module):
    """Softmax over scaled cosines, without a margin (Wang et al. 2017, "NormFace")."""

    def __init__(
        self, *, embedding_length: int, classes: int, scale: float, **unused: float
    ) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(classes, embedding_length) / 100)

    def forward(
        self, embeddings_BD: torch.Tensor, label_B: torch.Tensor, margin_factor: float = 1.0
    ) -> torch.Tensor:
        """The loss of each image (B,)."""
        cosine_BC = functional.linear(
            functional.normalize(embeddings_BD.float()), functional.normalize(self.weight)
        )
        return functional.cross_entropy(self.scale * cosine_BC, label_B, reduction="none")


def reciprocal_rank(ranking: Ranking) -> np.ndarray:
    """1 / the rank of the first right image; its mean is MRR. Queries without one do not count."""
    rank_Q = first_rank(ranking.positive_offset_Q1, ranking.positive_rank_P).astype(float)
    rank_Q[rank_Q == 0] = np.nan
    return 1 / rank_Q
