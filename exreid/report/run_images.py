"""The images of a run, with their metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from exreid.config.dataset import DatasetConfig
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import read_image_table
from exreid.errors import MetadataError, RunError
from exreid.pipeline.inputs import table_columns
from exreid.progress import counted
from exreid.records import ImageTable
from exreid.storage.run_files import IN_GALLERY, PHOTOS, read_run_table

SITE_COLUMNS = ("site", "trap_id", "station", "camera", "location", "cell_code", "place")
"""Names of a column with the place, the likeliest first."""
APART = ("site", "station", "location", "place")
"""Those of which two values are two places: cameras come in pairs, and cells of a grid adjoin."""
TOLD_COLUMNS = (
    *("image_id", "root", "path", "mask", "bbox", "identity", "date", "encounter", "visit"),
    "viewpoint",
)


@dataclass(frozen=True)
class RunImages:
    """One entry per image; queries first, then those of the gallery that are not queries."""

    rows: pd.DataFrame
    """Columns of `TOLD_COLUMNS` and ``site``: text, or None where unknown."""
    details: pd.DataFrame
    """Every other column of the metadata, unchanged."""
    site_column: str | None
    gallery: pd.DataFrame
    """``image_id``, ``identity``, ``encounter``, ``date`` of every gallery image, shown or not."""

    @cached_property
    def place_of(self) -> dict[str, int]:
        """The row of each image, by its id."""
        return {image_id: i for i, image_id in enumerate(self.rows["image_id"])}

    def text(self, image: int, column: str) -> str | None:
        """A cell of ``rows``."""
        cell: str | None = self.rows[column].to_numpy(dtype=object)[image]
        return cell

    @cached_property
    def gallery_images(self) -> dict[str, int]:
        """The number of gallery images by identity; an identity without a known number is left
        out."""
        if "gallery_images" in self.gallery:
            known = self.gallery.dropna(subset=["identity", "gallery_images"])
            columns = known["identity"], known["gallery_images"]
            return {str(name): int(count) for name, count in zip(*columns, strict=True)}
        return {str(k): int(n) for k, n in self.gallery["identity"].value_counts().items()}

    def excluded(self, identity: str, image_id: str, encounter: str | None) -> int:
        """How many gallery images of an identity may not answer this query: its own, and with
        ``encounter`` those of that encounter."""
        rows = self._gallery_of.get(identity, ())
        return sum(
            other_id == image_id or (encounter is not None and other == encounter)
            for other_id, other in rows
        )

    @cached_property
    def _gallery_of(self) -> dict[str, list[tuple[str, str | None]]]:
        images: dict[str, list[tuple[str, str | None]]] = {}
        columns = (self.gallery[name] for name in ("identity", "image_id", "encounter"))
        for identity, image_id, encounter in zip(*columns, strict=True):
            if identity is not None:
                images.setdefault(str(identity), []).append((image_id, encounter))
        return images


def read_run_images(
    folder: Path,
    config: ProbeConfig | None,
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    *,
    root: str | None = None,
    gallery_root: str | None = None,
    site: str | None = None,
    table: ImageTable | None = None,
) -> RunImages:
    """The images from ``photos.parquet``, or from the data set that the config names. ``root`` and
    ``gallery_root`` are where they have moved: those of an identification's gallery have a folder
    besides that of the queries.

    RunError where neither exists, with the path and the remedy.
    """
    wanted = list(dict.fromkeys([*query_ids, *gallery_ids]))
    file = folder / "photos.parquet"
    if file.exists():
        whole = read_run_table(file, PHOTOS).to_pandas().astype(object)
        whole = whole.where(whole.notna(), None)
        if "side" in whole:
            whole = whole[whole["side"] != IN_GALLERY].reset_index(drop=True)
        of_gallery = whole.get("side", pd.Series("query", whole.index)) == "gallery"
        if root is not None:
            whole.loc[~of_gallery, "root"] = root
        if gallery_root is not None:
            whole.loc[of_gallery & whole["path"].notna(), "root"] = gallery_root
        used = {"side", "gallery_images"}
    elif gallery_root is not None:
        raise RunError(f"{folder}: --gallery is for identifications; this run needs --root alone.")
    elif config is not None:
        if table is None:
            table = read_run_metadata(folder, config.dataset, root)
        whole, used = _from_table(table, config.dataset)
    else:
        raise RunError(f"{folder}: neither photos.parquet nor a probe's config.snapshot.yaml.")
    for name in TOLD_COLUMNS:
        if name not in whole:
            whole[name] = whole["encounter"] if name == "visit" else None
    place = pd.Index(whole["image_id"]).get_indexer(wanted)
    if (place < 0).any():
        lost = [name for name, i in zip(wanted, place, strict=True) if i < 0]
        raise RunError(
            f"{folder}: missing in {_where(whole)}: {counted(len(lost), 'photograph')} of this "
            f"run, such as {lost[0]!r}. Give the data set that the run was made on with "
            "--root FOLDER."
        )
    gallery = _gallery(whole, folder, config)
    whole = whole.iloc[place].reset_index(drop=True)
    column = site_column(whole, site)
    rows = whole[list(TOLD_COLUMNS)].copy()
    rows["site"] = whole[column] if column else None
    for name in rows.columns:
        cells = [None if _empty(cell) else str(cell) for cell in rows[name]]
        rows[name] = pd.Series(cells, dtype=object)
    hidden = {*TOLD_COLUMNS, "split", *used, *([column] if column else [])}
    details = whole[[name for name in whole.columns if name not in hidden]]
    return RunImages(rows, details, column, gallery)


def _gallery(whole: pd.DataFrame, folder: Path, config: ProbeConfig | None) -> pd.DataFrame:
    """The rows of the gallery: by the split, or by that which the run made."""
    columns = ["image_id", "identity", "encounter", "date"]
    if "split" not in whole or config is None:
        if "gallery_images" not in whole:
            whole = whole.assign(gallery_images=None)
        return whole[whole["identity"].notna()][[*columns, "gallery_images"]].reset_index(drop=True)
    split = whole["split"]
    made = folder / "split.csv"
    if config.dataset.make_split is not None and made.exists():
        table = pd.read_csv(made, dtype=str, keep_default_na=False)
        split = whole["image_id"].map(dict(zip(table["image_id"], table["split"], strict=True)))
    chosen = whole[split == config.dataset.database_split_value]
    return chosen[columns].reset_index(drop=True)


def read_run_metadata(folder: Path, dataset: DatasetConfig, root: str | None) -> ImageTable:
    """The data set that a run was made on, below ``root`` where it has moved; RunError."""
    place = dataset.root if root is None else root
    try:
        table, _ = read_image_table(
            place,
            metadata_file=dataset.metadata_file,
            columns=table_columns(dataset),
            unknown_identities=dataset.unknown_identities,
            on_error="skip",
            check_files=False,
        )
    except MetadataError as error:
        raise RunError(
            f"{folder}: its data set was {dataset.root}, which cannot be read"
            f"{' from ' + place if root else ''} ({error}) "
            "If the data set has moved, give its folder with --root FOLDER."
        ) from error
    return table


def _from_table(table: ImageTable, dataset: DatasetConfig) -> tuple[pd.DataFrame, set[str]]:
    """The table's rows with the original columns beside them, and those shown by role."""
    columns = table_columns(dataset)
    roles = {
        *(columns.path, columns.identity, columns.mask, columns.viewpoint, columns.date),
        *columns.encounter,
        *columns.bbox,
    }
    used = {name for name in roles if name}
    rows = table.rows
    dates = rows["date"].dt.strftime("%Y-%m-%d").astype(object)
    whole = table.original.copy()
    renamed = {name: f"{name} (metadata)" for name in (*TOLD_COLUMNS, "split") if name in whole}
    whole = whole.rename(columns=renamed)
    used = {renamed.get(name, name) for name in used} | {renamed.get("image_id", "")}
    for name in ("image_id", "path", "identity", "mask", "bbox", "encounter", "viewpoint"):
        whole[name] = rows[name]
    whole["split"] = rows["split"]
    cells = [table.original[name].fillna("?") for name in columns.encounter]
    visits = [" / ".join(parts) for parts in zip(*cells, strict=True)] if cells else None
    whole["visit"] = visits
    whole["date"] = dates.where(rows["date"].notna(), None)
    whole["root"] = table.root
    return whole, used


def site_column(whole: pd.DataFrame, site: str | None) -> str | None:
    """``site``, or the likeliest of a table's columns with the place; RunError where it has no
    such column."""
    if site is not None:
        if site not in whole:
            raise RunError(
                f"no column {site!r} to take the site from; there are "
                f"{', '.join(map(str, whole.columns))}."
            )
        return site
    return column_named(whole, SITE_COLUMNS)


def column_named(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The first of these names that a column has, in any case of its letters, as it has it."""
    lowered = {str(name).lower(): str(name) for name in reversed(list(table.columns))}
    return next((lowered[name] for name in names if name in lowered), None)


def _where(whole: pd.DataFrame) -> str:
    return str(whole["root"].iloc[0]) if len(whole) else "an empty table"


def _empty(cell: object) -> bool:
    return cell is None or cell == "" or cell != cell  # noqa: PLR0124 - NaN
