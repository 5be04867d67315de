"""The files in a gallery's folder by their names; damage and links are errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from exreid.errors import GalleryError
from exreid.storage.files import checksum_of, is_whole, read_json

MANIFEST, IMAGES, THUMBNAILS, PAIRS = "gallery.json", "images.parquet", "thumbnails", "pairs"
CHECKSUMS = "checksums.json"
DECISIONS = "decisions.csv"
REMOVED = "removed.parquet"
MATCHER = "matcher.safetensors"
"""The weights of its own LightGlue, where it has one."""
DAMAGED = "The gallery is damaged: get it again, or build it again."
read_gallery_json = partial(read_json, error=GalleryError, remedy=DAMAGED)


def read_checksums(folder: Path) -> dict[str, str] | None:
    """The checksums of the files directly in the gallery; None if an earlier version wrote none."""
    if not (folder / CHECKSUMS).exists():
        return None
    return {
        name: str(value) for name, value in read_gallery_json(inside(folder, CHECKSUMS)).items()
    }


def checked(folder: Path, name: str, checksums: dict[str, str] | None) -> Path:
    """A file directly in the gallery; GalleryError if it is missing, a link, or damaged."""
    file = inside(folder, name)
    try:
        whole = checksums is None or checksum_of(file) == checksums.get(name)
    except OSError as error:
        raise GalleryError(f"{file}: cannot be read: {error}. {DAMAGED}") from error
    if not whole:
        raise GalleryError(f"{file}: is damaged: not the bytes that were written. {DAMAGED}")
    return file


def inside(folder: Path, name: str) -> Path:
    """A file or folder of the gallery; GalleryError if it is missing, or a link."""
    path = folder / name
    if is_link(path, folder):
        raise GalleryError(f"{path}: is a link, and a gallery has real files only. {DAMAGED}")
    if not path.exists():
        raise GalleryError(f"{path}: is missing. {DAMAGED}")
    return path


def refuse_links(folder: Path) -> None:
    """GalleryError if an entry of the folder is a symbolic link."""
    for path in folder.iterdir():
        if path.is_symlink():
            raise GalleryError(f"{path}: is a link, and a gallery has real files only. {DAMAGED}")


def thumbnail_name(content: str) -> str:
    """The path of a photograph's small picture in its gallery."""
    return f"{THUMBNAILS}/{content[:2]}/{content}.jpg"


def backbone_name(number: int) -> str:
    """The file of a backbone's weights in a gallery."""
    return f"backbone-{number}.safetensors"


def is_link(path: Path, folder: Path) -> bool:
    """Whether the path, or a folder between it and the gallery, is a symbolic link."""
    parts = path.relative_to(folder).parts
    return any((folder / Path(*parts[: i + 1])).is_symlink() for i in range(len(parts)))


def part_is_whole(part: Path) -> bool:
    """Whether a part of the local features, and its array, are the bytes that were written."""
    try:
        return is_whole(part.with_suffix(".npy"), part)
    except OSError:
        return False
