"""Checkpoints of a training: tensors, numbers and text only, each file written whole or not at
all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from safetensors.torch import save
from torch import nn

from exreid.errors import CheckpointError, reading
from exreid.models.adapted import NETWORK
from exreid.models.checkpoints import Tensors, fit_state_dict, read_checkpoint
from exreid.models.low_rank import merged
from exreid.storage import mirror
from exreid.storage.files import written_whole
from exreid.training.history import HistoryRow, best_row

if TYPE_CHECKING:
    # They import timm, which takes longer than all else; every run reads the names of the files.
    from exreid.training.state import Training, TrainingState
    from exreid.training.world import World

LATEST_FULL = "checkpoint-latest-full.pth"
BEST, BEST_FULL = "checkpoint-best.pth", "checkpoint-best-full.pth"
FINAL, FINAL_FULL = "checkpoint-final.pth", "checkpoint-final-full.pth"
FINAL_SAFETENSORS = "checkpoint-final.safetensors"
RESUMABLE = (
    "It is not a complete checkpoint-*-full.pth of this version: a training cannot resume from it. "
    "Take another one, or start from its weights by model.checkpoint."
)


class GeneratorStates(TypedDict):
    """Of torch's random numbers."""

    cpu: torch.Tensor
    cuda: list[torch.Tensor]
    """Of each GPU."""


class FullCheckpoint(TypedDict):
    """The content of a ``checkpoint-*-full.pth``: all that a training needs to continue."""

    model: Tensors
    """The published weights: the moving average, where it is kept."""
    raw_model: Tensors | None
    """The backbone's own weights where ``model`` is their average."""
    head: Tensors
    optimizer: dict[str, object]
    scheduler: dict[str, int]
    """``step``: of the optimiser, taken so far."""
    scaler: dict[str, object]
    ema: dict[str, int] | None
    """``updates`` of the average."""
    epoch: int
    rng: GeneratorStates
    labels: list[str]
    backbone: str
    history: list[dict[str, float]]
    best_from: int


FULL_KEYS = FullCheckpoint.__required_keys__
"""Keys that a training needs to go on."""


def save_atomic(file: Path, content: object) -> None:
    """torch.save under a temporary name, then renamed."""
    with written_whole(file) as temporary:
        torch.save(content, temporary)


def plain(module: nn.Module) -> Tensors:
    """The module's state_dict as a plain dict of contiguous tensors, on the CPU."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }


def best_so_far(training: Training, state: TrainingState) -> HistoryRow | None:
    """The best epoch whose checkpoint is at hand."""
    config = training.config
    own = [row for row in state.history if row.epoch >= state.best_from]
    return best_row(own, config.output.best_metric, untrained=config.train.untrained_counts)


def save_epoch(training: Training, state: TrainingState) -> None:
    """The checkpoints after an epoch: the latest, the best where it is that, and every n-th; of
    epoch 0 the best alone."""
    folder, output = training.folder, training.config.output
    best = best_so_far(training, state)
    is_best = best is not None and best.epoch == state.epochs
    if state.epochs == 0 and not is_best:
        return
    content = _content(training, state)
    # The best ones first: once the latest is written, this epoch is not trained again.
    if is_best:
        save_atomic(folder / BEST, training.task.published(content["model"]))
        save_atomic(folder / BEST_FULL, content)
    if state.epochs == 0:
        return
    if output.save_every and state.epochs % output.save_every == 0:
        file = folder / f"checkpoint-epoch-{state.epochs}.pth"
        save_atomic(file, training.task.published(content["model"]))
    save_atomic(folder / LATEST_FULL, content)


def save_final(training: Training, state: TrainingState) -> None:
    """The checkpoints at the end, of the last epoch."""
    folder, weights = training.folder, plain(state.published)
    save_atomic(folder / FINAL, training.task.published(weights))
    with written_whole(folder / FINAL_SAFETENSORS) as temporary:
        temporary.write_bytes(save(merged(weights), {NETWORK: training.task.name}))
    with written_whole(folder / FINAL_FULL) as temporary:
        shutil.copyfile(folder / LATEST_FULL, temporary)


def _content(training: Training, state: TrainingState) -> FullCheckpoint:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "model": plain(state.published),
        "raw_model": plain(state.model.backbone) if state.average else None,
        "head": plain(state.model.head),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": {"step": state.step},
        "scaler": state.scaler.state_dict(),
        "ema": {"updates": state.average.updates} if state.average else None,
        "epoch": state.epochs,
        "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
        "labels": list(training.labels),
        "backbone": training.task.name,
        "history": [row.cells() for row in state.history],
        "best_from": state.best_from,
    }


def resume(training: Training, state: TrainingState, world: World) -> None:
    """Take up the folder's own latest checkpoint, or the one that ``train.resume_checkpoint``
    names; the state stays as it is where there is neither."""
    own, asked = training.folder / LATEST_FULL, training.config.train.resume_checkpoint
    if not own.exists() and asked is None:
        return
    file = own if own.exists() else mirror.local_copy(str(asked), key="train.resume_checkpoint")
    content = read_full(file, training)
    with reading(file, CheckpointError, RESUMABLE):
        _load(state, content, str(file))
    if file != own:
        _bring_best(training, state, file, content, world)


def _load(state: TrainingState, content: FullCheckpoint, source: str) -> None:
    fit_state_dict(state.model.backbone, content["raw_model"] or content["model"], source=source)
    fit_state_dict(state.model.head, content["head"], source=source)
    if state.average:
        fit_state_dict(state.average.module, content["model"], source=source)
        state.average.updates = (content["ema"] or {"updates": 0})["updates"]
    state.optimizer.load_state_dict(content["optimizer"])
    if state.scaler.is_enabled() and content["scaler"]:
        state.scaler.load_state_dict(content["scaler"])
    rng = content["rng"]
    torch.set_rng_state(rng["cpu"])
    if torch.cuda.is_available() and len(rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(rng["cuda"])
    state.step, state.epochs = content["scheduler"]["step"], content["epoch"]
    state.history = [HistoryRow.from_cells(cells) for cells in content["history"]]
    state.best_from = content["best_from"]


def _bring_best(
    training: Training, state: TrainingState, file: Path, content: FullCheckpoint, world: World
) -> None:
    """Copy the best checkpoint of the other run, where it is beside ``file``.

    Where it is missing, or of a later epoch than the resumed one, the resumed epoch counts as the
    best so far, and epochs before it no longer count.
    """
    best = best_row(
        state.history,
        training.config.output.best_metric,
        untrained=training.config.train.untrained_counts,
    )
    full = mirror.local_copy(file.parent / BEST_FULL)
    kept = content
    if best is not None and best.epoch != state.epochs and full.exists():
        beside = read_full(full, training)
        kept = beside if beside["epoch"] == best.epoch else content
    if kept is content:
        state.best_from = state.epochs
    if world.is_first:
        save_atomic(training.folder / BEST, training.task.published(kept["model"]))
        save_atomic(training.folder / BEST_FULL, kept)


def read_full(file: Path, training: Training) -> FullCheckpoint:
    """A full checkpoint of a training of the same backbone on the same classes."""
    labels, backbone, config = training.labels, training.task.name, training.config
    content = read_checkpoint(file, key="train.resume_checkpoint")
    missing = FULL_KEYS - set(content) if isinstance(content, dict) else FULL_KEYS
    if missing:
        raise CheckpointError(
            f"{file}: a training goes on from a checkpoint-*-full.pth; this one lacks "
            f"{', '.join(sorted(missing))}. To start from its weights, set model.checkpoint."
        )
    with reading(file, CheckpointError, RESUMABLE):
        _check_full(content)
    if content["backbone"] != backbone:
        key = "benchmark.local_features" if config.train.untrained_counts else "model.type"
        raise CheckpointError(
            f"{file}: has a training of {content['backbone']}, not of {backbone}. Set {key}."
        )
    if tuple(content["labels"]) != labels:
        ours, theirs = set(labels), set(content["labels"])
        raise CheckpointError(
            f"{file}: was trained on other identities: {len(theirs - ours)} of its {len(theirs)} "
            f"are not here, {len(ours - theirs)} of {len(ours)} here are new to it. Resume with "
            "the same images and held-out part, or start from its weights by model.checkpoint."
        )
    result: FullCheckpoint = content
    return result


def _check_full(content: dict[str, Any]) -> None:
    """TypeError or ValueError for a content that no training can have written."""
    steps = (content["epoch"], content["best_from"], content["scheduler"]["step"])
    names = [content["backbone"], *content["labels"]]
    rows = [*content["history"]]
    if not all(type(step) is int and step >= 0 for step in steps):
        raise ValueError(f"epochs and steps {steps}")
    if not all(isinstance(name, str) for name in names) or isinstance(content["labels"], str):
        raise TypeError("names that are not text")
    if not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise TypeError("a history that is not a list of epochs")
    if not all(isinstance(content[name], dict) for name in ("model", "head", "optimizer", "rng")):
        raise TypeError("states that are not dictionaries")
