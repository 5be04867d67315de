"""Checkpoints of a training: tensors, numbers and text only, each file whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from exreid.errors import CheckpointError, reading
from exreid.models.checkpoints import fit_state_dict, read_checkpoint
from exreid.storage.files import temporary_beside

LATEST_FULL = "checkpoint-latest-full.pth"
BEST, BEST_FULL = "checkpoint-best.pth", "checkpoint-best-full.pth"
FINAL, FINAL_FULL = "checkpoint-final.pth", "checkpoint-final-full.pth"
FINAL_SAFETENSORS = "checkpoint-final.safetensors"
FULL_KEYS = {
    *("model", "head", "optimizer", "scheduler", "scaler", "ema", "epoch", "rng", "labels"),
    *("raw_model", "backbone", "history", "best_from"),
}
RESUMABLE = (
    "It is no whole checkpoint-*-full.pth, or of another version: a training cannot go on from it. "
    "Take another one, or start from its weights by model.checkpoint."
)


def save_atomic(file: Path, content: Any) -> None:
    """torch.save under a temporary name, then renamed."""
    temporary = temporary_beside(file)
    torch.save(content, temporary)
    temporary.replace(file)


def save_safetensors(file: Path, module: nn.Module) -> None:
    """The module's weights as .safetensors, under a temporary name, then renamed."""
    temporary = temporary_beside(file)
    tensors = {name: value.detach().cpu().contiguous() for name, value in plain(module).items()}
    temporary.write_bytes(save(tensors))
    temporary.replace(file)


def copy_atomic(source: Path, file: Path) -> None:
    """A copy under a temporary name, then renamed."""
    temporary = temporary_beside(file)
    shutil.copyfile(source, temporary)
    temporary.replace(file)


def plain(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state_dict as a plain dict of contiguous tensors, on the CPU."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }


def rng_states() -> dict[str, Any]:
    """The states of torch's generators, of the CPU and of each GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_states(states: dict[str, Any]) -> None:
    """What `rng_states` gave, where there are as many GPUs as there were."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def read_full(file: Path, *, labels: tuple[str, ...], backbone: str) -> dict[str, Any]:
    """A full checkpoint of a training of the same backbone on the same classes."""
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
        raise CheckpointError(
            f"{file}: holds a training of {content['backbone']}, not of {backbone}. Set model.type."
        )
    if tuple(content["labels"]) != labels:
        ours, theirs = set(labels), set(content["labels"])
        raise CheckpointError(
            f"{file}: was trained on other identities: {len(theirs - ours)} of its {len(theirs)} "
            f"are not here, {len(ours - theirs)} of {len(ours)} here are new to it. Resume with "
            "the same images and held-out part, or start from its weights by model.checkpoint."
        )
    result: dict[str, Any] = content
    return result


def _check_full(content: dict[str, Any]) -> None:
    """TypeError or ValueError for what no training can have written."""
    steps = (content["epoch"], content["best_from"], content["scheduler"]["step"])
    names = [content["backbone"], *content["labels"]]
    rows = [*content["history"]]
    if not all(type(step) is int and step >= 0 for step in steps):
        raise ValueError(f"epochs and steps {steps}")
    if not all(isinstance(name, str) for name in names) or isinstance(content["labels"], str):
        raise TypeError("names that are no text")
    if not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise TypeError("a history that is none")
    if not all(isinstance(content[name], dict) for name in ("model", "head", "optimizer", "rng")):
        raise TypeError("states that are none")


def load_weights(module: nn.Module, tensors: dict[str, torch.Tensor], *, source: str) -> None:
    """The saved weights into the module; CheckpointError where they do not fit."""
    fit_state_dict(module, tensors, source=source)
