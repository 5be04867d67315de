"""The beginning of every run: the data set's table, and the folders to read and write."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from exreid.config.dataset import DatasetConfig
from exreid.config.methods import ModelConfig
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.data.imports.direct import foreign_columns, reads_folders
from exreid.data.metadata import Columns, read_image_table
from exreid.data.splits import closed_set_split, identity_disjoint_split, time_aware_split
from exreid.errors import MetadataError
from exreid.records import ImageTable, Rejected
from exreid.storage import mirror

log = logging.getLogger(__name__)

AnyConfig = ProbeConfig | FinetuneConfig
Config = TypeVar("Config", bound=AnyConfig)


def settled(config: Config, *, skip: bool | None = None) -> Config:
    """The config with keys that follow from another program's file as ``dataset.metadata_file``,
    where the user has not set them: its visits, its sides, and a split made where it has none. A
    warning lists them. ``skip``: pass over unusable entries of the file; None: as
    ``dataset.on_error`` says.
    """
    dataset = config.dataset
    try:
        columns = foreign_columns(
            dataset.root,
            dataset.metadata_file,
            table_columns(dataset),
            skip=dataset.on_error == "skip" if skip is None else skip,
        )
    except MetadataError:  # told where the table is read
        return config
    if columns is None:
        return config
    wanted: dict[str, Any] = {}
    if "encounter" in columns and not dataset.encounter_cols:
        wanted["encounter_cols"] = ("encounter",)
    if "viewpoint" in columns and dataset.viewpoint_col is None:
        wanted["viewpoint_col"] = "viewpoint"
    if dataset.split_col not in columns and "split_col" not in dataset.model_fields_set:
        wanted["make_split"] = dataset.make_split or "closed_set"
    if wanted:
        taken = ", ".join(
            f"dataset.{key}={value if isinstance(value, str) else list(value)}"
            for key, value in wanted.items()
        )
        source = dataset.metadata_file or dataset.root
        if not reads_folders(dataset.root, dataset.metadata_file):
            log.warning("%s: taken, as nothing else is said: %s", source, taken)
    update = {"dataset": dataset.model_copy(update=wanted)}
    return cast(Config, config.model_copy(update=update))


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
    table, rejected = read_image_table(
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
    _check_told_apart(table, dataset)
    if dataset.no_mask == "skip" and dataset.needs_region:
        table, without = _with_regions(table)
        rejected = sorted([*rejected, *without], key=lambda image: image.row)
    if with_split and dataset.make_split is not None:
        table = with_made_split(table, config)
    return table, rejected


def _check_told_apart(table: ImageTable, dataset: DatasetConfig) -> None:
    """MetadataError where two animals of one photograph would be the same picture."""
    if dataset.no_background or dataset.cropped in ("box", "mask"):
        return
    same_N = table.rows["path"].duplicated(keep=False).to_numpy()
    if dataset.cropped == "auto":
        same_N = same_N & table.rows["bbox"].isna().to_numpy()
    if same_N.any():
        row = table.rows.iloc[int(np.flatnonzero(same_N)[0])]
        raise MetadataError(
            f"{table.source}, line {row['row']}: {row['path']} shows several animals, and each "
            "would be the whole photograph. Set dataset.crop=mask or box."
        )


def _with_regions(table: ImageTable) -> tuple[ImageTable, list[Rejected]]:
    """The rows that have a mask or a box, and the others."""
    has_region_N = np.array([region is not None for region in table.regions], bool)
    reason = "it has no mask (dataset.no_mask=skip)."
    ids, paths, lines = (table.rows[name].tolist() for name in ("image_id", "path", "row"))
    without = [
        Rejected(ids[i], paths[i], int(lines[i]), "mask", reason)
        for i in np.flatnonzero(~has_region_N)
    ]
    return table.take(has_region_N), without


def table_columns(
    dataset: DatasetConfig, *, with_split: bool = True, require_identity: bool = True
) -> Columns:
    """The columns of the metadata by their meaning, and the required ones."""
    split = dataset.split_col if with_split and dataset.make_split is None else None
    required = {dataset.path_col, *dataset.encounter_cols}
    if require_identity:
        required.add(dataset.label_col)
    if split:
        required.add(split)
    if dataset.viewpoint_col:
        required.add(dataset.viewpoint_col)
    boxes_named = dataset.bbox_cols != DatasetConfig().bbox_cols
    if boxes_named:
        required.update(dataset.bbox_cols)
    elif dataset.mask_col is not None and dataset.crop != "box" and dataset.needs_region:
        required.add(dataset.mask_col)
    return Columns(
        path=dataset.path_col,
        identity=dataset.label_col,
        split=split,
        mask=dataset.mask_col,
        bbox=dataset.bbox_cols,
        bbox_format=dataset.bbox_format,
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
    ids, share = rows["image_id"].tolist(), dataset.test_fraction
    if dataset.make_split == "time_aware":
        dates = rows["date"].to_numpy()
        split = time_aware_split(identities, encounters, dates, test_fraction=share, image_ids=ids)
    else:
        draw = closed_set_split if dataset.make_split == "closed_set" else identity_disjoint_split
        split = draw(identities, encounters, seed=config.seed, test_fraction=share, image_ids=ids)
    return ImageTable(rows.assign(split=split), table.original, table.root, table.source)


def output_root(config: AnyConfig) -> Path:
    """``output.root`` as a local path; of a URL, its local copy (see `exreid.storage.mirror`)."""
    return mirror.local_root(config.output.root)


def cache_folder(config: AnyConfig) -> Path:
    """The folder of the cache, which runs share."""
    cache = config.benchmark.cache if isinstance(config, ProbeConfig) else "auto"
    return (
        output_root(config) / ".exreid_cache"
        if cache == "auto"
        else mirror.local_root(cache, key="benchmark.cache")
    )


def methods_of(config: ProbeConfig) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    """The backbones and the local features that the benchmark's method needs."""
    benchmark, fusion = config.benchmark, config.benchmark.fusion
    if benchmark.method == "wildfusion":
        names = fusion.local_features
        local = (benchmark.local_features,) if names is None else names
        return (config.model, *fusion.models), local
    local = () if benchmark.is_global else (benchmark.local_features,)
    return (config.model,) if benchmark.is_global or has_global_shortlist(config) else (), local


def has_global_shortlist(config: ProbeConfig) -> bool:
    """Whether a backbone chooses the pairs that are matched, alone or with the index."""
    benchmark = config.benchmark
    matches = benchmark.method in ("local_lightglue", "wildfusion")
    return matches and benchmark.candidate_k is not None and benchmark.shortlist != "local"


def with_local(config: ProbeConfig, name: str) -> ProbeConfig:
    """The config of one local method."""
    benchmark = config.benchmark.model_copy(update={"local_features": name})
    return config.model_copy(update={"benchmark": benchmark})
