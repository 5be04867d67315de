"""exreid from Python: the runs of the commands, with DataFrames instead of printed tables.

Every number is the command's. Nothing is printed, and nothing is kept unless a folder is named.
Errors are those of `exreid.errors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from exreid.config.io import load_config, with_overrides
from exreid.config.probe import ProbeConfig
from exreid.records import Result

if TYPE_CHECKING:
    from exreid.gallery.folder import Gallery as StoredGallery

PathLike = str | Path


@dataclass(frozen=True)
class Probe:
    """What a probe measured."""

    result: Result
    """Metrics (fractions), their intervals, and counts."""
    rankings: pd.DataFrame
    """``query_id, rank, gallery_id, score, is_match``: the best candidates of each query."""

    def _repr_html_(self) -> str:
        return pd.Series(self.result.metrics, name=self.result.method).to_frame().to_html()


def probe(
    config: PathLike | None = None,
    keys: dict[str, object] | None = None,
    *,
    output_dir: PathLike | None = None,
    cache: PathLike | None = None,
) -> Probe:
    """Measure retrieval on a data set, as ``exreid probe`` does.

    ``config`` is a YAML file, ``keys`` are dotted keys and their values, which go before those of
    the file: ``probe(keys={"dataset.root": "lynx", "benchmark.method": "cosine"})``. The run's
    folder is kept under ``output_dir``, features in ``cache``; without them both are temporary.
    Raises ConfigError, MetadataError or another ExreidError, as the command would print it.
    """
    from exreid.runs.probe import run_probe

    with _places(output_dir, cache) as places:
        overrides = [f"{key}={_as_typed(value)}" for key, value in (keys or {}).items()]
        folder, result = run_probe(load_config(ProbeConfig, config, [*overrides, *places]))
        return Probe(result, pd.read_parquet(folder / "rankings.parquet"))


class Gallery:
    """Known animals in a folder, made by ``exreid gallery build``."""

    def __init__(self, stored: StoredGallery) -> None:
        self._stored = stored

    @classmethod
    def open(cls, folder: PathLike) -> Gallery:
        """The gallery in this folder; GalleryError where it is none, or damaged."""
        from exreid.gallery.folder import open_gallery

        return cls(open_gallery(Path(folder)))

    def __len__(self) -> int:
        """How many photographs it has."""
        return len(self._stored)

    def identify(
        self,
        photos: PathLike | Sequence[PathLike],
        *,
        output_dir: PathLike | None = None,
        cache: PathLike | None = None,
    ) -> pd.DataFrame:
        """Which animals are on these photographs (files, or folders of them)?

        A row for each photograph, with the columns of the command's ``identifications.csv``. It
        runs in this process, without Ray. Unreadable photographs have a row that says so.
        """
        from exreid.gallery.photo_table import PhotoOptions
        from exreid.runs.identify import IDENTIFY_KEYS, run_identify

        given = [photos] if isinstance(photos, str | Path) else photos
        with _places(output_dir, cache) as places:
            overrides = ["ray.num_actors=0", "benchmark.keep_matches=0", *places]
            config = with_overrides(self._stored.config, overrides, IDENTIFY_KEYS)
            dataset = config.dataset.model_copy(update={"on_error": "skip"})
            config = config.model_copy(update={"dataset": dataset})
            _, found = run_identify(
                [Path(one) for one in given], self._stored, config, PhotoOptions()
            )
        return pd.DataFrame([photo.row() for photo in found.photos])


@contextmanager
def _places(output_dir: PathLike | None, cache: PathLike | None) -> Iterator[list[str]]:
    """Overrides that say where a run writes; what is not given is a folder that goes afterwards."""
    with TemporaryDirectory(prefix="exreid-") as folder:
        root = Path(folder) / "runs" if output_dir is None else Path(output_dir)
        kept = Path(folder) / "cache" if cache is None else Path(cache)
        yield [
            f"output.root={_as_typed(root.absolute())}",
            f"benchmark.cache={_as_typed(kept.absolute())}",
        ]


def _as_typed(value: object) -> str:
    """A value as the command line takes it: text as it is, all else as JSON."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
