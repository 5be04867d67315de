"""Photographs that were taken out of a gallery, which ``exreid gallery undo`` puts back.

They answer nothing, and nothing is fitted on them, but they stay in the gallery's files: their rows
in ``removed.parquet``, with the place where each stood; their vectors after those of the others;
their local features and thumbnails beside the others'.

Letters: G gallery images, R removed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exreid.errors import GalleryError
from exreid.gallery.folder import StoredGallery
from exreid.gallery.images_table import images_table, join_tables, read_images_table
from exreid.gallery.layout import DAMAGED, REMOVED

PLACE = "place"


@dataclass(frozen=True)
class Removed:
    """Photographs that were taken out, in their order."""

    photos: StoredGallery
    place_R: np.ndarray
    """int64: where each stood in the gallery before it was taken out."""

    def as_table(self, mask_col: str | None) -> pa.Table:
        """``removed.parquet``."""
        photos = self.photos
        table = images_table(photos.table, photos.content_G, photos.small_masks, mask_col)
        return table.append_column(PLACE, pa.array(self.place_R, pa.int64()))


def removed_from(gallery: StoredGallery) -> Removed | None:
    """The photographs that were taken out of a gallery; None without any."""
    count = int(gallery.manifest.get("removed", 0))
    if count == 0:
        return None
    file = gallery.file(REMOVED)
    table, content_R, small_masks = read_images_table(file)
    try:
        place_R = pq.read_table(file, columns=[PLACE])[PLACE].to_numpy().astype(np.int64)
    except (pa.ArrowException, KeyError) as error:
        raise GalleryError(f"{file}: has no places: {error}. {DAMAGED}") from error
    if len(table) != count or len({*table.rows["image_id"], *gallery.table.rows["image_id"]}) != (
        count + len(gallery)
    ):
        raise GalleryError(f"{file}: does not go with the gallery's photographs. {DAMAGED}")
    kept_G = np.arange(count) + int(gallery.manifest["photographs"])
    parts = {"table": table, "content_G": content_R, "small_masks": small_masks, "kept_G": kept_G}
    return Removed(replace(gallery, **parts), place_R)  # type: ignore[arg-type]


def after_names(
    gallery: StoredGallery, after: Mapping[str, str], *, keep: bool
) -> tuple[StoredGallery, Removed | None]:
    """The photographs of an open gallery after an edit, each with its former name, and the removed
    ones: those with an empty name in ``after`` are taken out, and with ``keep`` stay among the
    removed ones; removed ones with a name come back to where they stood."""
    removed = removed_from(gallery)
    whole = gallery if removed is None else _together(gallery, removed.photos)
    place_R = np.zeros(0, np.int64) if removed is None else removed.place_R
    ids = whole.table.rows["image_id"].tolist()
    live, gone = range(len(gallery)), range(len(gallery), len(whole))
    order = [i for i in live if after.get(ids[i], ids[i]) != ""]
    out = [i for i in live if after.get(ids[i], ids[i]) == ""]
    back = {i: int(place_R[i - len(gallery)]) for i in gone if after.get(ids[i])}
    for i in sorted(back, key=back.__getitem__):
        order.insert(back[i], i)
    left = [i for i in gone if i not in back]
    still = [*left, *(out if keep else [])]
    place = [*place_R[[i - len(gallery) for i in left]].tolist(), *(out if keep else [])]
    kept = whole if order == [*range(len(whole))] else whole.only(np.array(order, np.int64))
    if not still:
        return kept, None
    return kept, Removed(whole.only(np.array(still, np.int64)), np.array(place, np.int64))


def _together(gallery: StoredGallery, removed: StoredGallery) -> StoredGallery:
    """All photographs of the folder."""
    return replace(
        gallery,
        table=replace(join_tables(gallery.table, removed.table), source=gallery.table.source),
        content_G=[*gallery.content_G, *removed.content_G],
        small_masks=[*gallery.small_masks, *removed.small_masks],
        kept_G=np.arange(len(gallery) + len(removed)),
    )
