"""Writing the files of a gallery; `exreid.gallery.folder` lists them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from exreid import __version__
from exreid.calibration.curves import Calibration
from exreid.calibration.fusion import Fusion
from exreid.config.base import Tree
from exreid.config.methods import ModelConfig
from exreid.config.probe import OutputConfig, ProbeConfig, RayConfig, WandbConfig
from exreid.data.thumbnails import Thumbnail, make_thumbnail
from exreid.errors import MaskError
from exreid.features.keys import image_key
from exreid.gallery.edits import Edit, write_edits
from exreid.gallery.fitted_json import decider_to_json, grouping_to_json
from exreid.gallery.folder import StoredGallery
from exreid.gallery.images_table import images_table
from exreid.gallery.layout import (
    CHECKSUMS,
    DECISIONS,
    IMAGES,
    MANIFEST,
    MATCHER,
    PAIRS,
    REMOVED,
    backbone_name,
    thumbnail_name,
)
from exreid.gallery.manifest import FORMAT, ROUNDING_KEYS, Manifest, OpenSetFit
from exreid.gallery.removed import Removed
from exreid.openset.decide import Decider
from exreid.openset.group import Grouping
from exreid.pipeline.index_segments import IndexSegments
from exreid.pipeline.inputs import methods_of
from exreid.pipeline.prepare_scoring import Scoring
from exreid.progress import Progress
from exreid.records import GalleryQuality, ImageTable, Json, Rejected
from exreid.storage.array_store import ArrayStore, write_part
from exreid.storage.files import SEALED, checksum_of
from exreid.storage.pair_store import PairStore, pair_records
from exreid.storage.run_folder import write_rejected, write_table, write_text
from exreid.storage.spreadsheets import read_cells
from exreid.storage.urls import READER_THREADS, read_bytes

PART_IMAGES = 256


@dataclass(frozen=True)
class GalleryFit:
    """The fits on the gallery's own images."""

    fusion: Fusion | None
    decider: Decider | None = None
    content: dict[str, Json] | None = None
    """The content of ``open_set.json``."""
    answer: Calibration | None = None
    """From an identity's score to the probability that it is right."""
    grouping: Grouping | None = None
    """The grouping of images of new animals."""
    quality: GalleryQuality | None = None
    """How well the gallery tells its animals apart; None if that was not measured."""

    def as_json(self) -> OpenSetFit | None:
        """The ``open_set`` of ``gallery.json``."""
        if self.decider is None or self.answer is None:
            return None
        return {
            "decider": decider_to_json(self.decider),
            "content": self.content,
            "answer": self.answer.as_json(),
            "grouping": None if self.grouping is None else grouping_to_json(self.grouping),
        }


@dataclass(frozen=True)
class GalleryContent:
    """The content of a gallery's files."""

    scoring: Scoring
    """The features of its images, and the matched pairs."""
    content_G: list[str]
    """Hashes of the photographs' files."""
    fit: GalleryFit
    rejected: Sequence[Rejected]
    old: StoredGallery | None
    """The gallery that is added to: its photographs are the first of the table."""
    thumbnail_px: int
    edits: Sequence[Edit] = ()
    """In their order."""
    removed: Removed | None = None
    """Photographs of the old gallery that are none of this one's, and stay in its files."""
    segments: IndexSegments | None = None
    """Of the index of its first local features; None where it is small, or has no index."""

    @property
    def table(self) -> ImageTable:
        """The images."""
        return self.scoring.features.table

    def write(self, folder: Path) -> None:
        """Write all files of the gallery into an empty folder."""
        features, config = self.scoring.features, self.scoring.config
        removed = None if self.removed is None else self.removed.photos
        for number, vectors_ND in enumerate(features.vectors):
            gone = [] if removed is None else [removed.vectors(number)]
            whole_ND = np.concatenate([vectors_ND, *gone])
            np.save(folder / f"global-{number}.npy", whole_ND, allow_pickle=False)
        regions = self.table.regions
        keys = [image_key(c, region) for c, region in zip(self.content_G, regions, strict=True)]
        every = keys if removed is None else [*keys, *removed.keys]
        for images in features.local:
            _write_local(folder / f"local-{images.name}", images.store.store, every, self.old)
        if self.segments is not None:
            for file in self.segments.files():
                _link_or_copy(file, folder / f"index-{features.local[0].name}" / file.name)
        _write_pairs(folder / PAIRS, self.scoring)
        checkpoints = _write_weights(folder, config)
        for images in features.local:
            if images.adapted is not None:
                images.adapted.save(folder / MATCHER)
        small_masks = self._write_thumbnails(folder, self.scoring.log.progress)
        mask_col = config.dataset.mask_col
        images_file = images_table(self.table, self.content_G, small_masks, mask_col)
        write_table(folder / IMAGES, images_file)
        if self.removed is not None:
            write_table(folder / REMOVED, self.removed.as_table(mask_col))
        write_rejected(folder / "rejected.csv", [*_rejected_before(self.old), *self.rejected])
        if self.edits:
            write_edits(folder / DECISIONS, self.edits)
        manifest = self._manifest(keys, checkpoints)
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        write_checksums(folder)

    def _write_thumbnails(self, folder: Path, progress: Progress) -> list[str | None]:
        """Write the small pictures, those of an old gallery unchanged; the animals' regions on
        them."""
        old, rows = self.old, self.table.rows
        known = [] if old is None else old.small_masks
        small: list[str | None] = [*known, *[None] * (len(rows) - len(known))]
        if self.thumbnail_px == 0:
            return small
        gone = [] if self.removed is None else self.removed.photos.content_G
        for content in dict.fromkeys([] if old is None else [*old.content_G, *gone]):
            source = None if old is None else old.thumbnail(content)
            if source is not None:
                _link_or_copy(source, folder / thumbnail_name(content))
        advance, regions = progress("Thumbnails", len(rows) - len(known)), self.table.regions

        def make(i: int) -> str | None:
            data = read_bytes(self.table.root, rows["path"].iloc[i])
            made = _thumbnail(data, regions[i], self.thumbnail_px)
            file = folder / thumbnail_name(self.content_G[i])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(made.jpeg)
            advance(1)
            return made.region

        with ThreadPoolExecutor(READER_THREADS) as pool:
            small[len(known) :] = pool.map(make, range(len(known), len(rows)))
        return small

    def _manifest(self, keys: list[str], checkpoints: list[int]) -> Manifest:
        old, fit, rows = self.old, self.fit, self.table.rows
        written = datetime.now(UTC).isoformat(timespec="seconds")
        now: dict[str, Json] = {"written": written, "photographs": len(rows), "exreid": __version__}
        features = dict(self.scoring.features.descriptions)
        config, open_set = _portable(self.scoring.config), fit.as_json()
        known = [keys, rows["identity"].tolist(), config, _strict(features), open_set]
        known.append(None if fit.fusion is None else fit.fusion.fingerprint)
        text = json.dumps(known, sort_keys=True)
        manifest: Manifest = {
            "format": FORMAT,
            "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
            "method": self.scoring.config.benchmark.method,
            "photographs": len(rows),
            "animals": int(rows["identity"].nunique()),
            "encounters": int(rows["encounter"].nunique()),
            "thumbnails_px": self.thumbnail_px,
            "history": [*([] if old is None else old.manifest["history"]), now],
            "config": config,
            "features": features,
            "checkpoints": checkpoints,
            "matcher": any(images.adapted for images in self.scoring.features.local),
            "calibration": self._calibration(self.scoring.config),
            "open_set": open_set,
            "quality": None if fit.quality is None else asdict(fit.quality),
            "checksums": CHECKSUMS,
        }
        if self.removed is not None:
            manifest["removed"] = len(self.removed.photos)
        return manifest

    def _calibration(self, config: ProbeConfig) -> str | None:
        """``fitted`` on this gallery or ``loaded``; None without a fusion."""
        if self.fit.fusion is None:
            return None
        before = self.old is not None and self.old.manifest["calibration"] == "loaded"
        return "loaded" if before or config.benchmark.calibration.load is not None else "fitted"


def write_checksums(folder: Path) -> None:
    """Write the checksums of a gallery's files. Parts of local features have theirs in their names,
    matched pairs theirs in their frames; thumbnails change no answer and have none."""
    sums = {file.name: checksum_of(file) for file in sorted(folder.iterdir()) if file.is_file()}
    sums.pop(CHECKSUMS, None)
    write_text(folder / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def _write_local(
    folder: Path, store: ArrayStore, keys: list[str], old: StoredGallery | None
) -> None:
    folder.mkdir()
    if old is not None:
        for file in (old.folder / folder.name).iterdir():
            if SEALED.search(file.stem):  # parts of an earlier version are written again
                _link_or_copy(file, folder / file.name)
    there = ArrayStore(folder)
    missing = [key for key in dict.fromkeys(keys) if key not in there]
    for start in range(0, len(missing), PART_IMAGES):
        part = missing[start : start + PART_IMAGES]
        write_part(folder, part, store.gather(part))


def _write_pairs(folder: Path, scoring: Scoring) -> None:
    """Write the evidence of all pairs that were matched, in their order."""
    if not scoring.local:
        return
    for name, asked in (scoring.matching.asked or {}).items():
        words_P2 = np.concatenate(asked)
        _, first = np.unique(words_P2, axis=0, return_index=True)
        words_P2 = words_P2[np.sort(first)]
        known_P, evidence = scoring.local[0].open_store(name).find(words_P2)
        records = pair_records(words_P2, evidence)[known_P]
        if len(records):
            PairStore(folder / name).append_records(records)


def _write_weights(folder: Path, config: ProbeConfig) -> list[int]:
    """Write the weights of each backbone with a checkpoint; the numbers of these backbones."""
    numbers = []
    for number, model in enumerate(methods_of(config)[0]):
        if model.checkpoint is not None:
            from exreid.models.backbones import build_backbone

            size = config.dataset.image_size
            backbone = build_backbone(model.type, checkpoint=model.checkpoint, image_size=size)
            state = backbone.module.state_dict()
            weights = {key: tensor.clone() for key, tensor in state.items()}
            save_file(weights, folder / backbone_name(number))
            numbers.append(number)
    return numbers


def _thumbnail(data: bytes, region: str | None, longer_side_px: int) -> Thumbnail:
    try:
        return make_thumbnail(data, region, longer_side_px)
    except MaskError:
        # The features did not need the mask, or this error would have been raised before.
        return make_thumbnail(data, None, longer_side_px)


def _rejected_before(old: StoredGallery | None) -> list[Rejected]:
    if old is None or not (old.folder / "rejected.csv").exists():
        return []
    file = old.file("rejected.csv")
    return [
        Rejected(image_id, path, int(row), stage, reason)
        for image_id, path, row, stage, reason in read_cells(file).itertuples(index=False)
    ]


def _portable(config: ProbeConfig) -> dict[str, Json]:
    """The config without the values of this machine."""

    def bare(model: ModelConfig) -> ModelConfig:
        return model.model_copy(update={"checkpoint": None})

    benchmark = config.benchmark
    dataset = {"root": ".", "metadata_file": None, "make_split": None}
    fusion = {"models": tuple(map(bare, benchmark.fusion.models))}
    matching = {
        "cache": "auto",
        "fusion": benchmark.fusion.model_copy(update=fusion),
        "calibration": benchmark.calibration.model_copy(update={"load": None}),
        "matcher_checkpoint": None,
    }
    plain = {
        "dataset": config.dataset.model_copy(update=dataset),
        "model": bare(config.model),
        "benchmark": benchmark.model_copy(update=matching),
        "output": OutputConfig(),
        "wandb": WandbConfig(),
        "ray": RayConfig(),
    }
    tree: Tree = config.model_copy(update=plain).model_dump(mode="json")
    return tree


def _strict(features: object) -> object:
    """The descriptions without values that change only the last digits of features."""
    if isinstance(features, dict):
        return {key: _strict(value) for key, value in features.items() if key not in ROUNDING_KEYS}
    return features


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
