"""The images of an epoch, in order, and each worker's share of a batch.

Everything random comes from (seed, purpose, epoch, place): it is the same for any number of
workers, and a resumed training needs nothing but the epoch's number.

Letters: N images, E draws of one epoch, b images of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHUFFLE_STREAM, AUGMENT_STREAM, MODEL_STREAM = 1, 2, 3


@dataclass(frozen=True)
class Share:
    """One worker's part of one batch."""

    draw_b: np.ndarray
    """int64: the place of each image in the epoch's order; its augmentation comes from it."""
    image_b: np.ndarray
    """int64: which training image."""
    weight: float
    """1 / images of the whole effective batch: the weight of each image's loss."""
    last_of_step: bool
    """Whether the optimiser takes its step after this batch."""
    least: int
    """Images of the smallest share of this batch."""
    batch_images: int
    """Of all shares of this batch."""


def epoch_order(
    label_N: np.ndarray,
    *,
    sampler: Literal["plain", "identity_balanced"],
    seed: int,
    epoch: int,
) -> np.ndarray:
    """The images of an epoch in order (int64): as many as there are training images.

    plain: each once. identity_balanced: each identity as often as any other (to within one),
    its images in random order, none again before all others of that identity were drawn.
    """
    random = np.random.default_rng([seed, SHUFFLE_STREAM, epoch])
    count = len(label_N)
    if sampler == "plain":
        return random.permutation(count)
    identities = np.unique(label_N)
    turn_E = np.concatenate(
        [random.permutation(identities) for _ in range(-(-count // len(identities)))]
    )[:count]
    order_E = np.empty(count, np.int64)
    for identity in identities:
        own = np.flatnonzero(label_N == identity)
        places = np.flatnonzero(turn_E == identity)
        rounds = -(-len(places) // len(own))
        drawn = np.concatenate([random.permutation(own) for _ in range(max(1, rounds))])
        order_E[places] = drawn[: len(places)]
    return order_E


def epoch_shares(
    order_E: np.ndarray, *, batch_size: int, accumulation_steps: int, rank: int, world_size: int
) -> list[Share]:
    """The worker's shares of an epoch's batches.

    Every batch is cut into contiguous shares of about equal size, the larger ones first; the
    last batch may be smaller, and a share of it empty. No image is left out or repeated.

    >>> [s.image_b.tolist() for s in epoch_shares(np.array([4, 2, 0, 1, 3]), batch_size=3,
    ...     accumulation_steps=1, rank=1, world_size=2)]
    [[0], [3]]
    """
    effective = batch_size * accumulation_steps
    shares = []
    for start in range(0, len(order_E), batch_size):
        batch_stop = min(start + batch_size, len(order_E))
        step_start = start - start % effective
        step_stop = min(step_start + effective, len(order_E))
        draws = np.array_split(np.arange(start, batch_stop), world_size)
        draw_b, weight = draws[rank], 1.0 / (step_stop - step_start)
        last, images = batch_stop == step_stop, batch_stop - start
        shares.append(Share(draw_b, order_E[draw_b], weight, last, len(draws[-1]), images))
    return shares


def uniforms(seed: int, epoch: int, draw_b: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) for each draw of an epoch: (b, count), float64."""
    out_bU = np.empty((len(draw_b), count))
    for row, draw in zip(out_bU, draw_b, strict=True):
        row[:] = np.random.default_rng([seed, AUGMENT_STREAM, epoch, int(draw)]).random(count)
    return out_bU


def model_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of the worker's dropout and the like in one epoch."""
    return int(np.random.default_rng([seed, MODEL_STREAM, epoch, rank]).integers(2**62))
