"""Resume to the last bit, checkpoints that hold what they should, and bad endings."""

import json
from dataclasses import replace

import pytest
import torch

from exreid.errors import CheckpointError, NonFiniteLossError, TrainingError
from exreid.models.arcface import ArcFace
from exreid.models.checkpoints import read_state_dict
from exreid.training import checkpoint as ckpt
from exreid.training import epoch
from exreid.training.feed import read_ahead
from exreid.training.history import ProgressFile, read_history
from exreid.training.loop import train
from tests.training import helpers

PARTS = {
    "adamw": {"optimizer": {"type": "adamw", "lr": 0.01}},
    "sgd, average, balanced, accumulated": {
        "train": {
            "ema_decay": 0.9,
            "sampler": "identity_balanced",
            "batch_size": 5,
            "accumulation_steps": 2,
        },
        "loss": {"margin_warmup_epochs": 3.0, "sub_centers": 2},
    },
    "frozen at first": {"train": {"frozen_epochs": 3}, "loss": {"type": "softmax"}},
}


def _config(part, epochs, **train):
    base = PARTS[part]
    return helpers.config(
        **{k: v for k, v in base.items() if k != "train"},
        train={**base.get("train", {}), "epochs": epochs, "deterministic": True, **train},
        scheduler={"epochs": 4},
        output={"save_every": 1},
    )


def _train(folder, config, **options):
    """The history."""
    return train(helpers.training_of(config, folder, **options), helpers.ALONE).history


def test_the_deterministic_mode_is_the_trainings_alone(tmp_path, monkeypatch):
    modes, backward = [], epoch._backward

    def watched(*arguments, **more):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return backward(*arguments, **more)

    monkeypatch.setattr(epoch, "_backward", watched)
    for wanted in (True, False):
        _train(tmp_path / f"{wanted}", _config("adamw", 1, deterministic=wanted))
        assert not torch.are_deterministic_algorithms_enabled()
        assert set(modes) == {wanted}
        modes.clear()


def _same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def _without_times(rows):
    timed = ("seconds", "images_per_s", "data_wait_share", "validation_s")
    return [{k: v for k, v in row.cells().items() if k not in timed} for row in rows]


@pytest.mark.parametrize("part", PARTS)
def test_two_epochs_and_two_more_are_four_to_the_last_bit(tmp_path, part):
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    rows = _train(whole, _config(part, 4), norm="batch")
    _train(first, _config(part, 2), norm="batch")
    torch.manual_seed(12345)  # nothing may hang on what ran before
    resumed = _config(part, 4, resume_checkpoint=str(first / ckpt.LATEST_FULL))
    again = _train(second, resumed, norm="batch")
    assert _without_times(again) == _without_times(rows)
    a, b = (torch.load(f / ckpt.FINAL_FULL, weights_only=True) for f in (whole, second))
    for key in ("model", "raw_model", "head", "optimizer", "scheduler", "ema", "epoch", "labels"):
        assert _same(a[key], b[key]), key
    best, best_again = (torch.load(f / ckpt.BEST, weights_only=True) for f in (whole, second))
    assert _same(best, best_again)


def test_an_interrupted_run_goes_on_by_itself(tmp_path):
    config = _config("adamw", 4)
    rows = _train(tmp_path / "whole", config)

    class PowerCutError(Exception):
        pass

    def cut(epoch):
        if epoch == 2:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(helpers.training_of(config, tmp_path / "killed"), helpers.ALONE, on_epoch=cut)
    assert [row.epoch for row in read_history(tmp_path / "killed")] == [0, 1, 2]
    again = _train(tmp_path / "killed", config)
    assert _without_times(again) == _without_times(rows)


def test_another_seed_trains_otherwise_and_the_same_seed_the_same(tmp_path):
    config = _config("adamw", 2)
    rows = [_train(tmp_path / f"{i}", config) for i in range(2)]
    assert _without_times(rows[0]) == _without_times(rows[1])
    other = _train(tmp_path / "other", config.model_copy(update={"seed": 1}))
    assert other[-1].training.loss != rows[0][-1].training.loss


def test_the_files_of_a_training_and_what_they_hold(tmp_path):
    folder = tmp_path / "run"
    rows = _train(folder, _config("sgd, average, balanced, accumulated", 4))
    names = {file.name for file in folder.iterdir()} - {ProgressFile.NAME}
    assert names == {
        *(ckpt.BEST, ckpt.BEST_FULL, ckpt.FINAL, ckpt.FINAL_FULL, ckpt.LATEST_FULL),
        *(ckpt.FINAL_SAFETENSORS, "history.csv"),
        *(f"checkpoint-epoch-{n}.pth" for n in range(1, 5)),
    }
    full = torch.load(folder / ckpt.FINAL_FULL, weights_only=True)
    assert set(full) >= ckpt.FULL_KEYS
    assert full["labels"] == sorted(full["labels"])
    assert full["epoch"] == 4
    # What is published is the average, and every file of it says the same.
    final = torch.load(folder / ckpt.FINAL, weights_only=True)
    assert _same(final, full["model"])
    assert not _same(final, full["raw_model"])
    for name in (ckpt.FINAL_FULL, ckpt.FINAL_SAFETENSORS):
        content = read_state_dict(folder / name)
        read = content["model"] if name == ckpt.FINAL_FULL else content
        assert read.keys() == final.keys()
        assert all(torch.equal(read[key], final[key]) for key in final)
    best = max(rows[1:], key=lambda row: row.metrics["mAP"]).epoch
    assert torch.load(folder / ckpt.BEST_FULL, weights_only=True)["epoch"] == best
    kept = torch.load(folder / f"checkpoint-epoch-{best}.pth", weights_only=True)
    assert _same(kept, torch.load(folder / ckpt.BEST, weights_only=True))


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pth"
    ckpt.save_atomic(file, {"a": torch.ones(2)})

    def break_off(content, target):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError, match="No space"):
        ckpt.save_atomic(file, {"a": torch.zeros(2)})
    assert torch.load(file, weights_only=True)["a"].tolist() == [1.0, 1.0]


def test_a_loss_that_is_no_number_stops_with_the_images_of_its_step(tmp_path, monkeypatch):
    config = helpers.config(train={"batch_size": 4, "accumulation_steps": 2, "epochs": 1})
    source = helpers.ImagesInMemory(helpers.images_and_labels()[0])
    calls, plain = [], ArcFace.forward

    def sometimes(self, embeddings, labels, factor=1.0):
        calls.append(1)
        # The sixth batch: the second of the third step.
        return plain(self, embeddings, labels, factor) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(ArcFace, "forward", sometimes)
    with pytest.raises(NonFiniteLossError, match="nan in step 3"):
        _train(tmp_path, config, source=source)
    written = json.loads((tmp_path / epoch.NONFINITE_FILE).read_text())
    assert (written["epoch"], written["step"]) == (1, 3)
    assert written["image_ids"] == [f"image-{i}" for i in source.asked[0][16:24]]


def test_weights_that_the_last_step_ruined_are_not_saved(tmp_path, monkeypatch):
    config = helpers.config(train={"epochs": 1})
    step = epoch._optimizer_step

    def ruins(training, state):
        norm = step(training, state)
        if state.step == training.steps_per_epoch:
            with torch.no_grad():
                next(state.model.backbone.parameters())[0] = float("inf")
        return norm

    monkeypatch.setattr(epoch, "_optimizer_step", ruins)
    with pytest.raises(TrainingError, match="epoch 1 left 1 of"):
        _train(tmp_path, config)
    assert not [*tmp_path.glob("*.pth")]


def test_a_resume_from_something_else_says_what_is_wrong(tmp_path):
    _train(tmp_path / "run", helpers.config())
    full, model = tmp_path / "run" / ckpt.LATEST_FULL, tmp_path / "run" / ckpt.FINAL
    config = helpers.config(train={"epochs": 3, "resume_checkpoint": str(full)})
    with pytest.raises(CheckpointError, match=r"small-group, not of small-batch"):
        _train(tmp_path / "a", config, norm="batch")
    training = helpers.training_of(config, tmp_path / "b")
    other = replace(training, labels=(*training.labels[1:], "new one"))
    with pytest.raises(CheckpointError, match=r"1 of its 5 are not here"):
        train(other, helpers.ALONE)
    config = helpers.config(train={"epochs": 3, "resume_checkpoint": str(model)})
    with pytest.raises(CheckpointError, match=r"model\.checkpoint"):
        _train(tmp_path / "c", config)


FULL = {
    "labels": [3, None, {"a": 1}],
    "history": [[1], {"epoch": 1}, None, [{"epoch": "one"}], [{"epoch": 1, "loss": 1.0}]],
    "epoch": ["two", -1, 1.5, None],
    "rng": [{}, {"cpu": torch.zeros(3), "cuda": []}, None],
    "optimizer": [{}, {"state": 1, "param_groups": []}, None],
    "scheduler": [{}, {"step": "x"}, None],
    "head": [{}, {"weight": "x"}, None],
    "model": [None, {"a": torch.zeros(1)}],
    "backbone": [None, 4],
    "best_from": [None, "x"],
}


def test_no_damage_of_a_full_checkpoint_is_a_traceback(tmp_path):
    _train(tmp_path / "run", helpers.config())
    content = torch.load(tmp_path / "run" / ckpt.LATEST_FULL, weights_only=True)
    file = tmp_path / "file.pth"
    config = helpers.config(train={"epochs": 3, "resume_checkpoint": str(file)})
    for key, values in FULL.items():
        for value in values:
            torch.save({**content, key: value}, file)
            with pytest.raises(CheckpointError, match=r"file\.pth"):
                _train(tmp_path / "a", config)


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    assert list(read_ahead(range(20))) == list(range(20))

    def failing():
        yield 1
        raise ValueError("damaged")

    items = read_ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(items)
