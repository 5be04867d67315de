"""One epoch of training: batches in, optimiser steps out.

The gradient of a step is that of the mean loss over the effective batch, whatever the number of
workers and of accumulated batches: every image's loss is weighted by 1 / images of the whole step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from exreid.config.training import FinetuneConfig
from exreid.errors import TrainingError
from exreid.models.backbones import Backbone
from exreid.models.device import on_device
from exreid.training.augment import UNIFORMS, augment
from exreid.training.feed import read_ahead
from exreid.training.learner import Learner
from exreid.training.optim import MovingAverage, build_optimizer, set_learning_rate
from exreid.training.sampling import Share, uniforms
from exreid.training.schedule import learning_rate_factor, margin_factor
from exreid.training.world import World


class NonFiniteLossError(TrainingError):
    """The loss became infinite or no number; ``step`` counts from 0 in its epoch."""

    by_user = True

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class EpochStats:
    """What one epoch of training was like, over all workers."""

    loss: float
    """Mean over the images, each at the weights it was seen with."""
    learning_rate: float
    """Of the last step."""
    gradient_norm: float
    """Mean over the steps, before clipping."""
    images: int
    seconds: float
    data_wait_share: float
    """Share of the time that the workers, on average, waited for images."""


class _Taken(NamedTuple):
    """A step whose numbers are still on the device."""

    step: int
    """From 0 in its epoch."""
    loss: torch.Tensor
    norm: torch.Tensor
    images: int


class Trainer:
    """The learner with everything that changes while it learns."""

    def __init__(
        self,
        learner: Learner,
        backbone: Backbone,
        config: FinetuneConfig,
        *,
        label_N: np.ndarray,
        steps_per_epoch: int,
        world: World,
        device: torch.device,
    ) -> None:
        self.learner, self.backbone, self.config = learner, backbone, config
        self.world, self.device = world, device
        self.label_N = np.asarray(label_N, np.int64)
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.optimizer = build_optimizer(learner.backbone, learner.head, config.optimizer)
        fp16 = config.train.amp == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        decay = config.train.ema_decay
        self.average = MovingAverage(learner.backbone, decay) if decay else None
        self._wrapped: Any = None

    @property
    def published(self) -> torch.nn.Module:
        """The backbone to validate and to publish: the moving average where there is one."""
        return self.average.module if self.average else self.learner.backbone

    def begin_epoch(self, epoch: int) -> None:
        """Freeze or free the backbone; DDP is told which gradients will come."""
        frozen = epoch < self.config.train.frozen_epochs
        if self._wrapped is None or frozen == self.learner.backbone_trains:
            self.learner.freeze_backbone(frozen)
            self._wrapped = self.world.wrap(self.learner)

    def train_epoch(
        self,
        epoch: int,
        shares: list[Share],
        images: Iterable[np.ndarray],
        on_images: Callable[[int], Any] = lambda done: None,
    ) -> EpochStats:
        """Train on this worker's shares; ``images`` gives each one's uint8 (b, H, W, C)."""
        self.begin_epoch(epoch)
        start, waited_s = time.perf_counter(), 0.0
        losses: list[tuple[float, int]] = []
        norms: list[float] = []
        step_loss, taken, done = torch.zeros((), device=self.device), 0, 0
        # A step's numbers are asked for when the next one is under way: the device never waits.
        due: deque[_Taken] = deque()
        batches = self._inputs(epoch, shares, images)

        def settle(left: int) -> None:
            while len(due) > left:
                step = due.popleft()
                losses.append((self._agreed_loss(step), step.images))
                norms.append(self._finite_norm(step))

        for share in shares:
            asked_s = time.perf_counter()
            inputs = next(batches)
            waited_s += time.perf_counter() - asked_s
            step_loss += self._backward(share, inputs)
            if share.last_of_step:
                images_of_step = round(1.0 / share.weight)
                due.append(_Taken(taken, step_loss, self._step(), images_of_step))
                settle(left=1)
                taken, done = taken + 1, done + images_of_step
                on_images(done)
                step_loss = torch.zeros((), device=self.device)
        settle(left=0)
        self.world.average_buffers(self.learner.backbone)
        seconds = time.perf_counter() - start
        return EpochStats(
            loss=sum(loss * images for loss, images in losses) / done,
            learning_rate=self._learning_rate(self.step - 1),
            gradient_norm=float(np.mean(norms)),
            images=done,
            seconds=seconds,
            data_wait_share=self.world.sum([waited_s / seconds])[0] / self.world.size,
        )

    def _inputs(
        self, epoch: int, shares: list[Share], images: Iterable[np.ndarray]
    ) -> Iterator[torch.Tensor]:
        """The augmented images of each share, (b, 3, H, W) on the device.

        For a GPU a thread prepares the next ones, on a stream beside that of the training.
        """
        augmented = (
            self._augmented(epoch, share, images_bHWC)
            for share, images_bHWC in zip(shares, images, strict=True)
        )
        if self.device.type == "cpu":
            yield from augmented
            return
        beside, own = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)

        def prepared() -> Iterator[tuple[torch.Tensor, Any]]:
            with torch.cuda.stream(beside):
                for inputs in augmented:
                    yield inputs, beside.record_event()

        for inputs, ready in read_ahead(prepared()):
            own.wait_event(ready)
            inputs.record_stream(own)
            yield inputs

    def _augmented(self, epoch: int, share: Share, images_bHWC: np.ndarray) -> torch.Tensor:
        if len(share.image_b) == 0:
            # Every worker must take part in the reduction of gradients: a blank one, weight 0.
            size = self.backbone.image_size
            images_bHWC = np.zeros((1, size, size, 3), np.uint8)
        draw_b = share.draw_b if len(share.image_b) else np.zeros(1, np.int64)
        return augment(
            on_device(images_bHWC, self.device),
            uniforms(self.config.seed, epoch, draw_b, UNIFORMS),
            self.config.augment,
            mean_rgb=self.backbone.mean_rgb,
            std_rgb=self.backbone.std_rgb,
        )

    def _backward(self, share: Share, inputs: torch.Tensor) -> torch.Tensor:
        """Add the gradient of this share; returns its part of the step's mean loss."""
        count = len(share.image_b)
        self.learner.prepare(images=count)
        label_b = self.label_N[share.image_b] if count else self.label_N[:1]
        warmup = self.config.loss.margin_warmup_epochs * self.steps_per_epoch
        factor = margin_factor(self.step, warmup_steps=round(warmup))
        try:
            with self._reduction(share):
                losses_b = self._wrapped(inputs, on_device(label_b, self.device), factor)
                mean = losses_b.sum() * (share.weight if count else 0.0)
                # DDP averages over the workers where the step wants the sum.
                self.scaler.scale(mean * self.world.size).backward()
        except torch.OutOfMemoryError as error:
            train = self.config.train
            raise TrainingError(
                f"a batch of {count} images does not fit the GPU's memory. The same training in "
                f"smaller parts: train.batch_size={max(1, train.batch_size // 2)} "
                f"train.accumulation_steps={2 * train.accumulation_steps}. Other ways: "
                "train.amp=bf16, train.grad_checkpointing=true, more workers."
            ) from error
        return mean.detach()

    def _reduction(self, share: Share) -> Any:
        if share.last_of_step or self.world.size == 1:
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def _agreed_loss(self, taken: _Taken) -> float:
        """The step's mean loss over all workers; every worker raises where it is no number."""
        loss = self.world.sum([float(taken.loss)])[0]
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss became {loss} in step {taken.step + 1} of the epoch. Lower optimizer.lr "
                "or loss.scale, or set optimizer.clip_norm; with train.amp=fp16, try bf16.",
                step=taken.step,
            )
        return loss

    def _finite_norm(self, taken: _Taken) -> float:
        norm = float(taken.norm)
        if not self.scaler.is_enabled() and not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the gradient's norm became {norm} in step {taken.step + 1} of the epoch. "
                "Lower optimizer.lr or loss.scale.",
                step=taken.step,
            )
        return norm

    def _step(self) -> torch.Tensor:
        """One step of the optimiser; returns the gradient's norm before clipping."""
        set_learning_rate(self.optimizer, self._learning_rate(self.step))
        self.scaler.unscale_(self.optimizer)
        limit = self.config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.learner.parameters() if p.grad is not None], limit or math.inf
        )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.learner.backbone)
        self.step += 1
        return norm

    def _learning_rate(self, step: int) -> float:
        scheduler = self.config.scheduler
        epochs = scheduler.epochs or self.config.train.epochs
        return self.config.optimizer.lr * learning_rate_factor(
            step,
            total_steps=epochs * self.steps_per_epoch,
            warmup_steps=round(scheduler.warmup_epochs * self.steps_per_epoch),
            final_factor=scheduler.final_lr_factor,
        )
