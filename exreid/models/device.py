"""Moving arrays to a GPU, and what fp32 means there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cpu":
        return tensor.clone()
    return tensor.pin_memory().to(device, non_blocking=True)
