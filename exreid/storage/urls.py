"""Files of a data set, on a local disk or behind any fsspec URL."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

import fsspec
from fsspec import AbstractFileSystem

from exreid.errors import ImageError

MAX_FILE_BYTES = 2**31
"""A larger photograph or table is not read."""

READER_THREADS = 4
"""Threads that read photographs side by side, each decoding what it has read."""
Value = TypeVar("Value")


def is_remote(root: str) -> bool:
    """Whether a root is a URL such as s3://bucket/folder."""
    return "://" in root


def join(root: str, path: str) -> str:
    """A path of the data set below its root."""
    if is_remote(root):
        return posixpath.join(root, path)
    return os.path.join(os.path.expanduser(root), path)  # noqa: PTH111, PTH118 - Path is slow


def open_file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system of a URL or local path, and the path inside it.

    Only the URL itself may name a protocol: a path is added to what this returns, never to the
    URL, so that it cannot name another one.
    """
    return fsspec.core.url_to_fs(os.path.expanduser(url))  # noqa: PTH111


def exists(root: str, path: str) -> bool:
    """Whether there is such a file below the root."""
    if not is_remote(root):
        return os.path.isfile(join(root, path))  # noqa: PTH113 - a third of the time of Path's
    file_system, inner = open_file_system(root)
    return bool(file_system.isfile(posixpath.join(inner, path)))


def read_bytes(root: str, path: str) -> bytes:
    """The whole file; ImageError where it is missing or cannot be read."""
    full = join(root, path)

    def read() -> bytes:
        if not is_remote(root):
            return read_regular(full)
        file_system, inner = open_file_system(root)
        return read_remote(file_system, posixpath.join(inner, path))

    return _guarded(full, read)


LEAST_READ_BYTES, PIECE_BYTES = 2**16, 2**23
"""Bytes read at least of a local file, and at a time of a URL's: some files state no size."""


def read_regular(file: str) -> bytes:
    """A regular file's bytes; ValueError for a device or pipe, which may never end, and for more
    than `MAX_FILE_BYTES`."""
    status = os.stat(file)  # noqa: PTH116 - half the time of Path.stat
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", file)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a device, a pipe or a socket, not a file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has {status.st_size} bytes, over {MAX_FILE_BYTES}")
    with open(file, "rb") as stream:  # noqa: PTH123
        # Python takes as much memory as it is told to read at most, before it reads.
        return stream.read(max(status.st_size, LEAST_READ_BYTES))


def read_remote(file_system: AbstractFileSystem, inner: str) -> bytes:
    """As `read_regular`, of a URL's file; one of unknown size is read in pieces."""
    size = file_system.info(inner).get("size")
    data = bytearray()
    if size is None:
        with file_system.open(inner, "rb") as stream:
            while len(data) <= MAX_FILE_BYTES and (piece := stream.read(PIECE_BYTES)):
                data += piece
    if (size or len(data)) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
    return bytes(data) if size is None else bytes(file_system.cat_file(inner))


def file_signature(root: str, path: str) -> str:
    """What changes when the file changes, without reading it.

    Size, times (in ns) and inode; for a URL, what its file system offers (fsspec's ``ukey``).
    Raises ImageError where the file is missing or cannot be reached.
    """
    full = join(root, path)

    def sign() -> str:
        if is_remote(root):
            file_system, inner = open_file_system(root)
            return str(file_system.ukey(posixpath.join(inner, path)))
        status = os.stat(full)  # noqa: PTH116 - half the time of Path.stat
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"

    return _guarded(full, sign)


def missing_files(root: str, paths: Sequence[str]) -> set[int]:
    """Indices of the paths that are no files; each folder of a URL is listed once.

    Raises OSError, ImportError or ValueError where the root cannot be reached at all.
    """
    if not is_remote(root):
        return {i for i, path in enumerate(paths) if not exists(root, path)}
    file_system, inner = open_file_system(root)
    listed: dict[str, set[str]] = {}
    missing = set()
    for i, path in enumerate(paths):
        folder, name = posixpath.split(path)
        if folder not in listed:
            listed[folder] = _file_names(file_system, posixpath.join(inner, folder))
        if name not in listed[folder]:
            missing.add(i)
    return missing


def names_on_disk(root: str, paths: Sequence[str]) -> list[str | list[str] | None]:
    """Of each path that is no file: the file that differs from it by Unicode's form or by case
    alone, all of them where there are several, None where there is none. Folders are listed once.
    """
    listed: dict[str, dict[str, list[str]]] = {}

    def inside(folder: str) -> dict[str, list[str]]:
        if folder not in listed:
            names: dict[str, list[str]] = {}
            for name in _entries(root, folder):
                names.setdefault(_folded(name), []).append(name)
            listed[folder] = names
        return listed[folder]

    def similar(path: str) -> str | list[str] | None:
        files = [""]
        for part in path.split("/"):
            files = [
                posixpath.join(folder, name)
                for folder in files
                for name in inside(folder).get(_folded(part), [])
            ]
        files = [file for file in files if exists(root, file)]
        same_case = [file for file in files if _composed(file) == _composed(path)]
        files = same_case if len(same_case) == 1 else files
        return files[0] if len(files) == 1 else files or None

    return [similar(path) for path in paths]


def _entries(root: str, folder: str) -> list[str]:
    try:
        if not is_remote(root):
            return os.listdir(join(root, folder))  # noqa: PTH208
        file_system, inner = open_file_system(root)
        entries = file_system.ls(posixpath.join(inner, folder).rstrip("/"), detail=False)
        return [posixpath.basename(name.rstrip("/")) for name in entries]
    except (OSError, ValueError):
        return []


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _file_names(file_system: AbstractFileSystem, folder: str) -> set[str]:
    try:
        entries = file_system.ls(folder.rstrip("/"), detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {
        posixpath.basename(entry["name"]) for entry in entries if entry.get("type") != "directory"
    }


def _guarded(full: str, read: Callable[[], Value]) -> Value:
    """What ``read`` returns; a failure as ImageError."""
    try:
        return read()
    except FileNotFoundError as error:
        raise ImageError(f"no such file {full}. Check the path, and dataset.root.") from error
    except ImportError as error:
        raise ImageError(
            f"{full}: this kind of URL needs a package that is not installed: {error}."
        ) from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{full} cannot be read: {error}.") from error
