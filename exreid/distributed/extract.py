"""Feature extraction over a pool of actors: Ray Data around the plain classes of `features`.

For actors on GPUs, decoding is a stage of its own on CPU tasks that streams into them. On CPUs the
actors decode too: one core has nothing to gain from handing pixels to another.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from exreid.distributed.blocks import MAX_RESTARTS, table_blocks
from exreid.distributed.placement import Placement
from exreid.distributed.worker_warnings import hand_warnings_on
from exreid.features.embedding import Embedder
from exreid.features.extraction import EmbedImages, Extracted, PrepareImages, as_extracted
from exreid.features.local_extraction import (
    LOCAL_PART_IMAGES,
    ExtractLocal,
    LocalArguments,
    PrepareLocal,
)
from exreid.records import ImageTable

if TYPE_CHECKING:
    # timm takes longer to import than all else: keypoints need none of it.
    from exreid.models.backbones import Backbone

LARGEST_BLOCK = 256
Batch = dict[str, np.ndarray]


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

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """On a CPU one result per forward batch, so that memory stays at one batch of pixels."""
        step = self.embed.embedder.batch_size if self.prepare else len(batch["position"])
        for start in range(0, len(batch["position"]), step):
            part = {name: column[start : start + step] for name, column in batch.items()}
            yield self.embed(self.prepare(part) if self.prepare else part)


class ExtractActor:
    """`ExtractLocal` inside an actor."""

    def __init__(self, arguments: LocalArguments, device: str, threads: int) -> None:
        hand_warnings_on()
        self.extract = ExtractLocal(**arguments, device=device, threads=threads)

    def __call__(self, batch: Batch) -> Batch:
        """As `ExtractLocal`."""
        return self.extract(batch)


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
    """The images at these positions, embedded over the actors, in the order they finish."""
    make_embedder = partial(
        Embedder,
        batch_size=batch_size,
        dtype=dtype,
        device=placement.device,
        threads=placement.threads,
        deterministic=deterministic,
        flip=flip,
    )
    # Whole batches per block, and a few blocks for each actor so that none ends up waiting.
    batches = math.ceil(len(positions) / batch_size)
    most = min(LARGEST_BLOCK // batch_size, batches // (8 * placement.actors))
    in_actor = None if placement.gpus else prepare
    for batch in _over_actors(
        table_blocks(table, positions, batch_size * max(1, most)),
        EmbedActor,
        (make_embedder, ray.put(backbone), in_actor),
        placement,
        prepare=prepare,
        prepare_batch=batch_size,
    ):
        yield as_extracted(batch)


def extract_local_over_actors(
    table: ImageTable, positions: np.ndarray, *, arguments: LocalArguments, placement: Placement
) -> Iterator[Batch]:
    """`ExtractLocal` with these arguments over the images at these positions, in any order; the
    actors write the cache themselves, and only keys come back."""
    size = min(LOCAL_PART_IMAGES, max(1, -(-len(positions) // (2 * placement.actors))))
    return _over_actors(
        table_blocks(table, positions, size),
        ExtractActor,
        (arguments, placement.device, placement.threads),
        placement,
        prepare=PrepareLocal(arguments["root"], arguments["preprocessing"]),
        prepare_batch=None,
    )


def _over_actors(
    blocks: list[pa.Table],
    actor: type,
    arguments: tuple[Any, ...],
    placement: Placement,
    *,
    prepare: Callable[[Batch], Batch],
    prepare_batch: int | None,
) -> Iterator[Batch]:
    """The blocks through actors made with these arguments; for actors on GPUs ``prepare`` is run
    before, on tasks of ``prepare_batch`` images each (None: a block)."""
    dataset = ray.data.from_arrow(blocks)
    if placement.gpus:
        dataset = dataset.map_batches(
            prepare, batch_size=prepare_batch, batch_format="numpy", num_cpus=placement.decode_cpus
        )
    with warnings.catch_warnings():
        # Bounding an actor's restarts has no named parameter in Ray 2.60 yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = dataset.map_batches(
            actor,
            fn_constructor_args=arguments,
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
