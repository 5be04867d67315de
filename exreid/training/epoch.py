"""One epoch of training: batches in, optimiser steps out.

The gradient of a step is that of the mean loss over the effective batch, whatever the number of
workers and of accumulated batches: every image's loss is weighted by 1 / images of the whole step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from exreid.errors import NonFiniteLossError
from exreid.models.device import Fetched
from exreid.training.history import EpochStats
from exreid.training.optim import learning_rate_factor, margin_factor, set_learning_rate
from exreid.training.sampling import Share, epoch_order, epoch_shares
from exreid.training.state import Training, TrainingState, Work
from exreid.training.world import World

NONFINITE_FILE = "nonfinite_loss.json"


class _Step(NamedTuple):
    """A step that the optimiser was given, its numbers still on their way from the device."""

    number: int
    """From 0 in its epoch."""
    images: int
    """Of all workers."""
    loss_and_norm: Fetched
    """The mean loss over the step's images, and the gradient's norm before clipping."""


def train_epoch(
    training: Training,
    state: TrainingState,
    model: nn.Module,
    work: Work,
    world: World,
    *,
    on_images: Callable[[int], object] = lambda count: None,
) -> EpochStats:
    """Train the next epoch on this worker's share of each batch.

    ``model`` is the state's, wrapped by `World.wrap`. ``on_images`` is called with the number of
    images of the epoch that all workers together have trained on.
    """
    start_s, waited_s, done = time.perf_counter(), 0.0, 0
    shares = _shares(training, state.epochs, world)
    batches = work.batches(state.epochs, shares)
    loss = torch.zeros((), device=world.device)
    pending: list[_Step] = []
    finished: list[tuple[int, float, float]] = []
    """Images, loss and gradient norm of each step."""
    for share in shares:
        asked_s = time.perf_counter()
        batch = next(batches)
        waited_s += time.perf_counter() - asked_s
        loss = loss + _backward(training, state, model, batch, share=share, world=world)
        if share.last_of_step:
            number, images = len(finished) + len(pending), round(1.0 / share.weight)
            norm = _optimizer_step(training, state)
            pending.append(_Step(number, images, Fetched(world.total(loss), norm)))
            # A step's numbers are read when the next one is under way: the device never waits.
            finished += [_read(training, state, step, world) for step in pending[:-1]]
            del pending[:-1]
            done += images
            on_images(done)
            loss = torch.zeros((), device=world.device)
    finished += [_read(training, state, step, world) for step in pending]
    world.average_buffers(state.model.backbone)
    seconds = time.perf_counter() - start_s
    return EpochStats(
        loss=sum(loss * images for images, loss, _ in finished) / done,
        learning_rate=_learning_rate(training, state.step - 1),
        gradient_norm=float(np.mean([norm for *_, norm in finished])),
        images=done,
        seconds=seconds,
        data_wait_share=world.sum(waited_s / seconds) / world.size,
    )


def _order(training: Training, epoch: int) -> np.ndarray:
    sampler, seed = training.config.train.sampler, training.config.seed
    return epoch_order(training.label_N, sampler=sampler, seed=seed, epoch=epoch)


def _shares(training: Training, epoch: int, world: World) -> list[Share]:
    """This worker's shares of the epoch's batches."""
    train = training.config.train
    return epoch_shares(
        _order(training, epoch),
        batch_size=train.batch_size,
        accumulation_steps=train.accumulation_steps,
        rank=world.rank,
        world_size=world.size,
    )


def _backward(
    training: Training,
    state: TrainingState,
    model: nn.Module,
    batch: tuple[object, torch.Tensor],
    *,
    share: Share,
    world: World,
) -> torch.Tensor:
    """Add the gradient of this share; returns its part of the step's mean loss."""
    count = len(share.image_b)
    state.model.prepare(share)
    warmup_steps = round(training.config.loss.margin_warmup_epochs * training.steps_per_epoch)
    factor = margin_factor(state.step, warmup_steps=warmup_steps)
    # Gradients are averaged over the workers in the step's last backward pass alone.
    alone = world.size == 1 or share.last_of_step
    with nullcontext() if alone else cast(DistributedDataParallel, model).no_sync():
        losses_b = model(*batch, factor)
        mean = losses_b.sum() * (share.weight if count else 0.0)
        # DDP averages over the workers where the step wants the sum.
        state.scaler.scale(mean * world.size).backward()
    return mean.detach()


def _optimizer_step(training: Training, state: TrainingState) -> torch.Tensor:
    """One step of the optimiser; returns the gradient's norm before clipping."""
    set_learning_rate(state.optimizer, _learning_rate(training, state.step))
    state.scaler.unscale_(state.optimizer)
    weights = list(state.model.parameters())
    if clip_norm := training.config.optimizer.clip_norm:
        norm = nn.utils.clip_grad_norm_(weights, clip_norm)
    else:
        norm = nn.utils.get_total_norm(w.grad for w in weights if w.grad is not None)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average:
        state.average.update(state.model.backbone)
    state.step += 1
    return norm


def _learning_rate(training: Training, step: int) -> float:
    config, steps_per_epoch = training.config, training.steps_per_epoch
    return config.optimizer.lr * learning_rate_factor(
        step,
        total_steps=(config.scheduler.epochs or config.train.epochs) * steps_per_epoch,
        warmup_steps=round(config.scheduler.warmup_epochs * steps_per_epoch),
        final_factor=config.scheduler.final_lr_factor,
    )


def _read(
    training: Training, state: TrainingState, step: _Step, world: World
) -> tuple[int, float, float]:
    """The step's images, mean loss over all workers, and gradient norm; every worker raises
    NonFiniteLossError where one is no number, and the first writes which images these are."""
    loss, norm = map(float, step.loss_and_norm.wait())
    if math.isfinite(loss) and (math.isfinite(norm) or state.scaler.is_enabled()):
        return step.images, loss, norm
    if world.is_first:
        _write_images(training, state.epochs, step.number)
    if math.isfinite(loss):
        raise NonFiniteLossError(
            f"the gradient's norm became {norm} in step {step.number + 1} of the epoch. "
            "Lower optimizer.lr or loss.scale."
        )
    raise NonFiniteLossError(
        f"the loss became {loss} in step {step.number + 1} of the epoch. Lower optimizer.lr "
        "or loss.scale, or set optimizer.clip_norm; with train.amp=fp16, try bf16."
    )


def _write_images(training: Training, epoch: int, step: int) -> None:
    """``nonfinite_loss.json``: the images of all workers in this step, both counted from 1."""
    train = training.config.train
    effective = train.batch_size * train.accumulation_steps
    images = _order(training, epoch)[step * effective : (step + 1) * effective]
    content = {
        "epoch": epoch + 1,
        "step": step + 1,
        "image_ids": [training.image_ids[image] for image in images],
    }
    file = training.folder / NONFINITE_FILE
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
