"""Zip files of packages and folders, unpacked beside themselves, without leaving that folder."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from pathlib import Path

from exreid.data.workbooks import is_workbook
from exreid.errors import MetadataError
from exreid.progress import counted
from exreid.storage.files import temporary_beside
from exreid.storage.urls import is_remote

MOST_TIMES, OFTEN_ENOUGH = 100, 2**30
"""A file that unpacks to more than `OFTEN_ENOUGH` bytes and `MOST_TIMES` its size is a trap."""
_NO_CONTENT = re.compile(r"(^|/)(__MACOSX/.*|\.DS_Store|Thumbs\.db|desktop\.ini)$", re.IGNORECASE)


def unpacked(source: str) -> tuple[str, str] | None:
    """The folder that a zip file was unpacked into, and a sentence on it; None for any other file.

    The folder is beside the zip and has its name without ending. If it exists with the same files,
    it is taken as it is. If the zip contains a single folder, that folder. MetadataError for a zip
    with paths that lead elsewhere, links, passwords or damage, and for more than fits the disk.
    """
    file = Path(source).expanduser()
    if is_remote(source) or not file.is_file() or not zipfile.is_zipfile(file):
        return None
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04" or (
            file.suffix.lower() != ".zip" and is_workbook(file.read_bytes())
        ):
            return None
    folder = file.with_suffix("") if file.suffix else file.with_name(f"{file.name} unpacked")
    with zipfile.ZipFile(file) as archive:
        if "xl/workbook.xml" in archive.namelist():
            return None
        members = _members(archive, file)
        if folder.exists():
            return _inner(folder), _there_already(members, folder, file)
        half = temporary_beside(folder)
        try:
            for path, info in members.items():
                place = half / path
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as packed, place.open("wb") as out:
                    shutil.copyfileobj(packed, out, 2**20)
            half.rename(folder)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
            raise MetadataError(f"{source}: cannot be unpacked: {error}.") from error
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return _inner(folder), f"unpacked {counted(len(members), 'file')} into {folder}"


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by their checked paths."""
    members: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        if info.is_dir() or _NO_CONTENT.search(name):
            continue
        parts = name.split("/")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts or "\0" in name:
            raise MetadataError(
                f"{file}: its file {info.filename!r} leads out of it. Don't use it."
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise MetadataError(f"{file}: its file {info.filename!r} is a link, and no file.")
        if info.flag_bits & 1:
            raise MetadataError(f"{file}: has a password. Unpack it, and name the folder.")
        path = "/".join(part for part in parts if part not in ("", "."))
        if path.casefold() in folded:
            raise MetadataError(f"{file}: has two files {path!r}.")
        folded.add(path.casefold())
        members[path] = info
    size = sum(info.file_size for info in members.values())
    if not members:
        raise MetadataError(f"{file}: is an empty zip file.")
    if size > OFTEN_ENOUGH and size > MOST_TIMES * file.stat().st_size:
        raise MetadataError(f"{file}: would unpack to {size / 2**30:.1f} GiB, which is a trap.")
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise MetadataError(
            f"{file}: unpacks to {size / 2**30:.1f} GiB, and the disk has {free / 2**30:.1f} GiB."
        )
    return members


def _there_already(members: dict[str, zipfile.ZipInfo], folder: Path, file: Path) -> str:
    for path, info in members.items():
        unpacked_file = folder / path
        if not unpacked_file.is_file() or unpacked_file.stat().st_size != info.file_size:
            raise MetadataError(
                f"{file}: would be unpacked into {folder}, which is there with another {path}. "
                "Rename one of them, or name the folder itself."
            )
    return f"taken from {folder}, where it was unpacked before"


def _inner(folder: Path) -> str:
    """The folder, or its only entry if that is a folder with folders or a package in it."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if len(entries) != 1 or not entries[0].is_dir():
        return str(folder)
    inside = list(entries[0].iterdir())
    packed = any(entry.is_dir() or entry.suffix in (".json", ".xml") for entry in inside)
    return str(entries[0]) if packed else str(folder)
