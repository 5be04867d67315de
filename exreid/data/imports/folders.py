"""Photographs in folders that have the names of the animals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from exreid.data.imports.animals import NAME, Animal, Cells, Reading
from exreid.data.imports.folder_masks import is_mask_folder, without_masks
from exreid.data.imports.photographs import read_head
from exreid.data.photos import (
    ENCOUNTER_FOLDER,
    find_photos,
    group_encounters,
    taken_at,
    walk_photos,
)
from exreid.errors import ImageError, MetadataError
from exreid.progress import counted
from exreid.storage.urls import READER_THREADS, read_bytes

JPEG = b"\xff\xd8"
"""A JPEG has its EXIF before its pixels; other files may have it behind them."""
MINUTES = 10.0
"""Longest gap between two photographs of one encounter."""
DATE_NAME = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
"""Names of folders for a year, a month or a day inside an animal's folder."""
VIEWPOINT_FOLDERS = frozenset(("left", "right", "front", "back", "top"))
UNMATCHED_FOLDER = "unmatched"
"""The folder of photographs of unknown animals, as `exreid export` writes it."""
REMEDY = (
    "--template says which folder means what: exreid import folders DIR --template "
    "'{site}/{unique_name}/*' --out metadata.csv (also {viewpoint}, {encounter} and other columns)."
)


def has_animal_folders(root: str) -> bool:
    """Whether there are photographs in folders below this one."""
    folder = Path(root).expanduser()
    return any(
        photographs and parent != folder and not is_mask_folder(parent.name)
        for parent, photographs, _ in walk_photos(folder)
    )


def read_folders(root: str, *, template: str | None = None, minutes: float = MINUTES) -> Reading:
    """The animals of ``ANIMAL/photo.jpg`` or ``SITE/ANIMAL/photo.jpg``, also with a folder for each
    encounter, day or side (``left``, ``right``) inside an animal's; or of ``template``.

    Dates come from EXIF. Photographs of one folder with gaps of at most ``minutes`` are one
    encounter, as are those of a folder that is named like an encounter. Masks in a folder ``masks``
    are used. MetadataError if the folders differ in depth, or if no photograph is in a folder.
    """
    try:
        photos = find_photos([Path(root)])
    except ImageError as error:
        raise MetadataError(str(error)) from error
    left_out = Counter({"files that are not photographs": photos.others})
    masked = without_masks(photos.root, photos.paths)
    all_paths = masked.paths
    if template is None:
        cells_N, layout = _by_depth(all_paths)
    else:
        pattern = _pattern(template)
        matches = [pattern.fullmatch(path) for path in all_paths]
        cells_N = [dict(match.groupdict()) if match else None for match in matches]
        layout = template
    kept = [i for i, cells in enumerate(cells_N) if cells is not None]
    reason = "in no animal's folder" if template is None else "that the template does not fit"
    left_out[f"photographs {reason}"] = len(all_paths) - len(kept)
    if not kept:
        raise MetadataError(
            f"no photograph lies in a folder that names its animal, such as {all_paths[0]!r}. "
            f"{REMEDY}"
        )
    paths = [all_paths[i] for i in kept]
    time_N = read_times(photos.root, paths)
    rows = [cells_N[i] or {} for i in kept]
    known = [cells.get("encounter") for cells in rows]
    encounters = group_encounters(paths, time_N, known=known, minutes=minutes)
    animals = []
    for path, cells, time, encounter in zip(paths, rows, time_N, encounters.name_N, strict=True):
        if cells[NAME] == UNMATCHED_FOLDER:
            cells[NAME] = None
        date = None if np.isnat(time) else str(time).replace("T", " ")
        mask = masked.mask_of.get(path)
        animals.append(
            Animal(path, path, {**cells, "date": date, "encounter": encounter}, mask=mask)
        )
    alone = encounters.how_N.count("alone")
    notes = [f"folders read as {layout}", *masked.notes]
    if alone:
        notes.append(
            "without a time in the EXIF and an encounter's folder: "
            f"{counted(alone, 'photograph')}; each counts as one encounter"
        )
    return Reading("photographs in folders", animals, left_out, notes)


def _by_depth(paths: Sequence[str]) -> tuple[list[Cells | None], str]:
    """The columns that each path's folders name, None without folders; and the layout, in words."""
    cells_N: list[Cells | None] = []
    depths: dict[int, str] = {}
    for path in paths:
        folders, cells = path.split("/")[:-1], Cells()
        while folders and is_inner(folders[-1]):
            inner = folders.pop()
            if inner.lower() in VIEWPOINT_FOLDERS:
                cells["viewpoint"] = inner.lower()
        if not folders:
            cells_N.append(None)
            continue
        depths.setdefault(len(folders), path)
        cells_N.append({**cells, NAME: folders[-1], "site": "/".join(folders[:-1]) or None})
    if len(depths) > 1:
        first, second = list(depths.values())[:2]
        raise MetadataError(
            f"photographs lie at different depths, such as {first!r} and {second!r}. {REMEDY}"
        )
    deep = next(iter(depths), 1)
    return cells_N, "ANIMAL/photograph" if deep == 1 else f"{'SITE/' * (deep - 1)}ANIMAL/photograph"


def is_inner(name: str) -> bool:
    """Whether a folder's name is that of an encounter, a day or a side, not of an animal."""
    return bool(
        ENCOUNTER_FOLDER.fullmatch(name)
        or DATE_NAME.fullmatch(name)
        or name.lower() in VIEWPOINT_FOLDERS
    )


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a pattern: ``{column}`` is a part of a name, ``*`` anything but a slash."""
    parts = re.split(r"(\{[A-Za-z_]+\}|\*)", template)
    columns = [part[1:-1] for part in parts if part.startswith("{")]
    if NAME not in columns or len(set(columns)) < len(columns):
        raise MetadataError(
            f"--template {template}: names each column once, and {{{NAME}}} among them."
        )
    return re.compile("".join(map(_part, parts)), re.IGNORECASE)


def _part(part: str) -> str:
    if part.startswith("{") and part.endswith("}"):
        return f"(?P<{part[1:-1]}>[^/]+?)"
    return "[^/]*" if part == "*" else re.escape(part)


def read_times(root: str, paths: Sequence[str]) -> np.ndarray:
    """When each photograph was taken by its EXIF, datetime64[s]; NaT if unknown."""

    def time_of(path: str) -> np.datetime64:
        try:
            head = read_head(root, path)
            if head.startswith(JPEG):
                with suppress(ImageError):  # the header is longer than the head
                    return taken_at(head)
            return taken_at(read_bytes(root, path))
        except ImageError:  # an error where the photographs are opened
            return np.datetime64("NaT", "s")

    with ThreadPoolExecutor(READER_THREADS) as pool:
        return np.array(list(pool.map(time_of, paths)), "datetime64[s]")
