"""Global features of a table's images: from a gallery, from the cache, or extracted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch

from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.data.images import Preprocessing
from exreid.features.embedding import Embedder, stage_description
from exreid.features.extraction import (
    BatchSource,
    Extracted,
    ExtractionReport,
    PrepareImages,
    embed_table,
    extract_in_process,
    known_keys,
)
from exreid.features.keys import stage_folder
from exreid.pipeline.inputs import cache_folder, methods_of
from exreid.progress import RunLog
from exreid.records import Embeddings, ImageTable, Json, Rejected
from exreid.storage.feature_store import FeatureStore, SignatureMemo

if TYPE_CHECKING:
    from exreid.models.backbones import Backbone
    from exreid.pipeline.keypoints import LocalImages

FEW_TO_EMBED = 256
"""Up to this many images are embedded in this process: it uses all CPUs too, and Ray takes some
seconds to start."""


class StoredFeatures(Protocol):
    """Features that are not made again: a gallery's, of the first images of a table."""

    def __len__(self) -> int:
        """The number of images."""

    @property
    def keys(self) -> list[str]:
        """Each image's key (`exreid.features.keys.image_key`)."""

    def vectors(self, number: int) -> np.ndarray:
        """float32 (G, D) of one backbone."""

    def local_folder(self, name: str) -> Path:
        """The folder of the local features of one extractor."""

    def index_folder(self, name: str) -> Path | None:
        """The folder of the index of these local features; None where there is none."""

    def description(self, name: str) -> dict[str, Json]:
        """The description of the features of this name (`exreid.features.keys`); empty where it has
        none."""

    def check_features(self, name: str, description: Mapping[str, Json]) -> None:
        """An error where features of this description cannot be compared with those of this
        name."""


@dataclass(frozen=True)
class Features:
    """The images whose features could all be made, and their features."""

    table: ImageTable
    vectors: tuple[np.ndarray, ...] = ()
    """float32 (N, D) by each backbone."""
    local: tuple[LocalImages, ...] = ()
    """Of each kind of local features."""
    descriptions: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """What each kind of features depends on besides the images, by the kind's name."""
    rejected: tuple[Rejected, ...] = ()
    """The images that could not be read."""
    counts: Mapping[str, int] = field(default_factory=dict)

    def at(self, position_N: np.ndarray, report: ExtractionReport, kind: str) -> Features:
        """The features of the images at these positions (rising), which a further step could use;
        ``report`` is that step's, and ``kind`` says of what: images or keypoints."""
        counted = {f"{kind}_cached": report.cached, f"{kind}_extracted": report.extracted}
        added = {name: self.counts.get(name, 0) + count for name, count in counted.items()}
        return replace(
            self,
            table=self.table.take(position_N),
            vectors=tuple(vectors_ND[position_N] for vectors_ND in self.vectors),
            local=tuple(images.at(position_N) for images in self.local),
            rejected=(*self.rejected, *report.rejected),
            counts={**self.counts, **added},
        )


def embed(
    table: ImageTable,
    config: ProbeConfig,
    log: RunLog,
    *,
    stored: StoredFeatures | None = None,
    describe: bool = False,
) -> Features:
    """The vectors of each backbone that the benchmark's method needs.

    The first images of the table are those of ``stored``, and not read. With ``describe`` the
    features have their descriptions. Without it, where features are stored and the cache has all
    other vectors, no backbone is built: its import and weights take seconds.
    """
    features = Features(table)
    for number, model in enumerate(methods_of(config)[0]):
        model_config = config.model_copy(update={"model": model})
        features = _with_vectors(
            features, number, model_config, log, stored=stored, describe=describe
        )
    return features


def _with_vectors(
    features: Features,
    number: int,
    config: ProbeConfig,
    log: RunLog,
    *,
    stored: StoredFeatures | None,
    describe: bool,
) -> Features:
    table, name, model = features.table, f"global-{number}", config.model
    stored_count = 0 if stored is None else len(stored)
    new = table.take(np.arange(stored_count, len(table))) if stored_count else table
    report, descriptions = ExtractionReport(), {}
    vectors_ND = None if describe or stored is None else _cached(new, config, stored, name)
    if vectors_ND is not None:
        position_N, report.cached = np.arange(len(new)), len(new)
    else:
        with log.timed("model"):
            from exreid.models.backbones import build_backbone

            backbone = build_backbone(
                model.type, checkpoint=model.checkpoint, image_size=config.dataset.image_size
            )
        if describe or stored is not None:
            descriptions = {name: embedding_description(config, backbone, "cpu")}
        if stored is not None:
            stored.check_features(name, descriptions[name])
        if len(new) or stored is None:
            with log.timed("embeddings"):
                bar = log.progress("Extracting features", len(new))
                embeddings, position_N, report = embed_images(
                    new, config, backbone, verbose=log.verbose, on_progress=bar
                )
            vectors_ND = embeddings.vectors_ND
        else:
            vectors_ND, position_N = stored.vectors(number)[:0], np.arange(0)
    if stored is not None:
        vectors_ND = np.concatenate([stored.vectors(number), vectors_ND])
        position_N = np.concatenate([np.arange(stored_count), stored_count + position_N])
    features = features.at(position_N, report, "images")
    return replace(
        features,
        vectors=(*features.vectors, vectors_ND),
        descriptions={**features.descriptions, **descriptions},
    )


def _cached(
    new: ImageTable, config: ProbeConfig, stored: StoredFeatures, name: str
) -> np.ndarray | None:
    """The vectors of new images by the backbone of the stored ones, where the cache has them
    all."""
    description = stored.description(name)
    installed = {"torch": torch.__version__, "timm": version("timm")}
    folder = embedding_folder(config, description)
    if not folder.is_dir() or any(
        description.get(package) != installed[package] for package in installed
    ):
        return None
    store = FeatureStore(folder, description)
    keys = known_keys(new, SignatureMemo(cache_folder(config) / "signatures"))
    cached = [key for key in keys if key is not None and key in store]
    return store.gather(cached) if len(cached) == len(new) else None


def embed_images(
    table: ImageTable,
    config: ProbeConfig,
    backbone: Backbone,
    *,
    verbose: bool,
    on_progress: Callable[[int], object],
) -> tuple[Embeddings, np.ndarray, ExtractionReport]:
    """Embeddings of the table's images, from the cache or extracted; see `embed_table`."""
    prepare = PrepareImages(table.root, preprocessing_for(config, backbone))
    # Where the device is known without asking a cluster, Ray starts only if there is work for it.
    on_this_cpu = config.ray.num_actors == 0 or _runs_on_this_cpu(config)
    if not on_this_cpu:
        from exreid.distributed.placement import place_actors
        from exreid.distributed.session import ray_session
    with nullcontext() if on_this_cpu else ray_session(config.ray, verbose=verbose):
        device = "cpu" if on_this_cpu else place_actors(config.ray).device
        store, memo = None, None
        if config.benchmark.cache != "off":
            description = embedding_description(config, backbone, device)
            store = FeatureStore(embedding_folder(config, description), description)
            memo = SignatureMemo(cache_folder(config) / "signatures")
        return embed_table(
            table,
            _batch_source(config, backbone, prepare, verbose=verbose),
            store=store,
            memo=memo,
            on_error=config.dataset.on_error,
            on_progress=on_progress,
        )


def _batch_source(
    config: ProbeConfig, backbone: Backbone, prepare: PrepareImages, *, verbose: bool
) -> BatchSource:
    model, deterministic = config.model, config.deterministic

    def in_process(table: ImageTable, positions: np.ndarray) -> Iterable[Extracted]:
        embedder = Embedder(
            backbone,
            batch_size=model.batch_size,
            dtype=model.dtype,
            deterministic=deterministic,
            flip=model.flip_augmentation,
        )
        return extract_in_process(table, positions, prepare=prepare, embedder=embedder)

    def over_actors(table: ImageTable, positions: np.ndarray) -> Iterable[Extracted]:
        from exreid.distributed.extract import extract_over_actors
        from exreid.distributed.placement import place_actors
        from exreid.distributed.session import ray_session

        with ray_session(config.ray, verbose=verbose):
            yield from extract_over_actors(
                table,
                positions,
                prepare=prepare,
                backbone=backbone,
                batch_size=model.batch_size,
                dtype=model.dtype,
                deterministic=deterministic,
                placement=place_actors(config.ray),
                flip=model.flip_augmentation,
            )

    def either(table: ImageTable, positions: np.ndarray) -> Iterable[Extracted]:
        alone = works_alone(config, len(positions), FEW_TO_EMBED)
        return (in_process if alone else over_actors)(table, positions)

    return either


def works_alone(config: ProbeConfig, images: int, few: int) -> bool:
    """Whether the work is done in this process: where the config says so, or, without such a
    setting, a GPU or a cluster, where ``few`` images or less are done before Ray has started."""
    actors = config.ray.num_actors
    return actors == 0 or (actors is None and images <= few and _runs_on_this_cpu(config))


def _runs_on_this_cpu(config: ProbeConfig) -> bool:
    cluster = config.ray.address or os.environ.get("RAY_ADDRESS")
    return (
        cluster in (None, "", "local")
        and not config.ray.gpus_per_worker
        and not torch.cuda.is_available()
    )


def preprocessing_for(config: ProbeConfig | FinetuneConfig, backbone: Backbone) -> Preprocessing:
    """The data set's settings and, where it has none, the backbone's own."""
    dataset = config.dataset
    resize = backbone.resize if dataset.resize == "auto" else dataset.resize
    return Preprocessing(
        image_wh_px=(backbone.image_size, backbone.image_size),
        resize=resize,
        crop_pct=backbone.crop_pct,
        interpolation=cast(Any, backbone.interpolation),
        no_background=dataset.no_background,
        crop=dataset.cropped,
        crop_margin=dataset.crop_margin,
        fill_rgb=dataset.fill_rgb or backbone.mean_colour_rgb,
        no_mask="whole" if dataset.no_mask == "whole" else "raise",
        reduced_decode=dataset.reduced_decode,
    )


def embedding_description(config: ProbeConfig, backbone: Backbone, device: str) -> dict[str, Json]:
    """All that global features depend on besides the image and its mask; probes, galleries and
    identification share cached features by it."""
    return stage_description(
        backbone,
        preprocessing_for(config, backbone).describe(),
        dtype=config.model.dtype,
        batch_size=config.model.batch_size,
        device=device,
        flip=config.model.flip_augmentation,
    )


def embedding_folder(config: ProbeConfig, description: Mapping[str, Json]) -> Path:
    """The cache's folder of global features with this `embedding_description`."""
    return stage_folder(cache_folder(config), "embeddings", description)
