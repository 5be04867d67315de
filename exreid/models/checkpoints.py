"""Weights on disk: read without running code from the file, and fitted without silent gaps."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from exreid.errors import CheckpointError, reading
from exreid.models.stand_ins import STAND_INS, as_tensor
from exreid.storage import mirror

log = logging.getLogger(__name__)

PREFERRED = ("model_ema", "state_dict_ema", "teacher", "model", "state_dict", "model_state_dict")
"""Which weights of a file are taken where several fit as well: averaged ones first, as timm does,
and of DINO's two networks the teacher."""
DEEP = 4
"""Levels of nested dictionaries, and of prefixes of names, that are searched."""
COUNTER = "num_batches_tracked"
"""Of batch norms: nothing is computed from it, and older files lack it."""
WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar")
Tensors = dict[str, torch.Tensor]


def read_state_dict(path: str | Path) -> object:
    """All that a .safetensors file holds, or a .pth/.pt read with weights_only=True, by path or
    URL; `fit_state_dict` finds the weights in it."""
    return read_checkpoint(mirror.local_copy(path, key="model.checkpoint"), key="model.checkpoint")


def read_checkpoint(file: Path, *, key: str) -> Any:
    """Everything in the file, read without running code from it; ``key`` is what names it.

    Besides tensors and plain values, only the objects of `exreid.models.stand_ins`'s table are
    read. Damage is noticed where the file has checksums (.pth).
    """
    _check_is_file(file, key)
    with reading(file, CheckpointError, f"It cannot be read as weights. Check {key}, or the disk."):
        _check_bytes(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        try:
            with torch.serialization.safe_globals(STAND_INS):
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise CheckpointError(
                f"{file}: has {named[1] if named else 'something'} besides tensors, or is not a "
                "checkpoint. It is not loaded, since unpickling can run code. Save the state_dict "
                "alone, or convert it to .safetensors."
            ) from error


def _check_is_file(file: Path, key: str) -> None:
    if file.is_dir():
        weights = sorted(part.name for part in file.iterdir() if part.suffix in WEIGHT_FILES)
        remedy = f"Name one of its files: {', '.join(weights[:5])}." if weights else f"Check {key}."
        raise CheckpointError(f"{file}: is a folder. {remedy}")
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file. Check {key}.")


def _check_bytes(file: Path) -> None:
    """CheckpointError for what is no checkpoint, or no longer the bytes that torch wrote."""
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file}: is a pointer of Git LFS, not the weights. Run git lfs pull, or download the "
            "file itself."
        )
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(f"{file}: is a web page, not weights. Download the file itself.")
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
        if "constants.pkl" in names:
            raise CheckpointError(
                f"{file}: is a TorchScript archive, which contains code; it is not loaded. Save "
                "its state_dict: torch.save(torch.jit.load(FILE).state_dict(), ...)."
            )
        for entry in archive.infolist():
            # torch can be told to write no checksums: they are 0 then.
            if entry.CRC and entry.compress_type == zipfile.ZIP_STORED:
                with archive.open(entry) as stream:
                    while stream.read(2**23):
                        pass


def fit_state_dict(module: nn.Module, content: object, *, source: str) -> None:
    """Find the weights in what a file holds and load them: every parameter and buffer, or a
    CheckpointError.

    A search over all dictionaries in the content, and over prefixes of their names (``module.``,
    ``backbone.``, ...), takes the one with most of the module's names and shapes. Where it does not
    fit, timm's filter for older and other files is tried. A classifier that the module does not
    have is left out; batch norms' counters may be missing.
    """
    wanted = module.state_dict()
    candidates = sorted(
        _candidates(content), key=lambda candidate: _fit(candidate[1], wanted), reverse=True
    )
    if not candidates:
        raise CheckpointError(f"{source}: has no state_dict (a mapping of names to tensors).")
    name, weights = candidates[0]
    wrong = _differences(module, weights, wanted)
    if wrong:
        filtered = _filtered(module, weights)
        if filtered is None or _differences(module, filtered, wanted):
            if 2 * _fit(weights, wanted)[0] < len(wanted):
                # Hardly anything fits: the largest dictionary says more than some part of it.
                weights = max((tensors for _, tensors in candidates), key=len)
            wrong = _differences(module, weights, wanted)
            raise CheckpointError(_refusal(source, content, wrong, weights))
        weights = filtered
    _check_finite(weights, wanted, source)
    fit = _fit(weights, wanted)
    _say_which(source, name, [n for n, other in candidates[1:] if _fit(other, wanted) == fit])
    filled = {key: weights.get(key, tensor) for key, tensor in wanted.items()}
    module.load_state_dict(filled, strict=True)


def _candidates(content: object) -> Iterator[tuple[str, Tensors]]:
    """Dictionaries of tensors in the content, with each prefix of their names taken away, the
    preferred ones first."""
    dictionaries = list(_dictionaries(content, ()))

    def place(entry: tuple[tuple[str, ...], Tensors]) -> int:
        preferred = (PREFERRED.index(name) for name in entry[0] if name in PREFERRED)
        return min(preferred, default=len(PREFERRED))

    for path, tensors in sorted(dictionaries, key=place):
        prefixes = {""}
        for name in tensors:
            parts = name.split(".")[:-1]
            prefixes |= {".".join(parts[: i + 1]) + "." for i in range(min(len(parts), DEEP))}
        for prefix in sorted(prefixes):
            inside = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
            yield ".".join(path), inside


def _dictionaries(
    content: object, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    if isinstance(content, Mapping):
        items = [(str(name), value) for name, value in content.items()]
        tensors = {name: tensor for name, v in items if (tensor := as_tensor(v)) is not None}
        if tensors:
            yield path, tensors
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        items = [(str(place), value) for place, value in enumerate(content)]
    else:
        return
    if len(path) < DEEP:
        for name, value in items:
            yield from _dictionaries(value, (*path, name))


def _fit(weights: Tensors, wanted: Mapping[str, torch.Tensor]) -> tuple[int, int, int]:
    """The better the higher: shared names with the same shape, shared names, and few others."""
    names = wanted.keys() & weights.keys()
    shaped = sum(weights[name].shape == wanted[name].shape for name in names)
    return shaped, len(names), -len(weights)


def _differences(
    module: nn.Module, weights: Tensors, wanted: Mapping[str, torch.Tensor]
) -> list[str]:
    """What does not fit, in words; empty where everything fits."""
    missing = sorted(n for n in wanted.keys() - weights.keys() if not n.endswith(COUNTER))
    unexpected = sorted(n for n in weights.keys() - wanted.keys() if not _is_head(module, n))
    misshaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    return [
        f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]


def _filtered(module: nn.Module, weights: Tensors) -> Tensors | None:
    """The tensors after timm's filter for this network, which converts older and other files; None
    where the network has no filter, or it fails."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        made = convert(dict(weights), module)
    except Exception:  # noqa: BLE001 - whatever it meets, the weights do not fit
        return None
    return {name: tensor for name, tensor in made.items() if isinstance(tensor, torch.Tensor)}


def _refusal(source: str, content: object, wrong: list[str], weights: Tensors) -> str:
    from exreid.models.architectures import nearest_architecture

    told = content.get("arch") if isinstance(content, Mapping) else None
    nearest = f"timm:{told}" if isinstance(told, str) else nearest_architecture(weights)
    hint = f" They look like model.type={nearest}." if nearest else ""
    return (
        f"{source}: these weights are not of this architecture; {'; '.join(wrong)}.{hint} "
        "Set model.type to the architecture that was trained."
    )


def _check_finite(weights: Tensors, wanted: Mapping[str, torch.Tensor], source: str) -> None:
    used = {name: tensor for name, tensor in weights.items() if name in wanted}
    bad = [n for n, tensor in used.items() if not is_finite(tensor) and is_finite(wanted[n])]
    if bad:
        raise CheckpointError(
            f"{source}: {len(bad)} of {len(wanted)} tensors hold values that are infinite or no "
            f"numbers: {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}. The training that "
            "wrote them diverged, or the file is damaged. Take an earlier checkpoint."
        )


def check_weights_finite(module: nn.Module, source: str) -> None:
    """CheckpointError for a network whose parameters are infinite or no numbers."""
    own = {name: parameter.detach() for name, parameter in module.named_parameters()}
    _check_finite(own, {name: torch.zeros(1) for name in own}, source)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite numbers."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _say_which(source: str, taken: str, others: list[str]) -> None:
    others = sorted({name for name in others if name not in (taken, "raw_model")})
    if others:
        log.warning(
            "%s: has several networks that fit. Taken: %s; not taken: %s.",
            source,
            taken or "the outermost",
            ", ".join(name or "the outermost" for name in others),
        )


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits of all names, types, shapes and values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _is_head(module: nn.Module, name: str) -> bool:
    config = getattr(module, "pretrained_cfg", None) or {}
    classifiers = config.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    return any(name.startswith(f"{classifier}.") for classifier in names)
