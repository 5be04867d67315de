"""Making a gallery of a data set, and adding photographs to it, told from top to bottom."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import select_split
from exreid.data.metadata_cells import similar_notes
from exreid.errors import ConfigError, GalleryError
from exreid.features.extraction import content_hashes
from exreid.gallery.folder import MANIFEST, Gallery, open_gallery
from exreid.gallery.stages import BuildStages
from exreid.gallery.swap import new_folder, put_back
from exreid.gallery.write import GalleryContent, Learned
from exreid.models.published import downloads
from exreid.pipeline.inputs import cache_folder, read_images
from exreid.progress import Progress, no_progress
from exreid.records import ImageTable, Rejected
from exreid.storage.feature_store import SignatureMemo

log = logging.getLogger(__name__)

ADD_KEYS = (
    *("dataset.root", "dataset.metadata_file", "dataset.path_col", "dataset.label_col"),
    *("dataset.split_col", "dataset.mask_col", "dataset.encounter_cols", "dataset.viewpoint_col"),
    *("dataset.date_col", "dataset.unknown_identities", "dataset.missing_values"),
    *("dataset.on_error", "output.", "ray.", "benchmark.cache"),
)
"""What may be said anew of photographs that are added; all else is the gallery's."""


@dataclass(frozen=True)
class Built:
    """How a gallery was made or added to."""

    gallery: Gallery
    added: int
    """Photographs that were not in it before."""
    already: int
    """Photographs of the data set that it held already."""
    extracted: int
    """Photographs that features were made of now, summed over the kinds of features."""
    pairs_matched: int
    """Pairs that were matched now."""
    rejected: list[Rejected]
    timings_s: dict[str, float]


def build_gallery(
    config: ProbeConfig,
    out: Path,
    *,
    split: str | None = None,
    thumbnail_px: int = 512,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> Built:
    """A gallery of all images of the data set, or of those of one split.

    A gallery that is at ``out`` already is replaced once the new one is whole.
    """
    put_back(out.expanduser().absolute())
    if out.exists() and not (out / MANIFEST).is_file():
        raise ConfigError(f"--out: {out} is there, and is no gallery. Name another folder.")
    table, rejected = read_images(config, with_split=split is not None, only_split=split)
    if split is not None:
        table = table.take(select_split(table, split, rejected))
    making = _Making(config, out, None, thumbnail_px, progress, verbose)
    return making.made(table, rejected, already=0)


def add_to_gallery(
    gallery: Gallery,
    config: ProbeConfig,
    *,
    split: str | None = None,
    download: bool = False,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> Built:
    """The gallery with the images of a data set that it does not hold; ``config`` is the gallery's
    own, with the data set's place. With ``download`` its models may come from their servers.

    Only the new images are read. What is fitted is fitted again, on all images together; their
    pairs that were matched before are not matched again.
    """
    table, rejected = read_images(config, with_split=split is not None, only_split=split)
    if split is not None:
        table = table.take(select_split(table, split, rejected))
    new, already = _unknown_images(gallery, table, config)
    px = int(gallery.manifest["thumbnails_px"])
    if len(new) == 0 and not gallery.is_earlier:
        return Built(gallery, 0, already, 0, 0, rejected, {})
    joined = join_tables(gallery.table, new)
    for note in similar_notes([("the gallery and the table", joined.rows["identity"].tolist())]):
        if config.safety == "strict":
            raise GalleryError(f"safety=strict stops here: {note}.")
        log.warning("%s.", note)
    making = _Making(config, gallery.folder, gallery, px, progress, verbose)
    with downloads(allowed=download):
        return making.made(joined, rejected, already=already)


@dataclass(frozen=True)
class _Making:
    """A gallery in the making."""

    config: ProbeConfig
    out: Path
    old: Gallery | None
    """The one that is added to: its images are the table's first."""
    thumbnail_px: int
    progress: Progress
    verbose: bool

    def made(self, table: ImageTable, rejected: list[Rejected], *, already: int) -> Built:
        """Features, fits, files."""
        config, known = self.config, 0 if self.old is None else len(self.old)
        timings_s: dict[str, float] = {}
        with new_folder(self.out, _opened_whole) as folder:
            stages = BuildStages(
                config, folder, self.progress, self.verbose, timings_s, gallery=self.old
            )
            with ExitStack() as stack:
                table = stages.extract(table, stack)
                contents = self._content(table)
                _refuse_two_animals(table, contents, config)
                _, side = stages.sides(table)
                fusion, practice = stages.learn(side, table)
                groups = practice is not None and config.benchmark.open_set.group_nearest > 0
                grouper = stages.grouper(table, fusion) if groups else None
                learned = Learned.fit(config, fusion, practice, side, grouper)
            rejected = [*rejected, *stages.rejected]
            content = GalleryContent(
                table, contents, learned, rejected, self.old, self.thumbnail_px
            )
            content.write(folder, stages, self.progress)
        looks, counts = stages.looks, stages.counts
        return Built(
            open_gallery(self.out),
            len(table) - known,
            already,
            counts.get("images_extracted", 0) + counts.get("keypoints_extracted", 0),
            sum(looks.pairs.values()) - looks.pairs_known,
            rejected,
            timings_s,
        )

    def _content(self, table: ImageTable) -> list[str]:
        memo = SignatureMemo(cache_folder(self.config) / "signatures")
        known = [] if self.old is None else self.old.content_G
        return [*known, *content_hashes(table.take(np.arange(len(known), len(table))), memo)]


def _refuse_two_animals(table: ImageTable, contents: list[str], config: ProbeConfig) -> None:
    """GalleryError where one photograph stands under two animals, and no mask tells them apart."""
    masks = config.dataset.crop_to_mask or config.dataset.no_background
    first: dict[tuple[str, str | None], int] = {}
    clashes = []
    for i, (content, mask) in enumerate(zip(contents, table.rows["mask"], strict=True)):
        before = table.rows.iloc[first.setdefault((content, mask if masks else None), i)]
        row = table.rows.iloc[i]
        if content and before["identity"] != row["identity"]:
            clashes.append(
                f"line {row['row']}: {row['image_id']} shows {row['identity']}; the same "
                f"photograph is {before['image_id']} and shows {before['identity']}"
            )
    if clashes:
        raise GalleryError(
            f"{table.source}: {len(clashes)} photographs stand under two animals:\n"
            f"{_shown_clashes(clashes)}\nDelete the wrong rows; where both animals are in the "
            "picture, cut them out, or give each a mask and set dataset.crop_to_mask=true."
        )


def _shown_clashes(clashes: list[str]) -> str:
    more = [f"  and {len(clashes) - 5} more."] if len(clashes) > 5 else []
    return "\n".join([*(f"  {clash}." for clash in clashes[:5]), *more])


def join_tables(first: ImageTable, second: ImageTable) -> ImageTable:
    """The rows of both; paths of the result are below the second one's root."""
    return ImageTable(
        pd.concat([first.rows, second.rows], ignore_index=True),
        pd.concat([first.original, second.original], ignore_index=True).astype(object),
        second.root,
        second.source,
    )


def _unknown_images(
    gallery: Gallery, table: ImageTable, config: ProbeConfig
) -> tuple[ImageTable, int]:
    """The images that the gallery does not hold, and how many it does."""
    memo = SignatureMemo(cache_folder(config) / "signatures")
    place = {content: i for i, content in enumerate(gallery.content_G)}
    old = gallery.table.rows
    ids = set(old["image_id"])
    new, clashes = [], []
    for i, content in enumerate(content_hashes(table, memo)):
        row = table.rows.iloc[i]
        if content in place:
            kept = old.iloc[place[content]]
            if kept["identity"] != row["identity"]:
                clashes.append(
                    f"line {row['row']}: {row['path']} shows {row['identity']}; in the gallery the "
                    f"same photograph is {kept['image_id']} and shows {kept['identity']}"
                )
        elif row["image_id"] in ids:
            clashes.append(
                f"line {row['row']}: the gallery has another photograph called {row['image_id']}"
            )
        else:
            new.append(i)
    if clashes:
        raise GalleryError(
            f"{table.source}: {len(clashes)} of its photographs contradict {gallery.folder}:\n"
            f"{_shown_clashes(clashes)}\nCorrect the table, or build the gallery again from one "
            "table."
        )
    return table.take(np.array(new, np.int64)), len(table) - len(new)


def _opened_whole(folder: Path) -> None:
    """GalleryError unless the gallery and all its vectors can be read."""
    gallery = open_gallery(folder)
    for file in folder.glob("global-*.npy"):
        gallery.vectors(int(file.stem.removeprefix("global-")))


def decided(config: ProbeConfig) -> ProbeConfig:
    """The config of a gallery: it decides known/new unless the user says otherwise."""
    open_set = config.benchmark.open_set
    if "enabled" in open_set.model_fields_set or open_set.enabled:
        return config
    benchmark = config.benchmark.model_copy(
        update={"open_set": open_set.model_copy(update={"enabled": True})}
    )
    return config.model_copy(update={"benchmark": benchmark})
