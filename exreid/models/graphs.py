"""CUDA graphs: the kernels of a function, recorded once and started together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]
Work = Callable[..., Tensors]
"""Tensors of a GPU to tensors there, without asking the device for a number."""
MOST = 2
"""Graphs of one function: each keeps the memory of all its steps."""


class Graphs:
    """A function whose calls with tensors of the same shapes are replayed as one CUDA graph.

    Shapes are recorded when they come a second time, so that the rest of a tile, and batches of odd
    widths, go the plain way. So does everything once a recording has failed, with a warning.
    """

    def __init__(self, work: Work, record: Callable[[Work, Tensors], Work] | None = None) -> None:
        self.work, self.record = work, record or recorded
        self.seen: Counter[tuple[object, ...]] = Counter()
        self.replays: dict[tuple[object, ...], Work] = {}
        self.failed = False

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        """What the function returns."""
        shapes = tuple((values.shape, values.dtype) for values in inputs)
        again = self.seen[shapes] > 0
        self.seen[shapes] += 1
        if again and shapes not in self.replays and len(self.replays) < MOST and not self.failed:
            try:
                self.replays[shapes] = self.record(self.work, inputs)
            except RuntimeError as error:
                self.failed = True
                reason = str(error).strip().partition("\n")[0]
                log.warning("No CUDA graph, kernels are started one by one: %s", reason)
        return self.replays.get(shapes, self.work)(*inputs)


def recorded(work: Work, inputs: Tensors) -> Work:
    """The function, of inputs of these shapes, as a CUDA graph; RuntimeError where that fails."""
    own = tuple(values.clone() for values in inputs)
    # As torch wants it: a run beside the recording's stream sets up what libraries set up once.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work(*own)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = work(*own)

    def replay(*inputs: torch.Tensor) -> Tensors:
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        # The next replay writes to the same places.
        return tuple(values.clone() for values in outputs)

    return replay
