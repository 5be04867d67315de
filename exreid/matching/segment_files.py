"""The files of a segment of the index, and its descriptors mapped from them.

A segment (`exreid.matching.segments`) is two files of one name: ``.faiss``, and ``.json``, which
names its images. The name has a checksum of the latter and of the cells. The descriptors are
memory-mapped: a search reads those of the cells that it looks at, and the processes of a machine
share them. They are not read to check them: damage among them loses neighbours, as the search
itself may.

The ``.faiss`` is little-endian. It begins with the place of the first list, the number of cells
and of the descriptors in each, of 8 bytes each, and FAISS's own form of the index without any
descriptor. Then each cell has its list: blocks of `BLOCK` descriptors, the last one filled up, and
the number of each descriptor, 8 bytes. A file of FAISS's own of such an index can only be copied
into memory, but its `OnDiskInvertedLists` maps lists that lie like this.

Letters: R images of the segment, C cells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exreid.errors import CacheError
from exreid.features.keys import keys_fingerprint
from exreid.storage import mirror
from exreid.storage.files import SEALED, checksum, temporary_beside

if TYPE_CHECKING:
    import faiss

FORMAT = 3
"""Of a segment's files. 1: 4 bits in steps of equal width, which FAISS reads one by one. 2: as
FAISS writes them."""
BLOCK = 32
"""Descriptors whose 4 bits are stored side by side, for the vector instructions."""
HELD = 128
"""Segments that a process holds open, each with some 1 MB of centres in memory; those used last."""


@dataclass(frozen=True)
class Segment:
    """What is known of a segment without its descriptors."""

    file: Path
    """Its ``.json``; the other file is beside it."""
    keys: tuple[str, ...]
    """Of its R images."""
    sums: tuple[str, ...]
    """The checksum of each image's record (`exreid.features.local_extraction.as_record`)."""
    keypoints: int
    """Of an image's record."""
    format: int = FORMAT


def write_segment(
    index: faiss.IndexIVFPQFastScan,
    head: bytes,
    folder: Path,
    keys: Sequence[str],
    described: dict[str, Any],
) -> Path:
    """Write both files into the folder; returns the ``.json``, which has all that is ``described``.
    ``head``: the index without descriptors, in FAISS's form."""
    import faiss

    lists = faiss.downcast_InvertedLists(index.invlists)
    assert (lists.n_per_block, lists.block_size) == (BLOCK, BLOCK * index.code_size)
    size_C = np.array([lists.list_size(cell) for cell in range(index.nlist)], "<u8")
    first = -(-(16 + size_C.nbytes + len(head)) // 64) * 64
    head = np.array([first, index.nlist], "<u8").tobytes() + size_C.tobytes() + head
    head += bytes(first - len(head))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder / "segment.faiss")
    try:
        with temporary.open("wb") as stream:
            stream.write(head)
            for cell, size in enumerate(size_C.tolist()):
                if size:
                    room = -(-size // BLOCK) * BLOCK
                    number = np.zeros(room, "<i8")
                    number[:size] = faiss.rev_swig_ptr(lists.get_ids(cell), size)
                    codes = faiss.rev_swig_ptr(lists.get_codes(cell), room * index.code_size)
                    stream.write(codes.tobytes() + number.tobytes())
            sizes = {"head_bytes": first, "bytes": stream.tell()}
        text = json.dumps({"format": FORMAT, **described, **sizes}).encode()
        file = folder / f"segment-{keys_fingerprint(keys)}-{checksum([text, head])}.json"
        temporary.replace(file.with_suffix(".faiss"))
        temporary.write_bytes(text)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    for written in (file.with_suffix(".faiss"), file):
        mirror.put(written)
    return file


def read_segment(file: Path) -> Segment | None:
    """The segment of a ``.json``; None where it, the cells or the size are not as written."""
    try:
        text = mirror.local_copy(file).read_bytes()
        described = json.loads(text)
        cells = mirror.local_copy(file.with_suffix(".faiss"))
        with cells.open("rb") as stream:
            seal = checksum([text, stream.read(described["head_bytes"])])
        named = SEALED.search(file.stem)
        if named is None or named[1] != seal or cells.stat().st_size != described["bytes"]:
            return None
        keys, sums = tuple(described["keys"]), tuple(described["sums"])
        return Segment(file, keys, sums, int(described["keypoints"]), described.get("format", 1))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def opened(file: Path) -> faiss.IndexIVF:
    """The index beside a ``.json``."""
    cells = mirror.local_copy(file.with_suffix(".faiss"))
    state = cells.stat()
    return _read(cells, (state.st_ino, state.st_mtime_ns))


@lru_cache(maxsize=HELD)
def _read(cells: Path, state: tuple[int, int]) -> faiss.IndexIVF:
    """Of a file in this ``state``: one that was written anew is another."""
    import faiss

    try:
        first, cells_count = np.fromfile(cells, "<u8", 2).tolist()
        size_C = np.fromfile(cells, "<u8", cells_count, offset=16).astype(np.int64)
        head = np.fromfile(cells, np.uint8, first - 16 - size_C.nbytes, offset=16 + size_C.nbytes)
        index = faiss.deserialize_index(head)
        room_C = -(-size_C // BLOCK) * BLOCK
        bytes_C = room_C * (index.code_size + 8)
        if index.nlist != len(size_C) or cells.stat().st_size != first + bytes_C.sum():
            raise ValueError("its lists have another size")
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        raise CacheError(f"{cells}: is damaged. Delete this file.") from error
    place_C = first + np.cumsum(bytes_C) - bytes_C
    index.replace_invlists(_mapped(cells, np.stack([size_C, room_C, place_C], axis=1), index), True)
    index.ntotal = int(size_C.sum())
    return index


def _mapped(cells: Path, list_C3: np.ndarray, index: faiss.IndexIVF) -> faiss.InvertedLists:
    """The lists of a file, which the index is to own: the size, room and place of each."""
    import faiss

    lists = faiss.OnDiskInvertedLists()
    lists.nlist, lists.code_size = index.nlist, index.code_size
    lists.filename, lists.totsize = str(cells), cells.stat().st_size
    lists.read_only, lists.prefetch_nthread = True, 0
    table = faiss.OnDiskOneListVector()
    table.resize(index.nlist)
    faiss.memcpy(table.data(), faiss.swig_ptr(list_C3), list_C3.nbytes)
    lists.lists = table
    lists.do_mmap()
    lists.this.disown()
    return lists
