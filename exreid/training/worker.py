"""What one training worker does, whoever starts it: no Ray here."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from exreid.features.embedding import Embedder
from exreid.matching.cosine import rank_by_cosine
from exreid.metrics.retrieval import average_values, query_values
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.models.backbones import Backbone
from exreid.records import RetrievalSide
from exreid.storage import mirror
from exreid.training.checkpoint import LATEST_FULL
from exreid.training.course import Row, Surroundings, TrainingJob, train
from exreid.training.feed import ImageSource, read_ahead
from exreid.training.history import HIGH, LOW
from exreid.training.world import World

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
MALLOC = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**30, M_ARENA_MAX: 1}


@dataclass(frozen=True)
class Validation:
    """Retrieval on held-out images by the code that probes use."""

    backbone: Backbone
    """For its normalisation; the weights are those of the module that is validated."""
    queries: RetrievalSide
    gallery: RetrievalSide
    exclude: Literal["image", "encounter"]
    batch_size: int
    seed: int = 0
    """Of the bootstrap."""

    @property
    def embedded_positions(self) -> np.ndarray:
        """Positions of all images that are embedded, rising: the places of their source."""
        return np.union1d(self.queries.position_N, self.gallery.position_N)

    def measure(
        self, module: nn.Module, *, world: World, device: torch.device, source: ImageSource
    ) -> dict[str, float]:
        """The metrics, on the first worker; nothing on the others.

        The ends of a metric's 95% interval are ``<metric>_low`` and ``<metric>_high``.

        Every image is embedded by one worker, in batches of one size, so that its vector does
        not depend on how many workers there are.
        """
        mine = np.array_split(np.arange(len(self.embedded_positions)), world.size)[world.rank]
        places = [mine[i : i + self.batch_size] for i in range(0, len(mine), self.batch_size)]
        embed = Embedder(
            replace(self.backbone, module=module), batch_size=self.batch_size, device=device.type
        )
        parts = [embed(images[..., :3]) for images in read_ahead(source.batches(places))]
        gathered = world.gather(np.concatenate(parts) if parts else None)
        if world.rank != 0:
            return {}
        vectors_ND = np.concatenate([part for part in gathered if part is not None])
        return self._metrics(vectors_ND)

    def _metrics(self, vectors_ND: np.ndarray) -> dict[str, float]:
        query = np.searchsorted(self.embedded_positions, self.queries.position_N)
        gallery = np.searchsorted(self.embedded_positions, self.gallery.position_N)
        ranking = rank_by_cosine(
            vectors_ND[query],
            vectors_ND[gallery],
            self.queries,
            self.gallery,
            exclude=self.exclude,
            keep=1,
        )
        values = query_values(ranking)
        metrics = average_values(values, self.queries.identity_N)
        intervals = bootstrap_intervals(values, self.queries.identity_N, seed=self.seed)
        for name, (low, high) in intervals.items():
            metrics |= {f"{name}{LOW}": low, f"{name}{HIGH}": high}
        return metrics


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker needs to know."""

    job: TrainingJob
    images: Callable[[], ImageSource]
    """Makes the source of the training images, in the worker."""
    validation: Validation
    validation_images: Callable[[], ImageSource]
    """Makes the source of ``validation.embedded_positions``."""
    stop_early: Callable[[list[Row]], bool] | None = None
    """Asked by the first worker after each epoch, with the history, whether to stop there."""


def run_task(
    task: WorkerTask,
    world: World,
    device: torch.device,
    *,
    on_epoch: Callable[[list[Row]], Any] = lambda history: None,
) -> list[Row]:
    """Train as this process of the world; the history."""
    keep_memory()
    folder = task.job.folder
    folder.mkdir(parents=True, exist_ok=True)
    mirror.fetch_folder(folder, LATEST_FULL)

    def epoch_done(history: list[Row]) -> None:
        if world.rank == 0:
            mirror.publish_folder(folder)
        on_epoch(history)

    on_images = ProgressFile(folder) if world.rank == 0 else lambda done: None
    validate = partial(
        task.validation.measure, world=world, device=device, source=task.validation_images()
    )
    stop_early = task.stop_early or (lambda history: False)
    around = Surroundings(world, device, task.images(), validate, on_images, epoch_done, stop_early)
    history = train(task.job, around)
    if world.rank == 0:
        mirror.publish_folder(folder)
    return history


def keep_memory() -> None:
    """Have the C library keep what is freed for what is asked for next, where it is glibc.

    A training frees and asks for the same large blocks in each step. Given back to the system, each
    of their pages is filled with zeros anew: on CPUs a fifth of the time, and more in Ray's
    workers, which train outside their main thread.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter, value in MALLOC.items():
            library.mallopt(parameter, value)


class ProgressFile:
    """How many images were trained on, in a small file for whoever shows the progress."""

    NAME = ".progress"
    EVERY_S = 0.5

    def __init__(self, folder: Path) -> None:
        self.file, self.written_s = folder / self.NAME, 0.0

    def __call__(self, done: int) -> None:
        """Write the count, unless it was written just now."""
        if time.monotonic() - self.written_s >= self.EVERY_S:
            self.written_s = time.monotonic()
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(str(done), encoding="ascii")
            temporary.replace(self.file)

    @classmethod
    def read(cls, folder: Path) -> int:
        """The last count; 0 where there is none."""
        try:
            return int((folder / cls.NAME).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0
