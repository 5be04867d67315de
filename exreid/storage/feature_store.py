"""The feature cache: arrays per image, many images per file, memory-mapped when read.

A store is a folder for one stage (one model, one preprocessing, ...). Its files are Arrow files
named ``part-*.arrow``, each with a ``key`` column and one column per array, written under a
temporary name and renamed, so that a killed run leaves only whole files and two runs can write
at once. ``signatures-*.arrow`` remembers which key a file on disk had when it was last read. Each
name has a checksum: a file with other bytes is set aside, and its vectors are computed again. Where
the folder is the copy of a URL, the two are kept equal: `exreid.storage.mirror`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from exreid.errors import CacheError
from exreid.storage import mirror
from exreid.storage.files import (
    SEALED,
    Bytes,
    clear_leftovers,
    is_whole,
    mapped,
    sealed_stem,
    set_aside,
    written_whole,
)

# A file that changed this shortly before it was read may change again within the same tick of
# the file system's clock: its signature is not trusted later.
RACY_SECONDS = 2.0


class FeatureStore:
    """Fixed-shape float arrays by key; see the module's docstring for the files."""

    def __init__(self, folder: Path, description: Mapping[str, object]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        manifest = folder / "stage.json"
        if not manifest.exists():
            _write_renamed(manifest, json.dumps(dict(description), indent=1).encode())
        self._tables: list[pa.Table] = []
        self._place: dict[str, tuple[int, int]] = {}
        for table in _whole_tables(folder, "part-*.arrow"):
            self._index(table)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: str) -> bool:
        return key in self._place

    def append(self, keys: Sequence[str], vectors_ND: np.ndarray) -> None:
        """Keep these vectors; a key that is already there is kept as it is."""
        new = [i for i, key in enumerate(keys) if key not in self._place]
        if not new:
            return
        flat = pa.array(np.ascontiguousarray(vectors_ND[new], np.float32).reshape(-1))
        table = pa.table(
            {
                "key": pa.array([keys[i] for i in new], pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1]),
            }
        )
        _write_arrow(self.folder, "part", table)
        self._index(table)

    def gather(self, keys: Sequence[str]) -> np.ndarray:
        """The vectors of these keys as a float32 matrix, in that order."""
        places = np.array([self._place[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        length = self._tables[places[0, 0]]["vector"].type.list_size if len(places) else 0
        out_ND = np.empty((len(keys), length), np.float32)
        for number in np.unique(places[:, 0]):
            column = self._tables[number]["vector"].combine_chunks()
            stored_MD = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, length)
            rows = np.flatnonzero(places[:, 0] == number)
            out_ND[rows] = stored_MD[places[rows, 1]]
        return out_ND

    def _index(self, table: pa.Table) -> None:
        number = len(self._tables)
        self._tables.append(table)
        for row, key in enumerate(table["key"].to_pylist()):
            self._place.setdefault(key, (number, row))


class SignatureMemo:
    """Which content key a file had, by its signature (size, times, inode), to spare reading it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        self._known: dict[str, str] = {}
        for table in _whole_tables(folder, "signatures-*.arrow"):
            self._known.update(
                zip(table["signature"].to_pylist(), table["key"].to_pylist(), strict=True)
            )

    def get(self, signature: str) -> str | None:
        """The key that the file with this signature had, or None."""
        return self._known.get(signature)

    def remember(self, signatures: Sequence[str], keys: Sequence[str]) -> None:
        """Keep these pairs, on disk at once."""
        if len(signatures) == 0:
            return
        self._known.update(zip(signatures, keys, strict=True))
        table = pa.table({"signature": list(signatures), "key": list(keys)})
        _write_arrow(self.folder, "signatures", table)


def is_racy(modified_s: float, read_s: float) -> bool:
    """Whether a file changed so shortly before it was read that its times prove nothing."""
    return read_s - modified_s < RACY_SECONDS


def _whole_tables(folder: Path, pattern: str) -> Iterator[pa.Table]:
    """The tables of a cache's files, oldest first; those that are damaged are set aside.

    Files of an earlier version, without a checksum in their names, are left where they are."""
    mirror.synchronise(folder, pattern)
    files = [file for file in sorted(folder.glob(pattern)) if SEALED.search(file.stem)]
    damaged = [file for file in files if not _exists_whole(file)]
    set_aside(damaged)
    fetched = [file for file in damaged if mirror.fetch(file) and _exists_whole(file)]
    for file in files:
        if file not in damaged or file in fetched:
            yield _read_arrow(file)


def _exists_whole(file: Path) -> bool:
    try:
        return is_whole(file)
    except OSError:
        return False


def _read_arrow(file: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(mapped(file)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise CacheError(
            f"{file}: this file of the feature cache cannot be read ({error}). Delete it: its "
            "features are extracted again."
        ) from error


def _write_arrow(folder: Path, kind: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    _write_renamed(folder / f"{sealed_stem(kind, content)}.arrow", content)


def _write_renamed(file: Path, content: Bytes) -> None:
    with written_whole(file) as temporary:
        temporary.write_bytes(content)
    mirror.put(file)
