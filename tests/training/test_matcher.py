"""A matcher's training: what moves, what it learns, what is kept, what goes on after a kill."""

import numpy as np
import pytest
import torch

from exreid.errors import CheckpointError
from exreid.matching.lightglue import LightGlueMatcher
from exreid.models.adapted import adapted_matcher
from exreid.models.lightglue import lightglue_fingerprint, load_lightglue
from exreid.training import loop
from exreid.training.checkpoint import BEST, LATEST_FULL
from exreid.training.loop import train
from exreid.training.matcher import mined_file
from tests.training import helpers, matching


def test_the_last_layers_alone_move_and_the_loss_falls(tmp_path):
    config = matching.config(train={"epochs": 3, "ema_decay": 0.5})
    state = train(matching.training_of(config, tmp_path), helpers.ALONE)
    before, after = load_lightglue("aliked").state_dict(), state.published.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] + name.split(".")[1] for name in moved} == {
        "layers8",
        "assignments8",
    }
    first, *_, last = (row.training.loss for row in state.history[1:])
    assert last < 0.9 * first
    assert state.history[-1].metrics["mAP"] >= state.history[0].metrics["mAP"]


def test_adapters_alone_move_and_leave_plain_weights_of_low_rank(tmp_path):
    config = matching.config(
        matcher={"layers": 1, "rank": 2}, optimizer={"lr": 0.01}, train={"epochs": 1}
    )
    state = train(matching.training_of(config, tmp_path), helpers.ALONE)
    before = load_lightglue("aliked").state_dict()
    final = adapted_matcher(str(tmp_path / "checkpoint-final.pth"), "aliked")
    for file in (LATEST_FULL, "checkpoint-final.safetensors"):
        assert adapted_matcher(str(tmp_path / file), "aliked").fingerprint == final.fingerprint
    whole = {f"assignments.8.matchability.{name}" for name in ("weight", "bias")}
    for name, weight in final.weights.items():
        change = (weight - before[name]).double()
        adapted = name.endswith("weight") and name.startswith(("layers.8", "assignments.8"))
        if name in whole:
            assert change.any()
        elif adapted and ".norm." not in name:
            assert torch.linalg.matrix_rank(change, atol=1e-5) == 2, name
        else:
            assert not change.any(), name
    # What was validated is what was written.
    images = matching.features()
    pair_P2 = np.array([[0, 3], [1, 4]], np.int32)
    scores = [
        LightGlueMatcher(network, matching.SETTINGS).score(images, images, pair_P2)
        for network in (state.published, final.network())
    ]
    assert (scores[0].confidence_sum_P == scores[1].confidence_sum_P).all()


def test_a_killed_training_goes_on_to_the_same_bits_and_mines_again(tmp_path, monkeypatch):
    config = matching.config(
        mine={"every": 1}, matcher={"layers": 1, "rank": 2}, train={"ema_decay": 0.5}
    )
    whole = train(matching.training_of(config, tmp_path / "whole"), helpers.ALONE)
    plain = loop.train_epoch

    def killed(training, state, *rest, **options):
        if state.epochs == 1:
            raise KeyboardInterrupt
        return plain(training, state, *rest, **options)

    monkeypatch.setattr(loop, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(matching.training_of(config, tmp_path / "r"), helpers.ALONE)
    monkeypatch.undo()
    again = train(matching.training_of(config, tmp_path / "r"), helpers.ALONE)
    assert matching.same(matching.weights_of(whole), matching.weights_of(again))
    assert [row.metrics for row in whole.history] == [row.metrics for row in again.history]
    files = [(tmp_path / run / mined_file(1)).read_bytes() for run in ("whole", "r")]
    assert files[0] == files[1]


def test_pairs_that_are_missing_are_named(tmp_path):
    config = matching.config(train={"epochs": 4}, mine={"every": 2})
    training = matching.training_of(config, tmp_path)
    work = training.task.open(training, helpers.ALONE)
    with pytest.raises(CheckpointError, match=r"mined-2\.parquet.*is missing.*epoch 4"):
        work.begin_epoch(3, load_lightglue("aliked"))
    (tmp_path / mined_file(2)).write_bytes(b"no parquet")
    with pytest.raises(CheckpointError, match=r"mined-2\.parquet.*Delete it"):
        work.begin_epoch(2, load_lightglue("aliked"))


def test_the_published_matcher_wins_where_nothing_beats_it(tmp_path):
    # A step this long leaves nothing of what the network knew.
    config = matching.config(
        train={"epochs": 1},
        optimizer={"lr": 3.0, "clip_norm": None},
        scheduler={"warmup_epochs": 0},
    )
    training = matching.training_of(config, tmp_path)
    state = train(training, helpers.ALONE)
    assert state.history[0].metrics["mAP"] > state.history[1].metrics["mAP"]
    best = adapted_matcher(str(tmp_path / BEST), "aliked")
    assert best.extractor == "aliked-n16"
    assert best.fingerprint == lightglue_fingerprint("aliked")
    final = adapted_matcher(str(tmp_path / "checkpoint-final.safetensors"), "aliked")
    assert final.extractor == "aliked-n16"
    assert final.fingerprint != best.fingerprint
    latest = adapted_matcher(str(tmp_path / LATEST_FULL), "aliked")
    assert latest.fingerprint == final.fingerprint
