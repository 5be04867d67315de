"""A gallery: known animals in one folder, which can be moved, sent and opened.

    gallery.json        format, config, counts, what the features depend on, the fitted decision
    images.parquet      a row per photograph, in the gallery's order
    removed.parquet     a row per photograph that was taken out, where there are any
    global-0.npy        float32 (G, D) of the first backbone, removed ones last; global-1.npy of
                        the next
    local-NAME/         local features, as the cache keeps them
    index-NAME/         the segments of the index, of more than 512 photographs
    fusion.json         how raw scores become one (method=wildfusion)
    decisions.csv       edits: names that were changed, photographs that a review put in or that
                        were taken out
    pairs/              evidence of gallery pairs that were matched for fitting
    thumbnails/         small pictures of the photographs, by content
    backbone-0.safetensors   weights, where they came from a checkpoint
    matcher.safetensors      LightGlue's weights, where they came from a checkpoint
    checksums.json      of the files beside it: damage is an error that names the file

A gallery may come from another person. So its files are JSON, Parquet, plain arrays, JPEG,
safetensors and FAISS's, which run no code; none of them is a link; and no path in it leaves its
folder.

Letters: G gallery images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from exreid.calibration.budget_rule import BudgetRule
from exreid.calibration.curves import Calibration
from exreid.calibration.fusion import Fusion
from exreid.config.probe import ProbeConfig
from exreid.errors import CalibrationError, GalleryError
from exreid.features.keys import image_key
from exreid.features.local_extraction import LocalFeatureStore
from exreid.gallery.edits import Edit, read_edits
from exreid.gallery.fitted_json import decider_from_json, grouping_from_json
from exreid.gallery.layout import (
    DAMAGED,
    DECISIONS,
    IMAGES,
    MANIFEST,
    checked,
    inside,
    is_link,
    part_is_whole,
    read_gallery_json,
    refuse_links,
    thumbnail_name,
)
from exreid.gallery.manifest import (
    EARLIER_FORMATS,
    ROUNDING_KEYS,
    Manifest,
)
from exreid.gallery.swap import State, state_of
from exreid.openset.decide import Decider
from exreid.openset.group import Grouping
from exreid.records import GalleryQuality, ImageTable, Json, region_parts
from exreid.storage.files import mapped_array


@dataclass(frozen=True)
class StoredGallery:
    """An open gallery; its arrays are read from disk when they are needed."""

    folder: Path
    manifest: Manifest
    config: ProbeConfig
    table: ImageTable
    """Its root is empty: the photographs are elsewhere."""
    content_G: list[str]
    """Hashes of the photographs' files."""
    small_masks: list[str | None]
    """The animals' regions on the thumbnails, as texts of `exreid.records.region_text`."""
    checksums: dict[str, str] | None
    """Of the files directly in the folder; None if an earlier version wrote none."""
    state: State
    """The state of the folder when it was opened."""
    kept_G: np.ndarray | None = None
    """The places of its photographs among those of the folder, the removed ones after the others;
    None: all of them but the removed ones."""

    def only(self, kept_G: np.ndarray) -> StoredGallery:
        """The gallery with some of its photographs, by their places."""
        return replace(
            self,
            table=self.table.take(kept_G),
            content_G=[self.content_G[i] for i in kept_G],
            small_masks=[self.small_masks[i] for i in kept_G],
            kept_G=kept_G if self.kept_G is None else self.kept_G[kept_G],
        )

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
        """The index of the image with a photograph's content and region; None if there is none.

        If the gallery has only one image of this content, and that image or the region has no box,
        the content alone decides.
        """
        places = self._places_of_content.get(content, [])
        regions = [self._regions[place] for place in places]
        if region in regions:
            return places[regions.index(region)]
        boxed = region_parts(region)[1] and any(region_parts(other)[1] for other in regions)
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
        """The photographs' keys in caches."""
        return [
            image_key(content, region)
            for content, region in zip(self.content_G, self.table.regions, strict=True)
        ]

    @property
    def is_earlier(self) -> bool:
        """Whether the gallery's fits are of an earlier format."""
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

    @cached_property
    def edits(self) -> list[Edit]:
        """The edits of its animals' names, in their order."""
        return read_edits(self.file(DECISIONS)) if (self.folder / DECISIONS).exists() else []

    def vectors(self, number: int) -> np.ndarray:
        """float32 (G, D) of one backbone, memory-mapped."""
        file = self.file(f"global-{number}.npy")
        try:
            vectors_GD = mapped_array(file)
        except (OSError, ValueError) as error:
            raise GalleryError(f"{file}: not an array: {error}. {DAMAGED}") from error
        own = len(self) if self.kept_G is None else int(self.manifest["photographs"])
        count = own + int(self.manifest.get("removed", 0))
        if vectors_GD.dtype != np.float32 or vectors_GD.ndim != 2 or len(vectors_GD) != count:
            raise GalleryError(
                f"{file}: {vectors_GD.dtype} of shape {vectors_GD.shape}, not a float32 row for "
                f"each of the {count} photographs. {DAMAGED}"
            )
        return vectors_GD[:own] if self.kept_G is None else vectors_GD[self.kept_G]

    def local_folder(self, name: str) -> Path:
        """The folder of one extractor's local features, all of them undamaged."""
        return self.local_store(name).store.folder

    def index_folder(self, name: str) -> Path | None:
        """The folder of the index of one extractor's features; None where the gallery is too small
        for one, or of an earlier version. It may have removed photographs, which it leaves out."""
        folder = self.folder / f"index-{name}"
        if not folder.exists():
            return None
        refuse_links(inside(self.folder, folder.name))
        return folder

    def description(self, name: str) -> dict[str, Json]:
        """The values that features of this name depend on besides the images; empty without
        them."""
        return dict(self.manifest["features"].get(name, {}))

    def check_features(self, name: str, description: Mapping[str, Json]) -> None:
        """GalleryError if features made here would differ from the gallery's.

        Values that change only the last digits (device, versions of torch and timm) may differ.
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
        features = LocalFeatureStore(folder, name, keypoints)
        for part in folder.glob("part-*.npy"):
            try:
                records = mapped_array(part)
            except (OSError, ValueError) as error:
                raise GalleryError(f"{part}: is damaged: {error}. {DAMAGED}") from error
            if records.dtype != features.empty.dtype or records.ndim != 1:
                raise GalleryError(
                    f"{part}: {records.dtype} is not a record of local features. {DAMAGED}"
                )
        if any(key not in features.store for key in self.keys):
            damaged_part = next(
                (part for part in features.store.parts if not part_is_whole(part)), folder
            )
            raise GalleryError(f"{damaged_part}: lacks photographs of {IMAGES}. {DAMAGED}")
        return features

    def fusion(self) -> Fusion:
        """The fusion of the methods' raw scores."""
        self._refuse_earlier()
        file = self.file("fusion.json")
        try:
            return Fusion.from_json(read_gallery_json(file)["fusion"])
        except (KeyError, TypeError, CalibrationError) as error:
            raise GalleryError(f"{file}: {error} {DAMAGED}") from error

    def budget_rule(self) -> BudgetRule | None:
        """The rule by which the local matching of a query stops; None if none was fitted."""
        self._refuse_earlier()
        file = self.file("fusion.json")
        rule = read_gallery_json(file).get("budget")
        try:
            return None if rule is None else BudgetRule.from_json(rule)
        except (KeyError, TypeError, ValueError, CalibrationError) as error:
            raise GalleryError(f"{file}: {error} {DAMAGED}") from error

    def decider(self) -> Decider | None:
        """The decision between known and new; None if none was fitted."""
        self._refuse_earlier()
        fit = self.manifest["open_set"]
        return None if fit is None else decider_from_json(fit["decider"])

    @cached_property
    def quality(self) -> GalleryQuality | None:
        """How well it tells its animals apart; None if that was not measured, as by earlier
        versions."""
        saved = self.manifest.get("quality")
        try:
            return TypeAdapter(GalleryQuality | None).validate_python(saved)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].lower()
            raise GalleryError(f"{MANIFEST}: not a quality: {problem}. {DAMAGED}") from error

    @property
    def decides(self) -> bool:
        """Whether it decides between known and new: it has a decision, and its quality is not
        poor."""
        poor = self.quality is not None and self.quality.level == "poor"
        return self.manifest["open_set"] is not None and not poor

    @property
    def decision(self) -> dict[str, Json]:
        """Its ``open_set.json``; empty if it has no decision."""
        fit = self.manifest["open_set"]
        return {} if fit is None else fit["content"] or {}

    def grouping(self) -> Grouping | None:
        """The grouping of photographs of new animals; None if none was fitted."""
        self._refuse_earlier()
        fit = self.manifest["open_set"]
        saved = None if fit is None else fit.get("grouping")
        return None if saved is None else grouping_from_json(saved)

    def answer_curve(self) -> Calibration | None:
        """From an animal's score to the probability that it is right; None if none was fitted."""
        self._refuse_earlier()
        fit = self.manifest["open_set"]
        return None if fit is None else Calibration.from_json(fit["answer"])

    def thumbnail(self, content: str) -> Path | None:
        """The small picture of a photograph, if the gallery has one."""
        file = self.folder / thumbnail_name(content)
        return file if file.is_file() and not is_link(file, self.folder) else None


def _differences(old: object, new: object, key: str = "") -> list[tuple[str, object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if name not in ROUNDING_KEYS]
        parts = [_differences(old.get(n), new.get(n), f"{key}.{n}".strip(".")) for n in names]
        return [difference for part in parts for difference in part]
    return [] if old == new else [(key, old, new)]
