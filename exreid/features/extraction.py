"""From an image table to its embeddings: look in the cache, extract what is missing, keep it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from exreid.data.images import Preprocessing, prepare_image, prepare_matte
from exreid.data.metadata import left_out_text, line_text
from exreid.errors import CheckpointError, ImageError, MaskError, RunError
from exreid.features.keys import content_hash, image_key
from exreid.progress import counted
from exreid.records import Embeddings, ImageTable, Rejected
from exreid.storage.feature_store import FeatureStore, SignatureMemo, is_racy
from exreid.storage.urls import READER_THREADS, file_signature, read_bytes

if TYPE_CHECKING:
    # Tasks that decode images need no torch.
    from exreid.features.embedding import Embedder

KEEP_EVERY_IMAGES = 1024
KEEP_EVERY_S = 30.0
NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Extracted:
    """The vectors of one batch of images. ``position_N`` are places in the table; a row whose
    ``error_N`` is not empty has no vector (its row in ``vectors_ND`` is zero)."""

    position_N: np.ndarray
    content_N: list[str]
    signature_N: list[str]
    """Empty where the file changed too recently to be trusted."""
    error_N: list[str]
    stage_N: list[str]
    """The subject of the error: ``image``, ``mask``, or for the network `NOT_FINITE`."""
    vectors_ND: np.ndarray


@dataclass(frozen=True)
class PrepareImages:
    """Reads, decodes and resizes the images of a batch; an error stays with its own row."""

    root: str
    preprocessing: Preprocessing
    with_matte: bool = False
    """A fourth channel: 255 on the animal, and everywhere in an image without a mask."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns ``position``, ``path`` and ``region`` in; ``image`` (N, H, W, C) and more out."""
        width, height = self.preprocessing.image_wh_px
        count = len(batch["position"])
        images_NHWC = np.zeros((count, height, width, 4 if self.with_matte else 3), np.uint8)

        def prepare(row: int, data: bytes, region: str | None) -> None:
            images_NHWC[row] = self._prepared(data, region)

        texts = read_batch(self.root, batch, prepare)
        return {"position": batch["position"], "image": images_NHWC, **texts}

    def _prepared(self, data: bytes, region: str | None) -> np.ndarray:
        image_HWC = prepare_image(data, region, self.preprocessing)
        if not self.with_matte:
            return image_HWC
        matte_HW = (
            prepare_matte(data, region, self.preprocessing)
            if region
            else np.full(image_HWC.shape[:2], 255, np.uint8)
        )
        return np.dstack([image_HWC, matte_HW])


def read_batch(
    root: str,
    batch: dict[str, np.ndarray],
    prepare: Callable[[int, bytes, str | None], None],
) -> dict[str, np.ndarray]:
    """Read the images of a batch (columns ``path`` and ``region``) and call ``prepare`` with each
    one's row, bytes and region. Returns ``content``, ``signature``, ``error`` and ``stage``, texts
    as `Extracted` has them: an ImageError or MaskError stays with its own row."""
    names = ("content", "signature", "error", "stage")
    columns = {name: np.full(len(batch["path"]), "", dtype=object) for name in names}
    for row, (path, region) in enumerate(zip(batch["path"], batch["region"], strict=True)):
        try:
            columns["signature"][row] = trusted_signature(root, path)
            data = read_bytes(root, path)
            columns["content"][row] = content_hash(data)
            prepare(row, data, region or None)
        except (ImageError, MaskError) as error:
            columns["error"][row] = str(error)
            columns["stage"][row] = "mask" if isinstance(error, MaskError) else "image"
    return columns


@dataclass
class EmbedImages:
    """Embeds the prepared images of a batch, and drops the pixels."""

    embedder: Embedder

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``image`` (N, H, W, 3) in, ``vector`` (N, D) out; the other columns pass."""
        vectors_ND = self.embedder(batch.pop("image"))
        vectors_ND[batch["error"] != ""] = 0.0
        bad_N = ~np.isfinite(vectors_ND).all(axis=1)
        if bad_N.any():
            error, stage = (np.array(batch[name], dtype=object) for name in ("error", "stage"))
            error[bad_N], stage[bad_N] = not_finite("vector"), NOT_FINITE
            batch = {**batch, "error": error, "stage": stage}
        return {**batch, "vector": vectors_ND}


def not_finite(what: str) -> str:
    """Why such features are not kept. It is no fault of the image's: the run stops."""
    return (
        f"the network gives a {what} with values that are infinite or no numbers. Its weights "
        "diverged or are damaged, or its arithmetic is too coarse: set another model.checkpoint, "
        "or model.dtype=fp32."
    )


BatchSource = Callable[[ImageTable, np.ndarray], Iterable[Extracted]]
"""Extracts the images at these positions of the table, in any order, each once."""


def extract_in_process(
    table: ImageTable, positions: np.ndarray, *, prepare: PrepareImages, embedder: Embedder
) -> Iterator[Extracted]:
    """The plain twin of the distributed extraction: batch after batch, in this process."""
    embed = EmbedImages(embedder)
    for start in range(0, len(positions), embedder.batch_size):
        part = positions[start : start + embedder.batch_size]
        yield as_extracted(embed(prepare(input_columns(table, part))))


def input_columns(table: ImageTable, positions: np.ndarray) -> dict[str, np.ndarray]:
    """The columns that `PrepareImages` takes."""
    part = table.take(positions)
    return {
        "position": np.asarray(positions, dtype=np.int64),
        "path": part.rows["path"].to_numpy(dtype=object),
        "region": np.array([region or "" for region in part.regions], dtype=object),
    }


def as_extracted(batch: dict[str, np.ndarray]) -> Extracted:
    """The columns that `EmbedImages` returns, as a record."""
    return Extracted(
        position_N=np.asarray(batch["position"]),
        content_N=[str(value) for value in batch["content"]],
        signature_N=[str(value) for value in batch["signature"]],
        error_N=[str(value) for value in batch["error"]],
        stage_N=[str(value) for value in batch["stage"]],
        vectors_ND=np.asarray(batch["vector"], dtype=np.float32),
    )


@dataclass
class ExtractionReport:
    """Numbers of cached and of newly extracted images, and the images left out."""

    cached: int = 0
    extracted: int = 0
    rejected: list[Rejected] = field(default_factory=list)


def embed_table(
    table: ImageTable,
    source: BatchSource,
    *,
    store: FeatureStore | None,
    memo: SignatureMemo | None,
    on_error: Literal["raise", "skip"],
    on_progress: Callable[[int], object] = lambda count: None,
) -> tuple[Embeddings, np.ndarray, ExtractionReport]:
    """Embeddings of the table's images, their positions in the table, and a report.

    Vectors in the store are not extracted again; new ones are stored as they come, so that a killed
    run continues where it was. With ``on_error="skip"`` an unreadable image is left
    out of embeddings and positions, and listed in the report.
    """
    report = ExtractionReport()
    vectors: dict[int, np.ndarray] = {}
    missing = np.arange(len(table))
    if store is not None and memo is not None and len(store):
        keys = known_keys(table, memo)
        hits = np.array([key is not None and key in store for key in keys], dtype=bool)
        stored_ND = store.gather([key for key, hit in zip(keys, hits, strict=True) if hit and key])
        vectors.update(zip(np.flatnonzero(hits).tolist(), stored_ND, strict=True))
        report.cached = int(hits.sum())
        missing = np.flatnonzero(~hits)
        on_progress(report.cached)
    keeper = _Keeper(table, store, memo)
    try:
        for batch in source(table, missing) if len(missing) else ():
            good = sort_out_errors(table, batch, report, on_error)
            vectors.update(
                zip(batch.position_N[good].tolist(), batch.vectors_ND[good], strict=True)
            )
            report.extracted += len(good)
            keeper.add(batch, good)
            on_progress(len(batch.position_N))
    finally:
        keeper.flush()
    return (*_in_table_order(table, vectors, report), report)


def trusted_signature(root: str, path: str) -> str:
    """The file's signature, or "" where the file changed so recently that it may change unseen."""
    signature = file_signature(root, path)
    local = os.path.join(root, path)  # noqa: PTH118 - root may be a URL
    if "://" not in root:
        status = os.stat(local)  # noqa: PTH116
        if is_racy(max(status.st_mtime, status.st_ctime), time.time()):
            return ""
    return f"{root}/{path} {signature}"


def known_keys(table: ImageTable, memo: SignatureMemo) -> list[str | None]:
    """Each image's key; None where its file cannot be read."""
    return [
        image_key(content, region) if content else None
        for content, region in zip(content_hashes(table, memo), table.regions, strict=True)
    ]


def content_hashes(table: ImageTable, memo: SignatureMemo) -> list[str]:
    """Each image's content hash, by its file's signature, or by reading the file where that is
    unknown; "" where it cannot be read."""

    def content_of(path: str) -> tuple[str, str, bool]:
        try:
            signature = trusted_signature(table.root, path)
            known = memo.get(signature)
            if known is not None:
                return signature, known, True
            return signature, content_hash(read_bytes(table.root, path)), False
        except ImageError:
            return "", "", False  # the extraction meets it again, and reports it

    with ThreadPoolExecutor(READER_THREADS) as pool:
        contents = list(pool.map(content_of, table.rows["path"]))
    new = [
        (signature, content) for signature, content, known in contents if signature and not known
    ]
    memo.remember([signature for signature, _ in new], [content for _, content in new])
    return [content for _, content, _ in contents]


class _Keeper:
    """Collects finished vectors and puts them into the store every so often."""

    def __init__(
        self, table: ImageTable, store: FeatureStore | None, memo: SignatureMemo | None
    ) -> None:
        self.table, self.store, self.memo = table, store, memo
        self.regions = table.regions
        self.keys: list[str] = []
        self.vectors: list[np.ndarray] = []
        self.seen: list[tuple[str, str]] = []
        self.last_s = time.monotonic()

    def add(self, batch: Extracted, good: np.ndarray) -> None:
        if self.store is None:
            return
        for i in good:
            region = self.regions[int(batch.position_N[i])]
            self.keys.append(image_key(batch.content_N[i], region))
            self.vectors.append(batch.vectors_ND[i])
            if batch.signature_N[i]:
                self.seen.append((batch.signature_N[i], batch.content_N[i]))
        waited_s = time.monotonic() - self.last_s
        if len(self.keys) >= KEEP_EVERY_IMAGES or waited_s >= KEEP_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self.store is None or self.memo is None or not self.keys:
            return
        self.store.append(self.keys, np.stack(self.vectors))
        self.memo.remember([s for s, _ in self.seen], [c for _, c in self.seen])
        self.keys, self.vectors, self.seen = [], [], []
        self.last_s = time.monotonic()


def sort_out_errors(
    table: ImageTable, batch: Extracted, report: ExtractionReport, on_error: str
) -> np.ndarray:
    """Indices of the batch's good rows; bad ones raise, or go into the report."""
    for i, message in enumerate(batch.error_N):
        if not message:
            continue
        if batch.stage_N[i] == NOT_FINITE:
            raise CheckpointError(f"{table.rows['path'].iloc[int(batch.position_N[i])]}: {message}")
        row = table.rows.iloc[int(batch.position_N[i])]
        if on_error == "raise":
            kind = MaskError if batch.stage_N[i] == "mask" else ImageError
            raise kind(
                f"{table.source}, {line_text(int(row['row']), row['path'])}{message} "
                "To leave such images out, set dataset.on_error=skip."
            )
        report.rejected.append(
            Rejected(row["image_id"], row["path"], int(row["row"]), batch.stage_N[i], message)
        )
    return np.flatnonzero([not message for message in batch.error_N])


def _in_table_order(
    table: ImageTable, vectors: dict[int, np.ndarray], report: ExtractionReport
) -> tuple[Embeddings, np.ndarray]:
    report.rejected.sort(key=lambda rejected: rejected.row)
    if len(vectors) + len(report.rejected) != len(table):
        raise RunError(
            f"{counted(len(table), 'image')} in, {counted(len(vectors), 'vector')} and "
            f"{len(report.rejected):,} rejected out. This is a fault of exreid: please report it."
        )
    if not vectors:
        raise RunError(f"{table.source}: no image could be used. {left_out_text(report.rejected)}")
    positions = np.array(sorted(vectors), dtype=np.int64)
    stacked_ND = np.stack([vectors[position] for position in positions.tolist()])
    ids = tuple(table.rows["image_id"].iloc[positions])
    return Embeddings(ids, np.ascontiguousarray(stacked_ND, np.float32)), positions
