"""Which known architecture a file of weights is of: for the error that it does not fit another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import timm
import torch

ARCHITECTURES = {
    "efficientnet-lite0": "tf_efficientnet_lite0",
    "megadescriptor-t-224": "swin_tiny_patch4_window7_224",
    "megadescriptor-s-224": "swin_small_patch4_window7_224",
    "megadescriptor-b-224": "swin_base_patch4_window7_224",
    "megadescriptor-l-224": "swin_large_patch4_window7_224",
    "megadescriptor-l-384": "swin_large_patch4_window12_384",
    "dinov2-small": "vit_small_patch14_dinov2",
    "timm:vit_base_patch14_dinov2": "vit_base_patch14_dinov2",
    "dinov2-large": "vit_large_patch14_dinov2",
    "dinov3-small": "vit_small_patch16_dinov3",
    "dinov3-large": "vit_large_patch16_dinov3",
    **{
        f"timm:{name}": name
        for name in (
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "efficientnet_b0"),
            *("efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "tf_efficientnet_b4"),
            *("efficientnetv2_rw_m", "tf_efficientnetv2_s", "convnext_tiny", "convnext_small"),
            *("convnext_base", "convnext_large", "vit_tiny_patch16_224", "vit_small_patch16_224"),
            *("vit_base_patch16_224", "vit_large_patch16_224", "mobilenetv3_large_100"),
            *("densenet121", "swinv2_tiny_window8_256", "swinv2_base_window8_256"),
        )
    },
}
"""timm's names, by ``model.type``."""
LEAST = 0.5
"""Share of a network's tensors that a file must have, by name and shape, to be called near."""


def nearest_architecture(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The ``model.type`` that shares most tensors with a file; None where no share is over `LEAST`.

    ``weights``: the file's tensors by name.
    """
    shapes = {(name, tuple(tensor.shape)) for name, tensor in weights.items()}
    best, most = None, LEAST
    for name, architecture in ARCHITECTURES.items():
        own = _tensors_of(architecture)
        share = len(own & shapes) / max(1, len(own | shapes))
        if share > most:
            best, most = name, share
    return best


@cache
def _tensors_of(architecture: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes, without weights; nothing for a network that this timm does not have."""
    try:
        with torch.device("meta"):
            module = timm.create_model(architecture, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError):
        return frozenset()
    return frozenset((name, tuple(t.shape)) for name, t in module.state_dict().items())
