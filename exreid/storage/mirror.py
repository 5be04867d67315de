"""Folders behind a URL: a local copy that a run works in, kept equal to the URL.

A run whose ``output.root`` is ``s3://bucket/runs`` works in a local folder whose name contains that
URL. A machine that receives such a path thus knows its URL, and works in its own copy:

    ~/.cache/exreid/mirrors/url=s3%3A%2F%2Fbucket%2Fruns/benchmark_runs/RUN_ID

A machine publishes what it finishes at once, and fetches what it needs first: machines share no
disk. For a path without a URL every function of this module does nothing, or says so.

The files of caches never change, or only grow, under names that nobody else uses: of two that
differ the longer one is right. The files of a run change: the URL is right, unless this machine
could not publish what it wrote, and nobody has written to the URL since. To know that, `SENT` keeps
for each file the checksums that the URL may have of it as far as this machine knows.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote

import fsspec
from fsspec import AbstractFileSystem

from exreid.errors import ConfigError, RunError
from exreid.storage.at_url import at_url, listed, open_url, upload
from exreid.storage.files import checksum_of, temporary_beside, written_whole
from exreid.storage.urls import is_remote

if TYPE_CHECKING:
    from pyarrow.fs import PyFileSystem

Value = TypeVar("Value")

FOLDER_VARIABLE = "EXREID_MIRRORS"
URL_PREFIX = "url="
LAST = ("checkpoint-latest-full.pth", "history.csv", "result.json")
"""These files of a run are published last, in this order: they say that the others are complete."""
SENT = ".sent"
"""The folder beside a run's files with a small file for each: see the module's docstring."""


class CopyPath(type(Path())):  # type: ignore[misc]
    """A path in a copy: sent to another machine, it is the one in that machine's own copy."""

    def __reduce__(self) -> str | tuple[object, ...]:
        for place, part in enumerate(self.parts):
            if part.startswith(URL_PREFIX):
                return _own_copy, self.parts[place:]
        return super().__reduce__()


def copies_folder() -> Path:
    """Where this machine's copies are."""
    default = Path.home() / ".cache" / "exreid" / "mirrors"
    return Path(os.environ.get(FOLDER_VARIABLE) or default).expanduser().absolute()


def _own_copy(*parts: str) -> Path:
    return CopyPath(copies_folder(), *parts)


_published: dict[Path, tuple[int, int]] = {}
"""Size and time of the files that this process has published."""
_lock = threading.Lock()


def local_root(root: str, *, key: str = "output.root") -> Path:
    """The local folder of a path or URL: itself, or for a URL its local copy.

    ConfigError where no installed package can open such a URL; ``key`` is what names it.
    """
    if not is_remote(root):
        return Path(root).expanduser().absolute()
    protocol, rest = root.split("://", 1)
    if protocol in ("file", "local"):
        return Path("/", rest)
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{key}: {root!r} cannot be opened: {error}. For s3:// and gs:// install "
            '"exreid[cloud]"; other kinds of URL need their own fsspec package.'
        ) from error
    name = URL_PREFIX + quote(root.rstrip("/"), safe="")
    if len(name) > 255:
        raise ConfigError(f"{key}: {root!r} is too long a URL.")
    return _own_copy(name)


def url_of(path: Path) -> str | None:
    """The URL that this local path is a copy of; None where it is no copy."""
    for place, part in enumerate(path.parts):
        if part.startswith(URL_PREFIX):
            return posixpath.join(unquote(part[len(URL_PREFIX) :]), *path.parts[place + 1 :])
    return None


def shown(path: Path) -> str:
    """The path as the user knows it: the URL where it is a copy."""
    return url_of(path) or str(path)


def local_file(file: str | Path, *, key: str) -> Path:
    """Where a file, by its path or URL, is on this machine, or will be."""
    if isinstance(file, str) and is_remote(file):
        folder, name = file.rsplit("/", 1)
        if not name or not is_remote(folder):
            raise ConfigError(f"{key}: {file!r} names no file.")
        return local_root(folder, key=key) / name
    return Path(os.path.expanduser(file))  # noqa: PTH111 - gives no error without a home


def local_copy(file: str | Path, *, key: str = "output.root") -> Path:
    """A file by its path or URL, on this machine; it may still be missing."""
    path = local_file(file, key=key)
    if url_of(path) is not None and not path.is_file():
        fetch(path)
    return path


def local_folder(folder: str) -> Path:
    """A run's folder by its path or URL, on this machine with its files (not those of its folders).

    RunError where the URL holds no file.
    """
    if not is_remote(folder):
        return Path(os.path.expanduser(folder))  # noqa: PTH111 - gives no error without a home
    path = local_root(folder, key="the run's folder")
    if url_of(path) is not None and not fetch_folder(path):
        raise RunError(f"{folder}: there is no such folder, or no file in it.")
    return path


def exists_at_url(path: Path) -> bool:
    """Whether the URL that this path is a copy of has such a file or folder."""
    return bool(_with(path, lambda system, inner: system.exists(inner)))


def publish(file: Path) -> None:
    """Write a file of a run to its URL, whole or not at all."""
    if url_of(file) is None:
        return
    new = checksum_of(file)
    _note_sent(file, *_sent(file), new)  # during the upload the URL may have either
    put(file)
    _note_sent(file, new)


def put(file: Path) -> None:
    """As `publish`, for a file of a cache or of several runs: no checksum is noted."""
    if url_of(file) is None:
        return
    size_and_time = _size_and_time(file)
    _with(file, lambda system, inner: upload(system, file, inner))
    with _lock:
        _published[file] = size_and_time


def publish_folder(folder: Path) -> None:
    """Write the changed files of a run's folder to its URL, except hidden ones."""
    if url_of(folder) is None:
        return
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    ]
    for file in sorted(files, key=lambda f: (LAST.index(f.name) if f.name in LAST else -1, f)):
        if _published.get(file) != _size_and_time(file):
            publish(file)


def fetch(file: Path) -> bool:
    """Replace a file by the one at its URL; False where the URL has none, or the path no URL."""
    return bring(file, file)


def bring(source: Path, file: Path) -> bool:
    """As `fetch` of ``source``, written to ``file``."""
    if url_of(source) is None:
        return False
    temporary = temporary_beside(file)

    def get(system: AbstractFileSystem, inner: str) -> bool:
        try:
            system.get_file(inner, str(temporary))
        except FileNotFoundError:
            temporary.unlink(missing_ok=True)
            return False
        temporary.replace(file)
        return True

    file.parent.mkdir(parents=True, exist_ok=True)
    fetched = bool(_with(source, get))
    if fetched and source == file:
        _note_published(file)
    return fetched


def fetch_folder(folder: Path, *names: str) -> int:
    """Fetch the files of a run's folder from its URL, or only those of ``names``; their number.

    They replace the local files, unless the URL has nothing that is new to this machine: then
    local files that differ are newer, and wait for `publish_folder`.
    """
    files = [folder / name for name in _listed(folder) if not names or name in names]
    temporaries = {file: temporary_beside(file) for file in files}
    fetched = {file: part for file, part in temporaries.items() if bring(file, part)}
    theirs = {file: checksum_of(temporary) for file, temporary in fetched.items()}
    ours = {file: checksum_of(file) for file in fetched if file.is_file()}
    ours_is_newer = all(theirs[file] in (*_sent(file), ours.get(file)) for file in fetched)
    for file, temporary in fetched.items():
        if ours_is_newer and file in ours and ours[file] != theirs[file]:
            temporary.unlink()
            continue
        temporary.replace(file)
        _note_sent(file, theirs[file])
        _note_published(file)
    return len(fetched)


def _sent(file: Path) -> list[str]:
    """The checksums that the URL may have of this file, as far as this machine knows."""
    try:
        return (file.parent / SENT / file.name).read_text(encoding="utf-8").split()
    except (FileNotFoundError, ValueError):
        return []


def _note_sent(file: Path, *checksums: str) -> None:
    note = file.parent / SENT / file.name
    note.parent.mkdir(exist_ok=True)
    with written_whole(note) as temporary:
        temporary.write_text(" ".join(checksums), encoding="utf-8")


def _note_published(file: Path) -> None:
    with _lock:
        _published[file] = _size_and_time(file)


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def folder_names(folder: Path) -> list[str]:
    """Names of the folders right in the folder's URL; none where it has no URL."""
    return [name for name, size in _entries(folder).items() if size is None]


def read(file: Path) -> bytes | None:
    """The bytes of a file at its URL, without a local copy; None where there is no such file."""

    def cat(system: AbstractFileSystem, inner: str) -> bytes | None:
        try:
            return bytes(system.cat_file(inner))
        except FileNotFoundError:
            return None

    return _with(file, cat)


def synchronise(folder: Path, pattern: str, *, beside: str = "") -> None:
    """Exchange a cache's files of this pattern with the URL, both ways; the longer one wins.

    ``beside``: the ending of a file of the same name that is uploaded before each of them.
    """
    if url_of(folder) is None:
        return
    remote = {name: size for name, size in _listed(folder).items() if fnmatch(name, pattern)}
    local = {file.name: file.stat().st_size for file in folder.glob(pattern)}
    for name, size in remote.items():
        if local.get(name, -1) < size:
            fetch(folder / name)
    for name, size in local.items():
        if remote.get(name, -1) < size:
            if beside:
                put((folder / name).with_suffix(beside))
            put(folder / name)


def train_storage(folder: Path) -> tuple[str, PyFileSystem | None]:
    """Where Ray Train keeps its own state for a run: a path, and a file system for it or None."""
    url = url_of(folder)
    if url is None:
        return str(folder), None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    system, inner = open_url(url)
    return inner, PyFileSystem(FSSpecHandler(system))


def remove_folder(folder: Path) -> None:
    """Delete the folder at its URL, where it has one and the folder exists."""

    def remove(system: AbstractFileSystem, inner: str) -> None:
        if system.exists(inner):
            system.rm(inner, recursive=True)

    if url_of(folder) is not None:
        _with(folder, remove)


def _listed(folder: Path) -> dict[str, int]:
    """Names and sizes of the files right in the folder's URL."""
    return {name: size for name, size in _entries(folder).items() if size is not None}


def _entries(folder: Path) -> dict[str, int | None]:
    return _with(folder, listed) or {}


def _with(path: Path, act: Callable[[AbstractFileSystem, str], Value]) -> Value | None:
    """``act`` at the path's URL; None where it has none."""
    url = url_of(path)
    return None if url is None else at_url(url, act, kept=path.parent)
