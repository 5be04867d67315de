"""A set of photographs whose animals need not be known: a folder of them, or a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exreid.config.probe import ProbeConfig
from exreid.data.guess import TABLE_ENDINGS
from exreid.data.imports.animals import NAME
from exreid.data.imports.columns import roles_of
from exreid.data.metadata_table import DEFAULT_FILES, read_table
from exreid.data.photos import group_encounters
from exreid.errors import ConfigError, MetadataError
from exreid.gallery.photo_table import (
    PhotoOptions,
    apart_where_shared,
    read_photos,
    with_free_ids,
)
from exreid.pipeline.inputs import read_images, settled
from exreid.progress import Progress, no_progress, tell
from exreid.records import ImageTable, Rejected
from exreid.storage.urls import is_remote

GUESSED = {"viewpoint": "viewpoint_col", "date": "date_col", NAME: "label_col"}
"""Roles of `exreid.data.imports.columns.ROLES`, and the keys that name their column."""


@dataclass(frozen=True)
class Unknown:
    """The photographs, each with its visit as its encounter, and the others."""

    table: ImageTable
    how_N: list[str]
    """As `exreid.data.photos.PhotoEncounters` has it."""
    rejected: list[Rejected]
    others: int
    """Files in the folder that are not photographs."""


def read_unknown(
    config: ProbeConfig,
    options: PhotoOptions,
    *,
    taken: set[str],
    progress: Progress = no_progress,
) -> Unknown:
    """The photographs of ``dataset.root`` or of its table. A folder without a table is read as
    photographs of unknown animals, whatever its folders are called. ``taken``: ids that others
    have."""
    dataset = config.dataset
    if _has_no_table(config):
        _tell_of_tables(Path(dataset.root))
        photos = read_photos([Path(dataset.root)], None, config, options, progress=progress)
        table = with_free_ids(photos.table, taken)
        return Unknown(table, photos.how_N, photos.rejected, photos.others)
    if options.masks is not None:
        raise ConfigError(
            "--masks: for a folder of photographs. A table has a column for them (mask_col), "
            "which exreid import masks makes."
        )
    config = settled(_with_guessed_columns(config))
    table, rejected = read_images(config, with_split=False, require_identity=False)
    table, how_N = _with_visits(table, options)
    return Unknown(with_free_ids(table, taken), how_N, rejected, 0)


def _has_no_table(config: ProbeConfig) -> bool:
    root, file = config.dataset.root, config.dataset.metadata_file
    if file is not None or is_remote(root):
        return False
    return not any((Path(root) / name).is_file() for name in DEFAULT_FILES)


def _tell_of_tables(folder: Path) -> None:
    """Say which tables beside the photographs are not read."""
    tables = sorted(file for file in folder.glob("*") if file.suffix.lower() in TABLE_ENDINGS)
    for file in tables:
        tell(f"{file}: is not read. To group the photographs of this table, name it.")


def _with_guessed_columns(config: ProbeConfig) -> ProbeConfig:
    """The config with the table's columns that no key names, by their names."""
    dataset = config.dataset
    try:
        cells, source = read_table(dataset.root, dataset.metadata_file)
        names = [str(name) for name in cells.columns]
        roles, _ = roles_of(names, None, {})
    except MetadataError:  # another program's file, or columns that keys have to name
        return config
    update: dict[str, Any] = {
        key: roles[role]
        for role, key in GUESSED.items()
        if role in roles
        and key not in dataset.model_fields_set
        and getattr(dataset, key) != roles[role]
    }
    if "encounter" in roles and not dataset.encounter_cols:
        update["encounter_cols"] = (*["source"] * ("source" in names), roles["encounter"])
    if not update:
        return config
    told = ", ".join(
        f"dataset.{key}={value if isinstance(value, str) else list(value)}"
        for key, value in update.items()
    )
    tell(f"{source}: taken, as nothing else is said: {told}")
    return config.model_copy(update={"dataset": dataset.model_copy(update=update)})


def _with_visits(table: ImageTable, options: PhotoOptions) -> tuple[ImageTable, list[str]]:
    """The table with a name for each visit: that of its columns, or by the times of its dates."""
    dates = table.rows["date"]
    time_N = dates.where(dates != dates.dt.normalize()).to_numpy().astype("datetime64[s]")
    encounter = table.rows["encounter"]
    found = group_encounters(
        table.rows["path"].tolist(),
        time_N,
        known=encounter.where(encounter.notna(), None).tolist(),
        minutes=options.encounter_minutes,
        rule=options.visits,
    )
    names = apart_where_shared(table, found.name_N, found.how_N)
    return replace(table, rows=table.rows.assign(encounter=names)), found.how_N
