"""LightGlue's published weights, rearranged for `exreid.models.lightglue`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

CHANNELS, HEADS, LAYERS = 256, 4, 9
HEAD = CHANNELS // HEADS


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
