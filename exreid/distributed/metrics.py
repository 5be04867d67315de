"""A run's progress as Ray's metrics, for a cluster's monitoring by Prometheus.

The driver counts what is done, left and lost. Without a running Ray nothing is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from exreid.progress import Progress


def with_metrics(progress: Progress) -> Progress:
    """The same progress, which also counts for the cluster: ``exreid_done_total`` and
    ``exreid_left``, images or pairs by the ``stage``'s name."""

    def start(stage: str, total: int) -> Callable[[int], object]:
        count, left, tags = progress(stage, total), total, {"stage": stage}

        def counted(done: int) -> None:
            nonlocal left
            count(done)
            left -= done
            if done > 0 and _ray_runs():
                _metric("Counter", "exreid_done", "Images or pairs done.").inc(done, tags)
                _metric("Gauge", "exreid_left", "Images or pairs to do.").set(max(left, 0), tags)

        return counted

    return start


def count_lost(what: str, count: int = 1) -> None:
    """Count work that was lost and is done again (``exreid_lost_total``): actors, or tiles."""
    if _ray_runs():
        _metric("Counter", "exreid_lost", "Work lost and done again.", "what").inc(
            count, {"what": what}
        )


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@cache
def _metric(kind: str, name: str, text: str, tag: str = "stage") -> Any:
    from ray.util import metrics

    return {"Counter": metrics.Counter, "Gauge": metrics.Gauge}[kind](
        name, description=text, tag_keys=(tag,)
    )
