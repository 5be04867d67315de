"""Training over Ray's workers: the plain training's numbers, whatever is killed on the way."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import torch

from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.distributed.train import _end_fit, _fitted
from exreid.errors import RunError, TrainingError
from exreid.pipeline.training_inputs import decode_images, first_backbone, hold_out, plan_training
from exreid.runs.finetune import run_finetune
from exreid.training import loop
from exreid.training.feed import CachedImages
from exreid.training.history import read_history

CONFIG = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=5"),
    *("train.epochs=2", "validation.fraction=0.4"),
]


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *CONFIG, *more]
    return load_config(FinetuneConfig, None, overrides)


def _training(config, folder):
    from exreid.pipeline.inputs import read_images

    table, _ = read_images(config)
    backbone = first_backbone(config)
    options = {"verbose": False, "on_progress": lambda count: None}
    images = decode_images(table, hold_out(table, config), config, backbone, **options)
    return plan_training(images, config, backbone, folder)


def _with_images(training, images):
    return replace(training, task=replace(training.task, images=images))


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    folder, _ = run_finetune(_config(dataset, out, "ray.num_workers=0"))
    return read_history(folder)


def _assert_same(history, plain):
    assert [row.epoch for row in history] == [row.epoch for row in plain]
    for ours, theirs in zip(history, plain, strict=True):
        if theirs.training is not None:
            assert ours.training.images == theirs.training.images
            assert ours.training.loss == pytest.approx(theirs.training.loss, rel=1e-4)
        assert ours.metrics["mAP"] == pytest.approx(theirs.metrics["mAP"], abs=0.02)
    # Before training nothing has been summed in another order yet.
    assert history[0].metrics == pytest.approx(plain[0].metrics)
    assert history[0].intervals.keys() == plain[0].intervals.keys()


def test_an_error_of_ray_trains_own_ends_no_training():
    tried = []

    class Trainer:
        def fit(self):
            tried.append(self)
            if len(tried) == 1:
                raise ray.train.ControllerError(ValueError("a removed worker was asked"))
            return "trained"

    assert _fitted(Trainer) == "trained"
    tried.clear()
    Trainer.fit = lambda self: (_ for _ in ()).throw(ray.train.ControllerError(ValueError("x")))
    with pytest.raises(ray.train.ControllerError):
        _fitted(Trainer)


def test_a_fit_that_is_abandoned_ends_with_the_actor_that_it_waits_for(local_ray):
    @ray.remote(num_cpus=0)
    class Controller:
        def run(self):
            time.sleep(300)

    def fit():
        controller = Controller.remote()
        waiting.set()
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(controller.run.remote())
        ended.set()

    waiting, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    assert waiting.wait(60)
    _end_fit(thread)
    assert ended.wait(60)


def test_a_worker_trains_as_one_process_does_decoding_as_it_goes(
    dataset, local_ray, plain, tmp_path
):
    more = ["ray.num_workers=1", "dataset.decoded_cache=off"]
    folder, result = run_finetune(_config(dataset, tmp_path, *more))
    _assert_same(read_history(folder), plain)
    assert not (tmp_path / ".exreid_cache" / "decoded").exists()
    assert not (folder / ".ray_train").exists()
    split = pd.read_csv(folder / "split.csv")
    assert result.counts["train_images"] == split["trained_on"].sum()


def test_workers_adapt_a_matcher_as_one_process_does(dataset, local_ray, tmp_path):
    """Other numbers of processes, and without adapters: `test_epoch.py`."""
    more = [
        "matcher.rank=4",
        *("train.what=matcher", "loss.type=pairs", "matcher.layers=1", "train.batch_size=5"),
        *("benchmark.method=local_lightglue", "benchmark.local_top_k=32", "mine.every=1"),
        *("benchmark.local_size=96", "benchmark.candidate_k=3", "benchmark.shortlist=local"),
        *("output.best_metric=mAP_at_k", "train.epochs=2", "safety=off", "mine.drawn=1"),
        *("dataset.encounter_cols=[source,encounter]", "validation.fraction=0.3"),
    ]
    histories = []
    for count in (0, 2):
        overrides = [f"dataset.root={dataset}", f"output.root={tmp_path}", *more]
        overrides += [f"ray.num_workers={count}", "ray.cpus_per_worker=0.5", "ray.num_actors=0"]
        folder, _ = run_finetune(load_config(FinetuneConfig, None, overrides))
        histories.append(read_history(folder))
    alone, shared = histories
    assert [row.epoch for row in shared] == [0, 1, 2]
    assert shared[0].metrics == alone[0].metrics, "nothing was summed in another order yet"
    for ours, theirs in zip(shared[1:], alone[1:], strict=True):
        assert ours.training.images == theirs.training.images
        assert ours.training.loss == pytest.approx(theirs.training.loss, rel=1e-3)
        assert ours.metrics["top_1"] == pytest.approx(theirs.metrics["top_1"], abs=0.15)


class Watched(CachedImages):
    """Writes which images this worker trains on, and the weights that it has after each epoch. One
    worker ends its own process before the second batch of the second epoch, the first time."""

    def __init__(self, folder: Path, keys, out: Path) -> None:
        super().__init__(folder, keys)
        self.out, self.rank, self.mark = out, torch.distributed.get_rank(), out / "killed"
        self.epochs = 1 if self.mark.exists() else 0
        check_weights = loop.check_weights

        def written(state):
            weights = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            torch.save(weights, out / f"weights-{self.epochs}-{self.rank}.pt")
            check_weights(state)

        loop.check_weights = written  # in the worker's own process

    def batches(self, places):
        self.epochs += 1
        np.save(self.out / f"images-{self.epochs}-{self.rank}.npy", np.concatenate(places))
        for number, batch in enumerate(super().batches(places)):
            last = (self.epochs, self.rank, number) == (2, 1, 1)
            if last and not self.mark.exists():
                self.mark.write_text(os.environ.get("MALLOC_ARENA_MAX", ""))
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


@pytest.mark.slow
def test_three_workers_of_which_one_is_killed_share_each_epoch_and_end_it_with_the_same_weights(
    dataset, local_ray, plain, tmp_path
):
    import ray.cloudpickle

    # The workers cannot import this file: send them the class itself.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    from exreid.distributed.train import place_workers, train_over_workers

    config = _config(dataset, tmp_path, "ray.num_workers=3", "ray.cpus_per_worker=0.5")
    training = _training(config, tmp_path / "run")
    placement = place_workers(config.ray)
    assert placement.workers == placement.least_workers == 3
    folder, keys = training.task.images.args
    watched = _with_images(training, lambda: Watched(folder, keys, tmp_path))
    train_over_workers(watched, placement, max_failures=1)
    killed = (tmp_path / "killed").read_text()
    assert killed == "1", "a thread trains there, and keeps its memory like that alone"
    _assert_same(read_history(tmp_path / "run"), plain)
    assert config.train.batch_size % 3, "no equal shares"
    for epoch in (1, 2):
        shares = [np.load(tmp_path / f"images-{epoch}-{rank}.npy") for rank in range(3)]
        assert len({len(share) for share in shares}) > 1
        assert sorted(np.concatenate(shares)) == list(range(len(training.label_N)))
        first, *others = (torch.load(tmp_path / f"weights-{epoch}-{rank}.pt") for rank in range(3))
        for other in others:
            assert other.keys() == first.keys()
            assert all(torch.equal(other[name], first[name]) for name in first)
    assert not (tmp_path / "images-3-0.npy").exists()


class Broken(CachedImages):
    def batches(self, places):
        raise MemoryError("this worker is out of luck")


def test_workers_that_always_fail_end_the_run_with_their_reason(dataset, local_ray, tmp_path):
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    from exreid.distributed.train import place_workers, train_over_workers

    config = _config(dataset, tmp_path, "ray.num_workers=1")
    training = _training(config, tmp_path / "run")
    folder, keys = training.task.images.args
    broken = _with_images(training, lambda: Broken(folder, keys))
    with pytest.raises(TrainingError, match=r"out of luck.*same output\.run_id"):
        train_over_workers(broken, place_workers(config.ray), max_failures=0)


def test_workers_that_never_fit_are_refused(local_ray):
    from exreid.config.training import FinetuneRayConfig
    from exreid.distributed.train import place_workers

    with pytest.raises(RunError, match=r"9 training workers.*ray\.num_workers"):
        place_workers(FinetuneRayConfig(num_workers=9))
    placed = place_workers(FinetuneRayConfig(num_workers=2))
    assert (placed.workers, placed.cpus, placed.gpus) == (2, 2.0, 0.0)
    elastic = place_workers(FinetuneRayConfig(num_workers=9, min_workers=2))
    assert (elastic.least_workers, elastic.workers) == (2, 9)
