"""A training from its first epoch, or its last checkpoint, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch

from exreid.errors import TrainingError
from exreid.models.checkpoints import is_finite
from exreid.models.device import deterministic, keep_memory
from exreid.storage import mirror
from exreid.training.checkpoint import LATEST_FULL, resume, save_epoch, save_final
from exreid.training.epoch import train_epoch
from exreid.training.history import HistoryRow, ProgressFile, write_history
from exreid.training.sampling import model_seed
from exreid.training.state import Training, TrainingState, initial_state
from exreid.training.world import World


def train(
    training: Training, world: World, *, on_epoch: Callable[[int], object] = lambda epoch: None
) -> TrainingState:
    """Train to the last epoch as this process of the world, from the folder's checkpoint on;
    returns the state at the end. TrainingError where it does not fit a GPU's memory.

    ``on_epoch`` is called with each finished epoch, and with 0 before the first.
    """
    keep_memory()
    options = training.config.train
    try:
        with deterministic() if options.deterministic else nullcontext():
            return _train(training, world, on_epoch)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"batches of {options.batch_size} images do not fit the GPU's memory. The same "
            f"training in smaller parts: train.batch_size={max(1, options.batch_size // 2)} "
            f"train.accumulation_steps={2 * options.accumulation_steps}. Other ways: "
            "train.amp=bf16, train.grad_checkpointing=true, more workers."
        ) from error


def _train(training: Training, world: World, on_epoch: Callable[[int], object]) -> TrainingState:
    config, folder = training.config, training.folder
    folder.mkdir(parents=True, exist_ok=True)
    mirror.fetch_folder(folder, LATEST_FULL)
    work = training.task.open(training, world)
    state, progress = initial_state(training, world.device), ProgressFile(folder)
    resume(training, state, world)

    def validated(row: HistoryRow) -> HistoryRow:
        start_s = time.perf_counter()
        metrics, intervals = work.validate(state.published)
        seconds = time.perf_counter() - start_s
        return replace(row, metrics=metrics, intervals=intervals, validation_s=seconds)

    def tell() -> None:
        if world.is_first:
            write_history(folder, state.history)
            mirror.publish_folder(folder)
        on_epoch(state.epochs)

    def show(count: int) -> None:
        if world.is_first:
            progress.write(state.epochs * len(training.label_N) + count)

    if not state.history:
        state.history.append(validated(HistoryRow(0)))
        if world.is_first:
            save_epoch(training, state)
        tell()
    resumed, last = state.epochs, config.train.epochs
    while state.epochs < last:
        torch.manual_seed(model_seed(config.seed, state.epochs, world.rank))
        if state.epochs in (resumed, config.train.frozen_epochs):
            state.model.freeze_backbone(state.epochs < config.train.frozen_epochs)
            # DDP must know which parameters get gradients.
            model = world.wrap(state.model)
        work.begin_epoch(state.epochs, state.published)
        stats = train_epoch(training, state, model, work, world, on_images=show)
        check_weights(state)
        state.epochs += 1
        row = HistoryRow(state.epochs, stats)
        if state.epochs == last or state.epochs % config.validation.every == 0:
            row = validated(row)
        state.history.append(row)
        if world.is_first:
            save_epoch(training, state)
        tell()
        if state.epochs < last and stops(training, state, world):
            return state
    if world.is_first:
        save_final(training, state)
        mirror.publish_folder(folder)
    return state


def stops(training: Training, state: TrainingState, world: World) -> bool:
    """Whether all workers stop after this epoch; the first one decides."""
    stop = world.is_first and training.stop_early and training.stop_early(state.history)
    return world.sum(float(bool(stop))) > 0


def check_weights(state: TrainingState) -> None:
    """TrainingError where weights are infinite or no numbers, before they are saved or
    validated."""
    weights = state.published.state_dict()
    bad = [name for name, tensor in weights.items() if not is_finite(tensor)]
    if bad:
        raise TrainingError(
            f"epoch {state.epochs + 1} left {len(bad)} of {len(weights)} tensors of the weights "
            f"infinite or no numbers (the first: {bad[0]}). Checkpoints of the epochs before "
            "are kept. Lower optimizer.lr or loss.scale, or set optimizer.clip_norm."
        )
