"""A training: its settings, which never change, and its state, which does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.models.backbones import Backbone
from exreid.records import RetrievalSide
from exreid.training.feed import ImageSource
from exreid.training.history import HistoryRow
from exreid.training.model import ModelWithLoss, build_model
from exreid.training.optim import MovingAverage, build_optimizer


@dataclass(frozen=True)
class Training:
    """The backbone, the images and the folder of a training; the same for every worker."""

    config: FinetuneConfig
    backbone: Backbone
    """Before the first epoch."""
    labels: tuple[str, ...]
    """The identities, sorted: an image's class is the index of its identity."""
    label_N: np.ndarray
    """int64: the class of each training image."""
    image_ids: tuple[str, ...]
    """Of the training images, for messages."""
    images: Callable[[], ImageSource]
    """Makes the source of the training images, in the worker; its places are those of
    ``label_N``."""
    queries: RetrievalSide
    gallery: RetrievalSide
    """Of the validation."""
    validation_images: Callable[[], ImageSource]
    """Makes the source of the images at ``validation_positions``."""
    folder: Path
    stop_early: Callable[[list[HistoryRow]], bool] | None = None
    """Asked by the first worker after each epoch but the last, with the history so far."""

    @property
    def validation_positions(self) -> np.ndarray:
        """Positions of all images that a validation embeds, rising."""
        return np.union1d(self.queries.position_N, self.gallery.position_N)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in one epoch, the last one perhaps over fewer images."""
        train = self.config.train
        return -(-len(self.label_N) // (train.batch_size * train.accumulation_steps))


@dataclass
class TrainingState:
    """Everything that changes while a training goes on."""

    model: ModelWithLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    step: int = 0
    """Of the optimiser, taken so far."""
    epochs: int = 0
    """Finished so far."""
    history: list[HistoryRow] = field(default_factory=list)
    best_from: int = 0
    """The first epoch that can be the best: earlier ones have no checkpoint."""

    @property
    def published(self) -> nn.Module:
        """The backbone to validate and to publish: the moving average, where it is kept."""
        return self.average.module if self.average else self.model.backbone


def initial_state(training: Training, device: torch.device) -> TrainingState:
    """The state before the first epoch; the head's weights come from ``config.seed``."""
    config = training.config
    model = build_model(training.backbone, config, classes=len(training.labels), device=device)
    decay = config.train.ema_decay
    return TrainingState(
        model,
        build_optimizer(model.backbone, model.head, config.optimizer),
        torch.amp.GradScaler(device.type, enabled=config.train.amp == "fp16"),
        MovingAverage(model.backbone, decay) if decay else None,
    )
