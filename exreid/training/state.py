"""A training: its settings, which never change, and its state, which does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.metrics.retrieval import average_values, query_values
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.models.checkpoints import Tensors
from exreid.records import Ranking
from exreid.training.history import HistoryRow
from exreid.training.model import ModelWithLoss
from exreid.training.optim import MovingAverage, build_optimizer
from exreid.training.sampling import Share
from exreid.training.world import World

Validated = tuple[dict[str, float], dict[str, tuple[float, float]]]
"""Metrics, fractions, and the [low, high] ends of their 95% intervals."""


def validated(
    ranking: Ranking, identity_Q: np.ndarray, *, seed: int, shortlist: int | None = None
) -> Validated:
    """The held-out queries' metrics, as a probe has them; `query_values` says of ``shortlist``."""
    values = query_values(ranking, shortlist=shortlist)
    return average_values(values, identity_Q), bootstrap_intervals(values, identity_Q, seed=seed)


class Work(Protocol):
    """What one worker trains on and validates with."""

    def begin_epoch(self, epoch: int, module: nn.Module) -> None:
        """Called before the batches of each epoch (from 0), with the network to publish."""

    def batches(self, epoch: int, shares: list[Share]) -> Iterator[tuple[object, torch.Tensor]]:
        """The network's input and the labels (b,) of each share, on the device; one item for an
        empty share, as every worker takes part in each reduction of gradients."""

    def validate(self, module: nn.Module) -> Validated:
        """The module's metrics, on the first worker; nothing on the others."""


class Task(Protocol):
    """What is trained: a network with its loss, its batches, its validation."""

    @property
    def name(self) -> str:
        """The network's name, which its checkpoints carry."""

    def build(self, config: FinetuneConfig, *, classes: int, device: torch.device) -> ModelWithLoss:
        """The network before the first epoch, with its loss."""

    def published(self, weights: Tensors) -> object:
        """The content of a checkpoint that is used after the training."""

    def open(self, training: Training, world: World) -> Work:
        """The part of this worker."""


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and the folder of a training; the same for every worker.

    Letters: N items, each drawn once in an epoch: an image, or an anchor with its pairs.
    """

    config: FinetuneConfig
    task: Task
    labels: tuple[str, ...]
    """The identities, sorted: an item's class is the index of its identity."""
    label_N: np.ndarray
    """int64: the class of each item."""
    image_ids: tuple[str, ...]
    """Of the items, for messages."""
    folder: Path
    stop_early: Callable[[list[HistoryRow]], bool] | None = None
    """Asked by the first worker after each epoch but the last, with the history so far."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in one epoch, the last one perhaps over fewer items."""
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
        """The network to validate and to publish: the moving average, where it is kept."""
        return self.average.module if self.average else self.model.backbone


def initial_state(training: Training, device: torch.device) -> TrainingState:
    """The state before the first epoch; the head's weights come from ``config.seed``."""
    config = training.config
    model = training.task.build(config, classes=len(training.labels), device=device)
    decay = config.train.ema_decay
    return TrainingState(
        model,
        build_optimizer(model.backbone, model.head, config.optimizer),
        torch.amp.GradScaler(device.type, enabled=config.train.amp == "fp16"),
        MovingAverage(model.backbone, decay) if decay else None,
    )
