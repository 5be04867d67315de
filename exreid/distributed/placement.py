"""How many workers, actors or trials fit a cluster, and an error where none ever fits."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass

from exreid.config.probe import RayConfig
from exreid.errors import RunError

log = logging.getLogger(__name__)

POLL_S = 1.0
SETTLED_S = 30.0
"""Once enough fit and no machine has joined for this long, the work begins."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class Machine:
    """The CPUs and GPUs of one machine of the cluster."""

    cpus: float
    gpus: float

    def fits(self, cpus: float, gpus: float) -> int:
        """How many actors of this size fit at once; a share of a GPU is of one GPU.

        >>> Machine(8, 2).fits(1, 0.6), Machine(8, 2).fits(3, 0.5), Machine(8, 2).fits(1, 2)
        (2, 2, 1)
        """
        counts = []
        if cpus:
            counts.append(math.floor(self.cpus / cpus + ROUNDING))
        if gpus >= 1:
            counts.append(math.floor(self.gpus / gpus + ROUNDING))
        elif gpus:
            counts.append(int(self.gpus) * math.floor(1 / gpus + ROUNDING))
        return min(counts, default=0)


@dataclass(frozen=True)
class Placement:
    """The number of actors, and the CPUs and GPUs of each."""

    actors: int
    cpus: float
    gpus: float
    most: int | None = None
    """The largest number once machines have joined; None: as many as fit."""
    decode_cpus: float = 1.0
    """Of a task that decodes for actors on GPUs: 0 where the actors have every CPU, since tasks
    that wait for one would wait for ever."""

    @property
    def device(self) -> str:
        """The torch device of each actor."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """The CPU threads of each actor."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class TrialPlacement:
    """How many trials of a sweep run at a time, and what each one takes."""

    concurrent: int
    workers: int
    cpus: float
    """Of each worker."""
    gpus: float
    """Of each worker."""


def machines() -> list[Machine]:
    """The machines that are up."""
    import ray

    return [
        Machine(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def room_for(
    what: str, config: RayConfig, *, wanted: int, least: int, cpus: float, gpus: float
) -> int:
    """How many of ``wanted`` fit at once, each on one machine.

    Asks an autoscaler for what is wanted and waits up to ``ray.wait_s`` for machines; no longer
    once ``least`` fit and none has joined for `SETTLED_S`. RunError with what is wanted and what
    the cluster has where fewer than ``least`` fit.
    """
    deadline_s = time.monotonic() + config.wait_s
    if config.wait_s and (room := _room(cpus, gpus)) < wanted:
        log.warning(
            "Waiting up to %g s for machines: %d %s are wanted, the cluster has room for %d.",
            *(config.wait_s, wanted, what, room),
        )
        from ray.autoscaler.sdk import request_resources

        bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        request_resources(bundles=[bundle] * wanted)
        fit, grown_s = 0, time.monotonic()
        while fit < wanted and time.monotonic() < deadline_s:
            if (now_fit := _room(cpus, gpus)) > fit:
                fit, grown_s = now_fit, time.monotonic()
            if fit >= least and time.monotonic() - grown_s > SETTLED_S:
                break
            time.sleep(POLL_S)
    fit = _room(cpus, gpus)
    if fit < least:
        waited = f" after {config.wait_s:g} s" if config.wait_s else ""
        raise RunError(
            f"no room for {least} {what}, each with {cpus:g} CPUs and {gpus:g} GPUs on one "
            f"machine: the cluster has room for {fit} at once{waited}. Its machines: "
            f"{_machines_text()}. Lower ray.cpus_per_worker, ray.gpus_per_worker or "
            "ray.num_workers; for an autoscaling cluster, set ray.wait_s to the seconds that a "
            "machine takes to come up."
        )
    return min(fit, wanted)


def gpus_each(config: RayConfig) -> float:
    """``ray.gpus_per_worker``, or 1 where there are GPUs."""
    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    return float(any(machine.gpus for machine in machines()))


def place_actors(config: RayConfig) -> Placement:
    """As many actors as asked for, or as fit the cluster; RunError where none ever fits."""
    cpus, gpus = config.cpus_per_worker, gpus_each(config)
    all_cpus = sum(machine.cpus for machine in machines())
    wanted = config.num_actors or max(1, sum(machine.fits(cpus, gpus) for machine in machines()))
    actors = room_for("actor", config, wanted=wanted, least=1, cpus=cpus, gpus=gpus)
    decode_cpus = 1.0 if all_cpus - actors * cpus >= 1 else 0.0
    return Placement(actors, cpus, gpus, most=config.num_actors, decode_cpus=decode_cpus)


def place_trials(
    config: RayConfig, *, workers: int, max_concurrent: int | None, samples: int
) -> TrialPlacement:
    """As many trials at a time as asked for, or as fit the cluster; RunError for none."""
    cpus, gpus = config.cpus_per_worker, gpus_each(config)
    most = min(max_concurrent or samples, samples)
    if max_concurrent is None and config.wait_s == 0:
        most = min(most, max(1, _room(cpus, gpus) // workers))
    fit = room_for(
        "workers of a trial", config, wanted=most * workers, least=workers, cpus=cpus, gpus=gpus
    )
    return TrialPlacement(max(1, fit // workers), workers, cpus, gpus)


def _room(cpus: float, gpus: float) -> int:
    return sum(machine.fits(cpus, gpus) for machine in machines())


def _machines_text() -> str:
    counts = Counter((machine.cpus, machine.gpus) for machine in machines())
    largest_first = sorted(counts.items(), reverse=True)
    texts = [f"{n} x {cpus:g} CPUs and {gpus:g} GPUs" for (cpus, gpus), n in largest_first]
    return "; ".join(texts) or "none"
