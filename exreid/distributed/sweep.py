"""Trials of a sweep through Ray Tune, which places them, starts them and tries lost ones again.

Whoever trains asks after each epoch whether to go on, and waits for the answer, which the driver
gives through a letter box: a trial that is stopped early ends as a finished one does, with its
folder in order and its resources free. Left to itself Tune would kill it in mid-epoch, and the
resources of the training workers below it would stay taken.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from exreid.distributed.head_watch import head_is_lost, kill_actor
from exreid.distributed.placement import TrialPlacement
from exreid.distributed.threads import beside_main

Score = tuple[int, float, bool]
"""An epoch, the trial's best score so far, and whether it was the last epoch."""
Ask = Callable[[int, float, bool], bool]
"""Told a `Score`, says whether to stop."""
THREADS = 64
"""Calls that the letter box holds at a time: one for each trial that waits, and the driver's."""
NO_CPU = 0.01
"""What Tune is asked for where a trial's workers hold the resources: it refuses nothing at all."""
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune writes no logs of its own, and leaves Ctrl-C to the run."""


class LetterBox:
    """Questions of trials, and the driver's answers."""

    def __init__(self) -> None:
        self.questions: queue.Queue[tuple[int, Score] | None] = queue.Queue()
        self.answers: dict[int, queue.Queue[bool]] = {}
        self.actors: dict[int, Any] = {}

    def begun(self, number: int, actor: Any) -> None:
        """A trial runs in this actor."""
        self.actors[number] = actor
        self.answers[number] = queue.Queue()

    def ask(self, number: int, score: Score) -> bool:
        """For whoever trains: whether to stop."""
        self.questions.put((number, score))
        return self.answers[number].get()

    def next_question(self) -> tuple[int, Score] | None:
        """For the driver: what is asked next; None once the sweep is over."""
        return self.questions.get()

    def answer(self, number: int, stop: bool) -> None:
        """From the driver."""
        self.answers[number].put(stop)

    def close(self) -> list[Any]:
        """The sweep is over; the actors that trials ran in."""
        self.questions.put(None)
        return list(self.actors.values())


@dataclass(frozen=True)
class AskDriver:
    """Can be sent to any process of the cluster."""

    box: Any
    number: int

    def __call__(self, epoch: int, score: float, last: bool) -> bool:
        """Whether to stop."""
        stop: bool = ray.get(self.box.ask.remote(self.number, (epoch, score, last)))
        return stop


def run_trial(config: dict[str, Any]) -> dict[str, Any]:
    """What Tune runs: one trial, to its end; its error is its value, so that only a lost process
    is tried again."""
    torch.set_num_threads(config["threads"])
    box, number = config["box"], config["number"]
    ray.get(box.begun.remote(number, ray.get_runtime_context().current_actor))
    try:
        value = config["trial"](AskDriver(box, number))
    except Exception as error:  # noqa: BLE001 - the driver judges it
        value = error
    return {"value": value}


class TrialPool:
    """So many trials at a time; their answers come from ``judge``, in this process."""

    def __init__(
        self,
        placement: TrialPlacement,
        *,
        judge: Callable[[Any, int, float, bool], bool],
        done: Callable[[Any, Any], Any],
        max_failures: int,
    ) -> None:
        self.placement, self.judge, self.done = placement, judge, done
        self.max_failures = max_failures
        self.lock = threading.Lock()
        """The driver answers in one thread, and Tune begins and ends trials in another."""
        self.keys: list[Any] = []
        """Of the trials by number."""
        self.error: BaseException | None = None

    def run(self, next_trial: Callable[[], tuple[Any, Callable[[Ask], Any]] | None]) -> None:
        """All trials that ``next_trial`` gives; the value or error of each goes to ``done``."""
        # Beside the driver: the machine of a trial may be lost, and costs no other one.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        box = (
            ray.remote(LetterBox)
            .options(num_cpus=0, max_concurrency=THREADS, scheduling_strategy=here)
            .remote()
        )
        answering = threading.Thread(target=self._answer, args=(box,), daemon=True)
        answering.start()
        try:
            with _quietly(), tempfile.TemporaryDirectory(prefix="exreid-tune-") as folder:
                beside_main(self._tuner(box, next_trial, folder).fit)
        except BaseException as error:
            self.error = self.error or error  # Tune, which is left behind, starts no more trials
            raise
        finally:
            self._stop(box)
        if self.error is not None:
            raise self.error

    def _tuner(self, box: Any, next_trial: Any, folder: str) -> tune.Tuner:
        alone = self.placement.workers == 1
        # With more workers than one, they hold the resources, and the trial's own process none.
        resources = {"cpu": self.placement.cpus if alone else NO_CPU}
        if alone and self.placement.gpus:
            resources["gpu"] = self.placement.gpus
        return tune.Tuner(
            tune.with_resources(run_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Trials(self, box, next_trial),
                max_concurrent_trials=self.placement.concurrent,
                num_samples=-1,
                metric="value",
                mode="max",
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                stop=_UnlessBroken(self),
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
                verbose=0,
            ),
        )

    def _answer(self, box: Any) -> None:
        with suppress(RayError):
            while (question := ray.get(box.next_question.remote())) is not None:
                number, score = question
                try:
                    with self.lock:
                        stop = self.judge(self.keys[number], *score)
                except BaseException as error:  # noqa: BLE001 - raised where the sweep is run
                    self.error = self.error or error
                    stop = True
                ray.get(box.answer.remote(number, stop))

    def ended(self, number: int, value: Any) -> None:
        """A trial has ended: its value, or the error that ended it."""
        try:
            with self.lock:
                self.done(self.keys[number], value)
        except BaseException as error:  # noqa: BLE001 - raised where the sweep is run
            self.error = self.error or error

    def _stop(self, box: Any) -> None:
        if head_is_lost():
            return
        with suppress(RayError):
            for actor in ray.get(box.close.remote()):
                kill_actor(actor)
        kill_actor(box)


class _OfThisProcess:
    """Tune keeps copies of its parts to restore a sweep from; ours restore themselves."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _Trials(_OfThisProcess, Searcher):
    """Gives Tune the trials, and is told how each ended."""

    def __init__(self, pool: TrialPool, box: Any, next_trial: Any) -> None:
        super().__init__(metric="value", mode="max")
        self.pool, self.box, self.next_trial = pool, box, next_trial
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        pool = self.pool
        if pool.error is not None:
            return Searcher.FINISHED
        with pool.lock:
            given = self.next_trial()
            if given is None:
                return Searcher.FINISHED
            self.numbers[trial_id] = len(pool.keys)
            pool.keys.append(given[0])
        return {
            "trial": given[1],
            "number": self.numbers[trial_id],
            "box": self.box,
            "threads": max(1, int(pool.placement.cpus)),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass its value on."""
        if error or result is None or "value" not in result:
            lost = RuntimeError(
                f"the trial's process died {self.pool.max_failures + 1} times: out of memory, or "
                "its machine is gone"
            )
            self.pool.ended(self.numbers[trial_id], lost)
        else:
            self.pool.ended(self.numbers[trial_id], result["value"])

    def save(self, checkpoint_path: str) -> None:
        """The sweep remembers its trials itself."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _UnlessBroken(_OfThisProcess, tune.Stopper):
    """Ends the sweep once something went wrong that is not one trial's fault."""

    def __init__(self, pool: TrialPool) -> None:
        self.pool = pool

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether all trials end."""
        return self.pool.error is not None


@contextmanager
def _quietly() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
