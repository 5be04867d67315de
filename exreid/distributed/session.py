"""Starting Ray, or attaching to a cluster, quietly; and what it has to offer."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from exreid.config import RayConfig
from exreid.errors import ClusterLostError, RunError

NO_PROGRESS_S = 600
OBJECT_STORE_SHARE = 0.2


@dataclass(frozen=True)
class Placement:
    """How many actors there are, and what each one takes."""

    actors: int
    cpus: float
    gpus: float
    most: int | None = None
    """How many there may be once machines have joined; None: as many as they hold."""
    decode_cpus: float = 1.0
    """Of a task that decodes for actors on GPUs: 0 where they hold every CPU already, since tasks
    that wait for one would wait for ever."""

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
            with _native_stderr(verbose), _sigterm_kept():
                ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
        except ConnectionError as error:
            raise RunError(
                f"no Ray cluster at {address!r}: {error} Start one with 'ray start --head', or "
                "leave ray.address unset to run on this machine."
            ) from error
        except Exception as error:
            # Ray raises a bare Exception where its processes do not come up in time.
            if type(error) is not Exception:
                raise
            raise RunError(
                f"Ray did not start ({address}): {error} Is this machine very busy, or out of "
                "memory? Without Ray: ray.num_actors=0 and ray.num_workers=0."
            ) from error
    _configure_data(verbose)
    if not mine:
        yield
        return
    from exreid.distributed.head_watch import head_watched

    try:
        with head_watched():
            yield
    except ClusterLostError:
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def place_actors(config: RayConfig) -> Placement:
    """As many actors as asked for, or as the cluster holds; RunError for what never fits."""
    from exreid.distributed.placement import gpus_each, machines, room_for

    cpus, gpus = config.cpus_per_worker, gpus_each(config)
    all_cpus = sum(machine.cpus for machine in machines())
    wanted = config.num_actors or max(1, sum(one.holds(cpus, gpus) for one in machines()))
    actors = room_for("actor", config, wanted=wanted, least=1, cpus=cpus, gpus=gpus)
    decode_cpus = 1.0 if all_cpus - actors * cpus >= 1 else 0.0
    return Placement(actors, cpus, gpus, most=config.num_actors, decode_cpus=decode_cpus)


def _quiet_environment(verbose: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of whoever starts it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error  # its handler leaves the process while Ray starts
    finally:
        signal.signal(signal.SIGTERM, before)


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
