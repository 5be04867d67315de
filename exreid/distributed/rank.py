"""Ranking by cosine in tasks that hold a GPU each, the queries shared out over them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError, WorkerCrashedError

from exreid.distributed.match import reason_of
from exreid.distributed.placement import Placement
from exreid.distributed.worker_warnings import hand_warnings_on
from exreid.matching.cosine import checked_lengths, rank_by_cosine
from exreid.matching.cosine_on_device import rank_on_device
from exreid.metrics.ranking import Exclude, concatenate_rankings, side_slice
from exreid.records import Ranking, RetrievalSide

log = logging.getLogger(__name__)

LEAST_QUERIES = 512
"""Queries of a task: each one sends the gallery to its GPU."""
TASKS_EACH = 4
"""Tasks for each GPU: more than one, so that none waits long for the last."""


def rank_over_gpus(
    query_vectors_QD: np.ndarray,
    gallery_vectors_GD: np.ndarray,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    placement: Placement,
    exclude: Exclude = "image",
    keep: int = 100,
    on_progress: Callable[[int], object] | None = None,
) -> Ranking:
    """`rank_on_device` over as many tasks at a time as ``placement`` has actors.

    They wait for the GPUs of any actors that are up: end those before. A task whose machine is lost
    is run again by Ray. Where one fails, as on a GPU that does, all is ranked here, with a warning.
    Vectors that cannot be ranked are an error here, before any is sent.
    """
    checked_lengths(query_vectors_QD, gallery_vectors_GD, queries, gallery)
    tasks = min(TASKS_EACH * placement.actors, max(1, len(queries) // LEAST_QUERIES))
    ends = np.linspace(0, len(queries), tasks + 1).astype(int).tolist()
    remote = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus or None)(_rank)
    gallery_sides = [ray.put(value) for value in (gallery_vectors_GD, gallery)]
    due = [
        remote.remote(
            *(query_vectors_QD[start:end], side_slice(queries, start, end), *gallery_sides),
            exclude=exclude,
            keep=keep,
            device=placement.device,
            threads=placement.threads,
        )
        for start, end in pairwise(ends)
    ]
    waiting = due
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            ranked = ray.get(done[0]).query_count
            if on_progress is not None:
                on_progress(ranked)
        return concatenate_rankings(ray.get(due))
    except (RayTaskError, WorkerCrashedError) as error:
        log.warning("Ranking on GPUs failed, so the CPU ranks: %s", reason_of(error))
        for reference in waiting:
            ray.cancel(reference)
        sides = query_vectors_QD, gallery_vectors_GD, queries, gallery
        return rank_by_cosine(*sides, exclude=exclude, keep=keep)


def _rank(
    query_vectors_QD: np.ndarray,
    queries: RetrievalSide,
    gallery_vectors_GD: np.ndarray,
    gallery: RetrievalSide,
    *,
    exclude: Exclude,
    keep: int,
    device: str,
    threads: int,
) -> Ranking:
    """What a task runs."""
    hand_warnings_on()
    torch.set_num_threads(threads)
    sides = query_vectors_QD, gallery_vectors_GD, queries, gallery
    return rank_on_device(*sides, device=torch.device(device), exclude=exclude, keep=keep)
