"""Tables read and methods measured from Python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from exreid.api.photographs import PathLike
from exreid.api.settings import Keys, overrides_of, run_folders, table_overrides
from exreid.api.watching import progress_here, result_html, result_text
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import RunError
from exreid.records import Embeddings, Result
from exreid.storage.urls import is_remote, join

if TYPE_CHECKING:
    from exreid.pipeline.embed import Features

IMAGE_COLUMNS = [
    *("image_id", "path", "identity", "split", "encounter", "date", "viewpoint", "bbox", "mask")
]


@dataclass(frozen=True, repr=False)
class Probe:
    """The result of a probe."""

    result: Result
    """``metrics`` (fractions), ``intervals`` (the ends of the 95% intervals), ``counts``."""
    rankings: pd.DataFrame
    """A row for each of a query's best candidates (``benchmark.keep_candidates`` of them):
    ``query_id``, ``rank`` (from 1), ``gallery_id``, ``score`` (float32), ``is_match`` (bool)."""
    folder: Path | None
    """The run's folder if ``output_dir`` was named; None if it was temporary."""
    embeddings: Embeddings | None = None
    """``image_ids``, and ``vectors_ND`` (float32, not normalised) of all queries and gallery images
    in the table's order; None if the method uses no backbone."""

    def report(self, out: PathLike | None = None) -> Path:
        """Write the report's pages into ``report/`` of the run's folder or into ``out``. Returns
        the first page. RunError if the run's folder was temporary."""
        from exreid.runs.report import write_report

        if self.folder is None:
            raise RunError("a report needs the run's folder: name output_dir when you probe.")
        return write_report(self.folder, None if out is None else Path(out))

    def __repr__(self) -> str:
        return result_text("Probe", self.result)

    def _repr_html_(self) -> str:
        return result_html(self.result)


def probe(
    config: PathLike | None = None,
    keys: Keys | None = None,
    *,
    table: pd.DataFrame | None = None,
    preset: str | None = None,
    output_dir: PathLike | None = None,
    cache: PathLike | None = None,
) -> Probe:
    """Measure retrieval on a data set, as ``exreid probe`` does.

    ``config`` is a YAML file. ``keys`` are dotted keys and their values, which override the file:
    ``probe(keys={"dataset.root": "lynx", "benchmark.method": "cosine"})``. ``preset`` is ``quick``,
    ``accurate`` or ``published``; both override it. ``table`` is the data set's table instead of a
    file: a row for each image, with the columns that ``dataset.*_col`` name, or those of
    `load_images` (``path, identity, split, encounter, ...``); in messages, line 2 is its first row.
    The run's folder is kept under ``output_dir``, features in ``cache``; without them both are
    temporary. Raises ConfigError, MetadataError or another ExreidError, with the command's message.
    """
    from exreid.runs.probe import run_probe

    with run_folders(output_dir, cache) as where:
        given = table_overrides(table, ProbeConfig, config, keys, where)
        overrides = [*overrides_of(keys), *given, *where.overrides]
        settings = load_config(ProbeConfig, config, overrides, preset=preset)
        made: list[Features] = []
        folder, result = run_probe(settings, progress=progress_here(), on_features=made.append)
        rankings = pd.read_parquet(folder / "rankings.parquet")
    embeddings = None
    if made[0].vectors:
        embeddings = Embeddings(tuple(made[0].table.rows["image_id"]), made[0].vectors[0])
    return Probe(result, rankings, None if output_dir is None else folder, embeddings)


def load_images(
    config: PathLike | None = None,
    keys: Keys | None = None,
    *,
    table: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The data set's images as a probe reads them: checked, with absolute paths.

    A row for each image (an animal in a photograph), with the columns ``image_id, path, identity,
    split, encounter, date, viewpoint, bbox, mask`` (None where unknown), whatever the data set
    calls them. `probe`, `finetune` and `Gallery.build` take such a table. The arguments are those
    of `probe`. With ``dataset.on_error=skip`` bad rows are left out and listed in
    ``.attrs["rejected"]``; otherwise they are a MetadataError.
    """
    from exreid.pipeline.inputs import read_images, settled

    with run_folders(None, None) as where:
        given = table_overrides(table, ProbeConfig, config, keys, where)
        settings = settled(load_config(ProbeConfig, config, [*overrides_of(keys), *given]))
        with_split = settings.dataset.make_split is not None or _has_split(settings)
        images, rejected = read_images(settings, with_split=with_split, require_identity=False)
    root = images.root
    root = root if is_remote(root) else os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111
    frame = images.rows[IMAGE_COLUMNS].copy()
    frame["path"] = [join(root, path) for path in frame["path"]]
    frame.attrs["rejected"] = [f"{image.path}: {image.reason}" for image in rejected]
    return frame


def _has_split(config: ProbeConfig) -> bool:
    """Whether the table has the column of splits."""
    from exreid.data.imports.direct import read_or_import
    from exreid.pipeline.inputs import table_columns

    dataset = config.dataset
    columns = table_columns(dataset, with_split=False, require_identity=False)
    file, _ = read_or_import(
        dataset.root, dataset.metadata_file, columns, require_identity=False, skip=True
    )
    return dataset.split_col in file.cells.columns
