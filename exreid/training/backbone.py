"""A backbone as what is trained: augmented images in, retrieval on held-out images out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.features.embedding import Embedder
from exreid.matching.cosine import rank_by_cosine
from exreid.matching.cosine_on_device import rank_on_device
from exreid.models.backbones import Backbone
from exreid.models.checkpoints import Tensors
from exreid.models.device import on_device
from exreid.records import RetrievalSide
from exreid.training.augment import UNIFORMS, augment
from exreid.training.feed import ImageSource, read_ahead
from exreid.training.model import ModelWithLoss, build_model
from exreid.training.sampling import Share, uniforms
from exreid.training.state import Training, Validated, validated
from exreid.training.world import World


@dataclass(frozen=True)
class BackboneTask:
    """A backbone, the images that it is trained on, and those that it is validated with."""

    backbone: Backbone
    """Before the first epoch."""
    images: Callable[[], ImageSource]
    """Makes the source of the training images, in the worker; its places are the items."""
    queries: RetrievalSide
    gallery: RetrievalSide
    """Of the validation."""
    validation_images: Callable[[], ImageSource]
    """Makes the source of the images at ``validation_positions``."""

    @property
    def name(self) -> str:
        """The backbone's."""
        return self.backbone.name

    @property
    def validation_positions(self) -> np.ndarray:
        """Positions of all images that a validation embeds, rising."""
        return np.union1d(self.queries.position_N, self.gallery.position_N)

    def build(self, config: FinetuneConfig, *, classes: int, device: torch.device) -> ModelWithLoss:
        """The backbone with a fresh head."""
        return build_model(self.backbone, config, classes=classes, device=device)

    def published(self, weights: Tensors) -> Tensors:
        """The weights alone."""
        return weights

    def open(self, training: Training, world: World) -> BackboneWork:
        """The part of this worker."""
        return BackboneWork(self, training, world)


class BackboneWork:
    """One worker's images; see `exreid.training.state.Work`."""

    def __init__(self, task: BackboneTask, training: Training, world: World) -> None:
        self.task, self.training, self.world = task, training, world
        self.images, self.validation_images = task.images(), task.validation_images()

    def begin_epoch(self, epoch: int, module: nn.Module) -> None:
        """Every epoch has the same images."""

    def batches(
        self, epoch: int, shares: list[Share]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The augmented images (b, 3, H, W) and the labels of each share."""
        label_N = self.training.label_N
        augmented = self._augmented_batches(epoch, shares)
        for share, images_b3HW in zip(shares, augmented, strict=True):
            label_b = label_N[share.image_b] if len(share.image_b) else label_N[:1]
            yield images_b3HW, on_device(label_b, self.world.device)

    def _augmented_batches(self, epoch: int, shares: list[Share]) -> Iterator[torch.Tensor]:
        """For a GPU a thread prepares the next ones, on a stream beside that of the training."""
        device = self.world.device
        decoded = read_ahead(self.images.batches([share.image_b for share in shares]))
        batches = (
            self._augmented(epoch, share, images_bHWC)
            for share, images_bHWC in zip(shares, decoded, strict=True)
        )
        if device.type == "cpu":
            yield from batches
            return
        beside, own = torch.cuda.Stream(device), torch.cuda.current_stream(device)

        def prepared() -> Iterator[tuple[torch.Tensor, torch.cuda.Event]]:
            with torch.cuda.stream(beside):
                for images_b3HW in batches:
                    yield images_b3HW, beside.record_event()

        for images_b3HW, ready in read_ahead(prepared()):
            own.wait_event(ready)
            images_b3HW.record_stream(own)
            yield images_b3HW

    def _augmented(self, epoch: int, share: Share, images_bHWC: np.ndarray) -> torch.Tensor:
        draw_b, backbone, config = share.draw_b, self.task.backbone, self.training.config
        if len(draw_b) == 0:
            images_bHWC = np.zeros((1, backbone.image_size, backbone.image_size, 3), np.uint8)
            draw_b = np.zeros(1, np.int64)
        return augment(
            on_device(images_bHWC, self.world.device),
            uniforms(config.seed, epoch, draw_b, UNIFORMS),
            config.augment,
            mean_rgb=backbone.mean_rgb,
            std_rgb=backbone.std_rgb,
        )

    def validate(self, module: nn.Module) -> Validated:
        """Retrieval on the held-out images, by the code that probes use.

        Every image is embedded by one worker, in batches of one size, so that its vector does not
        depend on how many workers there are.
        """
        task, world, config = self.task, self.world, self.training.config
        positions, batch = task.validation_positions, config.model.batch_size
        module.eval()
        embed = Embedder(
            replace(task.backbone, module=module), batch_size=batch, device=str(world.device)
        )
        own = np.array_split(np.arange(len(positions)), world.size)[world.rank]
        places = [own[start : start + batch] for start in range(0, len(own), batch)]
        images = read_ahead(self.validation_images.batches(places))
        parts = [embed(images_bHWC[..., :3]) for images_bHWC in images]
        gathered = world.gather(np.concatenate(parts) if parts else None)
        if not world.is_first:
            return {}, {}
        vectors_ND = np.concatenate([part for part in gathered if part is not None])
        on_gpu = partial(rank_on_device, device=world.device)
        ranking = (on_gpu if world.device.type == "cuda" else rank_by_cosine)(
            vectors_ND[np.searchsorted(positions, task.queries.position_N)],
            vectors_ND[np.searchsorted(positions, task.gallery.position_N)],
            task.queries,
            task.gallery,
            exclude=config.validation.exclude,
            keep=1,
        )
        return validated(ranking, task.queries.identity_N, seed=config.seed)
