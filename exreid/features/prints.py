"""Prints of photographs: small grey pictures that show whether two are copies of one another.

Each is made once and kept in the cache by the file's content. Letters: N images, S side of a print.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from exreid.data.image_files import image_errors, load_image
from exreid.data.images import IMAGES_VERSION
from exreid.errors import ImageError
from exreid.features.extraction import ExtractionReport, trusted_signature
from exreid.features.fill_cache import FillSource, fill_cache
from exreid.features.keys import content_hash, image_key, stage_folder
from exreid.records import ImageTable
from exreid.storage.array_store import ArrayStore, write_part
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.urls import READER_THREADS, read_bytes

PRINT_PX = 32
MARGIN = 0.1
"""Share of each side that is left out: cameras print their strip with date and name there."""
STAGE = {
    "stage": "print",
    "stage_version": 1,
    "images_version": IMAGES_VERSION,
    "print_px": PRINT_PX,
    "margin": MARGIN,
}


@dataclass(frozen=True)
class Prints:
    """The prints of a table's readable images."""

    positions: np.ndarray
    """Of the readable images in the table, rising."""
    keys: list[str]
    """Equal for equal files."""
    print_NSS: np.ndarray
    """uint8 (N, S, S)."""
    report: ExtractionReport


@dataclass(frozen=True)
class MakePrints:
    """Reads the images of a batch and writes their prints into the cache."""

    root: str
    folder: Path

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns ``position`` and ``path`` in; ``content``, ``signature`` and ``error`` out."""
        with ThreadPoolExecutor(READER_THREADS) as pool:
            images = list(pool.map(self._print, batch["path"].tolist()))
        good = [(content, small) for content, *_, small in images if small is not None]
        if good:
            keys = [image_key(content, None) for content, _ in good]
            write_part(self.folder, keys, np.stack([small for _, small in good]))
        columns = {
            name: np.array([image[c] for image in images], dtype=object)
            for c, name in enumerate(("content", "signature", "error"))
        }
        stage = np.array(["image" if error else "" for error in columns["error"]], dtype=object)
        return {"position": batch["position"], "stage": stage, **columns}

    def _print(self, path: str) -> tuple[str, str, str, np.ndarray | None]:
        try:
            signature = trusted_signature(self.root, path)
            data = read_bytes(self.root, path)
            return content_hash(data), signature, "", make_print(data)
        except ImageError as error:
            return "", "", str(error), None


def make_print(data: bytes) -> np.ndarray:
    """A file's bytes to uint8 grey (S, S): its inner part, stretched, each pixel a mean."""
    inner = 1 - 2 * MARGIN
    with image_errors():
        image = load_image(data, min_side_px=int(np.ceil(PRINT_PX / inner))).image.convert("L")
        width, height = image.size
        box = (width * MARGIN, height * MARGIN, width * (1 - MARGIN), height * (1 - MARGIN))
        return np.asarray(image.resize((PRINT_PX, PRINT_PX), Image.Resampling.BOX, box=box))


def print_table(
    table: ImageTable,
    source_for: Callable[[MakePrints], FillSource],
    *,
    cache: Path,
    on_error: Literal["raise", "skip"],
    on_progress: Callable[[int], object] = lambda count: None,
) -> Prints:
    """The prints of the table's images, from the cache or made by what ``source_for`` returns."""
    # A print is of the file alone: an image with another mask or box is the same photograph.
    bare = ImageTable(
        table.rows.assign(mask=None, bbox=None), table.original, table.root, table.source
    )
    folder = stage_folder(cache, "prints", STAGE)
    positions, keys, report = fill_cache(
        bare,
        source_for(MakePrints(table.root, folder)),
        folder=folder,
        memo=SignatureMemo(cache / "signatures"),
        on_error=on_error,
        on_progress=on_progress,
    )
    prints = ArrayStore(folder).gather(keys) if keys else np.zeros((0, PRINT_PX, PRINT_PX))
    return Prints(positions, keys, prints.astype(np.uint8, copy=False), report)
