"""Folders of masks among folders of photographs, recognised by name and content."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exreid.data.mask_images import MASK_ENDINGS, mask_files, read_masks
from exreid.data.masks import encode_mask
from exreid.errors import MaskError, MetadataError
from exreid.progress import counted
from exreid.storage.urls import READER_THREADS

MASK_FOLDERS = frozenset(
    ("mask", "masks", "segmentation", "segmentations", "segmentationobject", "segmentationmask")
)
"""Usual names of such folders, in any case."""


@dataclass(frozen=True)
class FolderMasks:
    """The photographs of a tree of folders without the masks among them."""

    paths: list[str]
    mask_of: dict[str, str]
    """By photograph with a mask of one animal: its COCO run length."""
    notes: list[str]
    images: int
    """Files that are masks."""


def without_masks(root: str, paths: Sequence[str]) -> FolderMasks:
    """Separate masks from photographs, by their paths below ``root``.

    A folder called like one of `MASK_FOLDERS` has masks if its images are called like photographs
    beside it or below its parent, and the first of them is a mask image. Another folder of that
    name is an animal's. A mask of several animals is not used, since a folder names one animal.
    MetadataError for a mask that could be of several photographs, or that is not a mask image.
    """
    folders: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")
        place = next((i for i, part in enumerate(parts[:-1]) if is_mask_folder(part)), None)
        if place is not None:
            folders.setdefault("/".join(parts[: place + 1]), []).append(path)
    candidates = {path for inside in folders.values() for path in inside}
    masks: set[str] = set()
    mask_of: dict[str, str] = {}
    notes: list[str] = []
    for folder, inside in folders.items():
        above = folder.rpartition("/")[0]
        start = f"{above}/" if above else ""
        below = [path for path in paths if path not in candidates and path.startswith(start)]
        files = _files(root, folder, inside, [path.removeprefix(start) for path in below])
        if not files:
            continue
        masks.update(inside)
        text_of = _read(files)
        single_masks = {
            f"{start}{path}": text for path, text in text_of.items() if text is not None
        }
        mask_of |= single_masks
        several = len(text_of) - len(single_masks)
        unused = len(inside) - sum(map(len, files.values()))
        notes.append(
            f"{folder}/ has masks, of {len(text_of)} of the {len(below)} photographs beside it"
            + (f"; not used, as they show several animals: {several}" if several else "")
            + (f"; without a photograph: {counted(unused, 'image')}" if unused else "")
        )
    return FolderMasks([path for path in paths if path not in masks], mask_of, notes, len(masks))


def is_mask_folder(name: str) -> bool:
    """Whether a folder has a usual name of mask folders."""
    return name.lower() in MASK_FOLDERS


def _files(
    root: str, folder: str, inside: Sequence[str], below: Sequence[str]
) -> dict[str, dict[int, Path]]:
    """The mask images of each photograph; empty if the folder has no masks."""
    if not {PurePosixPath(path).suffix.lower() for path in inside} <= MASK_ENDINGS:
        return {}
    try:
        files = mask_files(Path(root) / folder, below)
    except MaskError as error:
        if "no mask for any" in str(error):
            return {}
        raise MetadataError(str(error).removeprefix("--masks: ")) from error
    try:
        read_masks(next(iter(files.values())))
    except MaskError:
        return {}
    return files


def _read(files: dict[str, dict[int, Path]]) -> dict[str, str | None]:
    """The run length of each photograph's mask; None for a mask of several animals."""

    def read(mask_images: dict[int, Path]) -> str | None:
        try:
            masks = list(read_masks(mask_images).values())
        except MaskError as error:
            raise MetadataError(str(error)) from error
        return encode_mask(masks[0]) if len(masks) == 1 else None

    with ThreadPoolExecutor(READER_THREADS) as pool:
        return dict(zip(files, pool.map(read, files.values()), strict=True))
