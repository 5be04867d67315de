"""The processes that train together, as the loop sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class World(Protocol):
    """One process among ``size``, the ``rank``-th from 0."""

    rank: int
    size: int

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added up over the processes, in float64."""

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank, in every process."""

    def average_buffers(self, module: nn.Module) -> None:
        """Give every process the mean of the module's buffers that are fractions."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes in each backward pass."""


class OneProcess:
    """A world of its own."""

    rank, size = 0, 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]

    def average_buffers(self, module: nn.Module) -> None:
        """Nothing to average with."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module


class ProcessGroup:
    """The processes of torch's default process group (gloo or nccl), one device each."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device

    def sum(self, values: Sequence[float]) -> list[float]:
        """All-reduced in float64."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Pickled between processes of this one training."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def average_buffers(self, module: nn.Module) -> None:
        """Means and variances of batch norms are averaged; counters are equal anyway."""
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.size)

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP; buffers are left to `average_buffers`. One process has nobody to share with."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)
