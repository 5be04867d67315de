"""The inputs of a training: decoded images, classes, validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from exreid.config.training import FinetuneConfig
from exreid.data.holdout import Holdout, check_holdout, cut_holdout
from exreid.data.metadata import left_out_text, retrieval_sides
from exreid.errors import MetadataError
from exreid.features.extraction import ExtractionReport, PrepareImages, input_columns
from exreid.features.fill_cache import FillSource, KeepDecoded, fill_cache, fill_in_process
from exreid.features.keys import stage_folder
from exreid.models.backbones import Backbone, build_backbone
from exreid.pipeline.embed import preprocessing_for
from exreid.pipeline.inputs import cache_folder
from exreid.records import ImageTable, Rejected
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.urls import is_remote
from exreid.training.backbone import BackboneTask
from exreid.training.feed import CachedImages, DecodingImages, ImageSource
from exreid.training.history import HistoryRow
from exreid.training.state import Training

FEW_TO_DECODE = 100
"""Up to this many images are decoded in this process: tasks of Ray take some seconds to start."""


def first_backbone(config: FinetuneConfig) -> Backbone:
    """The backbone before training; random weights come from the seed."""
    torch.manual_seed(config.seed)
    return build_backbone(
        config.model.type,
        checkpoint=config.model.checkpoint,
        image_size=config.dataset.image_size,
        pretrained=config.model.pretrained,
    )


def validation_mode(config: FinetuneConfig) -> Literal["query_gallery", "leave_one_out"]:
    """``validation.mode``, with auto resolved."""
    if config.validation.mode != "auto":
        return config.validation.mode
    return "leave_one_out" if config.validation.source == "identities" else "query_gallery"


def hold_out(table: ImageTable, config: FinetuneConfig) -> Holdout:
    """The table's training images, and the queries and gallery of the validation."""
    dataset, validation = config.dataset, config.validation
    return cut_holdout(
        table,
        source=validation.source,
        mode=validation_mode(config),
        fraction=validation.fraction,
        seed=config.seed,
        train_value=dataset.train_split_value,
        val_value=dataset.val_split_value,
        database_value=dataset.database_split_value,
    )


@dataclass(frozen=True)
class PlannedTraining:
    """A training, and the images that it uses."""

    training: Training
    table: ImageTable
    """Those that can be used."""
    holdout: Holdout
    """Positions in ``table``."""
    rejected: Sequence[Rejected]
    counts: Mapping[str, int]
    """Of the steps before the training."""


@dataclass(frozen=True)
class DecodedImages:
    """The images that a training needs, each known to be readable."""

    table: ImageTable
    holdout: Holdout
    """Positions in ``table``."""
    prepare: PrepareImages
    folder: Path | None
    """The folder of the decoded cache; None without a cache."""
    keys: list[str]
    """Of the cache, one per row of ``table``."""
    report: ExtractionReport

    def source(self, positions: np.ndarray, *, in_process: bool) -> Callable[[], ImageSource]:
        """Makes the source of the images at these positions, which it numbers from 0."""
        if self.folder is not None:
            return partial(CachedImages, self.folder, [self.keys[i] for i in positions])
        part = self.table.take(positions)
        if in_process:
            columns = input_columns(part, np.arange(len(part)))
            return partial(DecodingImages, self.prepare, columns)
        from exreid.distributed.decode import StreamedImages

        return partial(StreamedImages, part, self.prepare)


def decode_images(
    table: ImageTable,
    holdout: Holdout,
    config: FinetuneConfig,
    backbone: Backbone,
    *,
    verbose: bool,
    on_progress: Callable[[int], object],
) -> DecodedImages:
    """Decode the images of training and validation, or find them in the cache; without unreadable
    ones."""
    wanted = holdout.all_positions
    part = table.take(wanted)
    root = part.root if is_remote(part.root) else os.path.abspath(part.root)  # noqa: PTH100
    part = ImageTable(part.rows, part.original, root, part.source)
    preprocessing = preprocessing_for(config, backbone)
    prepare = PrepareImages(root, preprocessing, with_matte=config.augment.background > 0)
    folder = memo = None
    if config.dataset.decoded_cache == "auto":
        cache = cache_folder(config)
        description = {"stage": "decoded", "matte": prepare.with_matte, **preprocessing.describe()}
        folder = stage_folder(cache, "decoded", description)
        memo = SignatureMemo(cache / "signatures")
    positions, keys, report = fill_cache(
        part,
        _decode_source(config, KeepDecoded(prepare, folder), verbose=verbose),
        folder=folder,
        memo=memo,
        on_error=config.dataset.on_error,
        on_progress=on_progress,
    )
    kept = holdout_within(holdout, wanted[positions])
    for left, what in ((kept.train_N, "train on"), (kept.query_N, "validate with")):
        if len(left) == 0 and report.rejected:
            raise MetadataError(
                f"{table.source}: no image is left to {what}. {left_out_text(report.rejected)}"
            )
    return DecodedImages(part.take(positions), kept, prepare, folder, keys, report)


def _decode_source(config: FinetuneConfig, keep: KeepDecoded, *, verbose: bool) -> FillSource:
    def either(table: ImageTable, positions: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        if config.ray.num_workers == 0 or len(positions) <= FEW_TO_DECODE:
            yield from fill_in_process(table, positions, keep=keep)
            return
        from exreid.distributed.decode import decode_over_tasks
        from exreid.distributed.session import ray_session

        with ray_session(config.ray, verbose=verbose):
            yield from decode_over_tasks(table, positions, keep=keep, cpus=1.0)

    return either


def holdout_within(holdout: Holdout, kept_N: np.ndarray) -> Holdout:
    """The positions as indices into ``kept_N`` (rising), without those that it lacks."""
    return Holdout(
        *(
            np.flatnonzero(np.isin(kept_N, part))
            for part in (holdout.train_N, holdout.query_N, holdout.gallery_N)
        )
    )


def plan_training(
    images: DecodedImages,
    config: FinetuneConfig,
    backbone: Backbone,
    folder: Path,
    *,
    stop_early: Callable[[list[HistoryRow]], bool] | None = None,
) -> Training:
    """The training of the readable images, with their classes and validation."""
    table, holdout = images.table, images.holdout
    check_holdout(table, holdout, exclude=config.validation.exclude)
    names = table.rows["identity"].to_numpy(object)[holdout.train_N]
    labels = tuple(sorted(set(names)))
    label_of = {name: label for label, name in enumerate(labels)}
    queries, gallery = retrieval_sides(table, holdout.query_N, holdout.gallery_N)
    in_process = config.ray.num_workers == 0
    return Training(
        config=config,
        task=BackboneTask(
            backbone,
            images=images.source(holdout.train_N, in_process=in_process),
            queries=queries,
            gallery=gallery,
            validation_images=images.source(holdout.validation_positions, in_process=in_process),
        ),
        labels=labels,
        label_N=np.array([label_of[name] for name in names], np.int64),
        image_ids=tuple(table.rows["image_id"].to_numpy(object)[holdout.train_N]),
        folder=folder,
        stop_early=stop_early,
    )
