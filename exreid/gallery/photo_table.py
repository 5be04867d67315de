"""New photographs as a table: found, hashed, timed, with the cells of the user's table."""

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
from exreid.data.photos import EncounterRule, FoundPhotos, find_photos, group_encounters, taken_at
from exreid.errors import ImageError, MetadataError
from exreid.features.extraction import trusted_signature
from exreid.features.keys import content_hash
from exreid.gallery.folder import StoredGallery
from exreid.gallery.photo_masks import with_mask_images
from exreid.pipeline.inputs import cache_folder, table_columns
from exreid.progress import Progress, counted, no_progress, tell
from exreid.records import ImageTable, Rejected
from exreid.storage.feature_store import SignatureMemo
from exreid.storage.urls import READER_THREADS, read_bytes


@dataclass(frozen=True)
class PhotoOptions:
    """The user's data on the photographs, and how they are grouped."""

    metadata: Path | None = None
    """A table with the columns of the gallery's: paths, masks, encounters, dates, viewpoints."""
    masks: Path | None = None
    """A folder of mask images called like the photographs; see `exreid.data.mask_images`."""
    encounter_minutes: float = 10.0
    visits: EncounterRule = "auto"


@dataclass(frozen=True)
class Photos:
    """The photographs to be answered, and the others."""

    table: ImageTable
    time_N: np.ndarray
    """datetime64[s], by the camera's clock; NaT where unknown."""
    how_N: list[str]
    """How each photograph's encounter was found; see `exreid.data.photos.PhotoEncounters`."""
    in_gallery: list[tuple[str, str, str]]
    """For each photograph that the gallery has already: path, id in the gallery, and animal."""
    known: ImageTable
    """Those photographs, with their animals."""
    rejected: list[Rejected]
    others: int
    """The number of files in the folders that are not photographs."""
    given: int
    """The number of given photographs."""


def read_photos(
    given: Sequence[Path],
    gallery: StoredGallery | None,
    config: ProbeConfig,
    options: PhotoOptions,
    *,
    progress: Progress = no_progress,
) -> Photos:
    """The photographs of these paths, as a table; unreadable ones are treated by
    ``dataset.on_error``. Without a gallery none of them is known."""
    photos = _without_masks(find_photos(given), options.masks)
    rows, original, photo_N = _described(photos, config, options)
    count = len(photos.paths) + len(photos.unnamed)
    memo = SignatureMemo(cache_folder(config) / "signatures")
    seen_P = _looked_at(photos, memo, progress("Reading photographs", len(photos.paths)))
    rejected = [
        Rejected(path, path, 0, "image", str(seen))
        for path, seen in zip(photos.paths, seen_P, strict=True)
        if isinstance(seen, ImageError)
    ]
    rejected += [
        Rejected(name, name, 0, "image", "its name is not text (UTF-8). Rename it.")
        for name in photos.unnamed
    ]
    if rejected and config.dataset.on_error == "raise":
        first = rejected[0]
        raise ImageError(
            f"{photos.root}/{first.path}: {first.reason} {len(rejected)} of "
            f"{counted(count, 'photograph')} cannot be read; --on-error skip lists them "
            "and goes on."
        )
    whole = ImageTable(rows, original, photos.root, photos.root)
    known = whole.rows.iloc[:0] if gallery is None else gallery.table.rows
    regions = whole.regions
    in_gallery, index, times, known_index = [], [], [], []
    for i, photo in enumerate(photo_N):
        seen = seen_P[photo]
        if isinstance(seen, ImageError):
            continue
        place = None if gallery is None else gallery.place_of(seen.content, regions[i])
        if place is not None:
            row = known.iloc[place]
            in_gallery.append((rows["image_id"].iloc[i], row["image_id"], row["identity"]))
            known_index.append(i)
            continue
        index.append(i)
        times.append(_time_of(seen.taken, rows["date"].iloc[i]))
    table = whole.take(np.array(index, np.int64))
    time_N = np.array(times, "datetime64[s]")
    table, how = _with_encounters(table, time_N, options)
    table = with_free_ids(table, set(known["image_id"]))
    known_table = whole.take(np.array(known_index, np.int64))
    names = pd.Series([animal for *_, animal in in_gallery], dtype=object)
    known_table = replace(known_table, rows=known_table.rows.assign(identity=names))
    known_table = with_free_ids(known_table, set(known["image_id"]))
    return Photos(table, time_N, how, in_gallery, known_table, rejected, photos.others, count)


def _without_masks(photos: FoundPhotos, folder: Path | None) -> FoundPhotos:
    """The photographs without the mask images among them: those of ``folder``, or of folders that
    are recognised as folders of masks."""
    if folder is None:
        masked = without_masks(photos.root, photos.paths)
        for note in masked.notes:
            tell(f"{note}. They are not photographs; --masks FOLDER uses them.")
        paths = masked.paths
    else:
        top = os.path.relpath(folder.expanduser().absolute(), photos.root).replace(os.sep, "/")
        paths = [path for path in photos.paths if not path.startswith(f"{top}/")]
    return replace(
        photos, paths=tuple(paths), others=photos.others + len(photos.paths) - len(paths)
    )


def _time_of(taken: np.datetime64, stated: pd.Timestamp) -> np.datetime64:
    """The camera's time; without it the table's, unless that is only a day."""
    if np.isnat(taken) and not pd.isna(stated) and stated != stated.normalize():
        return np.datetime64(stated, "s")
    return taken


@dataclass(frozen=True)
class _Seen:
    content: str
    taken: np.datetime64


def _looked_at(
    photos: FoundPhotos, memo: SignatureMemo, on_progress: Callable[[int], object]
) -> list[_Seen | ImageError]:
    """Each photograph's content and time, or the error why it cannot be read."""
    new: list[tuple[str, str]] = []

    def look(path: str) -> _Seen | ImageError:
        try:
            signature = trusted_signature(photos.root, path)
            data = read_bytes(photos.root, path)
            seen = _Seen(content_hash(data), taken_at(data))
        except ImageError as error:
            return error
        finally:
            on_progress(1)
        if signature and memo.get(signature) is None:
            new.append((signature, seen.content))
        return seen

    with ThreadPoolExecutor(READER_THREADS) as pool:
        result = list(pool.map(look, photos.paths))
    memo.remember([signature for signature, _ in new], [content for _, content in new])
    return result


def _described(
    photos: FoundPhotos, config: ProbeConfig, options: PhotoOptions
) -> tuple[pd.DataFrame, pd.DataFrame, list[int]]:
    """The rows of an image table, filled from the user's table and masks, the user's other columns,
    and the index of each row's photograph: several animals of a photograph are several rows."""
    count = len(photos.paths)
    columns = ("identity", "split", "mask", "bbox", "encounter", "viewpoint")
    photo_N = list(range(count))
    rows = pd.DataFrame({name: pd.Series([None] * count, dtype=object) for name in columns})
    rows["image_id"] = rows["path"] = pd.Series(photos.paths, dtype=object)
    rows["date"] = np.full(count, "NaT", "datetime64[s]")
    rows["row"] = np.arange(1, count + 1)
    original = pd.DataFrame(index=range(count))
    if options.metadata is not None:
        rows, original, photo_N = _from_metadata(photos, rows, config, options.metadata)
    if options.masks is not None:
        rows, source = with_mask_images(rows, photo_N, photos, options.masks)
        original = original.iloc[source].reset_index(drop=True)
        photo_N = [photo_N[i] for i in source]
    return rows, original, photo_N


def _from_metadata(
    photos: FoundPhotos, rows: pd.DataFrame, config: ProbeConfig, file: Path
) -> tuple[pd.DataFrame, pd.DataFrame, list[int]]:
    """Paths in the table are relative to its folder, or to the folder of the photographs."""
    file = Path(os.path.abspath(file.expanduser()))  # noqa: PTH100
    columns = replace(table_columns(config.dataset, with_split=False, require_identity=False))
    columns = replace(columns, required=frozenset({columns.path}))
    stated, _ = read_image_table(
        str(file.parent),
        metadata_file=str(file),
        columns=columns,
        unknown_identities=config.dataset.unknown_identities,
        check_files=False,
        require_identity=False,
    )
    # Disks and tables may write one name in two Unicode forms.
    by_path: dict[str, list[int]] = {}
    for folder in dict.fromkeys((str(file.parent), photos.root)):
        by_folder: dict[str, list[int]] = {}
        for i, path in enumerate(stated.rows["path"]):
            by_folder.setdefault(_place(folder, path), []).append(i)
        by_path = by_folder | by_path
    row_of: list[int] = []
    photo_N: list[int] = []
    for photo, path in enumerate(photos.paths):
        places = by_path.get(_place(photos.root, path), [-1])
        row_of += places
        photo_N += [photo] * len(places)
    if all(place < 0 for place in row_of):
        raise MetadataError(
            f"{file}: names none of the {len(row_of)} photographs in {photos.root}. Its "
            f"{columns.path} column should be relative to its own folder, or to that one."
        )
    rows = rows.iloc[photo_N].reset_index(drop=True)
    count_P = np.bincount(photo_N, minlength=len(photos.paths))
    for i, place in enumerate(row_of):
        if place < 0:
            continue
        for name in ("mask", "bbox", "encounter", "viewpoint", "date"):
            rows.loc[i, name] = stated.rows[name].iloc[place]
        if count_P[photo_N[i]] > 1:
            number = stated.rows["image_id"].iloc[place].rpartition("#")[2]
            rows.loc[i, "image_id"] = f"{rows['path'].iloc[i]}#{number}"
    index = np.array(row_of)
    original = stated.original.iloc[np.maximum(index, 0)].reset_index(drop=True)
    original = original.drop(columns=[config.dataset.label_col], errors="ignore").astype(object)
    original.loc[index < 0, :] = None
    return rows, original, photo_N


def _place(folder: str | Path, path: str) -> str:
    return unicodedata.normalize("NFC", os.path.join(folder, path))  # noqa: PTH118


def _with_encounters(
    table: ImageTable, time_N: np.ndarray, options: PhotoOptions
) -> tuple[ImageTable, list[str]]:
    encounters = group_encounters(
        table.rows["path"].tolist(),
        time_N,
        known=table.rows["encounter"].tolist(),
        minutes=options.encounter_minutes,
        rule=options.visits,
    )
    names = apart_where_shared(table, encounters.name_N, encounters.how_N)
    dates = table.rows["date"]
    rows = table.rows.assign(encounter=names, date=dates.where(dates.notna(), time_N))
    return replace(table, rows=rows), encounters.how_N


def apart_where_shared(
    table: ImageTable, names: Sequence[str | None], how_N: Sequence[str]
) -> pd.Series[str]:
    """The encounters' names, where one of several animals is divided: each of their images is one
    encounter. ``how_N`` as `group_encounters` says it."""
    name_N = pd.Series(list(names), dtype=object)
    several = table.rows["path"].duplicated(keep=False) & name_N.notna()
    shared = name_N.isin(set(name_N[several]))
    ids = table.rows["image_id"].tolist()
    alone = [  # a table's encounters are joined texts, each with its length
        f"{name}|{len(image_id)}:{image_id}" if source == "table" else f"{name} {image_id}"
        for name, image_id, source in zip(name_N, ids, how_N, strict=True)
    ]
    return name_N.where(~shared, alone)


def with_free_ids(table: ImageTable, taken: set[str]) -> ImageTable:
    """The table with ids that are not ``taken`` by a gallery's photographs."""
    ids = [name if name not in taken else f"new:{name}" for name in table.rows["image_id"]]
    return replace(table, rows=table.rows.assign(image_id=pd.Series(ids, dtype=object)))
