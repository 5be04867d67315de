"""Filling a cache with what is made of each image: its decoded pixels, its keypoints, its print.

Each image of a table is read and decoded at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from exreid.features.extraction import (
    Extracted,
    ExtractionReport,
    PrepareImages,
    input_columns,
    known_keys,
    sort_out_errors,
)
from exreid.features.keys import image_key
from exreid.records import ImageTable
from exreid.storage.array_store import ArrayStore, write_part
from exreid.storage.feature_store import SignatureMemo

DECODED_PART_IMAGES = 64
"""Images of one part of the cache, and of one task: about 10 MB of pixels at 224 x 224."""


@dataclass(frozen=True)
class KeepDecoded:
    """Prepares the images of a batch and writes them into the cache; the pixels go no further."""

    prepare: PrepareImages
    folder: Path | None
    """None: nothing is written; the images are decoded to find the unreadable ones."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `PrepareImages`, without its ``image`` column."""
        prepared = self.prepare(batch)
        images_NHWC = prepared.pop("image")
        good = np.flatnonzero([not error for error in prepared["error"]])
        if self.folder is not None:
            keys = [image_key(prepared["content"][i], batch["region"][i] or None) for i in good]
            write_part(self.folder, keys, images_NHWC[good])
        return prepared


FillSource = Callable[[ImageTable, np.ndarray], Iterable[dict[str, np.ndarray]]]
"""Runs a `KeepImages` over the images at these positions of the table, in any order."""

KeepImages = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Reads the images of a batch, writes something made of them into a cache, and returns their keys
and errors."""


def fill_in_process(
    table: ImageTable, positions: np.ndarray, *, keep: KeepImages
) -> Iterable[dict[str, np.ndarray]]:
    """The plain twin of the tasks over Ray: part after part, in this process."""
    for start in range(0, len(positions), DECODED_PART_IMAGES):
        yield keep(input_columns(table, positions[start : start + DECODED_PART_IMAGES]))


def fill_cache(
    table: ImageTable,
    source: FillSource,
    *,
    folder: Path | None,
    memo: SignatureMemo | None,
    on_error: Literal["raise", "skip"],
    on_progress: Callable[[int], object] = lambda count: None,
) -> tuple[np.ndarray, list[str], ExtractionReport]:
    """Positions of the readable images, their keys in the cache, and a report.

    With a ``folder``, what the cache holds is not decoded again. Without one, every image is
    decoded once, to know that it can be.
    """
    report = ExtractionReport()
    keys: dict[int, str] = {}
    missing = np.arange(len(table))
    if folder is not None and memo is not None:
        store = ArrayStore(folder)
        known = known_keys(table, memo) if len(store) else []
        store.set_damaged_aside([key for key in known if key is not None])
        for position, key in enumerate(known):
            if key is not None and key in store:
                keys[position] = key
        missing = np.array([p for p in range(len(table)) if p not in keys], np.int64)
        report.cached = len(keys)
        on_progress(report.cached)
    regions = table.regions
    for batch in source(table, missing) if len(missing) else ():
        decoded = _as_extracted(batch)
        good = sort_out_errors(table, decoded, report, on_error)
        for i in good:
            position = int(decoded.position_N[i])
            keys[position] = image_key(decoded.content_N[i], regions[position])
        if memo is not None:
            signed = [i for i in good if decoded.signature_N[i]]
            memo.remember(
                [decoded.signature_N[i] for i in signed], [decoded.content_N[i] for i in signed]
            )
        report.extracted += len(good)
        on_progress(len(decoded.position_N))
    report.rejected.sort(key=lambda rejected: rejected.row)
    positions = np.array(sorted(keys), np.int64)
    return positions, [keys[position] for position in positions.tolist()], report


def _as_extracted(batch: dict[str, np.ndarray]) -> Extracted:
    count = len(batch["position"])
    texts = {
        f"{name}_N": [str(value) for value in batch[name]]
        for name in ("content", "signature", "error", "stage")
    }
    return Extracted(
        position_N=np.asarray(batch["position"]),
        vectors_ND=np.zeros((count, 0), np.float32),
        **texts,
    )
