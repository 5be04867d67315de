"""Training over workers: Ray Train starts and restarts them; the work itself is `loop.train`.

Checkpoints are the run's own files (see `exreid.training.checkpoint`), so that a restart by Ray, a
restart by hand and a resume elsewhere all read the same ones. On a cluster every machine must
therefore see the run's folder, or ``output.root`` be a URL (see `exreid.storage.mirror`).
"""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict

import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from exreid.config.training import FinetuneRayConfig
from exreid.distributed.head_watch import head_is_lost, kill_actor
from exreid.distributed.placement import gpus_each, machines, room_for
from exreid.distributed.threads import ENDS_WITHIN_S, beside_main
from exreid.distributed.worker_warnings import hand_warnings_on
from exreid.errors import (
    CheckpointError,
    ConfigError,
    ExreidError,
    NonFiniteLossError,
    TrainingError,
)
from exreid.models.device import ONE_ARENA
from exreid.storage import mirror
from exreid.storage.disk import places_of, storage_error
from exreid.training.world import World

if TYPE_CHECKING:
    from exreid.training.state import Training

CONTROLLER_FAILURES = 3

# Raised by every worker alike, and again after any restart: returned instead, once.
SAME_EVERYWHERE = (NonFiniteLossError, CheckpointError, ConfigError)


@dataclass(frozen=True)
class WorkerPlacement:
    """The number of workers, and the CPUs and GPUs of each."""

    workers: int
    least_workers: int
    cpus: float
    gpus: float


class WorkerArguments(TypedDict):
    """The arguments of each worker."""

    training: ray.ObjectRef
    """The `Training`."""
    threads: int
    """Of torch."""


def place_workers(config: FinetuneRayConfig, *, share: bool = False) -> WorkerPlacement:
    """The workers asked for, or one per GPU, or one; RunError where they never fit.

    Without GPUs the workers share a machine's CPUs evenly, each with ``cpus_per_worker`` at least:
    PyTorch uses as many threads. With ``share`` other trainings run beside them, and each worker
    takes ``cpus_per_worker`` only.
    """
    gpus = gpus_each(config)
    on_gpus = sum(machine.fits(0.0, gpus) for machine in machines())
    workers = config.num_workers or max(1, on_gpus)
    least = config.min_workers or workers
    cpus = config.cpus_per_worker
    room_for("training workers", config, wanted=workers, least=least, cpus=cpus, gpus=gpus)
    if not gpus and not share:
        with_cpus = [machine.cpus for machine in machines() if machine.cpus]
        on_one = math.ceil(workers / len(with_cpus))
        cpus = max(cpus, float(math.floor(min(with_cpus) / on_one)))
    return WorkerPlacement(workers, least, cpus, gpus)


def backend_for(gpus: float) -> Literal["nccl", "gloo"]:
    """The communication backend for workers with this many GPUs each: NCCL refuses two workers on
    one GPU, and is not in every build of PyTorch."""
    return "nccl" if gpus >= 1 and dist.is_nccl_available() else "gloo"


def train_over_workers(
    training: Training, placement: WorkerPlacement, *, max_failures: int
) -> None:
    """Train to the end; the results are written into the run's folder.

    Lost workers are replaced up to ``max_failures`` times, each time from the last finished epoch.
    """
    storage = training.folder / ".ray_train"
    storage_path, file_system = mirror.train_storage(storage)
    least, most = placement.least_workers, placement.workers
    resources = {"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})
    arguments: WorkerArguments = {
        "training": ray.put(training),
        "threads": max(1, int(placement.cpus)),
    }
    make_trainer = partial(
        TorchTrainer,
        train_worker,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend=backend_for(placement.gpus)),
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=bool(placement.gpus),
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:8]}",
            storage_path=storage_path,
            storage_filesystem=file_system,
            failure_config=FailureConfig(
                max_failures=max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
            # Ray Train's workers train in a thread.
            worker_runtime_env={"env_vars": ONE_ARENA},
        ),
    )
    try:
        result = _fitted(make_trainer)
    except ray.train.TrainingFailedError as error:
        raise _failure(error) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        mirror.remove_folder(storage)
    outcome = result.return_value
    if isinstance(outcome, ExreidError):
        raise outcome


def _fitted(make_trainer: Callable[[], TorchTrainer]) -> ray.train.Result:
    """The result of ``fit``; tried once more after an error of Ray Train's own, such as its polling
    of a worker that it has just removed. The training goes on from its last finished epoch."""
    # Ray Train ends the process by itself on Ctrl-C, unless it runs outside the main thread.
    try:
        return beside_main(make_trainer().fit, on_abandoned=_end_fit)
    except ray.train.ControllerError:
        return beside_main(make_trainer().fit, on_abandoned=_end_fit)


def train_worker(arguments: WorkerArguments) -> ExreidError | None:
    """The function that Ray Train runs in each worker."""
    # Here, since Ray Train's controller imports this file too, and needs no network.
    from exreid.training.loop import train

    hand_warnings_on()
    training: Training = ray.get(arguments["training"])
    torch.set_num_threads(arguments["threads"])
    world = World.of_process_group(get_device())
    try:
        train(training, world, on_epoch=lambda epoch: ray.train.report({"epoch": epoch}))
    except SAME_EVERYWHERE as error:
        return error
    except (OSError, RuntimeError) as error:
        full = storage_error(error, places_of(training.config))
        if full is None:
            raise
        raise full from error
    return None


def _end_fit(thread: threading.Thread) -> None:
    """End ``trainer.fit`` in this thread, by the death of the actor that it waits for, which only
    its own frames know."""
    end_s = time.monotonic() + ENDS_WITHIN_S
    while thread.is_alive() and not head_is_lost() and time.monotonic() < end_s:
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None:
            for value in frame.f_locals.values():
                if isinstance(value, ActorHandle):
                    kill_actor(value)
            frame = frame.f_back
        thread.join(0.5)


def _failure(error: ray.train.TrainingFailedError) -> ExreidError:
    """The user's own mistake where there is one among the workers' errors, and a summary else."""
    causes = list(getattr(error, "worker_failures", {}).values())
    for cause in causes:
        inner = getattr(cause, "cause", None) or cause
        if isinstance(inner, ExreidError):
            return inner
    last = (str(causes[0]) if causes else str(error)).strip().splitlines()[-1:]
    return TrainingError(
        f"the training workers failed more often than ray.max_failures allows: {' '.join(last)} "
        "Run the same command with the same output.run_id to go on from the last finished epoch."
    )
