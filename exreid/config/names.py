"""Keys whose value is a name: one of exreid's own, or one that an installed package registers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from exreid.plugins import EXTRACTORS, LOSSES, METRICS, find_plugin, plugin_names

OWN_EXTRACTORS = (
    *("aliked-n16", "aliked-n16rot", "aliked-n32", "aliked-t16", "disk", "superpoint", "sift"),
)
OWN_LOSSES = ("arcface", "softmax", "pairs")
OWN_METRIC_NAMES = (
    *("top_", "identity_top_", "encounter_top_", "balanced_top_", "mAP", "mINP", "shortlist_"),
    *("new_", "tpr_", "dir_", "BAKS", "BAUS", "open_set_", "false_match_"),
)
"""How the names of exreid's own metrics begin."""


def _known(name: str, group: str, own: tuple[str, ...]) -> str:
    if name in own or find_plugin(group, name):
        return name
    *most, last = [repr(known) for known in (*own, *plugin_names(group))] or ["no name"]
    expected = f"{', '.join(most)} or {last}" if most else last
    raise PydanticCustomError(
        "literal_error",
        "Input should be {expected} (packages add names: entry point {group})",
        {"expected": expected, "group": group},
    )


def _extractor(name: str) -> str:
    return _known(name, EXTRACTORS, OWN_EXTRACTORS)


def _loss(name: str) -> str:
    return _known(name, LOSSES, OWN_LOSSES)


def _metric(name: str) -> str:
    if name.startswith(OWN_METRIC_NAMES):
        raise ValueError(f"{name!r} is a name of exreid's own metrics")
    return _known(name, METRICS, ())


LocalName = Annotated[
    str, AfterValidator(_extractor), WithJsonSchema({"type": "string", "enum": OWN_EXTRACTORS})
]
LossName = Annotated[
    str, AfterValidator(_loss), WithJsonSchema({"type": "string", "enum": OWN_LOSSES})
]
MetricName = Annotated[str, AfterValidator(_metric)]
