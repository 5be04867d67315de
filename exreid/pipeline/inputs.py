"""The first steps that every run shares: the table, the backbone, the embeddings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from exreid.config.dataset import DatasetConfig
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.data.images import Preprocessing
from exreid.data.metadata import Columns, load_images
from exreid.data.splits import closed_set_split, identity_disjoint_split, time_aware_split
from exreid.errors import MetadataError
from exreid.features.embedding import Embedder, stage_description, stage_folder
from exreid.features.extraction import (
    BatchSource,
    ExtractionReport,
    PrepareImages,
    embed_table,
    extract_in_process,
)
from exreid.records import Embeddings, ImageTable, Rejected
from exreid.storage import mirror
from exreid.storage.feature_store import FeatureStore, SignatureMemo

if TYPE_CHECKING:
    from exreid.models.backbones import Backbone

log = logging.getLogger(__name__)

AnyConfig = ProbeConfig | FinetuneConfig

FEW_IMAGES = 256
"""To embed; one process uses all CPUs too, and Ray takes some seconds to start."""


def read_images(
    config: AnyConfig,
    *,
    with_split: bool = True,
    require_identity: bool = True,
    only_split: str | None = None,
) -> tuple[ImageTable, list[Rejected]]:
    """The data set's table, checked, with its split read or made; with ``only_split``, checked
    where it is of that split."""
    dataset = config.dataset
    similar: list[str] = []
    table, rejected = load_images(
        dataset.root,
        metadata_file=dataset.metadata_file,
        columns=table_columns(dataset, with_split=with_split, require_identity=require_identity),
        unknown_identities=dataset.unknown_identities,
        on_error=dataset.on_error,
        require_identity=require_identity,
        split=only_split if dataset.make_split is None else None,
        say_similar=similar.append,
    )
    if similar and config.safety == "strict":
        raise MetadataError("\n  ".join(["safety=strict stops here.", *similar]))
    for note in similar:
        log.warning("%s", note)
    if dataset.no_mask == "skip" and (dataset.no_background or dataset.crop_to_mask):
        table, without = _with_masks(table)
        rejected = sorted([*rejected, *without], key=lambda one: one.row)
    if with_split and dataset.make_split is not None:
        table = with_made_split(table, config)
    return table, rejected


def _with_masks(table: ImageTable) -> tuple[ImageTable, list[Rejected]]:
    """The rows that have a mask, and the others."""
    has_mask_N = table.rows["mask"].notna().to_numpy()
    reason = "it has no mask (dataset.no_mask=skip)."
    ids, paths, lines = (table.rows[name].tolist() for name in ("image_id", "path", "row"))
    without = [
        Rejected(ids[i], paths[i], int(lines[i]), "mask", reason)
        for i in np.flatnonzero(~has_mask_N)
    ]
    return table.take(has_mask_N), without


def table_columns(
    dataset: DatasetConfig, *, with_split: bool = True, require_identity: bool = True
) -> Columns:
    """Which columns of the metadata mean what, and which must be there."""
    split = dataset.split_col if with_split and dataset.make_split is None else None
    required = {dataset.path_col, *dataset.encounter_cols}
    if require_identity:
        required.add(dataset.label_col)
    if split:
        required.add(split)
    if dataset.viewpoint_col:
        required.add(dataset.viewpoint_col)
    if dataset.no_background or dataset.crop_to_mask:
        required.add(cast(str, dataset.mask_col))
    return Columns(
        path=dataset.path_col,
        identity=dataset.label_col,
        split=split,
        mask=dataset.mask_col,
        encounter=dataset.encounter_cols,
        viewpoint=dataset.viewpoint_col,
        date=dataset.date_col,
        required=frozenset(required),
        missing_values=dataset.missing_values,
        dates_count=with_split and dataset.make_split == "time_aware",
    )


def with_made_split(table: ImageTable, config: AnyConfig) -> ImageTable:
    """The table with the split that ``dataset.make_split`` asks for."""
    rows, dataset = table.rows, config.dataset
    identities, encounters = rows["identity"].tolist(), rows["encounter"].tolist()
    options: dict[str, Any] = {
        "test_fraction": dataset.test_fraction,
        "image_ids": rows["image_id"].tolist(),
    }
    if dataset.make_split == "closed_set":
        split = closed_set_split(identities, encounters, seed=config.seed, **options)
    elif dataset.make_split == "identity_disjoint":
        split = identity_disjoint_split(identities, encounters, seed=config.seed, **options)
    else:
        dates = rows["date"].to_numpy()
        split = time_aware_split(identities, encounters, dates, **options)
    return ImageTable(rows.assign(split=split), table.original, table.root, table.source)


def preprocessing_for(config: AnyConfig, backbone: Backbone) -> Preprocessing:
    """The data set's wishes, and the backbone's own way where there are none."""
    dataset = config.dataset
    resize = backbone.resize if dataset.resize == "auto" else dataset.resize
    return Preprocessing(
        image_wh_px=(backbone.image_size, backbone.image_size),
        resize=resize,
        crop_pct=backbone.crop_pct,
        interpolation=cast(Any, backbone.interpolation),
        no_background=dataset.no_background,
        crop_to_mask=dataset.crop_to_mask,
        crop_margin=dataset.crop_margin,
        fill_rgb=dataset.fill_rgb or backbone.mean_colour_rgb,
        no_mask="whole" if dataset.no_mask == "whole" else "raise",
        reduced_decode=dataset.reduced_decode,
    )


def output_root(config: AnyConfig) -> Path:
    """``output.root`` as a local path; of a URL, its local copy (see `exreid.storage.mirror`)."""
    return mirror.local_root(config.output.root)


def cache_folder(config: AnyConfig) -> Path:
    """Where what is computed is kept between runs."""
    cache = config.benchmark.cache if isinstance(config, ProbeConfig) else "auto"
    return (
        output_root(config) / ".exreid_cache"
        if cache == "auto"
        else mirror.local_root(cache, key="benchmark.cache")
    )


def embed_images(
    table: ImageTable,
    config: ProbeConfig,
    backbone: Backbone,
    *,
    verbose: bool,
    on_progress: Callable[[int], Any],
) -> tuple[Embeddings, np.ndarray, ExtractionReport]:
    """Embeddings of the table's images, from the cache or extracted; see `embed_table`."""
    prepare = PrepareImages(table.root, preprocessing_for(config, backbone))
    # Where the device is known without asking a cluster, Ray starts only if there is work for it.
    known = config.ray.num_actors == 0 or _runs_on_this_cpu(config)
    if not known:
        from exreid.distributed.session import place_actors, ray_session
    with nullcontext() if known else ray_session(config.ray, verbose=verbose):
        device = "cpu" if known else place_actors(config.ray).device
        source = _batch_source(config, backbone, prepare, verbose=verbose)
        store, memo = _open_cache(config, backbone, device)
        return embed_table(
            table,
            source,
            store=store,
            memo=memo,
            on_error=config.dataset.on_error,
            on_progress=on_progress,
        )


def _runs_on_this_cpu(config: ProbeConfig) -> bool:
    cluster = config.ray.address or os.environ.get("RAY_ADDRESS")
    return (
        cluster in (None, "", "local")
        and not config.ray.gpus_per_worker
        and not torch.cuda.is_available()
    )


def _batch_source(
    config: ProbeConfig, backbone: Backbone, prepare: PrepareImages, *, verbose: bool
) -> BatchSource:
    model, deterministic = config.model, config.deterministic

    def in_process(table: ImageTable, positions: np.ndarray) -> Any:
        embedder = Embedder(
            backbone,
            batch_size=model.batch_size,
            dtype=model.dtype,
            deterministic=deterministic,
            flip=model.flip_augmentation,
        )
        return extract_in_process(table, positions, prepare=prepare, embedder=embedder)

    def over_actors(table: ImageTable, positions: np.ndarray) -> Any:
        from exreid.distributed.extract import extract_over_actors
        from exreid.distributed.session import place_actors, ray_session

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

    def either(table: ImageTable, positions: np.ndarray) -> Any:
        alone = works_alone(config, len(positions), FEW_IMAGES)
        return (in_process if alone else over_actors)(table, positions)

    return either


def works_alone(config: ProbeConfig, images: int, few: int) -> bool:
    """Whether the work is done in this process: as asked for, or, where nothing is asked for and
    no GPU or cluster is there, because so few images are done before Ray has started."""
    actors = config.ray.num_actors
    return actors == 0 or (actors is None and images <= few and _runs_on_this_cpu(config))


def embedding_description(config: ProbeConfig, backbone: Backbone, device: str) -> dict[str, Any]:
    """All that global features depend on besides the image and its mask: probes, galleries and
    identification find them in the cache by this alone."""
    return stage_description(
        backbone,
        preprocessing_for(config, backbone).describe(),
        dtype=config.model.dtype,
        batch_size=config.model.batch_size,
        device=device,
        flip=config.model.flip_augmentation,
    )


def embedding_folder(config: ProbeConfig, description: dict[str, Any]) -> Path:
    """Where the cache keeps global features with this `embedding_description`."""
    return stage_folder(cache_folder(config), "embeddings", description)


def _open_cache(
    config: ProbeConfig, backbone: Backbone, device: str
) -> tuple[FeatureStore | None, SignatureMemo | None]:
    if config.benchmark.cache == "off":
        return None, None
    description = embedding_description(config, backbone, device)
    store = FeatureStore(embedding_folder(config, description), description)
    return store, SignatureMemo(cache_folder(config) / "signatures")
