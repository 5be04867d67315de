"""The addend of each place of an image to its embedding, for any timm backbone.

Many heads are sums over places once their normalisation is held still: average pooling, followed
by anything affine. Then every place has a part of the embedding, and the parts add up to it. Other
heads (a class token, a maximum, a layer after the pooling) have no parts; there the gradient says
how much a small change of each place's feature would move the embedding.

Letters: L places of the last feature map, C channels, D embedding length.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from exreid.errors import ExplanationError
from exreid.models.backbones import Backbone, GemPooled

SUM_TOLERANCE = 1e-4
"""The largest error of the parts' sum, relative to the embedding's length."""


@dataclass(frozen=True)
class Regions:
    """The last features of one image, place by place, and their addends to the embedding."""

    grid_hw: tuple[int, int]
    """Rows and columns of places; place (row, column) is number row * columns + column."""
    feature_LC: torch.Tensor
    embedding_D: torch.Tensor
    part_LD: torch.Tensor | None
    """They sum to the embedding; None where the head is no sum over places."""


class RegionReader:
    """Reads a backbone's last features; the backbone itself is not changed."""

    def __init__(self, backbone: Backbone) -> None:
        module: Any = backbone.module
        if next(module.parameters()).dtype != torch.float32:
            module = copy.deepcopy(module).float()
        self.name, self.module = backbone.name, module
        self.gem = module if isinstance(module, GemPooled) else None
        self.trunk: Any = module.backbone if self.gem is not None else module
        for method in ("forward_features", "forward_head"):
            if self.gem is None and not callable(getattr(self.trunk, method, None)):
                raise ExplanationError(
                    f"{backbone.name}: this network has no {method}, by which its places could be "
                    "told apart. Networks of timm have."
                )
        self.device = next(module.parameters()).device
        self.mean_3 = 255.0 * torch.tensor(backbone.mean_rgb, device=self.device)
        self.std_3 = 255.0 * torch.tensor(backbone.std_rgb, device=self.device)

    def read(self, image_HWC: np.ndarray) -> Regions:
        """The regions of the backbone's input image: uint8 RGB (H, W, 3)."""
        with torch.no_grad():
            features = self.trunk.forward_features(self._pixels(image_HWC))
            places_LC, grid = self._places(features)
            if self.gem is not None:
                embedding = self.gem.bn(self._gem(features))[0]
                parts: torch.Tensor | None = _gem_parts(self.gem, features[0].flatten(1).T)
            else:
                embedding = self.trunk.forward_head(features)[0]
                parts = self._affine_parts(features, embedding)
        return Regions(grid, places_LC.float(), embedding.float(), parts)

    def gradient(self, image_HWC: np.ndarray, direction_D: torch.Tensor) -> torch.Tensor:
        """float32 (L,): how much each place's feature moves the embedding along ``direction_D``:
        the gradient times the feature, normalisations held still.

        The features are the last ones; where the head does not look at them (a class token), those
        that go into the last block.
        """
        pixels = self._pixels(image_HWC)
        with torch.no_grad():
            features = self.trunk.forward_features(pixels)
            grid = self._places(features)[1]
            looked_at = not self._ignores_places(features)
        with torch.enable_grad(), _still_norms(self.trunk):
            if looked_at:
                leaf = features.detach().requires_grad_()
                embedding = self._head(leaf)
            else:
                leaf, embedding = self._from_last_block(pixels)
            (slope,) = torch.autograd.grad((embedding[0] * direction_D).sum(), leaf)
        product = (slope * leaf).detach()
        return self._places(product, grid)[0].sum(dim=1).float()

    def _pixels(self, image_HWC: np.ndarray) -> torch.Tensor:
        pixels = torch.tensor(image_HWC, device=self.device, dtype=torch.float32)
        normalised = (pixels - self.mean_3) / self.std_3
        return normalised.permute(2, 0, 1)[None]

    def _head(self, features: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = (
            self.trunk.forward_head(features)
            if self.gem is None
            else self.gem.bn(self._gem(features))
        )
        return pooled

    def _gem(self, features: torch.Tensor) -> torch.Tensor:
        assert self.gem is not None
        power = self.gem.pooling["p"]
        return features.clamp(min=1e-6).pow(power).mean(dim=(2, 3)).pow(1.0 / power)

    def _affine_parts(
        self, features: torch.Tensor, embedding_D: torch.Tensor
    ) -> torch.Tensor | None:
        """The head on each place alone, its norms as they were on the whole, over L."""
        if self._ignores_places(features):
            return None
        count = len(self._places(features)[0])
        try:
            with _still_norms(self.trunk) as norms:
                self.trunk.forward_head(features)
                norms.replay = True
                part_LD = self.trunk.forward_head(self._one_by_one(features)) / count
        except RuntimeError:
            # A head that takes no single place, such as attention with a place's own weights.
            return None
        missing = torch.linalg.vector_norm(part_LD.sum(dim=0) - embedding_D)
        if missing > SUM_TOLERANCE * torch.linalg.vector_norm(embedding_D):
            return None
        return part_LD.float()

    def _ignores_places(self, features: torch.Tensor) -> bool:
        """Whether the embedding does not depend on the places."""
        if features.ndim != 3:
            return False
        other = features.clone()
        first = self._first_place(features)
        other[:, first:] = features[:, first:].flip(2) + 1.0
        return bool(torch.equal(self._head(features), self._head(other)))

    def _one_by_one(self, features: torch.Tensor) -> torch.Tensor:
        """L feature maps of one place each; class tokens and the like go along with each."""
        places_LC = self._places(features)[0]
        if features.ndim == 3:
            first = self._first_place(features)
            before = features[:, :first].expand(len(places_LC), -1, -1)
            return torch.cat([before, places_LC[:, None]], dim=1)
        if self._channels_last():
            return places_LC[:, None, None]
        return places_LC[:, :, None, None]

    def _places(
        self, features: torch.Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Features of one image as (L, C), and their grid."""
        if features.ndim == 4:
            last = features[0] if self._channels_last() else features[0].permute(1, 2, 0)
            return last.reshape(-1, last.shape[2]), (last.shape[0], last.shape[1])
        if features.ndim != 3:
            raise ExplanationError(
                f"{self.name}: its last features, of shape {tuple(features.shape)}, lie on no grid."
            )
        count = math.prod(grid) if grid else features.shape[1] - self._prefix()
        side = math.isqrt(count)
        if grid is None and side * side != count:
            raise ExplanationError(
                f"{self.name}: its {features.shape[1]} tokens lie on no square grid."
            )
        return features[0, features.shape[1] - count :], grid or (side, side)

    def _prefix(self) -> int:
        return int(getattr(self.trunk, "num_prefix_tokens", 0) or 0)

    def _first_place(self, features: torch.Tensor) -> int:
        return int(features.shape[1] - len(self._places(features)[0]))

    def _channels_last(self) -> bool:
        return str(getattr(self.trunk, "output_fmt", "NCHW")).upper().endswith("NHWC")

    def _from_last_block(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = getattr(self.trunk, "blocks", None)
        if not blocks:
            raise ExplanationError(
                f"{self.name}: its embedding comes from no place of its last features, and it has "
                "no blocks to look into."
            )
        kept: list[torch.Tensor] = []

        def keep(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            kept.append(arguments[0].detach().requires_grad_())
            return (kept[-1], *arguments[1:])

        handle = blocks[-1].register_forward_pre_hook(keep)
        try:
            embedding = self.trunk(pixels)
        finally:
            handle.remove()
        return kept[0], embedding


@dataclass
class _Norms:
    """The norms' divisors; with ``replay`` they are used again, whatever the input."""

    scales: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    replay: bool = False

    def still(self, norm: Any, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """A forward hook: the norm's output, with a constant divisor."""
        x = arguments[0]
        # The ...2d norms of timm work on the channels of (B, C, H, W), the others on the last axis.
        axis = 1 if x.ndim == 4 and type(norm).__name__.endswith("2d") else -1
        centred = x if _is_rms(norm) else x - x.mean(dim=axis, keepdim=True)
        scale = (centred.square().mean(dim=axis, keepdim=True) + norm.eps).rsqrt().detach()
        scale = self.scales[norm] if self.replay else self.scales.setdefault(norm, scale)
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        result = centred * scale
        for name in ("weight", "bias"):
            own = getattr(norm, name, None)
            if own is not None:
                result = result * own.view(shape) if name == "weight" else result + own.view(shape)
        return result


def _is_rms(module: nn.Module) -> bool:
    return "rms" in type(module).__name__.lower()


@contextmanager
def _still_norms(module: nn.Module) -> Iterator[_Norms]:
    """Layer norms as affine maps: their divisors are constants."""
    norms = _Norms()
    handles = [
        part.register_forward_hook(norms.still)
        for part in module.modules()
        if isinstance(part, nn.LayerNorm) or (_is_rms(part) and getattr(part, "eps", None))
    ]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()


def _gem_parts(head: GemPooled, places_LC: torch.Tensor) -> torch.Tensor:
    """Each place's part under generalised-mean pooling and batch norm.

    The pooled channel is g = (mean x^p)^(1/p), of which a place has the share x^p / sum x^p, so
    that shares of g sum to g; the batch norm's constant is spread evenly.
    """
    power = head.pooling["p"]
    raised_LC = places_LC.clamp(min=1e-6).pow(power)
    pooled_C = raised_LC.mean(dim=0).pow(1.0 / power)
    share_LC = raised_LC / raised_LC.sum(dim=0) * pooled_C
    nothing_D = head.bn(torch.zeros_like(pooled_C)[None])[0]
    slope_D = head.bn(torch.ones_like(pooled_C)[None])[0] - nothing_D
    return (share_LC * slope_D + nothing_D / len(places_LC)).float()
