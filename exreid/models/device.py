"""Helpers for a network's device: keeping memory, moving arrays, whole fp32, halving batches."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
import torch

Part = TypeVar("Part")
log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
MALLOC = {M_TRIM_THRESHOLD: 2**30, M_MMAP_MAX: 0}
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""The environment of a process whose network runs outside its main thread: see `keep_memory`."""


def keep_memory() -> None:
    """Have the C library keep what is freed for what is asked for next, where it is glibc.

    A network frees and asks for the same large blocks for each batch. Given back to the system,
    each of their pages is filled with zeros anew: on CPUs a quarter of the time of a training, half
    of that of an extraction. Threads besides the main one have arenas of their own, which hold no
    block above 64 MB, and once there are some it is too late to forbid them: where the network runs
    in such a thread, its process starts with `ONE_ARENA`.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for parameter, value in MALLOC.items():
            library.mallopt(parameter, value)


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
    """A copy on the device; to a GPU from pinned memory, so that the CPU need not wait."""
    if device.type == "cpu":
        return torch.from_numpy(values.copy())
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True)


def in_parts(work: Callable[[slice], Part], count: int, *, what: str = "images") -> list[Part]:
    """``work`` of all ``count`` rows; of parts of them, with a warning, where the whole is too
    large for the GPU's memory. torch.OutOfMemoryError where one row is."""
    try:
        return [work(slice(0, count))]
    except torch.OutOfMemoryError:
        if count == 1:
            raise
    torch.cuda.empty_cache()
    log.warning("%d %s do not fit the GPU's memory: they are taken in two parts.", count, what)
    half = count // 2

    def second(rows: slice) -> Part:
        return work(slice(half + rows.start, half + rows.stop))

    return [*in_parts(work, half, what=what), *in_parts(second, count - half, what=what)]
