"""What the parts of `gpu.py` share: the device, its timing, and a few drawn photographs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _features import joined
from _report import Report
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exreid.data.metadata import Columns, read_image_table
from exreid.data.synthetic import write_dataset
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import LocalPreprocessing
from exreid.records import ImageTable, LocalFeatures

EXTRACTOR = "aliked-n16"
ENOUGH_S = 3.0
"""A call is not repeated once its repeats have taken this long."""
QUICK_FACTOR = 5.0
"""The small sizes are expected to take so much less."""


@dataclass
class Bench:
    """One run of the benchmark."""

    report: Report
    device: torch.device
    folder: Path
    quick: bool
    ends_s: float = math.inf
    """On the monotonic clock: what is expected to end later is left out."""
    peak: dict[str, float] = field(default_factory=dict)
    """FLOP/s of a large matrix product by the name of its arithmetic."""

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU at all."""
        return self.device.type == "cuda"

    def has_time(self, what: str, expected_s: float) -> bool:
        """Whether this is expected to end in time; where it is not, the table says so."""
        expected_s /= QUICK_FACTOR if self.quick else 1
        left_s = max(0.0, self.ends_s - time.monotonic())
        if expected_s > left_s:
            self.report.add(
                f"{what}: LEFT OUT, takes about", expected_s, "s", f"{left_s:.0f} s left"
            )
        return expected_s <= left_s

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median of one call, when the device has done it; the first call is left out. Long ones
        are repeated less."""
        times: list[float] = []
        for done in range(repeats + 1):
            start = time.perf_counter()
            work()
            if self.cuda:
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
            if done and sum(times[1:]) > ENOUGH_S:
                break
        return median(times[1:])

    def memory_gib(self, work: Callable[[], object]) -> float:
        """The most memory of the device that was taken meanwhile; 0 on a CPU."""
        if not self.cuda:
            return 0.0
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    @cached_property
    def root(self) -> Path:
        """Sixteen drawn animals, four photographs each."""
        root = self.folder / "data"
        identities = 6 if self.quick else 16
        write_dataset(
            root, identities=identities, images_per_identity=4, seed=5, workers=os.cpu_count() or 1
        )
        return root

    @cached_property
    def table(self) -> ImageTable:
        """Those photographs."""
        table, _ = read_image_table(
            str(self.root), columns=Columns(encounter=("source", "encounter"))
        )
        return table

    @cached_property
    def prepared(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each photograph as extractors take it, and where its animal is."""
        preprocessing = LocalPreprocessing(512, False, "filter", "none", 0.0)
        rows = self.table.rows
        return [
            preprocessing.prepare((self.root / path).read_bytes(), mask)
            for path, mask in zip(rows["path"], rows["mask"], strict=True)
        ]

    def extract(
        self,
        device: str | torch.device,
        *,
        keypoints: int,
        masks: bool,
        name: str = EXTRACTOR,
        photographs: int | None = None,
    ) -> LocalFeatures:
        """The keypoints of all or of so many photographs, one at a time."""
        extractor = LocalExtractor(name, keypoints=keypoints, device=device)
        parts = [
            extractor(image[None], mask[None] if masks and mask is not None else None)
            for image, mask in self.prepared[:photographs]
        ]
        return joined(parts)

    @cached_property
    def features(self) -> LocalFeatures:
        """Keypoints of the photographs by the device, 512 of each."""
        return self.extract(self.device, keypoints=128 if self.quick else 512, masks=False)


def flops_of(work: Callable[[], object]) -> float:
    """Arithmetic of a call, as torch counts it."""
    # The plain form of attention: torch does not count every other.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        work()
    return float(counted.get_total_flops())


def random_features(images: int, keypoints: int) -> LocalFeatures:
    """Images with as many keypoints each, of random descriptors: what they cost is the same."""
    random = np.random.default_rng(0)
    descriptors = random.standard_normal((images, keypoints, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    places = random.uniform(0, 512, (images, keypoints, 2)).astype(np.float32)
    return LocalFeatures(
        places,
        descriptors.astype(np.float16),
        np.full(images, keypoints, np.int32),
        np.full((images, 2), 512, np.int32),
    )
