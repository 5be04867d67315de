"""The photographs that a source names: their places below the images' folder, and their sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from exreid.data.image_files import displayed_wh_px
from exreid.errors import ImageError, MetadataError
from exreid.progress import counted
from exreid.storage.urls import exists, is_remote, join, names_on_disk, open_file_system, read_bytes

HEAD_BYTES = 2**16
HEAD_THREADS = 8


@dataclass(frozen=True)
class PhotographPaths:
    """The places of a source's photographs."""

    path_of: dict[str, str]
    """The path below the root, by the path that the source states."""
    missing: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PhotoSize:
    """The size of a photograph as it is displayed and as it is stored."""

    displayed_wh_px: tuple[int, int]
    exif_orientation: int

    @property
    def stored_wh_px(self) -> tuple[int, int]:
        """The size before the photograph is turned as its orientation tag says."""
        width, height = self.displayed_wh_px
        return (height, width) if self.exif_orientation >= 5 else (width, height)


def find_photographs(root: str, paths: Sequence[str]) -> PhotographPaths:
    """The place of each path below ``root``: as stated, without its first folders, or, if no folder
    fits, the only file of its name below ``root``.

    MetadataError if two paths lead to one file, and if a name could be several files.
    """
    unique = list(dict.fromkeys(paths))
    texts = [plain_path(path) for path in unique]
    path_of = {path: text for path, text in zip(unique, texts, strict=True) if exists(root, text)}
    rest = [path for path in unique if path not in path_of]
    notes = []
    if rest:
        spelled = names_on_disk(root, [plain_path(path) for path in rest])
        path_of |= {p: name for p, name in zip(rest, spelled, strict=True) if isinstance(name, str)}
        moved = _moved(root, [path for path in rest if path not in path_of])
        path_of |= moved
        if moved:
            path, place = next(iter(moved.items()))
            notes.append(
                f"elsewhere below {root} than the file says: {counted(len(moved), 'photograph')}, "
                f"such as {place!r} for {path!r}"
            )
    _refuse_two_for_one(path_of)
    return PhotographPaths(path_of, [path for path in unique if path not in path_of], notes)


def plain_path(path: str) -> str:
    """A path in a source as a path below a folder: forward slashes, no drive, no host.

    >>> plain_path("C:\\\\lynx\\\\a.jpg"), plain_path("./b/../c.jpg")
    ('lynx/a.jpg', 'b/c.jpg')
    >>> plain_path("/data/local-files/?d=cam%201/a.jpg"), plain_path("s3://bucket/d/a.jpg")
    ('cam 1/a.jpg', 'd/a.jpg')
    >>> plain_path("/data/upload/3/1f2e3d4c-a.jpg")
    'data/upload/3/a.jpg'
    """
    text = path.replace("\\", "/")
    if "/local-files/?d=" in text:  # Label Studio's local storage
        text = parse_qs(urlsplit(text).query)["d"][0]
    elif "://" in text:
        text = unquote(urlsplit(text).path)
    elif "/upload/" in text:  # Label Studio puts a random prefix before each uploaded file
        text = re.sub(r"/[0-9a-f]{8}-([^/]+)$", r"/\1", unquote(text))
    text = re.sub(r"^[A-Za-z]:", "", text)
    return "/".join(part for part in text.split("/") if part not in ("", ".", ".."))


def read_sizes(root: str, paths: Sequence[str]) -> dict[str, PhotoSize | str]:
    """The size of each photograph below ``root``, or the reason why it cannot be read."""

    def read(path: str) -> PhotoSize | str:
        try:
            try:
                return PhotoSize(*displayed_wh_px(read_head(root, path)))
            except ImageError:
                return PhotoSize(*displayed_wh_px(read_bytes(root, path)))
        except ImageError as error:
            return f"{join(root, path)}: {error}"

    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(HEAD_THREADS) as pool:
        return dict(zip(unique, pool.map(read, unique), strict=True))


def read_head(root: str, path: str) -> bytes:
    """The first `HEAD_BYTES` of a file below ``root``; ImageError if it cannot be read."""
    try:
        if not is_remote(root):
            with open(join(root, path), "rb") as stream:  # noqa: PTH123
                return stream.read(HEAD_BYTES)
        file_system, inner = open_file_system(root)
        return bytes(file_system.cat_file(f"{inner}/{path}", 0, HEAD_BYTES))
    except (OSError, ValueError) as error:
        raise ImageError(str(error)) from error


def _moved(root: str, paths: Sequence[str]) -> dict[str, str]:
    """The places of those paths that are in another folder."""
    moved = {}
    rest = []
    for path in paths:
        parts = plain_path(path).split("/")
        ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
        end = next((end for end in ends if exists(root, end)), None)
        if end is None:
            rest.append(path)
        else:
            moved[path] = end
    if rest and not is_remote(root):
        places = _files_by_name(root, {PurePosixPath(plain_path(path)).name for path in rest})
        for path in rest:
            same_name = places.get(PurePosixPath(plain_path(path)).name, [])
            if len(same_name) > 1:
                raise MetadataError(
                    f"{path!r} could be {same_name[0]} or {same_name[1]} below {root}. Name the "
                    "folder that the file's paths begin in with --root."
                )
            if same_name:
                moved[path] = same_name[0]
    return moved


def _files_by_name(root: str, names: set[str]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    top = os.path.expanduser(root)  # noqa: PTH111
    for parent, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names.intersection(files):
            inside = os.path.relpath(f"{parent}/{name}", top).replace(os.sep, "/")
            places.setdefault(name, []).append(inside)
    return places


def _refuse_two_for_one(path_of: dict[str, str]) -> None:
    stated_of: dict[str, str] = {}
    for path, place in path_of.items():
        other = stated_of.setdefault(place, path)
        if plain_path(other) != plain_path(path):
            raise MetadataError(
                f"{other!r} and {path!r} both seem to be {place}. Name the folder that the file's "
                "paths begin in with --root."
            )
