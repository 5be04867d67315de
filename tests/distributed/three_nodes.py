"""Run as a process of its own: pipelines on three nodes, against one process without Ray.

``three_nodes.py DATASET URL``: first the nodes read the copy of the data set that lies beside the
URL, and write to the URL alone: each has a folder of its own for its copies. Then they share this
disk, and a node is taken away in the middle of each run; of a sweep at the URL.
"""

import shutil
import sys
from functools import partial
from pathlib import Path

import ray
import torch
from ray.cluster_utils import Cluster

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.sweep import load_sweep
from exreid.config.training import FinetuneConfig
from exreid.pipeline import training_inputs
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.runs.tune import run_tune
from exreid.storage import mirror
from tests.distributed import stream_over_nodes

PROBE = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("benchmark.local_top_k=48", "benchmark.local_size=128", "benchmark.candidate_k=3"),
    *("benchmark.calibration.pairs=20", "benchmark.bootstrap_resamples=50"),
]
TRAIN = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=6"),
    *("train.epochs=2", "validation.fraction=0.4", "ray.max_failures=2"),
]
SWEEP = [
    "tune.search=grid",
    "tune.space={optimizer.lr: {grid: [0.0003, 0.003]}}",
    "tune.scheduler=none",
]


class Loser:
    """A progress that takes a node away once a stage has begun."""

    def __init__(self, cluster, node, stage, after):
        self.cluster, self.node, self.stage, self.after = cluster, node, stage, after
        self.seen = 0

    def __call__(self, stage, total):
        def advance(count):
            if stage == self.stage:
                self.seen += count
            if self.node is not None and self.seen >= self.after:
                node, self.node = self.node, None
                self.cluster.remove_node(node, allow_graceful=False)

        return advance


def probe(method, more, dataset, out, actors, **options):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", f"benchmark.method={method}"]
    overrides += [*PROBE, *more, f"ray.num_actors={actors}"]
    return run_probe(load_config(ProbeConfig, None, overrides), **options)


def finetune(dataset, out, workers, **options):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *TRAIN]
    return run_finetune(
        load_config(FinetuneConfig, None, [*overrides, f"ray.num_workers={workers}"]), **options
    )


def tune(dataset, out, workers, **options):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *TRAIN, *SWEEP]
    sweep = run_tune(load_sweep(None, [*overrides, f"ray.num_workers={workers}"]), **options)
    return sweep, sweep.result


PIPELINES = {
    "cosine": partial(probe, "cosine", []),
    "wildfusion": partial(probe, "wildfusion", ["benchmark.fusion.local_index=true"]),
    "local_lightglue": partial(probe, "local_lightglue", ["benchmark.shortlist=both"]),
    "finetune": finetune,
    "tune": tune,
}
AWAY = ("cosine", "wildfusion", "finetune")
"""Local features, their index and their pairs are a part of the second. A sweep loses a node there,
too."""
LOST_IN = {"local_lightglue": "Matching pairs", "finetune": "Training", "tune": "Trials"}
"""The stage in which a node is lost."""
# Two workers of a training, so that there is room for both when one node of three is gone; of three
# actors that embed or match, the third shows nothing more.
UNITS = {"cosine": 2, "wildfusion": 2, "finetune": 2, "tune": 1}


def run_and_compare(pipeline, expected, dataset, out, **options):
    before, result_before = expected
    done, result = PIPELINES[pipeline](dataset, out, UNITS.get(pipeline, 3), **options)
    if pipeline == "finetune":
        same(result.metrics, result_before.metrics, 0.05)
    else:
        assert result.metrics == result_before.metrics, (result.metrics, result_before.metrics)
        assert result.intervals == result_before.intervals
    if pipeline == "tune":
        assert [one.scores for one in done.trials] == [one.scores for one in before.trials]
        assert done.best.values == before.best.values


def main(dataset, url):
    training_inputs.FEW_TO_DECODE = 0
    torch.set_num_threads(1)  # as the actors have: sums in the same order
    here = Path.cwd()
    expected = {name: run(dataset, here / "plain", 0) for name, run in PIPELINES.items()}
    own = [{mirror.FOLDER_VARIABLE: str(here / f"node{i}")} for i in range(5)]
    head = {"num_cpus": 1, "env_vars": own[0], "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    stream_over_nodes.check(dataset, here / "alone", others=0)
    for variables in own[1:3]:
        cluster.add_node(num_cpus=1, env_vars=variables)
    cluster.wait_for_nodes()
    stream_over_nodes.check(dataset, here / "beside", others=2)
    say("streamed on its own CPU, and on two others")
    for name in AWAY:
        run_and_compare(name, expected[name], f"{url}/animals", f"{url}/{name}")
        copies = any(any((here / f"node{i}").rglob("*")) for i in range(3))
        # A cosine probe sends what it reads and finds through Ray alone.
        assert copies == (name != "cosine"), "nodes keep copies of their own"
        say(f"{name}: the numbers of one node")
    instead = iter(own[3:])
    # All but the pairs is known before.
    caches = (here / folder / ".exreid_cache" for folder in ("plain", "lost"))
    shutil.copytree(*caches, ignore=shutil.ignore_patterns("pairs"))
    for name, stage in LOST_IN.items():
        away = (f"{url}/animals", f"{url}/{name}") if name == "tune" else (dataset, here / "lost")
        while len(cluster.worker_nodes) < 2:
            cluster.add_node(num_cpus=1, env_vars=next(instead))
        cluster.wait_for_nodes()
        lost = max(cluster.worker_nodes, key=lambda node: node.node_id)
        loser = Loser(cluster, lost, stage, 1)
        run_and_compare(name, expected[name], *away, progress=loser)
        assert loser.node is None, "no node was taken away"
        if name == "tune":
            say(f"{name}: the numbers of one node")
        say(f"{name}: the numbers of one node, though another was lost")
    ray.shutdown()
    cluster.shutdown()


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def same(ours, theirs, tolerance):
    """Training sums gradients in another order: the same course, not the same bits."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert abs(ours[name] - value) <= tolerance, (name, ours[name], value)


if __name__ == "__main__":
    main(*sys.argv[1:])
