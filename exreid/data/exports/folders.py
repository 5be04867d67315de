"""A folder for each animal, with its photographs, for people to look through and to sort."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from exreid.data.exports.animals import Export, ExportedAnimal, Place
from exreid.data.exports.table import people_table, write_people_table
from exreid.data.imports.folders import UNMATCHED_FOLDER
from exreid.progress import counted

TABLE = "photographs.csv"
MOST_NAME_BYTES = 200
"""The longest name in UTF-8; file systems allow 255, and a number may be added."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_folders(export: Export, out: Path, place: Place) -> list[str]:
    """The photographs of each animal in its folder below ``out``, and a table of all of them.

    A photograph of two animals goes into both folders. Notes of what was named otherwise.
    """
    folder_of = safe_folders([_folder_text(entry) for entry in export.animals])
    notes = [
        f"{name!r} is in the folder {folder!r}: its name cannot be a folder's"
        for name, folder in folder_of.items()
        if name != folder
    ]
    photographs: dict[tuple[str, str], None] = {}
    for entry in export.animals:
        photographs[folder_of[_folder_text(entry)], entry.path] = None
    file_of = file_names(photographs)
    for (_, path), target in file_of.items():
        place(path, target)
    moved = [
        replace(entry, path=file_of[folder_of[_folder_text(entry)], entry.path])
        for entry in export.animals
    ]
    frame = people_table(replace(export, animals=moved))
    frame.insert(1, "taken from", [entry.path for entry in export.animals])
    write_people_table(frame, out / TABLE)
    renamed = sum(PurePosixPath(t).name != PurePosixPath(p).name for (_, p), t in file_of.items())
    if renamed:
        several = "photographs of equal names have their folders' names before them"
        notes.append(counted(renamed, several.replace("photographs", "photograph"), several))
    return notes


def _folder_text(entry: ExportedAnimal) -> str:
    return entry.animal or entry.new_animal or UNMATCHED_FOLDER


def safe_folders(names: Sequence[str]) -> dict[str, str]:
    """The folder of each name: the name itself, if every system allows it and no other name differs
    from it by case alone.

    >>> safe_folders(["Zita", "zita", "a/b", "..", "007", "=1+1"])  # doctest: +NORMALIZE_WHITESPACE
    {'Zita': 'Zita', 'zita': 'zita_2', 'a/b': 'a_b', '..': '__', '007': '007', '=1+1': '=1+1'}
    """
    folders: dict[str, str] = {}
    taken: set[str] = set()
    unique = list(dict.fromkeys(names))
    # Names that need no change come first, so that no changed name takes their folder.
    for name in sorted(unique, key=lambda name: (_safe(name) != name, unique.index(name))):
        folders[name] = _free(_safe(name), taken)
    return {name: folders[name] for name in unique}


def file_names(photographs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The target of each (folder, path of a photograph). The names of photographs that would be
    equal in one folder begin with their former folders.

    >>> list(file_names([("Zita", "1/a.jpg"), ("Zita", "2/a.jpg"), ("Ivo", "1/a.jpg")]).values())
    ['Zita/1_a.jpg', 'Zita/2_a.jpg', 'Ivo/a.jpg']
    """
    unique = list(photographs)
    plain = [(folder, _folded(PurePosixPath(path).name)) for folder, path in unique]
    twice = {key for key, count in Counter(plain).items() if count > 1}
    taken: dict[str, set[str]] = {}
    names = {}
    for (folder, path), key in sorted(
        zip(unique, plain, strict=True), key=lambda pair: pair[1] in twice
    ):
        name = path.replace("/", "_") if key in twice else PurePosixPath(path).name
        names[folder, path] = f"{folder}/{_free(_safe(name), taken.setdefault(folder, set()))}"
    return {key: names[key] for key in unique}


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken already; it is added to ``taken``."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem and len(ending) <= 5 else (name, "")
    free, number = name, 1
    while _folded(free) in taken:
        number += 1
        free = f"{stem}_{number}{ending}"
    taken.add(_folded(free))
    return free


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _safe(name: str) -> str:
    """The name with characters that Linux, macOS and Windows allow; no name begins with a dot."""
    safe = _UNSAFE.sub("_", name)
    safe = re.sub(r"^\.+|[. ]+$", lambda match: "_" * len(match[0]), safe)
    if _RESERVED.fullmatch(safe):
        safe = f"{safe}_"
    if len(safe.encode()) > MOST_NAME_BYTES:
        ending = PurePosixPath(safe).suffix[:5]
        safe = safe.encode()[: MOST_NAME_BYTES - len(ending)].decode(errors="ignore") + ending
    return safe or "_"
