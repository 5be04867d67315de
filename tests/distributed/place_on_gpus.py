"""Run as a process of its own: two machines that are said to have GPUs, and who gets them."""

import sys

import numpy as np
import pytest
import ray
import ray.cloudpickle
from ray.cluster_utils import Cluster

from exreid.config import RayConfig
from exreid.config_training import FinetuneRayConfig
from exreid.distributed.match import MatchReport, match_over_actors
from exreid.distributed.placement import place_trials
from exreid.distributed.session import place_actors
from exreid.distributed.sweep import TrialPool
from exreid.distributed.train import place_workers
from exreid.errors import RunError
from exreid.matching.tiles import plan_tiles
from tests.matching import fakes

QUERY_P, GALLERY_P = (a.ravel() for a in np.mgrid[:8, :8])


class TellsItsGpu(fakes.EqualDescriptors):
    def score(self, queries, gallery, pair_P2):
        return ray.get_gpu_ids()


def who_gets_which(placement):
    ray.cloudpickle.register_pickle_by_value(fakes)
    sides = dict.fromkeys(("queries", "gallery"), fakes.random_features(8, seed=1).take)
    tiles = plan_tiles(QUERY_P, GALLERY_P, pairs_per_tile=2)
    report = MatchReport()
    matched = match_over_actors(tiles, TellsItsGpu, placement=placement, report=report, **sides)
    return [found for _, found in matched]


def a_trial(ask):
    del ask
    return ray.get_gpu_ids(), ray.get_runtime_context().get_assigned_resources()


def defaults():
    """A workstation's GPU, or all of a cluster's, without being asked for."""
    actors = place_actors(RayConfig())
    assert (actors.actors, actors.gpus, actors.device) == (3, 1.0, "cuda")
    assert actors.decode_cpus == 1.0
    workers = place_workers(FinetuneRayConfig())
    assert (workers.workers, workers.cpus, workers.gpus) == (3, 1.0, 1.0)
    trials = place_trials(FinetuneRayConfig(), workers=1, max_concurrent=None, samples=9)
    assert (trials.concurrent, trials.gpus) == (3, 1.0)


def shares():
    halves = place_actors(RayConfig(gpus_per_worker=0.5, cpus_per_worker=0.5))
    assert halves.actors == 6
    assert place_actors(RayConfig(gpus_per_worker=0.6, cpus_per_worker=0.5)).actors == 3
    assert place_actors(RayConfig(gpus_per_worker=2.0)).actors == 1
    # One actor on each machine takes all of its CPUs: none is left for those who decode.
    assert place_actors(RayConfig(cpus_per_worker=2.0)).decode_cpus == 0.0
    given = who_gets_which(place_actors(RayConfig(num_actors=2, gpus_per_worker=0.5)))
    assert given
    assert all(len(gpus) == 1 for gpus in given), given
    placement = place_trials(
        FinetuneRayConfig(gpus_per_worker=0.5), workers=1, max_concurrent=None, samples=2
    )
    done, waiting = {}, iter([(0, a_trial), (1, a_trial)])
    TrialPool(placement, judge=bool, done=done.__setitem__, max_failures=0).run(
        lambda: next(waiting, None)
    )
    assert [len(gpus) for gpus, _ in done.values()] == [1, 1], done
    assert all(resources["GPU"] == 0.5 for _, resources in done.values())


def refused():
    there = r"Its machines: 1 x 2 CPUs and 2 GPUs; 1 x 2 CPUs and 1 GPUs"
    with pytest.raises(RunError, match=there):
        place_actors(RayConfig(gpus_per_worker=3.0))
    with pytest.raises(RunError, match="4 training workers, each with 1 CPUs and 1 GPUs"):
        place_workers(FinetuneRayConfig(num_workers=4))
    # Four CPUs in all, but none of the machines has three.
    with pytest.raises(RunError, match="1 actor, each with 3 CPUs"):
        place_actors(RayConfig(cpus_per_worker=3.0, gpus_per_worker=0.0))
    elastic = place_workers(FinetuneRayConfig(num_workers=4, min_workers=2))
    assert (elastic.least_workers, elastic.workers) == (2, 4)


def main():
    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2})
    cluster.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    try:
        defaults()
        shares()
        refused()
        sys.stdout.write("all placed\n")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
