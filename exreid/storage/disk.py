"""What an error of the operating system means: which path failed, what that is, and the remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from exreid.errors import StorageError
from exreid.storage import mirror
from exreid.storage.urls import is_remote, join

Places = Mapping[str, str | Path]
"""The paths that a user has named, by the key or option that names each of them."""

FULL = {errno.ENOSPC, errno.EDQUOT}
NEARLY_FULL_BYTES = 2**20
"""Less than this much free space counts as none where an error does not say what it is."""
TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}
MEANINGS = {
    errno.ENOSPC: ("the disk is full", "Make room, or set another {role}"),
    errno.EDQUOT: ("the disk is full: the quota is used up", "Make room, or set another {role}"),
    errno.EROFS: ("can only be read, not written", "Set another {role}"),
    errno.EACCES: ("permission is missing", "Change its permissions, or set another {role}"),
    errno.EPERM: ("permission is missing", "Change its permissions, or set another {role}"),
    errno.ENOENT: ("there is no such file or folder", "Check {role}"),
    errno.ENOTDIR: ("is a file where a folder is needed", "Check {role}"),
    errno.EISDIR: ("is a folder where a file is needed", "Check {role}"),
    errno.EEXIST: ("exists already, as something else", "Check {role}"),
    errno.ENAMETOOLONG: ("the name is too long", "Set a shorter {role}"),
    errno.ELOOP: ("its links lead in a circle", "Check {role}"),
    errno.EMFILE: ("too many files are open", "Raise their number: ulimit -n 65536"),
    errno.ENFILE: ("too many files are open", "Close other programs"),
}
MISTAKES = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""What goes away only where the user names another path."""
WRITTEN = ("output.root", "benchmark.cache", "--out", "--csv", "TMPDIR", mirror.FOLDER_VARIABLE)
"""What may be full where an error does not say what was."""
NUMBER_IN_TEXT = re.compile(r"\[errno (\d+)\]|\bos error (\d+)\b", re.IGNORECASE)
PATH_IN_TEXT = re.compile(r"'(/[^']+)'")
PATH_KEYS = (
    *("output.root", "dataset.root", "model.checkpoint", "train.resume_checkpoint"),
    "benchmark.calibration.load",
)


def storage_error(error: BaseException, places: Places) -> StorageError | None:
    """What an error of the operating system means for whoever named these places.

    Libraries in C++ or Rust raise other types: then the text of the error, or a full disk, tells
    the cause. None for an error that is about no file.
    """
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, OSError) else error  # of a worker on another machine
    known = {**places, **_everywhere()}
    number, path = _number(error), _path(error)
    if not isinstance(error, OSError) and number not in FULL:
        if not isinstance(error, RuntimeError) or _full_place(known) is None:
            return None
        number = errno.ENOSPC
    if number is None and path is None and _full_place(known):
        number = errno.ENOSPC
    if number in FULL and path is None:
        path = _full_place(known)
    meaning, remedy = MEANINGS.get(number or 0, (_text(error), "Check that {role} can be reached"))
    role = None if path is None or number in TOO_MANY_FILES else _role(path, known)
    message = f"{_shown(path, role)}{meaning}{_free(number, path)}. {_remedy(remedy, role)}"
    storage = StorageError(message)
    storage.by_user = number in MISTAKES
    return storage


def places_of(config: object) -> dict[str, str | Path]:
    """The paths that a config names."""
    paths = {key: _value(config, key) for key in PATH_KEYS}
    if file := _value(config, "dataset.metadata_file"):
        paths["dataset.metadata_file"] = join(str(paths["dataset.root"]), file)
    cache = _value(config, "benchmark.cache")
    if cache not in (None, "auto", "off"):
        paths["benchmark.cache"] = cache
    return {key: path for key, path in paths.items() if path and not is_remote(path)}


def _value(config: object, key: str) -> str | None:
    for name in key.split("."):
        config = getattr(config, name, None)
    return None if config is None else str(config)


def _everywhere() -> dict[str, str | Path]:
    """Places that nobody has to name; without the temporary ones where they are unknown."""
    places: dict[str, str | Path] = {"HOME": os.path.expanduser("~")}  # noqa: PTH111
    try:
        places["TMPDIR"] = tempfile.gettempdir()
        places[mirror.FOLDER_VARIABLE] = mirror.copies_folder()
    except (OSError, RuntimeError):
        pass
    return places


def _number(error: BaseException) -> int | None:
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    match = NUMBER_IN_TEXT.search(str(error))
    return int(match[1] or match[2]) if match else None


def _path(error: BaseException) -> Path | None:
    names = [getattr(error, "filename", None), getattr(error, "filename2", None)]
    if _number(error) in {*FULL, errno.EROFS}:  # a copy's second file is the one that is written
        names.reverse()
    for name in names:
        if isinstance(name, str | bytes | os.PathLike) and name:
            return Path(os.fsdecode(name)).absolute()
    match = PATH_IN_TEXT.search(str(error)) if isinstance(error, OSError) else None
    return Path(match[1]) if match else None


def _full_place(places: Places) -> Path | None:
    """The first of the places on a disk without room."""
    for role in (name for name in WRITTEN if name in places):
        place = Path(places[role]).absolute()
        free = _free_bytes(place)
        if free is not None and free < NEARLY_FULL_BYTES:
            return place
    return None


def _role(path: Path, places: Places) -> str | None:
    """What names the nearest of the places that the path is in or on the way to, or whose
    temporary file or folder it is in."""
    best, most = None, 0
    for role, named in places.items():
        place = Path(named).absolute()
        inside, above = path.is_relative_to(place), place.is_relative_to(path)
        below = path.parts[len(place.parts) - 1 :] if path.is_relative_to(place.parent) else ()
        beside = bool(below) and below[0].startswith(f".{place.name}.")
        near = len((path if above else place).parts) if inside or above or beside else 0
        if near > most:
            best, most = role, near
    return best


def _shown(path: Path | None, role: str | None) -> str:
    if path is None:
        return ""
    return f"{path}: " if role is None else f"{path} ({role}): "


def _remedy(remedy: str, role: str | None) -> str:
    if role is not None or "{role}" not in remedy:
        return f"{remedy.format(role=role)}."
    return "Make room there." if remedy.startswith("Make room") else "Check that path."


def _text(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[-1].rstrip(".")


def _free(number: int | None, path: Path | None) -> str:
    free = None if path is None or number not in FULL else _free_bytes(path)
    return "" if free is None else f" ({free / 2**20:.1f} MB free)"


def _free_bytes(path: Path) -> int | None:
    """Of the disk that the path is on, or would be."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None
