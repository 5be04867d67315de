"""Retrieval on held-out images, by the code that probes use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from exreid.features.embedding import Embedder
from exreid.matching.cosine import rank_by_cosine
from exreid.metrics.retrieval import average_values, query_values
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.training.feed import ImageSource, read_ahead
from exreid.training.state import Training
from exreid.training.world import World


def validate(
    training: Training, module: nn.Module, source: ImageSource, world: World
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The module's metrics, fractions, and the [low, high] ends of their 95% intervals, on the
    first worker; nothing on the others.

    ``source`` gives the images at ``training.validation_positions``. Every image is embedded by
    one worker, in batches of one size, so that its vector does not depend on how many workers
    there are.
    """
    config, positions = training.config, training.validation_positions
    batch = config.model.batch_size
    module.eval()
    embed = Embedder(
        replace(training.backbone, module=module), batch_size=batch, device=world.device.type
    )
    own = np.array_split(np.arange(len(positions)), world.size)[world.rank]
    places = [own[start : start + batch] for start in range(0, len(own), batch)]
    parts = [embed(images[..., :3]) for images in read_ahead(source.batches(places))]
    gathered = world.gather(np.concatenate(parts) if parts else None)
    if not world.is_first:
        return {}, {}
    vectors_ND = np.concatenate([part for part in gathered if part is not None])
    ranking = rank_by_cosine(
        vectors_ND[np.searchsorted(positions, training.queries.position_N)],
        vectors_ND[np.searchsorted(positions, training.gallery.position_N)],
        training.queries,
        training.gallery,
        exclude=config.validation.exclude,
        keep=1,
    )
    values = query_values(ranking)
    identity_Q = training.queries.identity_N
    metrics = average_values(values, identity_Q)
    return metrics, bootstrap_intervals(values, identity_Q, seed=config.seed)
