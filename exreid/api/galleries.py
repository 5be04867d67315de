"""Galleries from Python: built, opened, and used to identify."""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from exreid.api.photographs import Images, PathLike, as_list, on_disk
from exreid.api.settings import Keys, as_cells, overrides_of, run_folders, table_overrides
from exreid.api.watching import progress_here
from exreid.config.io import with_overrides
from exreid.config.probe import ProbeConfig, gallery_config
from exreid.errors import ImageError, MetadataError
from exreid.progress import counted

if TYPE_CHECKING:
    from exreid.gallery.folder import StoredGallery


class Gallery:
    """Known animals in a folder, made by ``exreid gallery build`` or `Gallery.build`."""

    def __init__(self, stored: StoredGallery) -> None:
        self._stored = stored

    @classmethod
    def open(cls, folder: PathLike) -> Gallery:
        """The gallery in this folder; GalleryError for a damaged one and for any other folder."""
        from exreid.gallery.opening import open_gallery

        return cls(open_gallery(Path(folder)))

    @classmethod
    def build(
        cls,
        folder: PathLike,
        config: PathLike | None = None,
        keys: Keys | None = None,
        *,
        table: pd.DataFrame | None = None,
        preset: str | None = None,
        split: str | None = None,
        cache: PathLike | None = None,
    ) -> Gallery:
        """Make a gallery in ``folder`` of a data set's photographs, as ``exreid gallery build``
        does: ``Gallery.build("g", keys={"dataset.root": "lynx"}, preset="quick")``. An existing
        gallery is replaced once the new one is complete. The arguments are those of `exreid.probe`;
        with ``split``, only photographs of that split are taken."""
        from exreid.runs.gallery_build import build_gallery

        with run_folders(None, cache) as where:
            given = table_overrides(table, ProbeConfig, config, keys, where)
            overrides = [*overrides_of(keys), *given, *where.overrides]
            settings = gallery_config(config, overrides, preset)
            build_gallery(settings, Path(folder), split=split, progress=progress_here())
        return cls.open(folder)

    @property
    def quality(self) -> str:
        """How well it tells its animals apart, in words."""
        from exreid.explain.answer_words import quality_words

        quality = self._stored.quality
        if quality is None:
            return "Verdict: unknown. It decides nothing, or an earlier version made it."
        return " ".join(quality_words(quality, self._stored.config))

    @property
    def animals(self) -> list[str]:
        """The names of its animals, sorted."""
        return sorted(set(self._stored.table.rows["identity"]))

    def __repr__(self) -> str:
        return f"Gallery({self._stored.folder}: {counted(len(self), 'photograph')})"

    def _repr_html_(self) -> str:
        photographs = counted(len(self), "photograph")
        text = f"{photographs} of {counted(len(self.animals), 'animal')}. {self.quality}"
        return f"<p><b>{escape(str(self._stored.folder))}</b>: {escape(text)}</p>"

    def __len__(self) -> int:
        """The number of photographs."""
        return len(self._stored)

    def identify(
        self,
        photos: Images | pd.DataFrame,
        *,
        output_dir: PathLike | None = None,
        cache: PathLike | None = None,
    ) -> pd.DataFrame:
        """Which animals are on these photographs?

        ``photos`` are files, or folders of them; or arrays (H, W, 3) and images of Pillow's, which
        are called ``image_0.png`` and so on by their place in the list; or a DataFrame with the
        photographs' paths and, if they are known, other columns of the gallery's own table: masks,
        boxes, encounters, dates, viewpoints.

        Returns a row for each photograph (for each animal, if a table has several of one
        photograph), with the columns of the command's ``identifications.csv``. It runs in this
        process, without Ray. Unreadable photographs have a row with the reason.
        """
        from exreid.gallery.photo_table import PhotoOptions
        from exreid.runs.identify import IDENTIFY_KEYS, run_identify

        with run_folders(output_dir, cache) as where:
            metadata = None
            if isinstance(photos, pd.DataFrame):
                paths, metadata = self._described(photos, where.scratch)
            else:
                paths = on_disk(as_list(photos), where.scratch / "images")
            if not paths:
                raise ImageError("no photograph was given.")
            overrides = ["ray.num_actors=0", "benchmark.keep_matches=0", *where.overrides]
            config = with_overrides(self._stored.config, overrides, IDENTIFY_KEYS)
            dataset = config.dataset.model_copy(update={"on_error": "skip"})
            config = config.model_copy(update={"dataset": dataset})
            options, progress = PhotoOptions(metadata), progress_here()
            _, answers = run_identify(paths, self._stored, config, options, progress=progress)
        return pd.DataFrame([photo.row() for photo in answers.photos])

    def _described(self, table: pd.DataFrame, scratch: Path) -> tuple[list[Path], Path]:
        """The photographs that the table names, and a file of the table with paths relative to
        their common folder. If it has no encounter column, all encounters are unknown."""
        from exreid.data.photos import find_photos

        dataset, frame = self._stored.config.dataset, as_cells(table)
        if dataset.path_col not in frame and "path" in frame:
            frame = frame.rename(columns={"path": dataset.path_col})
        if dataset.path_col not in frame or frame[dataset.path_col].isna().any():
            raise MetadataError(
                f"the table of photographs: each row needs a path, in the column "
                f"{dataset.path_col!r}. It has {', '.join(frame.columns)}."
            )
        if not set(dataset.encounter_cols) & set(frame.columns):
            frame = frame.assign(**dict.fromkeys(dataset.encounter_cols, None))
        named: Iterable[str] = frame[dataset.path_col]
        absolute = [os.path.abspath(os.path.expanduser(path)) for path in named]  # noqa: PTH100, PTH111
        paths = [Path(path) for path in dict.fromkeys(absolute)]
        root = find_photos(paths).root
        frame[dataset.path_col] = [os.path.relpath(path, root) for path in absolute]
        file = scratch / "table.parquet"
        frame.to_parquet(file, index=False)
        return paths, file
