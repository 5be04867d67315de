"""Heads that turn embeddings into a classification loss: ArcFace, and plain softmax.

Letters: B batch, D embedding length, C classes, K centres of each class.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

# Below this, sin(angle) counts as a constant: its derivative -cos/sin has a pole at cos = +-1.
LEAST_SQUARED_SINE = 1e-12


def add_angular_margin(cosine_B: torch.Tensor, margin_rad: float) -> torch.Tensor:
    r"""cos(angle + margin), kept falling where the angle plus margin would pass pi.

    With :math:`c = \cos\theta`: :math:`\cos(\theta + m) = c \cos m - \sqrt{1 - c^2} \sin m`
    (Deng et al. 2019, "ArcFace", eq. 3), without `acos`, whose gradient is infinite at c = 1.
    Beyond :math:`\theta = \pi - m` it is :math:`c - m \sin m`, as the authors' code has it.
    Finite in value and gradient for all c in [-1, 1].

    >>> add_angular_margin(torch.tensor([1.0, 0.0]), math.pi / 6)
    tensor([ 0.8660, -0.5000])
    """
    squared_sine_B = (1.0 - cosine_B) * (1.0 + cosine_B)
    sine_B = squared_sine_B.clamp(min=LEAST_SQUARED_SINE).sqrt()
    moved_B = cosine_B * math.cos(margin_rad) - sine_B * math.sin(margin_rad)
    beyond_B = cosine_B - margin_rad * math.sin(margin_rad)
    return torch.where(cosine_B >= -math.cos(margin_rad), moved_B, beyond_B)


def class_cosines(
    embeddings_BD: torch.Tensor, weight_CKD: torch.Tensor, sub_centers: int
) -> torch.Tensor:
    """Cosine (B, C) of each embedding with each class, the nearest of its centres counting.

    ``weight_CKD`` is (C * K, D), a class's centres one after the other (Deng et al. 2020,
    "Sub-center ArcFace").
    """
    cosine_BN = functional.linear(
        functional.normalize(embeddings_BD), functional.normalize(weight_CKD)
    ).clamp(-1.0, 1.0)
    if sub_centers == 1:
        return cosine_BN
    return cosine_BN.unflatten(1, (-1, sub_centers)).amax(dim=2)


class ArcFace(nn.Module):
    """ArcFace over C classes with K centres each; computes in fp32 under any autocast."""

    def __init__(
        self,
        embedding_length: int,
        classes: int,
        *,
        margin_rad: float = 0.5,
        scale: float = 64.0,
        sub_centers: int = 1,
    ) -> None:
        super().__init__()
        self.margin_rad, self.scale, self.sub_centers = margin_rad, scale, sub_centers
        self.weight = nn.Parameter(torch.empty(classes * sub_centers, embedding_length))
        nn.init.normal_(self.weight, std=0.01)

    def forward(
        self, embeddings_BD: torch.Tensor, label_B: torch.Tensor, margin_factor: float = 1.0
    ) -> torch.Tensor:
        """The loss of each image (B,), with the margin times ``margin_factor``."""
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            cosine_BC = class_cosines(embeddings_BD.float(), self.weight, self.sub_centers)
            own_B1 = label_B[:, None]
            moved_B1 = add_angular_margin(
                cosine_BC.gather(1, own_B1), margin_factor * self.margin_rad
            )
            logits_BC = self.scale * cosine_BC.scatter(1, own_B1, moved_B1)
            return functional.cross_entropy(logits_BC, label_B, reduction="none")


class Softmax(nn.Module):
    """A linear classifier with bias and cross entropy, the baseline; computes in fp32."""

    def __init__(self, embedding_length: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_length, classes)

    def forward(
        self, embeddings_BD: torch.Tensor, label_B: torch.Tensor, margin_factor: float = 1.0
    ) -> torch.Tensor:
        """The loss of each image (B,); there is no margin."""
        with torch.autocast(embeddings_BD.device.type, enabled=False):
            logits_BC = self.linear(embeddings_BD.float())
            return functional.cross_entropy(logits_BC, label_B, reduction="none")
