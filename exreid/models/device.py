"""Helpers for a network's device: memory, arrays to it and from it, whole fp32, halved batches."""

from __future__ import annotations

import ctypes
import logging
import os
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
    keypoints and vectors then differ from a CPU's in the third digit. Matrix products round too
    where TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set, as in NVIDIA's images, or a user asked for it."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32
    # Not `allow_tf32`, which cannot be read where a user has set `fp32_precision`.
    rounded = products.fp32_precision == "tf32"
    convolutions.allow_tf32 = False
    if rounded:
        products.allow_tf32 = False
    try:
        yield
    finally:
        convolutions.allow_tf32 = before
        if rounded:
            products.allow_tf32 = True


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """torch's deterministic mode, or its absence, for a with-block: the same bits on the same
    machine, and an error of an operation that cannot."""
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tuned = torch.backends.cudnn.benchmark
    if wanted:
        # Without it a GPU's matrix products are an error.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        torch.backends.cudnn.benchmark = tuned


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device; to a GPU from pinned memory, so that the CPU need not wait."""
    if device.type == "cpu":
        return torch.from_numpy(values.copy())
    # Not from_numpy(values).pin_memory(): arrays that come by Ray cannot be written, which it warns
    # of.
    dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
    pinned = torch.empty(values.shape, dtype=dtype, pin_memory=True)
    pinned.numpy()[...] = values
    return pinned.to(device, non_blocking=True)


class Fetched:
    """Tensors on their way to the host, behind the work that makes them. Who waits for them does
    not wait for what the device has been given since, as ``float(tensor)`` would."""

    def __init__(self, *values: torch.Tensor) -> None:
        self._values = tuple(value.to("cpu", non_blocking=True) for value in values)
        device = values[0].device
        self._done = (
            torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        )

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors, on the CPU."""
        if self._done is not None:
            self._done.synchronize()
        return self._values


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
