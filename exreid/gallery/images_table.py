"""``images.parquet``: a row per photograph, in the gallery's order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from exreid.data.metadata import normalised_path
from exreid.errors import GalleryError
from exreid.gallery.layout import DAMAGED
from exreid.records import TABLE_COLUMNS, ImageTable

ORIGINAL = "original:"
"""Prefix of the metadata's columns in images.parquet."""
CONTENT = re.compile(r"[0-9a-f]{32}")


def images_table(
    table: ImageTable,
    content_G: list[str],
    small_masks: list[str | None],
    mask_col: str | None,
) -> pa.Table:
    """``images.parquet``; the names of the metadata's columns begin with `ORIGINAL`."""
    rows = table.rows.assign(content=content_G, small_mask=pd.Series(small_masks, dtype=object))
    if rows["bbox"].isna().all():  # as in versions without boxes
        rows = rows.drop(columns="bbox")
    original = table.original.drop(columns=[mask_col] if mask_col in table.original else [])
    named = original.astype(object).add_prefix(ORIGINAL)
    frame = pd.concat([rows, named.where(named.notna(), None)], axis=1)
    return pa.Table.from_pandas(frame, preserve_index=False)


def read_images_table(file: Path) -> tuple[ImageTable, list[str], list[str | None]]:
    """What `images_table` wrote: the table, the photographs' contents, and their small masks.

    GalleryError for anything else.
    """
    try:
        frame = pq.read_table(file).to_pandas()
        frame = frame.astype({name: object for name in frame if frame[name].dtype != "M8[s]"})
        frame = frame.where(frame.notna(), None)
        frame = frame if "bbox" in frame else frame.assign(bbox=None)
        rows = frame[[*TABLE_COLUMNS]].copy()
        rows["date"] = pd.to_datetime(rows["date"]).astype("datetime64[s]")
        rows["row"] = rows["row"].astype(np.int64)
        content_G = [str(value) for value in frame["content"]]
        small_masks = frame["small_mask"].tolist()
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise GalleryError(f"{file}: not a gallery's table: {error}. {DAMAGED}") from error
    _check_rows(file, rows, content_G)
    names = [name for name in frame if name.startswith(ORIGINAL)]
    original = frame[names].rename(columns=lambda name: name.removeprefix(ORIGINAL))
    return ImageTable(rows, original, "", str(file)), content_G, small_masks


def join_tables(first: ImageTable, second: ImageTable) -> ImageTable:
    """The rows of both; paths of the result are below the second one's root."""
    return ImageTable(
        pd.concat([first.rows, second.rows], ignore_index=True),
        pd.concat([first.original, second.original], ignore_index=True).astype(object),
        second.root,
        second.source,
    )


def _check_rows(file: Path, rows: pd.DataFrame, content_G: list[str]) -> None:
    if rows["image_id"].duplicated().any() or rows["identity"].isna().any() or len(rows) == 0:
        raise GalleryError(f"{file}: ids repeat, or a photograph has no animal. {DAMAGED}")
    for path, content in zip(rows["path"], content_G, strict=True):
        try:
            safe = normalised_path(path) == path
        except ValueError:
            safe = False
        if not safe or not CONTENT.fullmatch(content):
            raise GalleryError(f"{file}: {path!r} is not a path inside a data set. {DAMAGED}")
