"""Trials of a sweep through Ray Tune, which places them, starts them and tries lost ones again.

The sweep's study, an actor beside the driver, decides which values a trial gets and which trial
stops early; each trial asks it. Tune's own searchers and schedulers are not used: they store
pickles, and end a trial by killing it in mid-epoch, while its training workers stay. A trial that
the study stops ends as a finished one does, with a complete folder.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import ray
import torch
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from exreid.distributed.head_watch import head_is_lost, kill_actor
from exreid.distributed.placement import TrialPlacement
from exreid.distributed.threads import ENDS_WITHIN_S, beside_main
from exreid.errors import StorageError

TrialT = TypeVar("TrialT")
OutcomeT = TypeVar("OutcomeT")
LEAST_CPU = 0.01
"""A trial's own CPUs where its workers have the resources: Tune does not accept 0."""
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
"""Tune writes no logs of its own."""


def run_trials_over_ray(
    study_class: type,
    plan: object,
    numbers: Sequence[int],
    run_trial: Callable[[TrialT, Callable[[int, float], bool]], OutcomeT],
    placement: TrialPlacement,
    *,
    lost: OutcomeT,
    on_end: Callable[[int, OutcomeT], object],
    max_failures: int,
) -> None:
    """Run the trials of these numbers, ``placement.concurrent`` at a time.

    The study is made of the ``plan``, in an actor. ``run_trial`` takes the result of the study's
    ``begin(number)`` and a function that reports an epoch's score and returns whether to stop; its
    outcome goes to the study's ``end`` and to ``on_end``. ``lost`` is the outcome of a trial whose
    process died once more than ``max_failures`` times. A trial's StorageError ends the sweep.
    """
    beside_driver = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    study = (
        ray.remote(study_class).options(num_cpus=0, scheduling_strategy=beside_driver).remote(plan)
    )
    # With several workers, they have the resources, and the trial's own process none.
    alone = placement.workers == 1
    resources = {"cpu": placement.cpus if alone else LEAST_CPU}
    if alone and placement.gpus:
        resources["gpu"] = placement.gpus

    def sweep_trial(config: dict[str, int]) -> dict[str, OutcomeT | StorageError]:
        torch.set_num_threads(max(1, int(placement.cpus)))
        return {"outcome": _outcome(study, config["number"], run_trial)}

    watch = _TrialWatch(study, lost, on_end)
    os.environ.update(QUIET)
    try:
        with tempfile.TemporaryDirectory(prefix="exreid-tune-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(sweep_trial, resources),
                param_space={"number": tune.grid_search(list(numbers))},
                tune_config=tune.TuneConfig(max_concurrent_trials=placement.concurrent),
                run_config=tune.RunConfig(
                    name="trials",
                    storage_path=folder,
                    callbacks=[watch],
                    failure_config=tune.FailureConfig(max_failures=max_failures),
                    verbose=0,
                ),
            )
            beside_main(tuner.fit, on_abandoned=watch.end_tune)
    except BaseException:
        watch.end_trials()
        raise
    finally:
        kill_actor(study)


def _outcome(
    study: ActorHandle,
    number: int,
    run_trial: Callable[[TrialT, Callable[[int, float], bool]], OutcomeT],
) -> OutcomeT | StorageError:
    """The outcome of one trial, in the trial's process; begun again where that process was lost."""
    try:
        outcome = run_trial(_answer(study.begin.remote(number)), partial(_report, study, number))
        _answer(study.end.remote(number, outcome))
    except StorageError as error:
        return error
    return outcome


def _report(study: ActorHandle, number: int, epoch: int, score: float) -> bool:
    """Report an epoch's score from any process of the cluster; returns whether to stop."""
    stop: bool = _answer(study.report.remote(number, epoch, score))
    return stop


def _answer(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error


class _TrialWatch(tune.Callback):
    """Tune's callback at the end of trials; ends Tune after an error that is not one trial's."""

    def __init__(
        self, study: ActorHandle, lost: OutcomeT, on_end: Callable[[int, OutcomeT], object]
    ) -> None:
        self.study, self.lost, self.on_end = study, lost, on_end
        self.actors: list[ActorHandle] = []
        """The actors of the trials."""
        self.error: BaseException | None = None

    def end_trials(self) -> None:
        """End the trials' processes."""
        for actor in self.actors:
            kill_actor(actor)

    def end_tune(self, thread: threading.Thread) -> None:
        """End ``tuner.fit`` in this thread, and the trials."""
        self.error = self.error or KeyboardInterrupt()
        self.end_trials()
        if not head_is_lost():
            thread.join(ENDS_WITHIN_S)

    def __getstate__(self) -> dict[str, object]:
        """Tune keeps copies of its parts to restore a sweep from; the study restores itself."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Called once the trial's process runs."""
        self.actors.append(trial.temporary_state.ray_actor)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Called at the end of a trial."""
        outcome = trial.last_result["outcome"]
        if isinstance(outcome, StorageError):
            self.error = self.error or outcome
        else:
            self.on_end(trial.config["number"], outcome)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Called for a trial whose process was lost too often."""
        number = trial.config["number"]
        _answer(self.study.end.remote(number, self.lost))
        self.on_end(number, self.lost)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Called several times a second."""
        if self.error is not None:
            raise self.error
