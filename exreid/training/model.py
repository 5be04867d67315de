"""A network and its head as one module whose output is the loss of each item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from exreid.config.names import OWN_LOSSES
from exreid.config.training import FinetuneConfig, LossConfig, TrainConfig
from exreid.errors import ConfigError
from exreid.models.arcface import ArcFace, Softmax
from exreid.models.backbones import Backbone, embedding_length
from exreid.plugins import LOSSES, find_plugin
from exreid.training.sampling import Share

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ModelWithLoss(nn.Module):
    """A backbone or matcher and its head, with the modes and the arithmetic of training."""

    def __init__(self, backbone: nn.Module, head: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.norms = config.batch_norm
        self.backbone_trains = True
        self._modes: tuple[bool, bool] | None = None
        """Whether the backbone trains, and whether its batch norms use their averages."""
        self._trained = [weight for weight in backbone.parameters() if weight.requires_grad]
        self._amp = AMP_DTYPES.get(config.amp)
        # In a list, so that the compiled twin's weights are not counted twice.
        self._run: list[Callable[[object], torch.Tensor]] = [
            torch.compile(backbone) if config.compile else backbone
        ]

    def forward(self, inputs: object, label_B: torch.Tensor, margin_factor: float) -> torch.Tensor:
        """The loss of each item (B,), fp32; ``inputs`` are the network's."""
        device = label_B.device.type
        with torch.autocast(device, self._amp or torch.bfloat16, enabled=self._amp is not None):
            output = self._run[0](inputs)
        return cast(torch.Tensor, self.head(output, label_B, margin_factor))

    def prepare(self, share: Share) -> None:
        """Set the modes for a forward pass of this share of a batch.

        A batch norm that sees one image alone would divide by no variance: it then uses its
        running averages, as a frozen one always does. Workers that normalise together all do so or
        none: one that did not would leave the others waiting for its part, and one without an image
        would have nothing real to give.
        """
        match self.norms:
            case "frozen":
                by_averages = True
            case "sync":
                by_averages = share.least < 1 or share.batch_images < 2
            case "local":
                by_averages = len(share.image_b) < 2
        modes = self.backbone_trains, by_averages
        # Hundreds of modules have a mode each: a step sets them only where that changes something.
        as_set = self.training and self.backbone.training == self.backbone_trains
        if as_set and modes == self._modes:
            return
        self._modes = modes
        self.train()
        if not self.backbone_trains:
            self.backbone.eval()
        elif modes[1]:
            for module in self.backbone.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()

    def freeze_backbone(self, frozen: bool) -> None:
        """Freeze the weights that are trained, but the head's, or train them again."""
        self.backbone_trains = not frozen
        for weight in self._trained:
            weight.requires_grad_(not frozen)


def check_arithmetic(train: TrainConfig, device: torch.device) -> None:
    """ConfigError for mixed precision that the device does not have."""
    if train.amp == "fp16" and device.type != "cuda":
        raise ConfigError("train.amp=fp16 needs a GPU. Set train.amp=bf16 or off.")


def build_model(
    backbone: Backbone, config: FinetuneConfig, *, classes: int, device: torch.device
) -> ModelWithLoss:
    """The backbone's own module with a fresh head from ``config.seed``, on the device."""
    train, module = config.train, backbone.module
    length = embedding_length(backbone)
    if train.batch_norm == "sync":
        if device.type != "cuda":
            raise ConfigError("train.batch_norm=sync needs GPUs. Set local or frozen.")
        module = convert_sync_batchnorm(module)
    check_arithmetic(train, device)
    if train.grad_checkpointing:
        try:
            cast(Any, module).set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise ConfigError(
                f"train.grad_checkpointing: {config.model.type} does not support it. Set it false."
            ) from error
    torch.manual_seed(config.seed)
    head = build_head(config.loss, embedding_length=length, classes=classes)
    model = ModelWithLoss(module.requires_grad_(True), head, train).to(device)
    return model.to(memory_format=torch.channels_last)


def build_head(config: LossConfig, *, embedding_length: int, classes: int) -> nn.Module:
    """The head that ``loss.type`` names; see `exreid.plugins` for those of other packages, which
    are given ``embedding_length``, ``classes``, ``margin_rad``, ``scale`` and ``sub_centers``."""
    if plugin := find_plugin(LOSSES, config.type, OWN_LOSSES):
        return plugin.make(
            nn.Module,
            embedding_length=embedding_length,
            classes=classes,
            margin_rad=config.margin_rad,
            scale=config.scale,
            sub_centers=config.sub_centers,
        )
    match config.type:
        case "softmax":
            return Softmax(embedding_length, classes)
        case "arcface":
            return ArcFace(
                embedding_length,
                classes,
                margin_rad=config.margin_rad,
                scale=config.scale,
                sub_centers=config.sub_centers,
            )
        case _:
            raise AssertionError(f"loss.type={config.type} is listed and not built.")
