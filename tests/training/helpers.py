"""A small training without files: images in memory, a network of a few layers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.models.backbones import Backbone
from exreid.training.course import Surroundings, TrainingJob
from exreid.training.learner import build_learner
from exreid.training.loop import Trainer
from exreid.training.sampling import epoch_order, epoch_shares, steps_per_epoch
from exreid.training.world import OneProcess

SIZE, LENGTH, IMAGES, CLASSES = 16, 12, 37, 5
CPU = torch.device("cpu")


def small_network(norm: str) -> nn.Module:
    torch.manual_seed(0)
    layer = {"batch": nn.BatchNorm2d(8), "group": nn.GroupNorm(2, 8)}[norm]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        layer,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, LENGTH),
    )


def small_backbone(norm: str = "group") -> Backbone:
    return Backbone(
        name=f"small-{norm}",
        module=small_network(norm).eval().requires_grad_(False),
        image_size=SIZE,
        mean_rgb=(0.5, 0.5, 0.5),
        std_rgb=(0.25, 0.25, 0.25),
        crop_pct=1.0,
        interpolation="bicubic",
        resize="stretch",
    )


@dataclass
class ImagesInMemory:
    images: np.ndarray

    def batches(self, places):
        for place_b in places:
            yield self.images[place_b]


def images_and_labels():
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, IMAGES)
    labels[:CLASSES] = np.arange(CLASSES)
    tints = random.integers(0, 256, (CLASSES, 1, 1, 3))
    noise = random.integers(-60, 60, (IMAGES, SIZE, SIZE, 3))
    return np.clip(tints[labels] + noise, 0, 255).astype(np.uint8), labels


def config(**parts) -> FinetuneConfig:
    tree = {
        "train": {"batch_size": 8, "epochs": 2, "deterministic": False},
        "optimizer": {"type": "sgd", "lr": 0.05, "head_lr_factor": 1.0},
        "loss": {"scale": 8.0},
    }
    for part, values in parts.items():
        tree[part] = {**tree.get(part, {}), **values} if isinstance(values, dict) else values
    return FinetuneConfig.model_validate(tree)


def trainer_of(config, world=None, norm="group") -> Trainer:
    _, labels = images_and_labels()
    backbone = small_backbone(norm)
    learner = build_learner(
        backbone.module, config, embedding_length=LENGTH, classes=CLASSES, device=CPU
    )
    steps = steps_per_epoch(
        IMAGES,
        batch_size=config.train.batch_size,
        accumulation_steps=config.train.accumulation_steps,
    )
    return Trainer(
        learner,
        backbone,
        config,
        label_N=labels,
        steps_per_epoch=steps,
        world=world or OneProcess(),
        device=CPU,
    )


def train_epochs(trainer, config, epochs):
    """The plain epochs of `course`, and every image that this worker was given."""
    images, labels = images_and_labels()
    stats, seen = [], []
    for epoch in range(epochs):
        order = epoch_order(labels, sampler=config.train.sampler, seed=config.seed, epoch=epoch)
        shares = epoch_shares(
            order,
            batch_size=config.train.batch_size,
            accumulation_steps=config.train.accumulation_steps,
            rank=trainer.world.rank,
            world_size=trainer.world.size,
        )
        places = [share.image_b for share in shares]
        seen.append(np.concatenate(places))
        batches = ImagesInMemory(images).batches(places)
        stats.append(trainer.train_epoch(epoch, shares, batches))
    return stats, seen


def job_and_surroundings(config, folder, norm="group", images=None):
    pixels, labels = images_and_labels()
    job = TrainingJob(
        config=config,
        backbone=small_backbone(norm),
        labels=tuple(f"animal {i}" for i in range(CLASSES)),
        label_N=labels,
        image_ids=tuple(f"image-{i}" for i in range(IMAGES)),
        folder=folder,
    )
    probe = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(9))

    def validate(module):
        # Any number that moves with the weights will do for choosing the best epoch.
        with torch.inference_mode():
            return {"mAP": float(torch.sigmoid(module(probe).sum()))}

    source = ImagesInMemory(pixels if images is None else images)
    return job, Surroundings(OneProcess(), CPU, source, validate)
