"""Run as a process of its own: a pipeline on three nodes, against one process without Ray.

``three_nodes.py PIPELINE DATASET OUT [lose]``: with ``lose``, a node is taken away in its middle.
Where OUT is a URL the nodes read the data set, which lies beside it, and write through that alone:
each has a folder of its own for its copies.
"""

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
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.runs.tune import run_tune
from exreid.storage import mirror

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
    "tune.space={optimizer.lr: {grid: [0.0003, 0.001, 0.003, 0.01]}}",
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


def probe(method, dataset, out, actors, **options):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", f"benchmark.method={method}"]
    overrides += [*PROBE, f"ray.num_actors={actors}"]
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


def main(pipeline, dataset, out, lose):
    torch.set_num_threads(1)  # as the actors have: sums in the same order
    plain_out = Path(out).parent / "plain" if "://" not in out else Path.cwd() / "plain"
    run = {"finetune": finetune, "tune": tune}.get(pipeline) or partial(probe, pipeline)
    before, expected = run(dataset, plain_out, 0)
    away = "://" in out
    if away:
        dataset = f"{out.rpartition('/')[0]}/animals"
    own = [{mirror.FOLDER_VARIABLE: str(Path.cwd() / f"node{i}")} if away else {} for i in range(3)]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "env_vars": own[0]})
    nodes = [cluster.add_node(num_cpus=1, env_vars=variables) for variables in own[1:]]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    stage = {"finetune": "Training", "tune": "Trials"}.get(pipeline, "Matching pairs")
    options = {"progress": Loser(cluster, nodes[1], stage, 1)} if lose else {}
    # Two workers of a training, so that there is room for both when one node of three is gone.
    units = {"finetune": 2, "tune": 1}.get(pipeline, 3)
    done, result = run(dataset, out, units, **options)
    if pipeline == "finetune":
        same(result.metrics, expected.metrics, 0.05)
    else:
        assert result.metrics == expected.metrics, (result.metrics, expected.metrics)
        assert result.intervals == expected.intervals
    if pipeline == "tune":
        assert [one.scores for one in done.trials] == [one.scores for one in before.trials]
        assert done.best.values == before.best.values
    if lose:
        assert options["progress"].node is None, "no node was taken away"
    sys.stdout.write(f"{pipeline}: the numbers of one node; {result.counts}\n")
    ray.shutdown()
    cluster.shutdown()


def same(ours, theirs, tolerance):
    """Training sums gradients in another order: the same course, not the same bits."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert abs(ours[name] - value) <= tolerance, (name, ours[name], value)


if __name__ == "__main__":
    main(*sys.argv[1:4], "lose" in sys.argv[4:])
