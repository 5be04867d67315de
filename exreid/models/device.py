"""Moving arrays to a GPU, and what fp32 means there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

Part = TypeVar("Part")
log = logging.getLogger(__name__)


@contextmanager
def whole_fp32() -> Iterator[None]:
    """fp32 with all its 23 bits: by default torch lets a GPU's convolutions round to TF32's 10, and
    keypoints and vectors then differ from a CPU's in the third digit."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy there. To a GPU it goes from pinned memory, so that nothing waits for it."""
    if device.type == "cpu":
        return torch.from_numpy(values.copy())
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True)


def in_parts(work: Callable[[slice], Part], count: int) -> list[Part]:
    """What ``work`` gives for all of ``count`` rows; for parts of them where the whole does not fit
    the GPU's memory, which is said. torch.OutOfMemoryError where one row does not."""
    try:
        return [work(slice(0, count))]
    except torch.OutOfMemoryError:
        if count == 1:
            raise
    torch.cuda.empty_cache()
    log.warning("%d images do not fit the GPU's memory: they are taken in two parts.", count)
    half = count // 2

    def second(rows: slice) -> Part:
        return work(slice(half + rows.start, half + rows.stop))

    return [*in_parts(work, half), *in_parts(second, count - half)]
