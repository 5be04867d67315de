"""Photographs that no table describes: found in folders, timed by EXIF, grouped into encounters."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from exreid.data.image_files import image_errors, open_image
from exreid.errors import ImageError

PHOTO_ENDINGS = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".mpo"),
        *(".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf"),
    )
)
"""Endings of photographs, lower case. Some of these formats cannot be read: such photographs are
listed as unreadable instead of being passed over."""
EXIF_FOLDER, TAKEN, DIGITISED = 0x8769, 0x9003, 0x9004
ENCOUNTER_FOLDER = re.compile(
    r"(visit|encounter|burst|event|sighting|sequence|seq)[-_ ]?\d+", re.IGNORECASE
)
"""Names of folders whose photographs are one encounter."""
EncounterRule = Literal["auto", "time", "folder", "none"]


@dataclass(frozen=True)
class FoundPhotos:
    """Photographs below one folder."""

    root: str
    """Absolute; the deepest folder that contains all given paths."""
    paths: tuple[str, ...]
    """Relative to ``root``, with forward slashes, each once, sorted."""
    others: int
    """The number of files in the folders that are not photographs by their ending."""
    unnamed: tuple[str, ...] = ()
    """Photographs whose names are not text (UTF-8), escaped: no table could have them."""


def find_photos(given: Sequence[Path]) -> FoundPhotos:
    """The given photographs, and all photographs in and below the given folders.

    Hidden files and folders are passed over. A given file is taken whatever its ending. ImageError
    for a path that does not exist, and if there is no photograph at all.
    """
    files: set[Path] = set()
    folders: list[Path] = []
    others = 0
    for path in given:
        whole = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps symbolic links
        if whole.suffix.lower() == ".zip":
            raise ImageError(f"{path} is a zip file. Unpack it, and name the folder.")
        if whole.is_file():
            files.add(whole)
            folders.append(whole.parent)
        elif whole.is_dir():
            inside, rest = _photos_below(whole)
            files |= inside
            folders.append(whole)
            others += rest
        elif whole.exists():
            raise ImageError(f"{path} is not a photograph but a device, a pipe or a socket.")
        else:
            raise ImageError(f"no such photograph or folder {_escaped(path)}.")
    named = {file for file in files if _is_text(str(file))}
    unnamed = sorted(_escaped(file) for file in files - named)
    for folder in folders:
        if not _is_text(str(folder)):
            raise ImageError(
                f"{_escaped(folder)}: the folder's name is not text (UTF-8). Rename it."
            )
    if not files:
        raise ImageError(
            f"no photograph in {', '.join(map(str, given))}: no file there ends in "
            f"{', '.join(sorted(PHOTO_ENDINGS)[:6])}, ... Name the files themselves."
        )
    root = os.path.commonpath(folders)
    paths = sorted(os.path.relpath(file, root).replace(os.sep, "/") for file in named)
    return FoundPhotos(root, tuple(paths), others, tuple(unnamed))


def _escaped(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; Python shows other bytes of a name as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def walk_photos(folder: Path) -> Iterator[tuple[Path, list[str], int]]:
    """Each folder from this one down, the names of its photographs, and the number of other files.
    Hidden files and folders are passed over."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        photographs = [
            name
            for name in names
            if Path(name).suffix.lower() in PHOTO_ENDINGS and not name.startswith(".")
        ]
        yield Path(parent), photographs, len(names) - len(photographs)


def _photos_below(folder: Path) -> tuple[set[Path], int]:
    files: set[Path] = set()
    others = 0
    for parent, photographs, rest in walk_photos(folder):
        files.update(parent / name for name in photographs)
        others += rest
    return files, others


def taken_at(data: bytes) -> np.datetime64:
    """When a photograph was taken, by its EXIF, in whole seconds; NaT if it has no time.

    By the camera's clock, without a time zone. ImageError if the file is not an image; its pixels
    are not decoded.
    """
    with image_errors(), open_image(data) as image:
        exif = image.getexif().get_ifd(EXIF_FOLDER)
    for tag in (TAKEN, DIGITISED):
        try:
            moment = datetime.strptime(str(exif.get(tag, "")).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
        return np.datetime64(moment, "s")
    return np.datetime64("NaT", "s")


@dataclass(frozen=True)
class PhotoEncounters:
    """The encounter of each photograph, and how it was found."""

    name_N: list[str | None]
    """None: the photograph belongs to no encounter."""
    how_N: list[str]
    """``table``, ``time``, ``folder`` or ``alone``."""


def group_encounters(
    paths: Sequence[str],
    time_N: np.ndarray,
    *,
    known: Sequence[str | None],
    minutes: float,
    rule: EncounterRule = "auto",
) -> PhotoEncounters:
    """Group photographs into encounters.

    An encounter that the user's table names (``known``) is kept. ``time``: the photographs of one
    folder in the order of their times, as long as no two neighbours are more than ``minutes``
    apart. ``folder``: all photographs of one folder. ``auto``: by time; a photograph without a time
    by its folder, if that is named like an encounter (``visit_12``, ``burst-3``).

    >>> times = np.array(["2024-05-01T22:00", "2024-05-01T22:05", "2024-05-01T23:00"], "M8[s]")
    >>> group_encounters(["a/1", "a/2", "a/3"], times, known=[None] * 3, minutes=10).name_N
    ['a 2024-05-01 22:00:00', 'a 2024-05-01 22:00:00', 'a 2024-05-01 23:00:00']
    """
    names: list[str | None] = list(known)
    how = ["table" if name is not None else "alone" for name in names]
    open_N = [name is None for name in names]
    if rule in ("auto", "time"):
        for i, name in _by_time(paths, time_N, np.flatnonzero(open_N), minutes):
            names[i], how[i] = name, "time"
    for i, path in enumerate(paths):
        folder = path.rpartition("/")[0]
        fits = rule == "folder" or ENCOUNTER_FOLDER.search(folder.rpartition("/")[2]) is not None
        if names[i] is None and rule in ("auto", "folder") and fits:
            names[i], how[i] = folder or ".", "folder"
    return PhotoEncounters(names, how)


def _by_time(
    paths: Sequence[str], time_N: np.ndarray, index: np.ndarray, minutes: float
) -> list[tuple[int, str]]:
    timed = index[~np.isnat(time_N[index])]
    folder_of = {int(i): paths[i].rpartition("/")[0] for i in timed}
    order = sorted(folder_of, key=lambda i: (folder_of[i], time_N[i], paths[i]))
    gap = np.timedelta64(round(60 * minutes), "s")
    named: list[tuple[int, str]] = []
    name, last = "", -1
    for i in order:
        folder = folder_of[i]
        if last < 0 or folder_of[last] != folder or time_N[i] - time_N[last] > gap:
            name = f"{folder} {str(time_N[i]).replace('T', ' ')}".strip()
        named.append((i, name))
        last = i
    return named
