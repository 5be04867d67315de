"""LightGlue's network with its published weights, laid out for many pairs at once.

The model is that of Lindenberger, Sarlin & Pollefeys 2023, "LightGlue: Local feature matching at
light speed". What differs is the layout alone: linear maps that follow each other without anything
between them are multiplied out, in float64, when the weights are loaded; attention heads have the
two numbers of each rotated pair half a head apart, not side by side; and the part that depends on
one image alone (`embed`) is a method of its own, called once for each image.

Letters: B pairs or images of one batch, M and N keypoints of the first and second image, K either,
L descriptor length, C = 256 channels, H = 4 heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from exreid.models.checkpoints import fit_state_dict, weights_fingerprint
from exreid.models.lightglue_weights import (
    CHANNELS,
    HEAD,
    HEADS,
    LAYERS,
    MATCHERS,
    lightglue_weights,
    read_published,
)


class Points(NamedTuple):
    """The keypoints of B images on their way through the network."""

    state_BKC: torch.Tensor
    rotation_2BKR: torch.Tensor
    """Cosine and sine of each keypoint's R = 32 angles; shared by all heads and layers."""
    real_BK: torch.Tensor | None
    """bool: False for padding. None where nothing is padded."""

    def take(self, rows: torch.Tensor, width: int, *, padded: bool) -> Points:
        """The images at these rows, cut to ``width`` keypoints; ``padded``: some of which are
        padding, as the caller knows without asking the device."""
        real = self.real_BK[rows, :width] if padded and self.real_BK is not None else None
        return Points(self.state_BKC[rows, :width], self.rotation_2BKR[:, rows, :width], real)


class ImagePairs(NamedTuple):
    """Pairs of U images, as tensors on one device; K keypoints of each image, padded."""

    keypoints_UK2: torch.Tensor
    descriptors_UKL: torch.Tensor
    count_U: torch.Tensor
    image_wh_px_U2: torch.Tensor
    frame_UKF: torch.Tensor
    pair_B2: torch.Tensor
    """int64: the rows of each pair's two images."""


class Update(nn.Module):
    """x + f(x, message), the message's own output map multiplied into f's first."""

    def __init__(self) -> None:
        super().__init__()
        self.from_state = nn.Linear(CHANNELS, 2 * CHANNELS)
        self.from_context = nn.Linear(CHANNELS, 2 * CHANNELS, bias=False)
        self.norm = nn.LayerNorm(2 * CHANNELS)
        self.out = nn.Linear(2 * CHANNELS, CHANNELS)

    def forward(self, state_BKC: torch.Tensor, context_BKC: torch.Tensor) -> torch.Tensor:
        """The new state."""
        hidden = self.norm(self.from_state(state_BKC) + self.from_context(context_BKC))
        updated: torch.Tensor = state_BKC + self.out(functional.gelu(hidden))
        return updated


class Layer(nn.Module):
    """Self-attention in each image, then cross-attention between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.self_qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.self_update = Update()
        self.cross_qk_v = nn.Linear(CHANNELS, 2 * CHANNELS)
        self.cross_update = Update()

    def attend_self(self, points: Points) -> torch.Tensor:
        """The state (B, K, C) after self-attention."""
        q, k, v = _heads(self.self_qkv(points.state_BKC), 3)
        q, k = rotate(q, points.rotation_2BKR), rotate(k, points.rotation_2BKR)
        context = _attend(q, k, v, points.real_BK)
        state: torch.Tensor = self.self_update(points.state_BKC, context)
        return state

    def attend_cross(self, first: Points, second: Points) -> tuple[torch.Tensor, torch.Tensor]:
        """Both states after cross-attention; queries and keys are one projection."""
        qk0, v0 = _heads(self.cross_qk_v(first.state_BKC), 2)
        qk1, v1 = _heads(self.cross_qk_v(second.state_BKC), 2)
        context0 = _attend(qk0, qk1, v1, second.real_BK)
        context1 = _attend(qk1, qk0, v0, first.real_BK)
        return (
            self.cross_update(first.state_BKC, context0),
            self.cross_update(second.state_BKC, context1),
        )


class Assignment(nn.Module):
    """A layer's head: which keypoint belongs to which, and whether to any at all."""

    def __init__(self) -> None:
        super().__init__()
        self.matchability = nn.Linear(CHANNELS, 1)
        self.projection = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, first: Points, second: Points) -> torch.Tensor:
        """Log of the assignment (B, M, N), float32; -inf where one of the two is padding."""
        # Both projections are divided by C^(1/4): in effect, the product by C^(1/2) = 16.
        projected0 = self.projection(first.state_BKC).float() / CHANNELS**0.25
        projected1 = self.projection(second.state_BKC).float() / CHANNELS**0.25
        similarity = projected0 @ projected1.transpose(1, 2)
        by_row, by_column = similarity, similarity
        if second.real_BK is not None:
            by_row = by_row.masked_fill(~second.real_BK[:, None, :], -torch.inf)
        if first.real_BK is not None:
            by_column = by_column.masked_fill(~first.real_BK[:, :, None], -torch.inf)
        log_BMN = by_row.log_softmax(2) + by_column.log_softmax(1)
        log_BMN = log_BMN + self.log_matchability(first)[:, :, None]
        log_BMN = log_BMN + self.log_matchability(second)[:, None, :]
        if first.real_BK is not None:
            log_BMN = log_BMN.masked_fill(~first.real_BK[:, :, None], -torch.inf)
        return log_BMN

    def log_matchability(self, points: Points) -> torch.Tensor:
        """Log of the probability (B, K) that a keypoint has a partner."""
        return functional.logsigmoid(self.matchability(points.state_BKC).float()).squeeze(-1)


class LightGlue(nn.Module):
    """The network; see `load_lightglue` for its weights."""

    def __init__(self, descriptor_length: int, place_length: int = 2) -> None:
        super().__init__()
        self.input = (
            nn.Identity()
            if descriptor_length == CHANNELS
            else nn.Linear(descriptor_length, CHANNELS)
        )
        self.positions = nn.Linear(place_length, HEAD // 2, bias=False)
        self.layers: Any = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.assignments: Any = nn.ModuleList(Assignment() for _ in range(LAYERS))

    def forward(self, pairs: ImagePairs) -> torch.Tensor:
        """Log of the assignment (B, K, K) after all layers, for training: see `Assignment`."""
        *images, pair_B2 = pairs
        points, width = self.embed(*images), pairs.keypoints_UK2.shape[1]
        first = points.take(pair_B2[:, 0], width, padded=True)
        second = points.take(pair_B2[:, 1], width, padded=True)
        for number in range(LAYERS):
            first, second = self.layer(number, first, second)
        with torch.autocast(pair_B2.device.type, enabled=False):
            first = first._replace(state_BKC=first.state_BKC.float())
            second = second._replace(state_BKC=second.state_BKC.float())
            log_BKK: torch.Tensor = self.assignments[-1](first, second)
        return log_BKK

    def embed(
        self,
        keypoints_BK2: torch.Tensor,
        descriptors_BKL: torch.Tensor,
        count_B: torch.Tensor | None,
        image_wh_px_B2: torch.Tensor,
        frame_BKF: torch.Tensor | None = None,
    ) -> Points:
        """What depends on one image alone, up to the first self-attention.

        ``count_B`` real keypoints come first in each image; None: all are real.

        Positions are centred and divided by half the longer side of the image; sizes and angles, of
        networks that were trained with them, stay as they are. All these are float32 whatever the
        arithmetic of the network is.
        """
        dtype = self.layers[0].self_qkv.weight.dtype
        size_B12 = image_wh_px_B2[:, None].float()
        centred = (keypoints_BK2.float() - size_B12 / 2) / (size_B12.amax(2, keepdim=True) / 2)
        place = centred if frame_BKF is None else torch.cat([centred, frame_BKF.float()], dim=2)
        with torch.autocast(place.device.type, enabled=False):
            angles = functional.linear(place, self.positions.weight.float())
        rotation = torch.stack([angles.cos(), angles.sin()]).to(dtype)
        real = None
        if count_B is not None:
            row_K = torch.arange(keypoints_BK2.shape[1], device=count_B.device)
            # An image without keypoints would attend to nothing, which is not a number.
            real = row_K[None] < count_B[:, None].clamp(min=1)
        points = Points(self.input(descriptors_BKL.to(dtype)), rotation, real)
        return points._replace(state_BKC=self.layers[0].attend_self(points))

    def compile_layers(self) -> None:
        """Compile what all layers share, once for all of them; see `torch.compile`."""
        attend_self = torch.compile(Layer.attend_self, dynamic=True)
        attend_cross = torch.compile(Layer.attend_cross, dynamic=True)
        for layer in self.layers:
            layer.attend_self = partial(attend_self, layer)
            layer.attend_cross = partial(attend_cross, layer)

    def layer(self, number: int, first: Points, second: Points) -> tuple[Points, Points]:
        """Layer ``number`` from 0; of the first one only what `embed` has not done."""
        layer = self.layers[number]
        if number > 0:
            first = first._replace(state_BKC=layer.attend_self(first))
            second = second._replace(state_BKC=layer.attend_self(second))
        state0, state1 = layer.attend_cross(first, second)
        return first._replace(state_BKC=state0), second._replace(state_BKC=state1)


def rotate(heads_BHKD: torch.Tensor, rotation_2BKR: torch.Tensor) -> torch.Tensor:
    """Turn each pair (d, d + R) of a head by its keypoint's angle (rotary position code)."""
    # Under autocast the heads are bf16 and the rotation is not.
    cosine, sine = rotation_2BKR.to(heads_BHKD.dtype)[:, :, None].unbind(0)
    left, right = heads_BHKD.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)


def _heads(projected_BKX: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
    """Split (B, K, parts * C) into ``parts`` tensors (B, H, K, C / H)."""
    split = projected_BKX.unflatten(-1, (parts, HEADS, HEAD)).permute(2, 0, 3, 1, 4)
    return split.unbind(0)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, real_BK: torch.Tensor | None
) -> torch.Tensor:
    """Attention of each head to the real keypoints; (B, K, C)."""
    mask = None if real_BK is None else real_BK[:, None, None, :]
    if not _by_products(q):
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return context.transpose(1, 2).flatten(-2)
    logits = _products(q * HEAD**-0.5, k.transpose(2, 3))
    if mask is not None:
        logits = logits.masked_fill_(~mask, -torch.inf)
    return _products(logits.softmax(3), v).transpose(1, 2).flatten(-2)


def _by_products(q: torch.Tensor) -> bool:
    """Whether attention is faster as plain matrix products: torch's fused one gains nothing from
    bf16 on a CPU, its products 2.2 times."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu"


def _products(left_BHXY: torch.Tensor, right_BHYZ: torch.Tensor) -> torch.Tensor:
    """Matrix products of each head; without the copies that 4-dimensional ones make."""
    products = torch.bmm(left_BHXY.flatten(0, 1), right_BHYZ.flatten(0, 1))
    return products.unflatten(0, left_BHXY.shape[:2])


def lightglue_fingerprint(features: str) -> str:
    """The fingerprint of the published weights for these features; read once in a process."""
    return _fingerprint(features, lightglue_weights(features))


@lru_cache
def _fingerprint(features: str, file: Path) -> str:
    del file  # Part of the key: another file, other weights.
    return weights_fingerprint(load_lightglue(features))


def load_lightglue(
    features: str, weights: Mapping[str, torch.Tensor] | None = None, *, source: str = ""
) -> LightGlue:
    """The network for these features with its published weights, or others of the same names and
    shapes, which ``source`` names in errors; float32, for inference."""
    file, trained = lightglue_weights(features), MATCHERS[features]
    network = LightGlue(trained.descriptor_length, trained.place_length)
    if weights is None:
        source, weights = str(file), read_published(file)
    fit_state_dict(network, dict(weights), source=source)
    return network.eval().requires_grad_(False)
