"""Trials over actors: so many at a time, stopped when told to, tried again when they are lost."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from exreid.config.probe import RayConfig
from exreid.config.training import FinetuneRayConfig
from exreid.errors import TrainingError


@dataclass(frozen=True)
class FakeTrial:
    """Notes when it begins and ends; gives the epochs that it was allowed."""

    marks: Path
    number: int
    epochs: int = 5
    seconds: float = 0.0
    how: str = "well"

    def __call__(self, ask):
        import ray

        first = not (self.marks / f"{self.number}-begun").exists()
        (self.marks / f"{self.number}-begun").touch()
        assert ray.get_runtime_context().get_assigned_resources().get("CPU") == 2.0
        if self.how == "raise":
            raise TrainingError("this trial went wrong")
        begin = time.time()
        for epoch in range(1, self.epochs + 1):
            time.sleep(self.seconds)
            if self.how == "die" and first and epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if ask(epoch, self.number + epoch / 10, epoch == self.epochs):
                break
        return begin, time.time(), epoch


def _run(trials, *, max_concurrent=None, max_failures=1, judge=lambda *score: False):
    import ray.cloudpickle

    from exreid.distributed.placement import place_trials
    from exreid.distributed.sweep import TrialPool

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = RayConfig(cpus_per_worker=2.0)
    options = {"workers": 1, "samples": len(trials)}
    placement = place_trials(config, max_concurrent=max_concurrent, **options)
    waiting, done = iter(enumerate(trials)), {}
    pool = TrialPool(placement, judge=judge, done=done.__setitem__, max_failures=max_failures)
    pool.run(lambda: next(waiting, None))
    return placement, done


def test_as_many_run_at_a_time_as_fit_and_a_stopped_one_makes_room(local_ray, tmp_path):
    """Four CPUs hold two trials of two; the ones that are stopped do not hold them."""
    asked = []

    def judge(key, epoch, score, last):
        asked.append((key, epoch, round(score, 1), last))
        return key < 2 and epoch == 2

    trials = [FakeTrial(tmp_path, number, seconds=0.05) for number in range(4)]
    placement, done = _run(trials, judge=judge)
    assert placement.concurrent == 2
    assert [done[key][2] for key in range(4)] == [2, 2, 5, 5]
    assert sorted(entry for entry in asked if entry[0] == 3) == [
        (3, epoch, 3 + epoch / 10, epoch == 5) for epoch in range(1, 6)
    ]
    for begin, _, _ in done.values():
        at_once = sum(other[0] <= begin < other[1] for other in done.values())
        assert at_once <= 2
    import ray

    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 4.0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 4.0, "nothing is left behind"


def test_a_lost_trial_is_tried_again_and_an_error_costs_itself_alone(local_ray, tmp_path):
    hows = ["die", "raise", "well"]
    _, done = _run([FakeTrial(tmp_path, number, how=how) for number, how in enumerate(hows)])
    assert done[0][2] == 5
    assert isinstance(done[1], TrainingError)
    assert str(done[1]) == "this trial went wrong"
    assert done[2][2] == 5
    _, done = _run([FakeTrial(tmp_path, 7, how="die")], max_failures=0)
    assert "died" in str(done[0])


def test_trials_that_never_fit_are_refused_at_once(local_ray):
    from exreid.distributed.placement import place_trials
    from exreid.errors import RunError

    start = time.monotonic()
    with pytest.raises(RunError, match=r"5 CPUs and 0 GPUs.*1 x 4 CPUs and 0 GPUs"):
        place_trials(RayConfig(cpus_per_worker=5.0), workers=1, max_concurrent=None, samples=3)
    config = FinetuneRayConfig(cpus_per_worker=2.0)
    with pytest.raises(RunError, match=r"3 workers of a trial.*holds 2 at once"):
        place_trials(config, workers=3, max_concurrent=None, samples=3)
    assert time.monotonic() - start < 5
    config = FinetuneRayConfig()
    placed = place_trials(config, workers=2, max_concurrent=None, samples=9)
    assert (placed.concurrent, placed.workers, placed.cpus) == (2, 2, 1.0)
    placed = place_trials(config, workers=1, max_concurrent=3, samples=9)
    assert placed.concurrent == 3
    assert place_trials(config, workers=1, max_concurrent=None, samples=2).concurrent == 2
