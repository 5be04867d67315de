"""Local features of a table's images, each extracted at most once: reading, masks, cache.

The pass over the table is that of the decoded images (`exreid.features.fill_cache`): the process
that extracts features writes them, and only keys travel. Letters: N images, K keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from exreid.data.images import (
    IMAGES_VERSION,
    Crop,
    Preprocessing,
    prepare_image,
    prepare_matte,
    used_wh_px,
    with_crop,
)
from exreid.features.extraction import NOT_FINITE, not_finite, read_batch
from exreid.features.keys import image_key
from exreid.features.local import LocalExtractor, find_extractor
from exreid.models.device import in_parts, keep_memory
from exreid.records import Json, LocalFeatures
from exreid.storage.array_store import ArrayStore, write_part

BATCH = {"cpu": 1, "cuda": 16}
"""On a CPU one image is as fast as several, and its features then depend on nothing else."""
LOCAL_PART_IMAGES = 32
"""Images of one part of the cache, and of one task."""
MIN_SIDE_PX = 32


@dataclass(frozen=True)
class LocalPreprocessing:
    """How a photograph becomes the extractor's input."""

    longer_side_px: int
    """The longer side, smaller photographs enlarged; with ``square`` both sides."""
    square: bool
    """Stretch to a square, as the field's reference does, instead of keeping the aspect."""
    mask_use: Literal["filter", "blank", "none"]
    """filter: keypoints from inside the mask, or else the box, alone. blank: the background is
    filled before, which makes the silhouette a feature. none: the whole photograph."""
    crop: Crop
    crop_margin: float
    reduced_decode: bool = True
    no_mask: Literal["raise", "whole"] = "raise"
    """As `Preprocessing` has it."""

    def describe(self) -> dict[str, Json]:
        """Everything that the extractor's input depends on, for cache keys."""
        described = {"images_version": IMAGES_VERSION, **asdict(self)}
        described = with_crop(described, self.crop)
        if self.no_mask == "raise":
            del described["no_mask"]
        return described

    def prepare(self, data: bytes, region: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """A file's bytes to uint8 RGB (H, W, 3), and where the animal is, bool (H, W)."""
        pre = Preprocessing(
            image_wh_px=(self.longer_side_px, self.longer_side_px),
            resize="stretch",
            crop_pct=1.0,
            interpolation="bicubic",
            no_background=self.mask_use == "blank",
            crop=self.crop,
            crop_margin=self.crop_margin,
            fill_rgb=(128, 128, 128),
            no_mask=self.no_mask,
            reduced_decode=self.reduced_decode,
        )
        if not self.square:
            width, height = used_wh_px(data, region, pre)
            scale = self.longer_side_px / max(width, height)
            size = (
                max(MIN_SIDE_PX, round(width * scale)),
                max(MIN_SIDE_PX, round(height * scale)),
            )
            pre = replace(pre, image_wh_px=size)
        image_HWC = prepare_image(data, region, pre)
        if self.mask_use != "filter" or not region:
            return image_HWC, None
        matte_HW = prepare_matte(data, region, replace(pre, no_background=False))
        return image_HWC, matte_HW >= 128


@dataclass(frozen=True)
class PrepareLocal:
    """Reads and decodes the images of a batch; an error stays with its own row."""

    root: str
    preprocessing: LocalPreprocessing

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns ``position``, ``path`` and ``region`` in; ``image`` (uint8 (H, W, 3) each),
        ``animal`` (bool (H, W), or (0, 0) where all of the image is used) and, as
        `exreid.features.extraction.PrepareImages` has them, ``content``, ``signature``, ``error``
        and ``stage`` added."""
        count = len(batch["position"])
        images, animals = np.empty(count, object), np.empty(count, object)
        for row in range(count):
            images[row], animals[row] = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), bool)

        def prepare(row: int, data: bytes, region: str | None) -> None:
            images[row], animal_HW = self.preprocessing.prepare(data, region)
            if animal_HW is not None:
                animals[row] = animal_HW

        texts = read_batch(self.root, batch, prepare)
        return {**batch, "image": images, "animal": animals, **texts}


class LocalArguments(TypedDict):
    """The arguments of each `ExtractLocal` of a run, on any machine."""

    root: str
    preprocessing: LocalPreprocessing
    folder: Path
    extractor: str
    keypoints: int


class ExtractLocal:
    """Extracts the images of a batch and writes them into the cache; only keys go further."""

    def __init__(
        self,
        root: str,
        preprocessing: LocalPreprocessing,
        folder: Path,
        *,
        extractor: str,
        keypoints: int,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        keep_memory()
        if threads:
            import torch

            torch.set_num_threads(threads)
        self.prepare, self.folder = PrepareLocal(root, preprocessing), folder
        self.extract = LocalExtractor(extractor, keypoints=keypoints, device=device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch before or after `PrepareLocal` in; ``position``, ``content``, ``signature``,
        ``error`` and ``stage`` out."""
        if "image" not in batch:
            batch = self.prepare(batch)
        features = self._features(batch)
        bad = [i for i, image in features.items() if not _is_finite(image)]
        error, stage = (np.array(batch[name], dtype=object) for name in ("error", "stage"))
        error[bad], stage[bad] = not_finite("descriptor"), NOT_FINITE
        features = {i: image for i, image in features.items() if i not in bad}
        batch = {**batch, "error": error, "stage": stage}
        keys = [image_key(batch["content"][i], batch["region"][i] or None) for i in features]
        records = [as_record(image) for image in features.values()]
        write_part(self.folder, keys, np.concatenate(records) if records else np.zeros(0))
        returned = ("position", "content", "signature", "error", "stage")
        return {name: batch[name] for name in returned}

    def _features(self, batch: dict[str, np.ndarray]) -> dict[int, LocalFeatures]:
        """The features of each readable image, by its row; images of one size go in batches."""
        groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
        images, animals = batch["image"], batch["animal"]
        for i in np.flatnonzero([not error for error in batch["error"]]).tolist():
            groups.setdefault((images[i].shape, animals[i].size == 0), []).append(i)
        features: dict[int, LocalFeatures] = {}
        size = BATCH[self.extract.device.type]
        for (_, bare), members in groups.items():
            for start in range(0, len(members), size):
                part = members[start : start + size]
                stacked = np.stack([images[i] for i in part])
                masks = None if bare else np.stack([animals[i] for i in part])
                rows = iter(part)
                for extracted in self._extracted(stacked, masks):
                    for place in range(len(extracted)):
                        features[next(rows)] = extracted.take(np.array([place]))
        return features

    def _extracted(
        self, images_BHWC: np.ndarray, mask_BHW: np.ndarray | None
    ) -> list[LocalFeatures]:
        def part(rows: slice) -> LocalFeatures:
            return self.extract(images_BHWC[rows], None if mask_BHW is None else mask_BHW[rows])

        return in_parts(part, len(images_BHWC))


def _is_finite(features: LocalFeatures) -> bool:
    arrays = (features.keypoints_NK2, features.descriptors_NKL, features.frame_NKF)
    return all(bool(np.isfinite(array).all()) for array in arrays)


def local_description(
    extractor: LocalExtractor, preprocessing: LocalPreprocessing, device: str
) -> dict[str, Json]:
    """Everything that an image's local features depend on besides the image and its mask."""
    return {**extractor.describe(), "preprocessing": preprocessing.describe(), "device": device}


def record_dtype(keypoints: int, length: int, frame: int = 0) -> np.dtype[np.void]:
    """The dtype of one image's features in the cache."""
    columns: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
        ("keypoints", "<f4", (keypoints, 2)),
        ("descriptors", "<f2", (keypoints, length)),
        ("count", "<i4"),
        ("wh_px", "<i4", (2,)),
    ]
    return np.dtype([*columns, ("frame", "<f4", (keypoints, frame))] if frame else columns)


def as_record(features: LocalFeatures) -> np.ndarray:
    """The features of N images as N records."""
    count, keypoints, length = features.descriptors_NKL.shape
    frame = features.frame_NKF.shape[2]
    records = np.zeros(count, record_dtype(keypoints, length, frame))
    records["keypoints"], records["descriptors"] = features.keypoints_NK2, features.descriptors_NKL
    records["count"], records["wh_px"] = features.count_N, features.image_wh_px_N2
    if frame:
        records["frame"] = features.frame_NKF
    return records


class LocalFeatureStore:
    """Local features by key, read from the cache's memory-mapped files when asked for."""

    def __init__(self, folder: Path, extractor: str, keypoints: int, *also: Path) -> None:
        """See `ArrayStore` for the folders."""
        self.store = ArrayStore(folder, *also)
        entry, _ = find_extractor(extractor)
        self.empty = np.zeros(0, record_dtype(keypoints, entry.descriptor_length, entry.frame))

    def gather_places(self, keys: Sequence[str], index: np.ndarray) -> LocalFeatures:
        """The features of the images whose keys are at these indices."""
        return self.gather([keys[i] for i in index])

    def gather(self, keys: Sequence[str]) -> LocalFeatures:
        """The features of these images, in that order."""
        records = self.store.gather(keys) if len(keys) else self.empty
        names = records.dtype.names or ()
        return LocalFeatures(
            np.ascontiguousarray(records["keypoints"]),
            np.ascontiguousarray(records["descriptors"]),
            np.ascontiguousarray(records["count"]),
            np.ascontiguousarray(records["wh_px"]),
            *([np.ascontiguousarray(records["frame"])] if "frame" in names else []),
        )
