"""New photographs as a table: found, hashed, timed, and laid beside what the user knows of them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.imports.folder_masks import without_masks
from exreid.data.metadata import read_image_table
from exreid.data.photos import FoundPhotos, VisitRule, find_photos, group_visits, taken_at
from exreid.errors import ImageError, MetadataError
from exreid.features.extraction import trusted_signature
from exreid.features.keys import content_hash
from exreid.gallery.folder import StoredGallery
from exreid.gallery.photo_masks import with_mask_images
from exreid.pipeline.inputs import table_columns
from exreid.progress import Progress, no_progress, tell
from exreid.records import ImageTable, Rejected
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.urls import READER_THREADS, read_bytes


@dataclass(frozen=True)
class PhotoOptions:
    """What is known of the photographs besides their pixels, and how they are grouped."""

    metadata: Path | None = None
    """A table like the gallery's own: paths, and masks, encounters, dates, viewpoints."""
    masks: Path | None = None
    """A folder of mask images called like the photographs; see `exreid.data.mask_images`."""
    encounter_minutes: float = 10.0
    visits: VisitRule = "auto"


@dataclass(frozen=True)
class Photos:
    """The photographs that are to be answered, and what became of the others."""

    table: ImageTable
    time_N: np.ndarray
    """datetime64[s], by the camera's clock; NaT where unknown."""
    how_N: list[str]
    """How each one's visit was found; see `exreid.data.photos.Visits`."""
    in_gallery: list[tuple[str, str, str]]
    """Of each photograph that the gallery holds: path, the gallery's id of it, and its animal."""
    known: ImageTable
    """Those photographs, with their animals."""
    rejected: list[Rejected]
    others: int
    """Files in the folders that are no photographs."""
    found: int
    """Photographs that were given."""


def read_photos(
    given: Sequence[Path],
    gallery: StoredGallery,
    config: ProbeConfig,
    options: PhotoOptions,
    *,
    memo: SignatureMemo,
    progress: Progress = no_progress,
) -> Photos:
    """The photographs of the paths given, as a table; unreadable ones by ``dataset.on_error``."""
    found = _without_masks(find_photos(given), options.masks)
    rows, original, photo_N = _described(found, config, options)
    count = len(found.paths) + len(found.unnamed)
    seen = _looked_at(found, memo, progress("Reading photographs", len(found.paths)))
    rejected = [
        Rejected(path, path, 0, "image", str(one))
        for path, one in zip(found.paths, seen, strict=True)
        if isinstance(one, ImageError)
    ]
    rejected += [
        Rejected(name, name, 0, "image", "its name is no text (UTF-8). Rename it.")
        for name in found.unnamed
    ]
    if rejected and config.dataset.on_error == "raise":
        first = rejected[0]
        raise ImageError(
            f"{found.root}/{first.path}: {first.reason} {len(rejected)} of {count} photographs "
            "cannot be read; --on-error skip lists them and goes on."
        )
    whole = ImageTable(rows, original, found.root, found.root)
    known, regions = gallery.table.rows, whole.regions
    in_gallery, index, times, there = [], [], [], []
    for i, photo in enumerate(photo_N):
        one = seen[photo]
        if isinstance(one, ImageError):
            continue
        place = gallery.place_of(one.content, regions[i])
        if place is not None:
            row = known.iloc[place]
            in_gallery.append((rows["image_id"].iloc[i], row["image_id"], row["identity"]))
            there.append(i)
            continue
        index.append(i)
        times.append(_time_of(one.taken, rows["date"].iloc[i]))
    table = whole.take(np.array(index, np.int64))
    time_N = np.array(times, "datetime64[s]")
    table, how = _with_visits(table, time_N, options)
    table = _with_free_ids(table, set(known["image_id"]))
    held = whole.take(np.array(there, np.int64))
    names = pd.Series([animal for *_, animal in in_gallery], dtype=object)
    held = replace(held, rows=held.rows.assign(identity=names))
    held = _with_free_ids(held, set(known["image_id"]))
    return Photos(table, time_N, how, in_gallery, held, rejected, found.others, count)


def _without_masks(found: FoundPhotos, folder: Path | None) -> FoundPhotos:
    """The photographs without the mask images among them: those of ``folder``, or of folders that
    are known as such."""
    if folder is None:
        masked = without_masks(found.root, found.paths)
        for note in masked.notes:
            tell(f"{note}. They are no photographs; --masks FOLDER uses them.")
        paths = masked.paths
    else:
        top = os.path.relpath(folder.expanduser().absolute(), found.root).replace(os.sep, "/")
        paths = [path for path in found.paths if not path.startswith(f"{top}/")]
    return replace(found, paths=tuple(paths), others=found.others + len(found.paths) - len(paths))


def _time_of(taken: np.datetime64, told: pd.Timestamp) -> np.datetime64:
    """The camera's time, else the table's where it is more than a day."""
    if np.isnat(taken) and not pd.isna(told) and told != told.normalize():
        return np.datetime64(told, "s")
    return taken


@dataclass(frozen=True)
class _Seen:
    content: str
    taken: np.datetime64


def _looked_at(
    found: FoundPhotos, memo: SignatureMemo, on_progress: Callable[[int], object]
) -> list[_Seen | ImageError]:
    """Of each photograph its content and time, or why it cannot be read."""
    new: list[tuple[str, str]] = []

    def look(path: str) -> _Seen | ImageError:
        try:
            signature = trusted_signature(found.root, path)
            data = read_bytes(found.root, path)
            seen = _Seen(content_hash(data), taken_at(data))
        except ImageError as error:
            return error
        finally:
            on_progress(1)
        if signature and memo.get(signature) is None:
            new.append((signature, seen.content))
        return seen

    with ThreadPoolExecutor(READER_THREADS) as pool:
        result = list(pool.map(look, found.paths))
    memo.remember([signature for signature, _ in new], [content for _, content in new])
    return result


def _described(
    found: FoundPhotos, config: ProbeConfig, options: PhotoOptions
) -> tuple[pd.DataFrame, pd.DataFrame, list[int]]:
    """The rows of an image table, filled with what the user's table and masks say, and the place of
    each one's photograph among those found: several animals of a photograph are several rows."""
    count = len(found.paths)
    columns = ("identity", "split", "mask", "bbox", "encounter", "viewpoint")
    photo_N = list(range(count))
    rows = pd.DataFrame({name: pd.Series([None] * count, dtype=object) for name in columns})
    rows["image_id"] = rows["path"] = pd.Series(found.paths, dtype=object)
    rows["date"] = np.full(count, "NaT", "datetime64[s]")
    rows["row"] = np.arange(1, count + 1)
    original = pd.DataFrame(index=range(count))
    if options.metadata is not None:
        rows, original, photo_N = _from_metadata(found, rows, config, options.metadata)
    if options.masks is not None:
        rows, source = with_mask_images(rows, photo_N, found, options.masks)
        original = original.iloc[source].reset_index(drop=True)
        photo_N = [photo_N[i] for i in source]
    return rows, original, photo_N


def _from_metadata(
    found: FoundPhotos, rows: pd.DataFrame, config: ProbeConfig, file: Path
) -> tuple[pd.DataFrame, pd.DataFrame, list[int]]:
    """Paths in the table are relative to its folder, or to the folder of the photographs."""
    file = Path(os.path.abspath(file.expanduser()))  # noqa: PTH100
    columns = replace(table_columns(config.dataset, with_split=False, require_identity=False))
    columns = replace(columns, required=frozenset({columns.path}))
    given, _ = read_image_table(
        str(file.parent),
        metadata_file=str(file),
        columns=columns,
        unknown_identities=config.dataset.unknown_identities,
        check_files=False,
        require_identity=False,
    )
    # Disks and tables may write one name in two Unicode forms.
    by_path: dict[str, list[int]] = {}
    for folder in dict.fromkeys((str(file.parent), found.root)):
        theirs: dict[str, list[int]] = {}
        for i, path in enumerate(given.rows["path"]):
            theirs.setdefault(_place(folder, path), []).append(i)
        by_path = theirs | by_path
    wanted: list[int] = []
    photo_N: list[int] = []
    for photo, path in enumerate(found.paths):
        places = by_path.get(_place(found.root, path), [-1])
        wanted += places
        photo_N += [photo] * len(places)
    if all(place < 0 for place in wanted):
        raise MetadataError(
            f"{file}: names none of the {len(wanted)} photographs in {found.root}. Its "
            f"{columns.path} column should be relative to its own folder, or to that one."
        )
    rows = rows.iloc[photo_N].reset_index(drop=True)
    count_P = np.bincount(photo_N, minlength=len(found.paths))
    for i, place in enumerate(wanted):
        if place < 0:
            continue
        for name in ("mask", "bbox", "encounter", "viewpoint", "date"):
            rows.loc[i, name] = given.rows[name].iloc[place]
        if count_P[photo_N[i]] > 1:
            number = given.rows["image_id"].iloc[place].rpartition("#")[2]
            rows.loc[i, "image_id"] = f"{rows['path'].iloc[i]}#{number}"
    index = np.array(wanted)
    original = given.original.iloc[np.maximum(index, 0)].reset_index(drop=True)
    original = original.drop(columns=[config.dataset.label_col], errors="ignore").astype(object)
    original.loc[index < 0, :] = None
    return rows, original, photo_N


def _place(folder: str | Path, path: str) -> str:
    return unicodedata.normalize("NFC", os.path.join(folder, path))  # noqa: PTH118


def _with_visits(
    table: ImageTable, time_N: np.ndarray, options: PhotoOptions
) -> tuple[ImageTable, list[str]]:
    visits = group_visits(
        table.rows["path"].tolist(),
        time_N,
        known=table.rows["encounter"].tolist(),
        minutes=options.encounter_minutes,
        rule=options.visits,
    )
    names = pd.Series(visits.name_N, dtype=object)
    several = table.rows["path"].duplicated(keep=False) & names.notna()
    # A visit of several animals is no animal's: each image then has one of its own.
    shared = names.isin(set(names[several]))
    ids = table.rows["image_id"].tolist()
    alone = [  # a table's visits are joined texts, each with its length
        f"{name}|{len(one)}:{one}" if told == "table" else f"{name} {one}"
        for name, one, told in zip(names, ids, visits.how_N, strict=True)
    ]
    names = names.where(~shared, alone)
    told = table.rows["date"]
    rows = table.rows.assign(encounter=names, date=told.where(told.notna(), time_N))
    return replace(table, rows=rows), visits.how_N


def _with_free_ids(table: ImageTable, taken: set[str]) -> ImageTable:
    """Ids that no gallery photograph has."""
    ids = [name if name not in taken else f"new:{name}" for name in table.rows["image_id"]]
    return replace(table, rows=table.rows.assign(image_id=pd.Series(ids, dtype=object)))
