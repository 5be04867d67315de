"""Decoding over Ray Data: once into the cache, or again in every epoch where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import ray
from ray.data.read_api import from_blocks

from exreid.distributed.blocks import table_block, table_blocks
from exreid.errors import ImageError
from exreid.features.decoding import PART_IMAGES, KeepImages
from exreid.features.extraction import PrepareImages
from exreid.records import ImageTable


def decode_over_tasks(
    table: ImageTable, positions: np.ndarray, *, keep: KeepImages, cpus: float
) -> Iterator[dict[str, np.ndarray]]:
    """Decode the images at these positions in tasks that write the cache themselves.

    It runs to its end before the training begins, not beside it: an unreadable image changes
    which classes there are, and that must be known before the first step.
    """
    blocks = table_blocks(table, positions, PART_IMAGES)
    dataset = ray.data.from_arrow(blocks).map_batches(
        keep, batch_size=None, batch_format="numpy", num_cpus=cpus
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


class StreamedImages:
    """Images decoded as they are wanted, by a Ray Data pipeline of each worker's own.

    A split of one stream over the workers would give each whatever block comes first. Here each
    worker asks for its own shares in its own order, so that the batches are the same in every run
    and for any number of workers; no image is decoded by two of them.
    """

    def __init__(self, table: ImageTable, prepare: PrepareImages) -> None:
        self.table, self.prepare = table, prepare

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `exreid.training.feed.ImageSource`."""
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
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
        # The training workers hold the CPUs: tasks that asked for one would wait for ever, and
        # so does ray.data.from_arrow, which starts such tasks itself.
        dataset = from_blocks([table_block(self.table, place_b) for place_b in places])
        dataset = dataset.map_batches(
            self.prepare, batch_size=None, batch_format="numpy", num_cpus=0
        )
        return iter(dataset.iter_batches(batch_size=None, batch_format="numpy"))

    def _check(self, batch: dict[str, np.ndarray]) -> None:
        for position, error in zip(batch["position"], batch["error"], strict=True):
            if error:
                path = self.table.rows["path"].iloc[int(position)]
                raise ImageError(f"{path}: {error} It could be read before the training began.")
