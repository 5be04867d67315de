"""Feature extraction over a pool of actors: Ray Data around the plain classes of `features`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from exreid.distributed.blocks import MAX_RESTARTS, table_blocks
from exreid.distributed.session import Placement
from exreid.distributed.worker_warnings import hand_warnings_on
from exreid.features.embedding import Embedder
from exreid.features.extraction import EmbedImages, Extracted, PrepareImages, as_extracted
from exreid.models.backbones import Backbone
from exreid.records import ImageTable

LARGEST_BLOCK = 256


class EmbedActor:
    """The embedder inside an actor; on a CPU it prepares its own images."""

    def __init__(
        self,
        make_embedder: Callable[[Backbone], Embedder],
        backbone: ray.ObjectRef,
        prepare: PrepareImages | None,
    ) -> None:
        hand_warnings_on()
        self.embed = EmbedImages(make_embedder(ray.get(backbone)))
        self.prepare = prepare

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """On a CPU one result per forward batch, so that memory stays at one batch of pixels."""
        step = self.embed.embedder.batch_size if self.prepare else len(batch["position"])
        for start in range(0, len(batch["position"]), step):
            part = {name: column[start : start + step] for name, column in batch.items()}
            yield self.embed(self.prepare(part) if self.prepare else part)


def extract_over_actors(
    table: ImageTable,
    positions: np.ndarray,
    *,
    prepare: PrepareImages,
    backbone: Backbone,
    batch_size: int,
    dtype: Literal["fp32", "bf16"],
    deterministic: bool,
    placement: Placement,
    flip: bool = False,
) -> Iterator[Extracted]:
    """The images at these positions, embedded over the actors, in the order they finish.

    On GPUs, decoding is a stage of its own on CPU tasks that streams into the actors. On CPUs
    the actors decode too: one core has nothing to gain from handing pixels to another.
    """
    blocks = _blocks(table, positions, batch_size, placement.actors)
    dataset = ray.data.from_arrow(blocks)
    make_embedder = partial(
        Embedder,
        batch_size=batch_size,
        dtype=dtype,
        device=placement.device,
        threads=placement.threads,
        deterministic=deterministic,
        flip=flip,
    )
    prepare_in_actor: PrepareImages | None = prepare
    if placement.gpus:
        dataset = dataset.map_batches(
            prepare, batch_size=batch_size, batch_format="numpy", num_cpus=placement.decode_cpus
        )
        prepare_in_actor = None
    with warnings.catch_warnings():
        # Bounding an actor's restarts has no named parameter in Ray 2.60 yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = dataset.map_batches(
            EmbedActor,
            fn_constructor_args=(make_embedder, ray.put(backbone), prepare_in_actor),
            # Whole blocks; with GPUs Ray wants their size by number.
            batch_size=blocks[0].num_rows if placement.gpus else None,
            batch_format="numpy",
            num_cpus=placement.cpus,
            num_gpus=placement.gpus or None,
            compute=ActorPoolStrategy(size=min(placement.actors, len(blocks))),
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        yield as_extracted(batch)


def _blocks(
    table: ImageTable, positions: np.ndarray, batch_size: int, actors: int
) -> list[pa.Table]:
    """Whole batches per block, and a few blocks for each actor so that none ends up waiting."""
    batches = math.ceil(len(positions) / batch_size)
    per_block = batch_size * max(1, min(LARGEST_BLOCK // batch_size, batches // (8 * actors)))
    return table_blocks(table, positions, per_block)
