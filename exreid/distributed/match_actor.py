"""The actor that matches tiles; `exreid.distributed.match` gives it its tiles."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from exreid.distributed.worker_warnings import hand_warnings_on
from exreid.matching.tiles import Answer, Ask, FeaturesOf, PairMatcher

log = logging.getLogger(__name__)

GPU_FAULTS = ("CUDA error", "No CUDA GPUs are available")
"""How torch's errors begin after which a process can do nothing more on its GPU."""


class MatchActor:
    """The matcher inside an actor, which reads the features of its tiles itself."""

    def __init__(
        self,
        make_matcher: Callable[[], PairMatcher],
        queries: FeaturesOf,
        gallery: FeaturesOf,
        threads: int,
    ) -> None:
        hand_warnings_on()
        torch.set_num_threads(threads)
        self.make_matcher, self.queries, self.gallery = make_matcher, queries, gallery
        self.one_at_a_time = threading.Lock()

    def ready(self) -> None:
        """Build the matcher: not in the constructor, whose errors Ray passes on without a text."""
        with _ended_by_gpu_faults():
            self.matcher = self.make_matcher()

    def run(
        self, ask: Ask[Answer], query_M: np.ndarray, gallery_M: np.ndarray, pair_P2: np.ndarray
    ) -> tuple[Answer, float]:
        """The matcher's answer for a tile, and its seconds of work.

        An actor on a GPU runs two tiles at a time: the features of the next one are read while the
        device works on the one before.
        """
        queries, gallery = self.queries(query_M), self.gallery(gallery_M)
        with self.one_at_a_time, _ended_by_gpu_faults():
            start = time.perf_counter()
            answer = ask(self.matcher, queries, gallery, pair_P2)
            return answer, time.perf_counter() - start


@contextmanager
def _ended_by_gpu_faults() -> Iterator[None]:
    """End this process after a fault of its GPU: it would fail all tiles that it gets, faster than
    others match theirs. They go to others, and a new process is started."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if not text.startswith(GPU_FAULTS):
            raise
        log.warning("A matching actor ends, since its GPU failed: %s", text.splitlines()[0])
        # Not by sys.exit, whose clean-up may wait for the GPU.
        os._exit(1)
