"""The processes that train together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """One process, the ``rank``-th from 0 of the ``size`` of torch's default process group (gloo
    or nccl), on its device. One alone needs no group and has nobody to share with."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def of_process_group(cls, device: torch.device) -> World:
        """This process in torch's default group."""
        return cls(device, dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def sum(self, value: float) -> float:
        """Added up over the processes, in float64."""
        return float(self.total(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The same of a tensor on the device, which nothing waits for where NCCL adds up."""
        summed = value.to(torch.float64, copy=True)
        if self.size > 1:
            dist.all_reduce(summed)
        return summed

    def gather(self, value: Value) -> Sequence[Value]:
        """The value of each process, by rank, in every process; pickled on the way."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def average_buffers(self, module: nn.Module) -> None:
        """Give every process the mean of the module's buffers that are fractions: means and
        variances of batch norms. Counters are equal anyway."""
        for buffer in module.buffers():
            if self.size > 1 and buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.size)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes in each backward pass (DDP);
        buffers are left to `average_buffers`."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)
