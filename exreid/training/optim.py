"""The optimiser and its parameter groups, its schedules, and the moving average of the weights."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from exreid.config.training import OptimizerConfig
from exreid.errors import ConfigError


def build_optimizer(
    backbone: nn.Module, head: nn.Module, config: OptimizerConfig
) -> torch.optim.Optimizer:
    """AdamW or SGD over the backbone's and the head's groups.

    Each group has ``lr_scale``, its learning rate as a multiple of the peak. Vectors (biases,
    norms) and the parameters of the backbone's ``no_weight_decay()`` are not decayed.
    """
    groups = [*_backbone_groups(backbone, config), *_head_groups(head, config)]
    for group in groups:
        group.setdefault("lr_scale", 1.0)
        group.pop("param_names", None)
    name: str = config.type
    if config.type == "sgd" and not config.momentum:
        # timm's "sgd" is Nesterov's, which needs some momentum; "momentum" is the plain one.
        name = "momentum"
    return create_optimizer_v2(
        groups,
        opt=name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,  # of SGD alone
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its multiple of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_steps: int, final_factor: float
) -> float:
    """The learning rate of a step as a fraction of the peak: linear up, then a cosine down.

    Steps count from 0. The warm-up ends at 1 on its last step, the cosine at ``final_factor`` on
    the last step of all.

    >>> [round(learning_rate_factor(s, total_steps=6, warmup_steps=2, final_factor=0.0), 2)
    ...  for s in range(6)]
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    # The peak is the last warm-up step; without one, step 0.
    peak_step = max(0, warmup_steps - 1)
    done = min(1.0, (step - peak_step) / max(1, total_steps - 1 - peak_step))
    return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * done))


def margin_factor(step: int, *, warmup_steps: int) -> float:
    """The margin of a step as a fraction of its full size: linear from 0, then 1.

    >>> [margin_factor(s, warmup_steps=2) for s in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return 1.0 if step >= warmup_steps else step / warmup_steps


def _backbone_groups(backbone: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    names: set[str] = getattr(backbone, "no_weight_decay", set)()
    if config.layer_decay is None:
        return list(
            param_groups_weight_decay(
                backbone, weight_decay=config.weight_decay, no_weight_decay_list=names
            )
        )
    if not hasattr(backbone, "group_matcher"):
        raise ConfigError(
            f"optimizer.layer_decay: {type(backbone).__name__} does not say what its layers are. "
            "Set optimizer.layer_decay=null."
        )
    return list(
        param_groups_layer_decay(
            backbone,
            weight_decay=config.weight_decay,
            no_weight_decay_list=names,
            layer_decay=config.layer_decay,
        )
    )


def _head_groups(head: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    groups = param_groups_weight_decay(head, weight_decay=config.weight_decay)
    return [{**group, "lr_scale": config.head_lr_factor} for group in groups if group["params"]]


class MovingAverage:
    """An exponential moving average of a module's weights: avg += (1 - decay) (weight - avg).

    Buffers that are not fractions (counters) are copied. In the first n updates the decay is
    at most (1 + n) / (10 + n), so that the average does not cling to the first weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, present in zip(
            self.module.state_dict().values(), module.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                average.lerp_(present, 1.0 - decay)
            else:
                average.copy_(present)
