"""Local features over a pool of actors that write the cache themselves; only keys come back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from exreid.distributed.blocks import MAX_RESTARTS, table_blocks
from exreid.distributed.session import Placement
from exreid.distributed.worker_warnings import hand_warnings_on
from exreid.features.local_extraction import (
    LOCAL_PART_IMAGES,
    ExtractLocal,
    LocalArguments,
    PrepareLocal,
)
from exreid.records import ImageTable


class ExtractActor:
    """`ExtractLocal` inside an actor."""

    def __init__(self, arguments: LocalArguments, device: str, threads: int) -> None:
        hand_warnings_on()
        self.extract = ExtractLocal(**arguments, device=device, threads=threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `ExtractLocal`."""
        return self.extract(batch)


def extract_local_over_actors(
    table: ImageTable, positions: np.ndarray, *, arguments: LocalArguments, placement: Placement
) -> Iterator[dict[str, np.ndarray]]:
    """`ExtractLocal` with these arguments over the images at these positions, in any order.

    For actors on GPUs, decoding is a stage of its own on CPU tasks that streams into them.
    """
    size = min(LOCAL_PART_IMAGES, max(1, -(-len(positions) // (2 * placement.actors))))
    blocks = table_blocks(table, positions, size)
    with warnings.catch_warnings():
        # Bounding an actor's restarts has no named parameter in Ray 2.60 yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = ray.data.from_arrow(blocks)
        if placement.gpus:
            prepare = PrepareLocal(arguments["root"], arguments["preprocessing"])
            dataset = dataset.map_batches(
                prepare, batch_size=None, batch_format="numpy", num_cpus=placement.decode_cpus
            )
        dataset = dataset.map_batches(
            ExtractActor,
            fn_constructor_args=(arguments, placement.device, placement.threads),
            # Whole blocks; with GPUs Ray wants their size by number.
            batch_size=blocks[0].num_rows if placement.gpus else None,
            batch_format="numpy",
            num_cpus=placement.cpus,
            num_gpus=placement.gpus or None,
            compute=ActorPoolStrategy(size=min(placement.actors, len(blocks))),
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")
