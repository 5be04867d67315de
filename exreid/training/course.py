"""The course of a training in one worker: resume, epochs, validation, checkpoints."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.errors import CheckpointError, TrainingError, reading
from exreid.models.backbones import Backbone, embedding_length
from exreid.models.checkpoints import is_finite
from exreid.storage import mirror
from exreid.training import checkpoint as ckpt
from exreid.training.feed import ImageSource, read_ahead
from exreid.training.history import VALIDATION_PREFIX, best_row, write_history
from exreid.training.learner import build_learner
from exreid.training.loop import NonFiniteLossError, Trainer
from exreid.training.sampling import (
    epoch_order,
    epoch_shares,
    model_seed,
    step_images,
    steps_per_epoch,
)
from exreid.training.world import World

NONFINITE_FILE = "nonfinite_loss.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on what, and where it writes: the same for every worker."""

    config: FinetuneConfig
    backbone: Backbone
    labels: tuple[str, ...]
    """The class names, sorted: an image's class is its identity's place here."""
    label_N: np.ndarray
    """int64: the class of each training image."""
    image_ids: tuple[str, ...]
    """Of the training images, for messages."""
    folder: Path


@dataclass(frozen=True)
class Surroundings:
    """What a worker is given by whoever started it."""

    world: World
    device: torch.device
    source: ImageSource
    """Its places are those of ``label_N``."""
    validate: Callable[[nn.Module], dict[str, float]]
    """Called on every worker; the metrics, fractions, are needed on the first alone."""
    on_images: Callable[[int], Any] = lambda done: None
    """Told how many images were trained on since the first epoch."""
    on_epoch: Callable[[list[Row]], Any] = lambda history: None
    stop_early: Callable[[list[Row]], bool] = lambda history: False
    """Asked on the first worker, after each epoch but the last, whether to stop there."""


def train(job: TrainingJob, around: Surroundings) -> list[Row]:
    """Train to the last epoch, from the last checkpoint where there is one; the history."""
    return _Course(job, around).run()


def make_deterministic() -> None:
    """Same bits on the same machine; an operation that cannot raises an error."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


class _Course:
    def __init__(self, job: TrainingJob, around: Surroundings) -> None:
        self.job, self.around, self.config = job, around, job.config
        if self.config.train.deterministic:
            make_deterministic()
        train = self.config.train
        learner = build_learner(
            job.backbone.module,
            self.config,
            embedding_length=embedding_length(job.backbone),
            classes=len(job.labels),
            device=around.device,
        )
        self.trainer = Trainer(
            learner,
            job.backbone,
            self.config,
            label_N=job.label_N,
            steps_per_epoch=steps_per_epoch(
                len(job.label_N),
                batch_size=train.batch_size,
                accumulation_steps=train.accumulation_steps,
            ),
            world=around.world,
            device=around.device,
        )
        self.history: list[Row] = []
        self.best_from = 0

    @property
    def writes(self) -> bool:
        """Whether this worker is the one that writes files."""
        return self.around.world.rank == 0

    def run(self) -> list[Row]:
        """See `train`."""
        first = self._resume()
        if not self.history:
            self.history.append({"epoch": 0, **self._validated()})
            self._tell()
        for epoch in range(first, self.config.train.epochs):
            torch.manual_seed(model_seed(self.config.seed, epoch, self.around.world.rank))
            row = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            last = epoch + 1 == self.config.train.epochs
            if last or (epoch + 1) % self.config.validation.every == 0:
                row |= self._validated()
            self.history.append(row)
            if self.writes:
                self._save(epoch + 1)
            self._tell()
            if not last and self._stopped():
                return self.history
        if self.writes:
            self._save_final()
        return self.history

    def _stopped(self) -> bool:
        """Whether all workers stop here, as the first one was told."""
        stop = self.writes and self.around.stop_early(self.history)
        return self.around.world.sum([float(stop)])[0] > 0

    def _train_epoch(self, epoch: int) -> Row:
        config, world = self.config.train, self.around.world
        order = epoch_order(
            self.job.label_N, sampler=config.sampler, seed=self.config.seed, epoch=epoch
        )
        shares = epoch_shares(
            order,
            batch_size=config.batch_size,
            accumulation_steps=config.accumulation_steps,
            rank=world.rank,
            world_size=world.size,
        )
        images = read_ahead(self.around.source.batches([share.image_b for share in shares]))
        try:
            stats = self.trainer.train_epoch(
                epoch,
                shares,
                images,
                lambda done: self.around.on_images(epoch * len(order) + done),
            )
        except NonFiniteLossError as error:
            self._write_batch(epoch, order, error)
            raise
        self._check_weights(epoch)
        row = asdict(stats)
        return {**row, "images_per_s": stats.images / stats.seconds}

    def _check_weights(self, epoch: int) -> None:
        """Weights that the last step made infinite, or no numbers, are never saved or validated."""
        state = self.trainer.published.state_dict()
        bad = [name for name, tensor in state.items() if not is_finite(tensor)]
        if bad:
            raise TrainingError(
                f"epoch {epoch + 1} left {len(bad)} of {len(state)} tensors of the weights "
                f"infinite or no numbers (the first: {bad[0]}). Checkpoints of the epochs before "
                "are kept. Lower optimizer.lr or loss.scale, or set optimizer.clip_norm."
            )

    def _validated(self) -> Row:
        start = time.perf_counter()
        module = self.trainer.published
        module.eval()
        metrics = self.around.validate(module)
        named = {f"{VALIDATION_PREFIX}{name}": value for name, value in metrics.items()}
        return {**named, "validation_s": time.perf_counter() - start}

    def _tell(self) -> None:
        if self.writes:
            write_history(self.job.folder, self.history)
        self.around.on_epoch(self.history)

    def _write_batch(self, epoch: int, order: np.ndarray, error: NonFiniteLossError) -> None:
        if not self.writes:
            return
        train = self.config.train
        images = step_images(order, error.step, train.batch_size * train.accumulation_steps)
        content = {
            "epoch": epoch + 1,
            "step": error.step + 1,
            "image_ids": [self.job.image_ids[i] for i in images],
        }
        file = self.job.folder / NONFINITE_FILE
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _content(self, epoch: int) -> dict[str, Any]:
        trainer = self.trainer
        average = trainer.average
        return {
            "model": ckpt.plain(trainer.published),
            "raw_model": ckpt.plain(trainer.learner.backbone) if average else None,
            "head": ckpt.plain(trainer.learner.head),
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": {"step": trainer.step},
            "scaler": trainer.scaler.state_dict(),
            "ema": {"updates": average.updates} if average else None,
            "epoch": epoch,
            "rng": ckpt.rng_states(),
            "labels": list(self.job.labels),
            "backbone": self.job.backbone.name,
            "image_size": self.job.backbone.image_size,
            "history": self.history,
            "best_from": self.best_from,
        }

    def _save(self, epoch: int) -> None:
        folder, output = self.job.folder, self.config.output
        content = self._content(epoch)
        own = [row for row in self.history if row["epoch"] >= self.best_from]
        best = best_row(own, output.best_metric)
        # The best ones first: once the latest stands, this epoch is not trained again.
        if best is not None and best["epoch"] == epoch:
            ckpt.save_atomic(folder / ckpt.BEST, content["model"])
            ckpt.save_atomic(folder / ckpt.BEST_FULL, content)
        if output.save_every and epoch % output.save_every == 0:
            ckpt.save_atomic(folder / f"checkpoint-epoch-{epoch}.pth", content["model"])
        ckpt.save_atomic(folder / ckpt.LATEST_FULL, content)

    def _save_final(self) -> None:
        folder = self.job.folder
        ckpt.save_atomic(folder / ckpt.FINAL, ckpt.plain(self.trainer.published))
        ckpt.save_safetensors(folder / ckpt.FINAL_SAFETENSORS, self.trainer.published)
        ckpt.copy_atomic(folder / ckpt.LATEST_FULL, folder / ckpt.FINAL_FULL)

    def _resume(self) -> int:
        """Take up the run's own latest checkpoint, or the one that was asked for; epochs done."""
        own = self.job.folder / ckpt.LATEST_FULL
        asked = self.config.train.resume_checkpoint
        if not own.exists() and asked is None:
            return 0
        file = own if own.exists() else mirror.local_copy(str(asked), key="train.resume_checkpoint")
        content = ckpt.read_full(file, labels=self.job.labels, backbone=self.job.backbone.name)
        with reading(file, CheckpointError, ckpt.RESUMABLE):
            self._load(content, str(file))
        if file != own:
            self._bring_best(file, content)
        epoch: int = content["epoch"]
        return epoch

    def _load(self, content: dict[str, Any], source: str) -> None:
        trainer = self.trainer
        raw = content["raw_model"] or content["model"]
        ckpt.load_weights(trainer.learner.backbone, raw, source=source)
        ckpt.load_weights(trainer.learner.head, content["head"], source=source)
        if trainer.average:
            ckpt.load_weights(trainer.average.module, content["model"], source=source)
            trainer.average.updates = (content["ema"] or {"updates": 0})["updates"]
        trainer.optimizer.load_state_dict(content["optimizer"])
        if trainer.scaler.is_enabled() and content["scaler"]:
            trainer.scaler.load_state_dict(content["scaler"])
        trainer.step = content["scheduler"]["step"]
        ckpt.set_rng_states(content["rng"])
        self.history, self.best_from = list(content["history"]), content["best_from"]

    def _bring_best(self, file: Path, content: dict[str, Any]) -> None:
        """The best epoch of the other run comes along, where its checkpoint lies beside ``file``.

        Where it does not, or is a later epoch than the one resumed, the resumed one counts as
        the best so far, and epochs before it no longer.
        """
        folder, best = self.job.folder, best_row(content["history"], self.config.output.best_metric)
        full = mirror.local_copy(file.parent / ckpt.BEST_FULL)
        kept = content
        if best is not None and best["epoch"] != content["epoch"] and full.exists():
            beside = ckpt.read_full(full, labels=self.job.labels, backbone=self.job.backbone.name)
            kept = beside if beside["epoch"] == best["epoch"] else content
        if kept is content:
            self.best_from = content["epoch"]
        if self.writes:
            ckpt.save_atomic(folder / ckpt.BEST, kept["model"])
            ckpt.save_atomic(folder / ckpt.BEST_FULL, kept)
