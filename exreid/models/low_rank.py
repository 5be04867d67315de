"""Low-rank adapters (Hu et al. 2022, "LoRA"): a weight W becomes W + B A, of which only B and A are
trained.

They are torch's own parametrizations, so a network runs, is copied and averaged as without; what
leaves a training is merged into plain weights.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from exreid.models.checkpoints import Tensors

WEIGHT = "weight"
MARK = f".parametrizations.{WEIGHT}."
"""In the names of a parametrized weight's tensors."""


class LowRank(nn.Module):
    """W + B A, in the arithmetic of the weights; at first W, as B is 0."""

    def __init__(self, weight_OI: torch.Tensor, rank: int, random: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight_OI.shape
        self.b_OR = nn.Parameter(torch.zeros(outputs, rank))
        self.a_RI = nn.Parameter(torch.randn(rank, inputs, generator=random) / inputs**0.5)

    def forward(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """The sum (outputs, inputs)."""
        # Autocast would round the product.
        with torch.autocast(weight_OI.device.type, enabled=False):
            return adapted_weight(weight_OI, self.b_OR, self.a_RI)


def adapted_weight(weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor) -> torch.Tensor:
    """W + B A."""
    return weight_OI + b_OR @ a_RI


def add_adapters(part: nn.Module, rank: int, random: torch.Generator) -> None:
    """Train the linear maps of ``part`` by adapters of this rank and nothing else of it; a map that
    has no more outputs or inputs than that is trained whole."""
    part.requires_grad_(False)
    linears = [module for module in part.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        if min(linear.weight.shape) <= rank:
            linear.requires_grad_(True)
        else:
            parametrize.register_parametrization(
                linear, WEIGHT, LowRank(linear.weight, rank, random)
            )


def merged(weights: Tensors) -> Tensors:
    """The weights with their adapters multiplied out; those of a network without any as they
    are. KeyError where a part of an adapter is missing."""
    plain: Tensors = {}
    for name, tensor in weights.items():
        module, mark, part = name.partition(MARK)
        if not mark:
            plain[name] = tensor
        elif part == "original":
            b_OR, a_RI = (weights[f"{module}{MARK}0.{factor}"] for factor in ("b_OR", "a_RI"))
            plain[f"{module}.{WEIGHT}"] = adapted_weight(tensor, b_OR, a_RI)
    return plain
