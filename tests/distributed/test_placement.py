"""What fits on a machine or a cluster, with GPUs that are only said to be there."""

import time
from functools import partial

import pytest

from exreid.config.io import load_config
from exreid.config.probe import RayConfig
from exreid.config.training import FinetuneConfig, FinetuneRayConfig
from exreid.distributed.placement import Machine
from exreid.errors import ConfigError, RunError


@pytest.mark.parametrize(
    ("cpus", "gpus", "count"),
    [
        (1, 0, 8),
        (3, 0, 2),
        (0.1, 0, 80),
        (9, 0, 0),
        (1, 1, 2),
        (1, 2, 1),
        (1, 3, 0),
        (1, 0.5, 4),
        (1, 0.4, 4),
        (1, 0.6, 2),
        (4, 0.25, 2),
        (0, 0.25, 8),
    ],
)
def test_what_a_machine_with_eight_cpus_and_two_gpus_holds(cpus, gpus, count):
    """A share of a GPU lies within one: two GPUs hold two of 0.6, not three."""
    assert Machine(8, 2).fits(cpus, gpus) == count


def test_a_share_above_one_gpu_is_refused():
    assert RayConfig(gpus_per_worker=2.0).gpus_per_worker == 2
    with pytest.raises(ConfigError, match=r"ray.gpus_per_worker=1.5: above 1"):
        load_config(FinetuneConfig, None, ["ray.gpus_per_worker=1.5"])


def test_the_defaults_take_this_machine(local_ray):
    from exreid.distributed.placement import place_actors

    placed = place_actors(RayConfig())
    assert (placed.actors, placed.cpus, placed.gpus, placed.device) == (4, 1.0, 0.0, "cpu")
    assert place_actors(RayConfig(cpus_per_worker=2.0)).actors == 2
    assert place_actors(RayConfig(num_actors=9)).actors == 4
    with pytest.raises(RunError, match=r"1 actor, each with 1 CPUs and 1 GPUs.*ray.gpus_per"):
        place_actors(RayConfig(gpus_per_worker=1.0))
    with pytest.raises(RunError, match=r"after 0.5 s"):
        place_actors(RayConfig(cpus_per_worker=5.0, wait_s=0.5))


def test_a_cluster_that_does_not_grow_is_not_waited_for(local_ray, monkeypatch):
    from exreid.distributed import placement

    monkeypatch.setattr(placement, "SETTLED_S", 1.0)
    start = time.monotonic()
    room = partial(placement.room_for, "actor", RayConfig(wait_s=120.0), cpus=1.0, gpus=0.0)
    assert room(wanted=32, least=1) == 4
    assert time.monotonic() - start < 60
    monkeypatch.setattr(placement, "_room", _growing([0, 0, 0, 2, 3]))
    monkeypatch.setattr(placement, "POLL_S", 0.05)
    assert room(wanted=3, least=2) == 3, "it waits for the first machines, and for the last"


@pytest.mark.parametrize(
    ("gpus", "actors", "device", "decode_cpus"),
    [
        (None, 6, "cuda", 1.0),
        (0.5, 12, "cuda", 1.0),
        (0.25, 20, "cuda", 1.0),
        (4.0, 1, "cuda", 1.0),
        (0.0, 36, "cpu", 0.0),
    ],
)
def test_a_cluster_of_machines_with_gpus_and_without(
    monkeypatch, gpus, actors, device, decode_cpus
):
    """Two GPUs and 4 CPUs, four and 16, none and 16: those without GPUs decode for the others."""
    from exreid.distributed import placement

    cluster = [Machine(4, 2), Machine(16, 4), Machine(16, 0)]
    monkeypatch.setattr(placement, "machines", lambda: cluster)
    placed = placement.place_actors(RayConfig(gpus_per_worker=gpus))
    assert (placed.actors, placed.device, placed.decode_cpus) == (actors, device, decode_cpus)
    trials = placement.place_trials(
        RayConfig(gpus_per_worker=gpus), workers=1, max_concurrent=None, samples=99
    )
    assert (trials.concurrent, trials.gpus) == (actors, placed.gpus)


@pytest.mark.parametrize(("gpus", "workers"), [(None, 6), (0.5, 12), (0.6, 6), (2.0, 3), (3.0, 1)])
def test_as_many_training_workers_as_the_gpus_of_each_machine_hold(monkeypatch, gpus, workers):
    """The GPUs that are left over on two machines are no worker's."""
    from exreid.distributed import placement, train

    cluster = [Machine(64, 2), Machine(64, 4)]
    for module in (placement, train):
        monkeypatch.setattr(module, "machines", lambda: cluster)
    placed = train.place_workers(FinetuneRayConfig(gpus_per_worker=gpus))
    assert (placed.workers, placed.least_workers) == (workers, workers)


def _growing(counts):
    left = list(counts)
    return lambda cpus, gpus: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("gpus", "built_in", "backend"),
    [
        (0, True, "gloo"),
        (0.5, True, "gloo"),
        (1, True, "nccl"),
        (2, True, "nccl"),
        (1, False, "gloo"),
    ],
)
def test_workers_that_share_a_gpu_do_not_talk_over_nccl(monkeypatch, gpus, built_in, backend):
    from exreid.distributed import train

    monkeypatch.setattr(train.dist, "is_nccl_available", lambda: built_in)
    assert train.backend_for(gpus) == backend
