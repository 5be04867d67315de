"""Decoding over Ray Data: once into the cache or, without a cache, again in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import ray
import torch.distributed as dist
from ray.data import TaskPoolStrategy
from ray.data.read_api import from_blocks

from exreid.distributed.blocks import table_block, table_blocks
from exreid.errors import ImageError
from exreid.features.extraction import PrepareImages
from exreid.features.fill_cache import DECODED_PART_IMAGES, KeepImages
from exreid.records import ImageTable

STORE_SHARE = 0.3
"""Share of the cluster's object store for images that are decoded and not yet used."""


def decode_over_tasks(
    table: ImageTable, positions: np.ndarray, *, keep: KeepImages, cpus: float
) -> Iterator[dict[str, np.ndarray]]:
    """Decode the images at these positions in tasks that write the cache themselves.

    It runs to its end before the training begins, not beside it: an unreadable image changes the
    classes, and those must be known before the first step.
    """
    blocks = table_blocks(table, positions, DECODED_PART_IMAGES)
    dataset = ray.data.from_arrow(blocks).map_batches(
        keep, batch_size=None, batch_format="numpy", num_cpus=cpus
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


def decoders_each(all_cpus: float, free_cpus: float, workers: int, held_cpus: float) -> int:
    """How many images each training worker's stream decodes at a time on CPUs that no worker has,
    of which ``free_cpus`` are free now.

    >>> decoders_each(16, 14, 2, 1), decoders_each(16, 3, 2, 1), decoders_each(4, 0, 2, 2)
    (7, 3, 0)
    """
    return int(min((all_cpus - workers * held_cpus) // workers, free_cpus))


class StreamedImages:
    """Images decoded when they are used, by one Ray Data pipeline for each worker.

    A split of one stream over the workers would give each whatever block comes first. Here each
    worker reads its own shares in their order, so that the batches are the same in every run and
    for any number of workers; no image is decoded by two of them. The workers share the CPUs that
    none of them has, on all machines, and the object store.
    """

    def __init__(self, table: ImageTable, prepare: PrepareImages) -> None:
        self.table, self.prepare = table, prepare

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `exreid.training.feed.ImageSource`."""
        filled = [place_b for place_b in places if len(place_b)]
        stream = self._stream(filled) if filled else iter(())
        for place_b in places:
            if len(place_b) == 0:
                yield np.zeros((0, 0, 0, 0), np.uint8)
                continue
            batch = next(stream)
            if not np.array_equal(batch["position"], place_b):
                raise RuntimeError("the stream of images lost its order")
            self._check(batch)
            yield batch["image"]

    def _stream(self, places: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        workers, held_cpus = _workers()
        resources = ray.cluster_resources()
        free_cpus = ray.available_resources().get("CPU", 0.0)
        decoders = decoders_each(resources.get("CPU", 0.0), free_cpus, workers, held_cpus)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
            object_store_memory=STORE_SHARE * resources["object_store_memory"] / workers
        )
        # ray.data.from_arrow starts tasks that ask for a CPU, and would wait for ever for one.
        dataset = from_blocks([table_block(self.table, place_b) for place_b in places])
        dataset = dataset.map_batches(
            self.prepare,
            batch_size=None,
            batch_format="numpy",
            # Where the workers have all CPUs, decoding uses theirs.
            num_cpus=1 if decoders else 0,
            compute=TaskPoolStrategy(size=decoders or max(1, int(held_cpus))),
        )
        return iter(dataset.iter_batches(batch_size=None, batch_format="numpy"))

    def _check(self, batch: dict[str, np.ndarray]) -> None:
        for position, error in zip(batch["position"], batch["error"], strict=True):
            if error:
                path = self.table.rows["path"].iloc[int(position)]
                raise ImageError(f"{path}: {error} It could be read before the training began.")


def _workers() -> tuple[int, float]:
    """The number of training workers and the CPUs of each, as one of them sees them."""
    own = ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)
    return dist.get_world_size() if dist.is_initialized() else 1, own
