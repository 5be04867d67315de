"""Changing a gallery: photographs that come and go, and animals that get another name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import line_text, select_split
from exreid.data.metadata_cells import similar_notes
from exreid.errors import GalleryError
from exreid.features.extraction import content_hashes
from exreid.gallery.edits import Edit, names_taken_away, now
from exreid.gallery.folder import StoredGallery
from exreid.gallery.images_table import join_tables
from exreid.gallery.removed import after_names, removed_from
from exreid.models.published import downloads
from exreid.pipeline.inputs import cache_folder, read_images
from exreid.progress import Progress, RunLog, counted, no_progress
from exreid.records import ImageTable
from exreid.review.decisions import Action, user_name
from exreid.runs.gallery_build import Built, make_gallery, shown_clashes
from exreid.storage.feature_store import SignatureMemo

log = logging.getLogger(__name__)

NewNames = Mapping[str, str]
"""By ``image_id``: the name of the animal."""

ADD_KEYS = (
    *("dataset.root", "dataset.metadata_file", "dataset.path_col", "dataset.label_col"),
    *("dataset.split_col", "dataset.mask_col", "dataset.encounter_cols", "dataset.viewpoint_col"),
    *("dataset.bbox_cols", "dataset.bbox_format"),
    *("dataset.date_col", "dataset.unknown_identities", "dataset.missing_values"),
    *("dataset.on_error", "output.", "ray.", "benchmark.cache"),
)
"""What may be said anew of photographs that are added; all else is the gallery's."""


def add_to_gallery(
    gallery: StoredGallery,
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
    new, already = unknown_images(gallery, table, config)
    px = int(gallery.manifest["thumbnails_px"])
    if len(new) == 0 and not gallery.is_earlier:
        return Built(gallery, 0, already, 0, 0, rejected, {})
    joined = join_tables(gallery.table, new)
    for note in similar_notes([("the gallery and the table", joined.rows["identity"].tolist())]):
        if config.safety == "strict":
            raise GalleryError(f"safety=strict stops here: {note}.")
        log.warning("%s.", note)
    with downloads(allowed=download):
        return make_gallery(
            config,
            joined,
            rejected,
            out=gallery.folder,
            old=gallery,
            already=already,
            thumbnail_px=px,
            log=RunLog(progress, verbose),
            edits=gallery.edits,
            removed=removed_from(gallery),
        )


def edit_gallery(
    gallery: StoredGallery,
    config: ProbeConfig,
    edit: Edit,
    new: ImageTable | None = None,
    *,
    download: bool = False,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> Built:
    """The gallery after an edit: other names for some photographs, photographs without a name taken
    out, removed ones with a name put back, and the ``new`` ones put in; ``config`` is its own, with
    where the work runs.

    No feature of its photographs is made again, and no pair matched twice. What is fitted is fitted
    again.
    """
    old, removed = after_names(gallery, edit.after, keep=edit.action == "remove")
    rows = old.table.rows
    names = zip(rows["image_id"], rows["identity"], strict=True)
    after = [edit.after.get(image, name) for image, name in names]
    table = replace(
        old.table, rows=rows.assign(identity=pd.Series(after, index=rows.index, dtype=object))
    )
    with downloads(allowed=download):
        return make_gallery(
            config,
            table if new is None else join_tables(table, new),
            [],
            out=gallery.folder,
            old=old,
            already=len(old),
            thumbnail_px=int(gallery.manifest["thumbnails_px"]),
            log=RunLog(progress, verbose),
            edits=[*gallery.edits, edit],
            removed=removed,
        )


def edit_of(gallery: StoredGallery, action: Action | Literal["undo"], names: NewNames) -> Edit:
    """The edit that gives these names, by ``image_id``, now and by this machine's user."""
    rows = gallery.table.rows
    held = dict(zip(rows["image_id"], rows["identity"], strict=True))
    before = {image: held.get(image, "") for image in names}
    return Edit(action, before, dict(names), user_name(), now())


def stored_places(
    gallery: StoredGallery, table: ImageTable, config: ProbeConfig
) -> list[int | None]:
    """Where the gallery has each image already, by its content and region."""
    memo = SignatureMemo(cache_folder(config) / "signatures")
    contents = content_hashes(table, memo)
    return [gallery.place_of(*key) for key in zip(contents, table.regions, strict=True)]


def unknown_images(
    gallery: StoredGallery, table: ImageTable, config: ProbeConfig
) -> tuple[ImageTable, int]:
    """The images that the gallery does not hold, and how many it does. Those that were removed from
    it stay out, with a warning."""
    old, removed = gallery.table.rows, removed_from(gallery)
    if removed is not None:
        table = _without_removed(gallery, removed.photos, table, config)
    known_ids, ids = set(old["image_id"]), table.rows["image_id"].tolist()
    if removed is not None:
        known_ids |= set(removed.photos.table.rows["image_id"])
    taken_away = names_taken_away(gallery.edits, gallery.table)
    new, clashes = [], []
    for i, place in enumerate(stored_places(gallery, table, config)):
        row = table.rows.iloc[i]
        if row["identity"] in taken_away:
            name, day = taken_away[row["identity"]]
            clashes.append(
                f"{line_text(row['row'])}{row['path']} shows {row['identity']}, which the gallery "
                f"has called {name} since {day}"
            )
        elif place is not None:
            kept = old.iloc[place]
            if kept["identity"] != row["identity"]:
                clashes.append(
                    f"{line_text(row['row'])}{row['path']} shows {row['identity']}; in the gallery "
                    f"the same photograph is {kept['image_id']} and shows {kept['identity']}"
                )
        elif row["image_id"] in known_ids and row["image_id"] == row["path"]:
            ids[i] = _id_with_folder(row["path"], table.root, known_ids.union(ids))
            new.append(i)
        elif row["image_id"] in known_ids:
            clashes.append(
                f"{line_text(row['row'])}the gallery has, or had, another photograph called "
                f"{row['image_id']}"
            )
        else:
            new.append(i)
    if clashes:
        raise GalleryError(
            f"{table.source}: {len(clashes)} of its photographs contradict {gallery.folder}:\n"
            f"{shown_clashes(clashes)}\nCorrect the table, or build the gallery again from one "
            "table."
        )
    table = replace(table, rows=table.rows.assign(image_id=pd.Series(ids, dtype=object)))
    return table.take(np.array(new, np.int64)), len(table) - len(new)


def _without_removed(
    gallery: StoredGallery, removed: StoredGallery, table: ImageTable, config: ProbeConfig
) -> ImageTable:
    """The images that were not removed from the gallery, or are in it again."""
    both = (stored_places(stored, table, config) for stored in (removed, gallery))
    out = [gone is not None and here is None for gone, here in zip(*both, strict=True)]
    if any(out):
        log.warning(
            "%s of %s stay out, as they were removed from the gallery, %s among them. exreid "
            "gallery undo %s takes back its last edit.",
            counted(sum(out), "photograph"),
            table.source,
            table.rows["image_id"].iloc[out.index(True)],
            gallery.folder,
        )
    return table.take(np.flatnonzero(~np.array(out, bool)))


def _id_with_folder(path: str, root: str, taken: set[str]) -> str:
    """An id of its own for a photograph whose path another card's has too: cameras call their
    files alike on every card."""
    folder = PurePosixPath(root).name or Path(root).resolve().name
    for number in count(1):
        name = f"{folder}{'' if number == 1 else f'-{number}'}/{path}"
        if name not in taken:
            return name
    raise AssertionError("count() has no end")
