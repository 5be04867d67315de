"""Trials over actors: so many at a time, stopped when told to, tried again when they are lost."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial

import pytest

from exreid.config.probe import RayConfig
from exreid.config.training import FinetuneRayConfig
from exreid.errors import StorageError


@dataclass(frozen=True)
class FakeTrial:
    number: int
    epochs: int = 5
    seconds: float = 0.0
    how: str = "well"


class FakeStudy:
    """Gives the trials of a plan, and stops the first of them after their second epoch."""

    def __init__(self, plan):
        self.trials, self.stopped, self.marks = plan

    def begin(self, number):
        return self.trials[number]

    def report(self, number, epoch, score):
        with (self.marks / f"{number}-scores").open("a") as file:
            file.write(f"{epoch} {score:.1f}\n")
        return number < self.stopped and epoch == 2

    def end(self, number, outcome):
        (self.marks / f"{number}-ended").write_text(str(outcome))


def _run_trial(marks, trial, report):
    """Notes when it begins and ends; gives the epochs that it was allowed."""
    import ray

    begun = marks / f"{trial.number}-begun"
    first = not begun.exists()
    begun.touch()
    assert ray.get_runtime_context().get_assigned_resources().get("CPU") == 2.0
    if trial.how == "full":
        raise StorageError("the disk is full")
    begin = time.time()
    for epoch in range(1, trial.epochs + 1):
        time.sleep(trial.seconds)
        if trial.how == "die" and first and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch < trial.epochs and report(epoch, trial.number + epoch / 10):
            break
    return begin, time.time(), epoch


def _run(trials, marks, *, max_failures=1, stopped=0):
    import ray.cloudpickle

    from exreid.distributed.placement import place_trials
    from exreid.distributed.sweep import run_trials_over_ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = RayConfig(cpus_per_worker=2.0)
    placement = place_trials(config, max_concurrent=None, workers=1, samples=len(trials))
    done = {}
    run_trials_over_ray(
        FakeStudy,
        (trials, stopped, marks),
        range(len(trials)),
        partial(_run_trial, marks),
        placement,
        lost="lost",
        on_end=done.__setitem__,
        max_failures=max_failures,
    )
    for number, outcome in done.items():
        assert (marks / f"{number}-ended").read_text() == str(outcome), "the study knows"
    return placement, done


def _wait_for_cpus():
    import ray

    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU") != 4.0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 4.0, "nothing is left behind"


def test_as_many_run_at_a_time_as_fit_and_a_stopped_one_makes_room(local_ray, tmp_path):
    """Four CPUs hold two trials of two; the ones that are stopped do not hold them."""
    trials = [FakeTrial(number, seconds=0.05) for number in range(4)]
    placement, done = _run(trials, tmp_path, stopped=2)
    assert placement.concurrent == 2
    assert [done[number][2] for number in range(4)] == [2, 2, 5, 5]
    assert (tmp_path / "3-scores").read_text() == "1 3.1\n2 3.2\n3 3.3\n4 3.4\n"
    for begin, _, _ in done.values():
        at_once = sum(other[0] <= begin < other[1] for other in done.values())
        assert at_once <= 2
    _wait_for_cpus()


def test_a_lost_trial_is_tried_again_and_costs_itself_alone(local_ray, tmp_path):
    for name in ("again", "lost"):
        (tmp_path / name).mkdir()
    trials = [FakeTrial(number, how=how) for number, how in enumerate(["die", "well"])]
    _, done = _run(trials, tmp_path / "again")
    assert (done[0][2], done[1][2]) == (5, 5)
    _, done = _run([FakeTrial(0, how="die")], tmp_path / "lost", max_failures=0)
    assert done == {0: "lost"}


def test_a_full_disk_ends_the_sweep_and_the_trials_beside_it(local_ray, tmp_path):
    trials = [FakeTrial(0, seconds=0.1, epochs=9999), FakeTrial(1, how="full"), FakeTrial(2)]
    start = time.monotonic()
    with pytest.raises(StorageError, match="the disk is full"):
        _run(trials, tmp_path)
    assert time.monotonic() - start < 180, "it waits for trials that nobody needs"
    assert not (tmp_path / "2-begun").exists()
    _wait_for_cpus()


def test_trials_that_never_fit_are_refused_at_once(local_ray):
    from exreid.distributed.placement import place_trials
    from exreid.errors import RunError

    start = time.monotonic()
    with pytest.raises(RunError, match=r"5 CPUs and 0 GPUs.*1 x 4 CPUs and 0 GPUs"):
        place_trials(RayConfig(cpus_per_worker=5.0), workers=1, max_concurrent=None, samples=3)
    config = FinetuneRayConfig(cpus_per_worker=2.0)
    with pytest.raises(RunError, match=r"3 workers of a trial.*has room for 2 at once"):
        place_trials(config, workers=3, max_concurrent=None, samples=3)
    assert time.monotonic() - start < 30
    config = FinetuneRayConfig()
    placed = place_trials(config, workers=2, max_concurrent=None, samples=9)
    assert (placed.concurrent, placed.workers, placed.cpus) == (2, 2, 1.0)
    placed = place_trials(config, workers=1, max_concurrent=3, samples=9)
    assert placed.concurrent == 3
    assert place_trials(config, workers=1, max_concurrent=None, samples=2).concurrent == 2
