"""Weights on disk: read without running code from the file, and fitted without silent gaps."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from exreid.data import mirror
from exreid.errors import CheckpointError

# Where training tools put the weights inside a checkpoint, and what DDP or a wrapper puts before
# each name.
WRAPPING_KEYS = ("model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Names and tensors of a .safetensors file, or of a .pth/.pt read with weights_only=True.

    Of a checkpoint with more in it (optimiser, head, ...), the weights under `WRAPPING_KEYS`.
    """
    file = mirror.local_copy(path, key="model.checkpoint")
    return _unwrap(read_checkpoint(file, key="model.checkpoint"), file)


def read_checkpoint(file: Path, *, key: str) -> Any:
    """Everything in the file, read without running code from it; ``key`` is what names it."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file. Check {key}.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds more than tensors, or is no checkpoint; it is not loaded, since "
            "unpickling can run code. Save the state_dict alone, or convert it to .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: cannot be read as weights: {reason}") from error


def fit_state_dict(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load the tensors into the module: every parameter and buffer, or a CheckpointError.

    A prefix that all names share (``module.``, ``backbone.``, ...) is removed where the rest
    fits, and a classifier that the module does not have is left out.
    """
    wanted = module.state_dict()
    given = _fit_names(dict(tensors), wanted)
    missing = sorted(set(wanted) - set(given))
    unexpected = sorted(name for name in set(given) - set(wanted) if not _is_head(module, name))
    misshaped = [
        f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if missing or unexpected or misshaped:
        parts = [
            f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for kind, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", misshaped),
            )
            if names
        ]
        raise CheckpointError(
            f"{source}: these weights are not of this architecture; {'; '.join(parts)}. "
            "Set model.type to the architecture that was trained."
        )
    module.load_state_dict({name: given[name] for name in wanted}, strict=True)


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits of all names, types, shapes and values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _unwrap(content: Any, file: Path) -> dict[str, torch.Tensor]:
    for key in WRAPPING_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file}: holds no state_dict (a mapping of names to tensors).")
    other = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise CheckpointError(
            f"{file}: holds no plain state_dict; {other[:5]} are no tensors. "
            f"The weights may stand alone, or under one of {WRAPPING_KEYS}."
        )
    return dict(content)


def _fit_names(
    given: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    best, reached = given, [given]
    for tensors in reached:  # grows below: a wrapper may stand inside another
        if len(set(wanted) & set(tensors)) > len(set(wanted) & set(best)):
            best = tensors
        for prefix in PREFIXES:
            inside = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            if inside:
                reached.append(inside)
    return best


def _is_head(module: nn.Module, name: str) -> bool:
    config = getattr(module, "pretrained_cfg", None) or {}
    classifiers = config.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    return any(name.startswith(f"{classifier}.") for classifier in names)
