"""Starting Ray, or attaching to a cluster, quietly; and what it has to offer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from exreid.config import RayConfig
from exreid.errors import RunError

NO_PROGRESS_S = 600
OBJECT_STORE_SHARE = 0.2


@dataclass(frozen=True)
class Placement:
    """How many actors there are, and what each one takes."""

    actors: int
    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        """The torch device of each actor."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """The CPU threads of each actor."""
        return max(1, int(self.cpus))


@contextmanager
def ray_session(config: RayConfig, *, verbose: bool = False) -> Iterator[None]:
    """Ray for the length of a with-block: the cluster that is there, or one on this machine.

    A Ray that was running before in this process is used and left running.
    """
    _quiet_environment(verbose)
    import ray

    mine = not ray.is_initialized()
    if mine:
        level = logging.INFO if verbose else logging.ERROR
        address = config.address or os.environ.get("RAY_ADDRESS") or "local"
        options = {"include_dashboard": False} if address == "local" else {}
        try:
            with _native_stderr(verbose):
                ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
        except ConnectionError as error:
            raise RunError(
                f"no Ray cluster at {address!r}: {error} Start one with 'ray start --head', or "
                "leave ray.address unset to run on this machine."
            ) from error
    try:
        _configure_data(verbose)
        yield
    finally:
        if mine:
            ray.shutdown()


def place_actors(config: RayConfig) -> Placement:
    """As many actors as asked for, or as the cluster holds; RunError for what never fits."""
    import ray

    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    gpus_each = config.gpus_per_worker
    if gpus_each is None:
        gpus_each = 1.0 if gpus else 0.0
    fit = int(gpus / gpus_each) if gpus_each else int(cpus / config.cpus_per_worker)
    if fit < 1 or config.cpus_per_worker > cpus:
        raise RunError(
            f"an actor wants {config.cpus_per_worker} CPUs and {gpus_each} GPUs; the cluster has "
            f"{cpus:g} CPUs and {gpus:g} GPUs. Lower ray.cpus_per_worker or ray.gpus_per_worker."
        )
    return Placement(min(config.num_actors or fit, max(1, fit)), config.cpus_per_worker, gpus_each)


def _quiet_environment(verbose: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def _native_stderr(shown: bool) -> Iterator[None]:
    """Without ``shown``, drop what is written to file descriptor 2 meanwhile.

    Ray's C++ side announces its own log level there, whatever that level is. Errors come as
    exceptions.
    """
    if shown:
        yield
        return
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _configure_data(verbose: bool) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    if not verbose:
        for name in ("ray.data", "ray.data._internal", "ray.train", "ray"):
            logging.getLogger(name).setLevel(logging.ERROR)
