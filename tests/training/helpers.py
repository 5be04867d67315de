"""A small training without image files: images in memory, a network of a few layers."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.models.backbones import Backbone
from exreid.records import RetrievalSide
from exreid.training.backbone import BackboneTask
from exreid.training.state import Training, initial_state
from exreid.training.world import World

SIZE, LENGTH, IMAGES, CLASSES = 16, 12, 37, 5
CPU = torch.device("cpu")
ALONE = World(CPU)


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
    asked: list[np.ndarray] = field(default_factory=list)
    """The places of each epoch, in their order."""

    def batches(self, places):
        self.asked.append(np.concatenate(places))
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


def training_of(config, folder, norm="group", source=None) -> Training:
    """Validated on the training images themselves: every third one is a query."""
    pixels, labels = images_and_labels()
    source = source or ImagesInMemory(pixels)
    places = np.arange(IMAGES)
    ids = tuple(f"image-{place}" for place in places)

    def side(position_N):
        names = tuple(ids[position] for position in position_N)
        return RetrievalSide(names, position_N, labels[position_N], position_N)

    return Training(
        config=config,
        task=BackboneTask(
            small_backbone(norm),
            images=lambda: source,
            queries=side(places[places % 3 == 0]),
            gallery=side(places[places % 3 != 0]),
            validation_images=lambda: ImagesInMemory(pixels),
        ),
        labels=tuple(f"identity {i}" for i in range(CLASSES)),
        label_N=labels,
        image_ids=ids,
        folder=folder,
    )


def first_state(config, norm="group"):
    return initial_state(training_of(config, None, norm), CPU)
