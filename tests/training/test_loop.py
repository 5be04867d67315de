"""One process, two and three: the same samples, the same gradients, the same weights."""

import copy
import shutil
import socket

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from exreid.errors import ConfigError, TrainingError
from exreid.training.learner import build_learner
from exreid.training.sampling import epoch_order
from exreid.training.world import ProcessGroup
from tests.training import helpers

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


def _run_case(name, world=None):
    config = helpers.config(**CASES[name])
    trainer = helpers.trainer_of(config, world, norm="batch" if "norms" in name else "group")
    stats, seen = helpers.train_epochs(trainer, config, epochs=2)
    weights = {k: v.detach().clone() for k, v in trainer.learner.state_dict().items()}
    return weights, [s.loss for s in stats], [s.gradient_norm for s in stats], seen


def _worker(rank, size, port, folder):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    out = {name: _run_case(name, ProcessGroup(helpers.CPU)) for name in CASES}
    torch.save(out, f"{folder}/{size}-{rank}.pt")
    dist.destroy_process_group()


def _free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def by_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    out = {1: [{name: _run_case(name) for name in CASES}]}
    for size in (2, 3):
        mp.spawn(_worker, args=(size, _free_port(), str(folder)), nprocs=size)
        out[size] = [
            torch.load(folder / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)
        ]
    return out


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_workers_trains_the_same(by_world, size, name):
    weights, losses, norms, _ = by_world[1][0][name]
    for rank in range(size):
        theirs, their_losses, their_norms, _ = by_world[size][rank][name]
        assert their_losses == pytest.approx(losses, rel=1e-5)
        assert their_norms == pytest.approx(norms, rel=1e-4)
        for key, value in weights.items():
            torch.testing.assert_close(theirs[key], value, **TOLERANCE, msg=f"{name} {key}")


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_image_is_seen_once_over_all_workers(by_world, size, name):
    config = helpers.config(**CASES[name])
    _, labels = helpers.images_and_labels()
    for epoch in range(2):
        seen = np.concatenate([by_world[size][rank][name][3][epoch] for rank in range(size)])
        order = epoch_order(labels, sampler=config.train.sampler, seed=0, epoch=epoch)
        assert sorted(seen.tolist()) == sorted(order.tolist())


def test_the_gradient_is_that_of_the_mean_loss():
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
    trainer = helpers.trainer_of(config)
    images, labels = helpers.images_and_labels()
    plain = helpers.trainer_of(config).learner
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    loss = plain((inputs - 0.5) / 0.25, torch.from_numpy(labels), 1.0).mean()
    loss.backward()
    (stats,), _ = helpers.train_epochs(trainer, config, epochs=1)
    assert stats.loss == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(trainer.learner.parameters(), plain.parameters(), strict=True):
        expected = theirs.detach() - 0.1 * theirs.grad
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-6)


def test_accumulated_batches_make_one_step_of_the_effective_batch():
    whole = helpers.config(train={"batch_size": 20})
    parts = helpers.config(train={"batch_size": 5, "accumulation_steps": 4})
    weights = []
    for config in (whole, parts):
        trainer = helpers.trainer_of(config)
        helpers.train_epochs(trainer, config, epochs=2)
        assert trainer.step == 4
        weights.append(list(trainer.learner.parameters()))
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_a_frozen_backbone_stands_still_and_then_moves():
    config = helpers.config(train={"frozen_epochs": 1})
    trainer = helpers.trainer_of(config, norm="batch")
    before = {k: v.clone() for k, v in trainer.learner.backbone.state_dict().items()}
    head = [p.detach().clone() for p in trainer.learner.head.parameters()]
    helpers.train_epochs(trainer, config, epochs=1)
    for key, value in trainer.learner.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert any(
        not torch.equal(a, b) for a, b in zip(head, trainer.learner.head.parameters(), strict=True)
    )
    trainer = helpers.trainer_of(config, norm="batch")
    helpers.train_epochs(trainer, config, epochs=2)
    assert not torch.equal(trainer.learner.backbone[0].weight, before["0.weight"])


@pytest.mark.parametrize(("mode", "moves"), [("local", True), ("frozen", False)])
def test_the_statistics_of_batch_norms_move_only_where_they_should(mode, moves):
    config = helpers.config(train={"batch_norm": mode})
    trainer = helpers.trainer_of(config, norm="batch")
    helpers.train_epochs(trainer, config, epochs=1)
    assert bool((trainer.learner.backbone[1].running_mean != 0).any()) is moves


def test_bf16_trains_about_as_fp32_does():
    losses = {}
    for amp in ("off", "bf16"):
        config = helpers.config(train={"amp": amp, "epochs": 4})
        stats, _ = helpers.train_epochs(helpers.trainer_of(config), config, epochs=4)
        losses[amp] = [s.loss for s in stats]
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.05)
    assert losses["bf16"] != losses["off"]
    assert losses["off"][-1] < losses["off"][0]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_backbone_trains_the_same_weights():
    losses = {}
    for compiled in (False, True):
        config = helpers.config(train={"compile": compiled})
        trainer = helpers.trainer_of(config)
        stats, _ = helpers.train_epochs(trainer, config, epochs=2)
        losses[compiled] = [s.loss for s in stats]
        names = set(trainer.learner.state_dict())
        assert not any("_orig_mod" in name for name in names)
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_gradient_checkpointing_changes_memory_alone():
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    gradients = []
    for checkpointing in (False, True):
        config = helpers.config(train={"grad_checkpointing": checkpointing})
        learner = build_learner(
            copy.deepcopy(backbone),
            config,
            embedding_length=backbone.num_features,
            classes=4,
            device=torch.device("cpu"),
        )
        assert learner.backbone.grad_checkpointing is checkpointing
        learner(images, labels, 1.0).mean().backward()
        gradients.append([p.grad for p in learner.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


def test_a_network_without_gradient_checkpointing_says_so():
    config = helpers.config(train={"grad_checkpointing": True})
    with pytest.raises(ConfigError, match="grad_checkpointing"):
        helpers.trainer_of(config)


def test_a_batch_that_does_not_fit_the_memory_names_smaller_ones(monkeypatch):
    config = helpers.config(train={"batch_size": 12, "accumulation_steps": 2})
    trainer = helpers.trainer_of(config, None)
    monkeypatch.setattr(
        trainer.learner.head, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError())
    )
    with pytest.raises(TrainingError, match=r"batch_size=6 train\.accumulation_steps=4"):
        helpers.train_epochs(trainer, config, epochs=1)
