"""One process, two and three: the same samples, the same gradients, the same weights."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from exreid.config.training import TrainConfig
from exreid.errors import ConfigError, TrainingError
from exreid.models.backbones import build_backbone
from exreid.training import epoch as epochs_of
from exreid.training.loop import train
from exreid.training.matcher import mined_file
from exreid.training.model import ModelWithLoss, build_model
from exreid.training.sampling import epoch_order, epoch_shares
from exreid.training.world import World
from tests.processes import free_ports
from tests.training import helpers, matching

# Sums over workers are rounded in another order: fp32 rounding, no more.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}

CASES = {
    "plain": {},
    "accumulated": {"train": {"batch_size": 5, "accumulation_steps": 2}},
    # 37 images in batches of 12: the last holds one, so two of three workers have none.
    "empty shares": {"train": {"batch_size": 12}},
    "balanced, clipped": {
        "train": {"sampler": "identity_balanced"},
        "optimizer": {"clip_norm": 0.05},
    },
    "frozen first": {"train": {"frozen_epochs": 1}},
    "frozen norms": {"train": {"batch_norm": "frozen"}},
}


ONE_STEP = {"batch_size": 12, "accumulation_steps": 1}


def _train(config, folder, norm="group", epochs=2):
    """The state after so many epochs of the config's."""
    return train(
        replace(
            helpers.training_of(config, folder, norm),
            stop_early=lambda history: history[-1].epoch == epochs,
        ),
        helpers.ALONE,
    )


def _stats(state):
    return [row.training for row in state.history[1:]]


def _run_case(name, folder, world=helpers.ALONE):
    source = helpers.ImagesInMemory(helpers.images_and_labels()[0])
    norm = "batch" if "norms" in name else "group"
    config = helpers.config(**CASES[name])
    state = train(helpers.training_of(config, folder / name, norm, source), world)
    weights = {k: v.detach().clone() for k, v in state.model.state_dict().items()}
    stats = _stats(state)
    before = state.history[0].metrics
    return weights, [s.loss for s in stats], [s.gradient_norm for s in stats], source.asked, before


def _run_matcher(folder, world=helpers.ALONE):
    # 9 anchors in batches of 4: two of three workers have none of the last one.
    config = matching.config(mine={"every": 1})
    state = train(matching.training_of(config, folder / "matcher"), world)
    mined = pd.read_parquet(folder / "matcher" / mined_file(1))
    return matching.weights_of(state), [s.loss for s in _stats(state)], state.history, mined


def _worker(rank, size, port, folder):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    world = World.of_process_group(helpers.CPU)
    out = {name: _run_case(name, folder / f"{size}", world) for name in CASES}
    out["matcher"] = _run_matcher(folder / f"{size}", world)
    torch.save(out, folder / f"{size}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    out = {1: [{name: _run_case(name, folder / "1") for name in CASES}]}
    out[1][0]["matcher"] = _run_matcher(folder / "1")
    # One process imports all this, and each worker is a fork of it.
    mp.get_context("forkserver").set_forkserver_preload([__name__, "torch._dynamo"])
    for size in (2, 3):
        arguments = (size, *free_ports(1), folder)
        mp.start_processes(_worker, args=arguments, nprocs=size, start_method="forkserver")
        out[size] = [
            torch.load(folder / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)
        ]
    return out


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_workers_trains_the_same(by_world, size, name):
    weights, losses, norms, _, before = by_world[1][0][name]
    assert by_world[size][0][name][-1] == before, "validated before training, to the last bit"
    for rank in range(size):
        theirs, their_losses, their_norms, *_ = by_world[size][rank][name]
        assert their_losses == pytest.approx(losses, rel=1e-5)
        assert their_norms == pytest.approx(norms, rel=1e-4)
        for key, value in weights.items():
            torch.testing.assert_close(theirs[key], value, **TOLERANCE, msg=f"{name} {key}")


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_workers_trains_the_same_matcher(by_world, size):
    weights, losses, history, mined = by_world[1][0]["matcher"]
    assert losses[1] < losses[0]
    for rank in range(size):
        theirs, their_losses, _, their_mined = by_world[size][rank]["matcher"]
        assert their_losses == pytest.approx(losses, rel=1e-4)
        pd.testing.assert_frame_equal(their_mined, mined, rtol=1e-3)
        for key, value in weights.items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-4, msg=key)
    first = by_world[size][0]["matcher"][2]
    assert first[0].metrics == history[0].metrics, "validated before training, to the last bit"
    assert [row.epoch for row in first] == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_image_is_seen_once_over_all_workers(by_world, size, name):
    config = helpers.config(**CASES[name])
    _, labels = helpers.images_and_labels()
    for epoch in range(2):
        seen = np.concatenate([by_world[size][rank][name][3][epoch] for rank in range(size)])
        order = epoch_order(labels, sampler=config.train.sampler, seed=0, epoch=epoch)
        assert sorted(seen.tolist()) == sorted(order.tolist())


def test_the_gradient_is_that_of_the_mean_loss(tmp_path):
    """Against a loop without any of this: one batch, plain autograd, plain SGD."""
    config = helpers.config(
        train={"batch_size": 64, "epochs": 1},
        optimizer={"momentum": 0.0, "weight_decay": 0.0, "lr": 0.1},
        scheduler={"warmup_epochs": 0.0},
        augment={
            "crop_area": (1.0, 1.0),
            "crop_aspect": (1.0, 1.0),
            "brightness": 0.0,
            "contrast": 0.0,
            "saturation": 0.0,
            "blur": 0.0,
            "erase": 0.0,
        },
    )
    images, labels = helpers.images_and_labels()
    plain = helpers.first_state(config).model
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    loss = plain((inputs - 0.5) / 0.25, torch.from_numpy(labels), 1.0).mean()
    loss.backward()
    state = _train(config, tmp_path)
    assert _stats(state)[0].loss == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(state.model.parameters(), plain.parameters(), strict=True):
        expected = theirs.detach() - 0.1 * theirs.grad
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-6)


def test_accumulated_batches_make_one_step_of_the_effective_batch(tmp_path):
    whole = helpers.config(train={"batch_size": 20})
    parts = helpers.config(train={"batch_size": 5, "accumulation_steps": 4})
    weights = []
    for config in (whole, parts):
        state = _train(config, tmp_path / f"{config.train.batch_size}")
        assert state.step == 4
        assert helpers.training_of(config, None).steps_per_epoch == 2
        weights.append(list(state.model.parameters()))
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_a_frozen_backbone_stands_still_and_then_moves(tmp_path):
    config = helpers.config(train={"frozen_epochs": 1})
    before = helpers.first_state(config, norm="batch").model
    frozen = _train(config, tmp_path / "1", "batch", epochs=1).model
    for key, value in frozen.backbone.state_dict().items():
        assert torch.equal(value, before.backbone.state_dict()[key]), key
    heads = zip(before.head.parameters(), frozen.head.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in heads)
    moved = _train(config, tmp_path / "2", "batch").model
    assert not torch.equal(moved.backbone[0].weight, before.backbone[0].weight)


@pytest.mark.parametrize(("mode", "moves"), [("local", True), ("frozen", False)])
def test_the_statistics_of_batch_norms_move_only_where_they_should(tmp_path, mode, moves):
    state = _train(helpers.config(train={"batch_norm": mode}), tmp_path, "batch", epochs=1)
    assert bool((state.model.backbone[1].running_mean != 0).any()) is moves


@pytest.mark.parametrize("norms", ["local", "frozen"])
def test_modes_are_set_whoever_changed_them(norms):
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    model = ModelWithLoss(backbone, nn.Linear(4, 2), TrainConfig(batch_norm=norms))
    steps = ["nothing", "nothing", "validated", "nothing", "frozen", "nothing", "validated"]
    steps += ["nothing", "trained again", "nothing", "all validated", "nothing"]
    for images in (8, 1, 8):
        for step in steps:
            if step == "validated":
                backbone.eval()
            if step == "all validated":
                model.eval()
            if step in ("frozen", "trained again"):
                model.freeze_backbone(step == "frozen")
            model.prepare(epoch_shares(np.arange(images), rank=0, world_size=1, **ONE_STEP)[0])
            trains = model.backbone_trains
            averages = norms == "frozen" or images == 1
            expected = [trains, trains, trains and not averages, trains, trains]
            assert [module.training for module in backbone.modules()] == expected, step
            assert (model.training, model.head.training) == (True, True)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_workers_normalise_together_or_none_of_them_does(workers):
    """One that used its running averages would never send what the others wait for."""
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))
    model = ModelWithLoss(backbone, nn.Linear(4, 2), TrainConfig(batch_norm="sync"))
    for images in range(1, 9):
        together = set()
        for rank in range(workers):
            shares = epoch_shares(np.arange(images), rank=rank, world_size=workers, **ONE_STEP)
            model.prepare(shares[0])
            together.add(backbone[1].training)
        assert together == {images >= max(2, workers)}


def test_the_gradient_norm_is_that_of_clipping_at_no_norm(tmp_path):
    never = helpers.config(optimizer={"clip_norm": 1e30})
    clipped = _train(never, tmp_path / "never")
    plain = _train(helpers.config(), tmp_path / "plain")
    for one, other in zip(_stats(plain), _stats(clipped), strict=True):
        assert (one.loss, one.gradient_norm) == (other.loss, other.gradient_norm)
        assert one.gradient_norm > 0
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, clipped.model.state_dict()[name]), name


def test_bf16_trains_about_as_fp32_does(tmp_path):
    losses = {}
    for amp in ("off", "bf16"):
        config = helpers.config(train={"amp": amp, "epochs": 4})
        losses[amp] = [s.loss for s in _stats(_train(config, tmp_path / amp, epochs=4))]
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.05)
    assert losses["bf16"] != losses["off"]
    assert losses["off"][-1] < losses["off"][0]


def test_a_compiled_backbone_trains_the_same_weights(tmp_path, monkeypatch):
    # The network is traced; kernels are not built, which takes half a minute of a CPU.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    losses = {}
    for compiled in (False, True):
        config = helpers.config(train={"compile": compiled})
        state = _train(config, tmp_path / f"{compiled}")
        losses[compiled] = [s.loss for s in _stats(state)]
        names = set(state.model.state_dict())
        assert not any("_orig_mod" in name for name in names)
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_gradient_checkpointing_changes_memory_alone():
    backbone = build_backbone("timm:test_vit", pretrained=False, image_size=32)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    gradients = []
    for checkpointing in (False, True):
        config = helpers.config(train={"grad_checkpointing": checkpointing})
        model = build_model(copy.deepcopy(backbone), config, classes=4, device=helpers.CPU)
        assert model.backbone.grad_checkpointing is checkpointing
        model(images, labels, 1.0).mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


def test_a_network_without_gradient_checkpointing_says_so():
    config = helpers.config(train={"grad_checkpointing": True})
    with pytest.raises(ConfigError, match="grad_checkpointing"):
        helpers.first_state(config)


@pytest.mark.parametrize(
    "what", ["exreid.models.arcface.ArcFace.forward", "torch.optim.SGD.step", "augment"]
)
def test_a_training_that_does_not_fit_the_memory_names_a_smaller_one(what, tmp_path, monkeypatch):
    config = helpers.config(train={"batch_size": 12, "accumulation_steps": 2})

    def does_not_fit(*arguments, **more):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(what.replace("augment", "exreid.training.backbone.augment"), does_not_fit)
    with pytest.raises(TrainingError, match=r"batch_size=6 train\.accumulation_steps=4"):
        _train(config, tmp_path)


def test_a_step_is_waited_for_once_the_next_one_is_under_way(tmp_path, monkeypatch):
    """On a GPU ``float`` of the step's loss would wait for what was started since, too."""
    happened, fetched, backward = [], epochs_of.Fetched, epochs_of._backward

    class Noted(fetched):
        def __init__(self, *values):
            assert len(values) == 2
            self.number = sum(word == "asked" for word, _ in happened)
            happened.append(("asked", self.number))
            super().__init__(*values)

        def wait(self):
            happened.append(("read", self.number))
            return super().wait()

    def noted(*arguments, **more):
        happened.append(("started", sum(word == "started" for word, _ in happened)))
        return backward(*arguments, **more)

    monkeypatch.setattr(epochs_of, "Fetched", Noted)
    monkeypatch.setattr(epochs_of, "_backward", noted)
    _train(helpers.config(train={"batch_size": 12}), tmp_path, epochs=1)
    # 37 images in batches of 12.
    assert happened == [
        *[("started", 0), ("asked", 0)],
        *[("started", 1), ("asked", 1), ("read", 0)],
        *[("started", 2), ("asked", 2), ("read", 1)],
        *[("started", 3), ("asked", 3), ("read", 2)],
        ("read", 3),
    ]


def test_a_process_alone_shares_its_gradients_with_nobody():
    module = nn.Linear(2, 2)
    assert World(helpers.CPU).wrap(module) is module
