"""Starting Ray, or attaching to a cluster, quietly."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from exreid.config.probe import RayConfig
from exreid.errors import ClusterLostError, RunError

NO_PROGRESS_S = 600


@dataclass
class _WholeRun:
    """What `one_ray` ends."""

    ends: ExitStack = field(default_factory=ExitStack)
    started: bool = False


_whole_run: list[_WholeRun] = []


@contextmanager
def one_ray() -> Iterator[None]:
    """The stages of a run start Ray once: what the first `ray_session` of the with-block starts
    stays up to the block's end."""
    if _whole_run:
        yield
        return
    run = _WholeRun()
    _whole_run.append(run)
    with run.ends:
        try:
            yield
        finally:
            _whole_run.clear()


@contextmanager
def ray_session(config: RayConfig, *, verbose: bool = False) -> Iterator[None]:
    """Ray for the length of a with-block, or of the `one_ray` around it: an existing cluster, or
    one on this machine.

    A Ray that was running before in this process is used and left running. RunError on Windows.
    """
    if not hasattr(signal, "SIGUSR2"):
        raise RunError(
            "work over Ray needs Linux or macOS. On Windows use WSL2, or work in this process: "
            "ray.num_actors=0, and ray.num_workers=0 for trainings."
        )
    if not _whole_run:
        with _session(config, verbose):
            yield
        return
    run = _whole_run[0]
    if not run.started:
        run.ends.enter_context(_session(config, verbose))
        run.started = True
    yield


@contextmanager
def _session(config: RayConfig, verbose: bool) -> Iterator[None]:
    _quiet_environment(verbose)
    import ray

    from exreid.distributed.worker_warnings import workers_warnings_told

    if ray.is_initialized():
        _configure_data(verbose)
        with workers_warnings_told():
            yield
        return
    from exreid.distributed.connect import connect, raylet_address
    from exreid.distributed.head_watch import head_watched

    sentry = connect(config.address, verbose=verbose)
    try:
        _configure_data(verbose)
        with head_watched(raylet_address, on_told=sentry.silence), workers_warnings_told():
            yield
    except ClusterLostError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception):  # the user's own interruption
            sentry.silence()
        ray.shutdown()
        sentry.dismiss()
        raise
    ray.shutdown()
    sentry.dismiss()


def _quiet_environment(verbose: bool) -> None:
    from exreid.models.device import ONE_ARENA

    for name, value in ONE_ARENA.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # For a Ray on this machine: at Ray's default of 15, any other process would go first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


def _configure_data(verbose: bool) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    if not verbose:
        # What fails comes as an exception; these would print its traceback as well.
        for name in ("ray.data", "ray.data._internal", "ray.train", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
