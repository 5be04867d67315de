"""A gallery: known animals in one folder that can be moved, sent and asked.

    gallery.json        format, config, counts, what the features depend on, the fitted decision
    images.parquet      a row per photograph, in the gallery's order
    global-0.npy        float32 (G, D) of the first backbone; global-1.npy of the next
    local-NAME/         local features, as the cache keeps them
    fusion.json         how raw scores become one (method=wildfusion)
    pairs/              evidence of gallery pairs that were matched for fitting
    thumbnails/         small pictures of the photographs, by content
    backbone-0.safetensors   weights, where they came from a checkpoint
    checksums.json      of the files beside it: damage is an error that names the file

A gallery may come from somebody else. So it holds JSON, Parquet, plain arrays, JPEG and
safetensors, nothing that runs; nothing in it is a link; and no path in it leaves its folder.

Letters: G gallery images.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from pydantic import TypeAdapter, ValidationError

from exreid.calibration.budget import BudgetRule
from exreid.calibration.curves import Calibration, SavedCalibration
from exreid.calibration.fusion import Fusion
from exreid.config.base import Tree
from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.errors import CalibrationError, ConfigError, GalleryError
from exreid.features.keys import image_key
from exreid.features.local_extraction import LocalFeatureStore
from exreid.gallery.fitted_json import decider_from_json, grouping_from_json
from exreid.gallery.images_table import read_images_table
from exreid.gallery.layout import (
    CHECKSUMS,
    DAMAGED,
    IMAGES,
    MANIFEST,
    backbone_name,
    checked,
    inside,
    is_link,
    part_is_whole,
    read_checksums,
    read_gallery_json,
    refuse_links,
    thumbnail_name,
)
from exreid.gallery.swap import State, put_back, state_of
from exreid.openset.decide import Decider
from exreid.openset.group import Grouping
from exreid.records import GalleryQuality, ImageTable, Json, region_parts
from exreid.storage.files import mapped_array

log = logging.getLogger(__name__)

FORMAT = 2
EARLIER_FORMATS = (1,)
"""Their features are read as they are; what was fitted on them is fitted anew by `gallery add`."""
DESCRIBES = ("dataset", "model", "benchmark", "seed", "deterministic")
"""Of a gallery's config, what is taken from it ..."""
THIS_MACHINES = (
    *(("dataset", "root"), ("dataset", "metadata_file"), ("dataset", "on_error")),
    *(("dataset", "make_split"), ("model", "checkpoint"), ("benchmark", "cache")),
    ("benchmark", "calibration", "load"),
)
"""... without these."""
LOOSE = ("device", "torch", "timm")
"""Of what features depend on: what moves their last digits alone."""
SWAPS = 5
"""How often a gallery that is replaced while it is opened is opened again."""


class OpenSetFit(TypedDict):
    """What decides whether an animal is known."""

    decider: dict[str, Json]
    content: dict[str, Json] | None
    """Of ``open_set.json``."""
    answer: SavedCalibration
    grouping: dict[str, Json] | None


class Manifest(TypedDict):
    """What ``gallery.json`` holds, as far as others ask for it."""

    format: int
    fingerprint: str
    method: str
    photographs: int
    animals: int
    encounters: int
    thumbnails_px: int
    history: list[dict[str, Json]]
    config: Tree
    features: dict[str, Mapping[str, Json]]
    """What they depend on besides the images, by their name."""
    checkpoints: list[int]
    calibration: str | None
    """``fitted`` on this gallery, or ``loaded``."""
    open_set: OpenSetFit | None
    quality: NotRequired[dict[str, Any] | None]
    checksums: NotRequired[str]


@dataclass(frozen=True)
class StoredGallery:
    """A gallery that was opened; arrays stay on disk until they are needed."""

    folder: Path
    manifest: Manifest
    config: ProbeConfig
    table: ImageTable
    """Its root is empty: the photographs are elsewhere."""
    content_G: list[str]
    """Hashes of the photographs' files."""
    small_masks: list[str | None]
    """Where the animals are on the thumbnails, as `exreid.records.region_text` has it."""
    checksums: dict[str, str] | None
    """Of the files right in the folder; None where an earlier version wrote none."""
    state: State
    """Of the folder when it was opened."""

    def is_replaced(self) -> bool:
        """Whether another gallery has taken the folder's place since it was opened."""
        return state_of(self.folder, MANIFEST) != self.state

    def file(self, name: str) -> Path:
        """A file of the gallery, with the bytes that were written; GalleryError otherwise."""
        return checked(self.folder, name, self.checksums)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def fingerprint(self) -> str:
        """16 hex digits: the same for the same animals, features, and fitted decisions."""
        return str(self.manifest["fingerprint"])

    def place_of(self, content: str, region: str | None) -> int | None:
        """The place of the image with a photograph's content and region; None where it has none.

        Where one of the two has no box the photograph is one image, and its content says which.
        """
        places = self._places_of_content.get(content, [])
        mine = [self._regions[place] for place in places]
        if region in mine:
            return places[mine.index(region)]
        boxed = region_parts(region)[1] and any(region_parts(one)[1] for one in mine)
        return places[0] if len(places) == 1 and not boxed else None

    @cached_property
    def _regions(self) -> list[str | None]:
        return self.table.regions

    @cached_property
    def _places_of_content(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for place, content in enumerate(self.content_G):
            places.setdefault(content, []).append(place)
        return places

    @cached_property
    def keys(self) -> list[str]:
        """Each photograph's key, as caches have it."""
        return [
            image_key(content, region)
            for content, region in zip(self.content_G, self.table.regions, strict=True)
        ]

    @property
    def is_earlier(self) -> bool:
        """Whether what was fitted on its features is of an earlier format."""
        return self.manifest["format"] in EARLIER_FORMATS

    def _refuse_earlier(self) -> None:
        if self.is_earlier:
            anew = (
                "Build it again, with a calibration of this version."
                if self.manifest["calibration"] == "loaded"
                else f"Fit them again: exreid gallery add {self.folder} dataset.root=FOLDER, with "
                "the photographs in it or new ones. No features are computed again."
            )
            raise GalleryError(
                f"{self.folder}: an earlier version of exreid fitted its probabilities and "
                f"decisions, in another way. {anew}"
            )

    def vectors(self, number: int) -> np.ndarray:
        """float32 (G, D) of one backbone, memory-mapped."""
        file = self.file(f"global-{number}.npy")
        try:
            vectors_GD = mapped_array(file)
        except (OSError, ValueError) as error:
            raise GalleryError(f"{file}: not an array: {error}. {DAMAGED}") from error
        if vectors_GD.dtype != np.float32 or vectors_GD.ndim != 2 or len(vectors_GD) != len(self):
            raise GalleryError(
                f"{file}: {vectors_GD.dtype} of shape {vectors_GD.shape}, not a float32 row for "
                f"each of the {len(self)} photographs. {DAMAGED}"
            )
        return vectors_GD

    def local_folder(self, name: str) -> Path:
        """Where the local features of one extractor lie, all of them whole."""
        return self.local_store(name).store.folder

    def description(self, name: str) -> dict[str, Json]:
        """What features of this name depend on besides the images; empty where it has none."""
        return dict(self.manifest["features"].get(name, {}))

    def check_features(self, name: str, description: Mapping[str, Json]) -> None:
        """GalleryError where features made here would differ from the gallery's.

        What only moves the last digits (device, versions of torch and timm) may differ.
        """
        own = self.description(name)
        if not own:
            raise GalleryError(f"{self.folder}: has no features of {name}. {DAMAGED}")
        changed = _differences(own, json.loads(json.dumps(description)))
        if not changed:
            return
        lines = [f"  {key}: {old!r} in the gallery, {new!r} here" for key, old, new in changed]
        head = (
            f"{self.folder}: features of {name} made here cannot be compared with the gallery's, "
            "since they depend on"
        )
        remedy = (
            "Use the weights and the version of exreid that the gallery was built with, or build "
            "the gallery again."
        )
        raise GalleryError("\n".join([head, *lines, remedy]))

    def local_store(self, name: str) -> LocalFeatureStore:
        """The local features of one extractor, by the photographs' `keys`."""
        folder = inside(self.folder, f"local-{name}")
        refuse_links(folder)
        keypoints = self.config.benchmark.local_top_k
        found = LocalFeatureStore(folder, name, keypoints)
        for part in folder.glob("part-*.npy"):
            try:
                records = mapped_array(part)
            except (OSError, ValueError) as error:
                raise GalleryError(f"{part}: is damaged: {error}. {DAMAGED}") from error
            if records.dtype != found.empty.dtype or records.ndim != 1:
                raise GalleryError(f"{part}: {records.dtype} is no local feature. {DAMAGED}")
        if any(key not in found.store for key in self.keys):
            named = next((part for part in found.store.parts if not part_is_whole(part)), folder)
            raise GalleryError(f"{named}: lacks photographs of {IMAGES}. {DAMAGED}")
        return found

    def fusion(self) -> Fusion:
        """How raw scores become one."""
        self._refuse_earlier()
        file = self.file("fusion.json")
        try:
            return Fusion.from_json(read_gallery_json(file)["fusion"])
        except (KeyError, TypeError, CalibrationError) as error:
            raise GalleryError(f"{file}: {error} {DAMAGED}") from error

    def budget_rule(self) -> BudgetRule | None:
        """When the local matching of a query may stop; None where that was not fitted."""
        self._refuse_earlier()
        file = self.file("fusion.json")
        rule = read_gallery_json(file).get("budget")
        try:
            return None if rule is None else BudgetRule.from_json(rule)
        except (KeyError, TypeError, ValueError, CalibrationError) as error:
            raise GalleryError(f"{file}: {error} {DAMAGED}") from error

    def decider(self) -> Decider | None:
        """The decision between known and new; None where none was fitted."""
        self._refuse_earlier()
        found = self.manifest["open_set"]
        return None if found is None else decider_from_json(found["decider"])

    @cached_property
    def quality(self) -> GalleryQuality | None:
        """How well it tells its animals apart; None where that was not measured, as by earlier
        versions."""
        found = self.manifest.get("quality")
        try:
            return TypeAdapter(GalleryQuality | None).validate_python(found)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].lower()
            raise GalleryError(f"{MANIFEST}: not a quality: {problem}. {DAMAGED}") from error

    @property
    def decides(self) -> bool:
        """Whether it tells known from new: it has a decision, and tells its animals apart."""
        poor = self.quality is not None and self.quality.level == "poor"
        return self.manifest["open_set"] is not None and not poor

    @property
    def decision(self) -> dict[str, Json]:
        """Its ``open_set.json``; empty where it has no decision."""
        fit = self.manifest["open_set"]
        return {} if fit is None else fit["content"] or {}

    def grouping(self) -> Grouping | None:
        """How photographs of new animals are grouped; None where that was not fitted."""
        self._refuse_earlier()
        fit = self.manifest["open_set"]
        saved = None if fit is None else fit.get("grouping")
        return None if saved is None else grouping_from_json(saved)

    def answer_curve(self) -> Calibration | None:
        """From an animal's score to the probability that it is the one; None where not fitted."""
        self._refuse_earlier()
        found = self.manifest["open_set"]
        return None if found is None else Calibration.from_json(found["answer"])

    def thumbnail(self, content: str) -> Path | None:
        """The small picture of a photograph, where the gallery has one."""
        file = self.folder / thumbnail_name(content)
        return file if file.is_file() and not is_link(file, self.folder) else None


def open_gallery(folder: Path) -> StoredGallery:
    """Read a gallery, and check what others rely on; GalleryError for what is none."""
    folder = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - keeps symbolic links
    for _ in range(SWAPS):
        put_back(folder)
        state = state_of(folder, MANIFEST)
        try:
            gallery = _opened(folder, state)
            if not gallery.is_replaced():
                return gallery
        except (GalleryError, ConfigError, OSError):
            if state_of(folder, MANIFEST) == state:
                raise
    raise GalleryError(f"{folder}: is replaced again and again while it is read. Wait for that.")


def _opened(folder: Path, state: State) -> StoredGallery:
    if not (folder / MANIFEST).is_file():
        raise GalleryError(
            f"{folder}: no gallery (no {MANIFEST} in it). Make one: exreid gallery build FOLDER "
            "--out DIR."
        )
    checksums = read_checksums(folder)
    manifest = read_gallery_json(checked(folder, MANIFEST, checksums))
    version = manifest.get("format")
    if version not in (*EARLIER_FORMATS, FORMAT):
        raise GalleryError(
            f"{folder}: a gallery of format {version}, and this version of exreid reads {FORMAT}. "
            "Install the version that wrote it, or build it again."
        )
    missing = {"config", "features", "open_set", "fingerprint", "checkpoints"} - set(manifest)
    if missing:
        raise GalleryError(f"{folder / MANIFEST}: lacks {', '.join(sorted(missing))}. {DAMAGED}")
    described = _described(manifest["config"])
    config = from_values(ProbeConfig, described, source=str(folder / MANIFEST))
    if checksums is None and "checksums" in manifest:
        raise GalleryError(f"{folder / CHECKSUMS}: is missing. {DAMAGED}")
    if checksums is None:
        log.warning(
            "%s: this gallery has no checksums (an earlier version of exreid wrote it): damage to "
            "its files goes unnoticed. Build it again, or add photographs to it, to have them.",
            folder,
        )
    _complete(manifest, config)
    config = _with_checkpoints(config, folder, manifest, checksums)
    images = read_images_table(checked(folder, IMAGES, checksums))
    return StoredGallery(folder, manifest, config, *images, checksums, state)


def _complete(manifest: Manifest, config: ProbeConfig) -> None:
    """Earlier versions mirrored photographs as they were told, and did not note it."""
    for number, model in enumerate([config.model, *config.benchmark.fusion.models]):
        described = manifest["features"].get(f"global-{number}")
        if isinstance(described, dict) and model.flip_augmentation:
            described.setdefault("flip", True)


def _described(tree: Tree) -> Tree:
    """Of a gallery's config what says how its features and decisions are made: where this machine
    reads and writes, and whom it talks to, are its user's to say."""
    kept = {name: value for name, value in tree.items() if name in DESCRIBES}
    for names in THIS_MACHINES:
        kept = _without(kept, names)
    return kept


def _without(tree: Tree, names: Sequence[str]) -> Tree:
    """A tree without one of its keys, where it has it."""
    first, *more = names
    if not isinstance(tree, dict) or first not in tree:
        return tree
    if more:
        return {**tree, first: _without(tree[first], more)}
    return {name: value for name, value in tree.items() if name != first}


def _differences(old: object, new: object, key: str = "") -> list[tuple[str, object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if name not in LOOSE]
        parts = [_differences(old.get(n), new.get(n), f"{key}.{n}".strip(".")) for n in names]
        return [found for part in parts for found in part]
    return [] if old == new else [(key, old, new)]


def _with_checkpoints(
    config: ProbeConfig, folder: Path, manifest: Manifest, checksums: dict[str, str] | None
) -> ProbeConfig:
    """The config with the weights that the gallery brings."""
    brought = set(manifest["checkpoints"])
    models = [config.model, *config.benchmark.fusion.models]
    for number, model in enumerate(models):
        name = backbone_name(number)
        file = str(checked(folder, name, checksums)) if number in brought else None
        models[number] = model.model_copy(update={"checkpoint": file})
    fusion = config.benchmark.fusion.model_copy(update={"models": tuple(models[1:])})
    benchmark = config.benchmark.model_copy(update={"fusion": fusion})
    return config.model_copy(update={"model": models[0], "benchmark": benchmark})
