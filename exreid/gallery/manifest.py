"""``gallery.json``: its content, and the config in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from exreid.calibration.curves import SavedCalibration
from exreid.config.base import Tree
from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.errors import GalleryError
from exreid.gallery.layout import (
    DAMAGED,
    MANIFEST,
    MATCHER,
    backbone_name,
    checked,
    read_gallery_json,
)
from exreid.records import Json

FORMAT = 2
EARLIER_FORMATS = (1,)
"""Their features are used as they are; `gallery add` fits decisions and probabilities again."""
TAKEN_BLOCKS = ("dataset", "model", "benchmark", "seed", "deterministic")
"""The blocks and keys of a gallery's config that are used, ..."""
LOCAL_KEYS = (
    *(("dataset", "root"), ("dataset", "metadata_file"), ("dataset", "on_error")),
    *(("dataset", "make_split"), ("model", "checkpoint"), ("benchmark", "cache")),
    *(("benchmark", "calibration", "load"), ("benchmark", "matcher_checkpoint")),
)
"""... without these keys: their values belong to one machine or data set."""
ROUNDING_KEYS = ("device", "torch", "timm")
"""Of the values that features depend on, those that change only the features' last digits."""


class OpenSetFit(TypedDict):
    """The fitted decision between known and new animals, as it is saved."""

    decider: dict[str, Json]
    content: dict[str, Json] | None
    """The content of ``open_set.json``."""
    answer: SavedCalibration
    grouping: dict[str, Json] | None


class Manifest(TypedDict):
    """The content of ``gallery.json``."""

    format: int
    fingerprint: str
    method: str
    photographs: int
    removed: NotRequired[int]
    """Photographs that were taken out and are still in its files."""
    animals: int
    encounters: int
    thumbnails_px: int
    history: list[dict[str, Json]]
    config: Tree
    features: dict[str, Mapping[str, Json]]
    """By the features' name: the values that they depend on besides the images."""
    checkpoints: list[int]
    matcher: NotRequired[bool]
    """Whether it has a LightGlue of its own."""
    calibration: str | None
    """``fitted`` on this gallery, or ``loaded``."""
    open_set: OpenSetFit | None
    quality: NotRequired[dict[str, Any] | None]
    checksums: NotRequired[str]


def read_manifest(folder: Path, checksums: dict[str, str] | None) -> Manifest:
    """The content of ``gallery.json``; GalleryError for damage and for an unknown format."""
    manifest: Manifest = read_gallery_json(checked(folder, MANIFEST, checksums))
    version = manifest.get("format")
    if version not in (*EARLIER_FORMATS, FORMAT):
        raise GalleryError(
            f"{folder}: a gallery of format {version}, and this version of exreid reads {FORMAT}. "
            "Install the version that wrote it, or build it again."
        )
    missing = {"config", "features", "open_set", "fingerprint", "checkpoints"} - set(manifest)
    if missing:
        raise GalleryError(f"{folder / MANIFEST}: lacks {', '.join(sorted(missing))}. {DAMAGED}")
    return manifest


def stored_config(manifest: Manifest, *, source: str) -> ProbeConfig:
    """The config that the gallery was built with, without the keys of the machine and the user that
    built it."""
    kept = {name: value for name, value in manifest["config"].items() if name in TAKEN_BLOCKS}
    for names in LOCAL_KEYS:
        kept = _without(kept, names)
    return from_values(ProbeConfig, kept, source=source)


def _without(tree: Tree, names: Sequence[str]) -> Tree:
    """A tree without one of its keys; the same tree if it has no such key."""
    first, *more = names
    if not isinstance(tree, dict) or first not in tree:
        return tree
    if more:
        return {**tree, first: _without(tree[first], more)}
    return {name: value for name, value in tree.items() if name != first}


def add_missing_flips(manifest: Manifest, config: ProbeConfig) -> None:
    """Add ``flip`` to the features' descriptions: earlier versions flipped without writing it."""
    for number, model in enumerate([config.model, *config.benchmark.fusion.models]):
        described = manifest["features"].get(f"global-{number}")
        if isinstance(described, dict) and model.flip_augmentation:
            described.setdefault("flip", True)


def with_stored_weights(
    config: ProbeConfig, folder: Path, manifest: Manifest, checksums: dict[str, str] | None
) -> ProbeConfig:
    """The config with the gallery's own weights as checkpoints."""
    brought = set(manifest["checkpoints"])
    models = [config.model, *config.benchmark.fusion.models]
    for number, model in enumerate(models):
        name = backbone_name(number)
        file = str(checked(folder, name, checksums)) if number in brought else None
        models[number] = model.model_copy(update={"checkpoint": file})
    fusion = config.benchmark.fusion.model_copy(update={"models": tuple(models[1:])})
    matcher = str(checked(folder, MATCHER, checksums)) if manifest.get("matcher") else None
    own = {"fusion": fusion, "matcher_checkpoint": matcher}
    benchmark = config.benchmark.model_copy(update=own)
    return config.model_copy(update={"model": models[0], "benchmark": benchmark})
