"""Learning rates, margins, parameter groups and the moving average."""

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn

from exreid.config.training import OptimizerConfig
from exreid.errors import ConfigError
from exreid.models.arcface import ArcFace
from exreid.models.backbones import GemPooled, build_backbone
from exreid.training.optim import (
    MovingAverage,
    build_optimizer,
    learning_rate_factor,
    margin_factor,
    set_learning_rate,
)


def test_warm_up_then_cosine():
    options = {"total_steps": 110, "warmup_steps": 10, "final_factor": 0.1}
    factors = [learning_rate_factor(step, **options) for step in range(110)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[-1] == pytest.approx(0.1)
    # By hand: half way between step 9 (the peak) and step 109.
    assert factors[59] == pytest.approx(0.1 + 0.9 / 2)
    assert factors[34] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert all(a > b for a, b in pairwise(factors[9:]))
    assert learning_rate_factor(500, **options) == pytest.approx(0.1)


def test_schedules_at_their_edges():
    assert learning_rate_factor(0, total_steps=1, warmup_steps=0, final_factor=0.0) == 1.0
    assert learning_rate_factor(0, total_steps=5, warmup_steps=0, final_factor=0.0) == 1.0
    assert margin_factor(0, warmup_steps=0) == 1.0


@pytest.fixture(scope="module")
def vit():
    backbone = build_backbone("timm:test_vit", pretrained=False, image_size=32).module
    return backbone.requires_grad_(True)


def _groups_by_name(module, head, config):
    optimizer = build_optimizer(module, head, config)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    named = [*module.named_parameters(), *(("head." + n, p) for n, p in head.named_parameters())]
    assert len(group_of) == len(named)
    return optimizer, {name: group_of[id(parameter)] for name, parameter in named}


def test_vectors_and_what_the_model_names_are_not_decayed(vit):
    config = OptimizerConfig(lr=1e-3, weight_decay=0.1, head_lr_factor=7.0)
    optimizer, group_of = _groups_by_name(vit, ArcFace(64, 5), config)
    assert type(optimizer).__name__ == "AdamW"
    for name, parameter in vit.named_parameters():
        spared = parameter.ndim <= 1 or name in {"cls_token", "pos_embed", "reg_token"}
        assert group_of[name]["weight_decay"] == (0.0 if spared else 0.1), name
    assert group_of["head.weight"]["weight_decay"] == 0.1
    set_learning_rate(optimizer, 1e-4)
    assert group_of["head.weight"]["lr"] == pytest.approx(7e-4)
    assert group_of["patch_embed.proj.weight"]["lr"] == pytest.approx(1e-4)


def test_earlier_layers_learn_more_slowly(vit):
    config = OptimizerConfig(layer_decay=0.5, type="sgd", momentum=0.8)
    optimizer, group_of = _groups_by_name(vit, ArcFace(64, 5), config)
    scales = [group_of[f"blocks.{i}.attn.qkv.weight"]["lr_scale"] for i in range(len(vit.blocks))]
    for before, after in pairwise(scales):
        assert before == pytest.approx(0.5 * after)
    assert group_of["patch_embed.proj.weight"]["lr_scale"] < scales[0]
    assert optimizer.defaults["nesterov"] is True
    assert optimizer.defaults["momentum"] == 0.8


def test_layers_that_no_one_knows_are_an_error():
    module = GemPooled(nn.Conv2d(3, 4, 1), 4)
    with pytest.raises(ConfigError, match="layer_decay"):
        build_optimizer(module, ArcFace(4, 2), OptimizerConfig(layer_decay=0.5))


def test_the_average_follows_its_recurrence():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = MovingAverage(module, 0.9)
    expected = deepcopy(module.state_dict())
    for update in range(1, 30):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
            module[1].running_mean.add_(1.0)
            module[1].num_batches_tracked.add_(1)
        average.update(module)
        decay = min(0.9, (1 + update) / (10 + update))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    assert average.module[1].num_batches_tracked.item() == 29
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
