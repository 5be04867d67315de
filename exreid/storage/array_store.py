"""Arrays of one shape and type by key, memory-mapped when read: decoded images, local features.

A store is a folder for one stage with one setting. Its parts are ``part-*.npy``, (n, ...), each
with its keys in ``part-*.keys``, one a line; their common name has a checksum of both. Both
are written under temporary names, then renamed, the keys last: a killed run leaves only whole
parts, and several processes can write at once. What was read lately stays in memory as far as it
fits, by the operating system's page cache, which all processes of a machine share; no file stays
open. Where the folder is the copy of a URL (`exreid.storage.mirror`), parts are uploaded when they
are written, and downloaded when they are read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exreid.errors import CacheError
from exreid.storage import mirror
from exreid.storage.files import (
    array_layout,
    checksum,
    clear_leftovers,
    is_whole,
    mapped_array,
    sealed_stem,
    set_aside,
    written_whole,
)

MOST_MAPPED = 4096
"""Parts that are mapped at a time; a process may have 65,530 maps by Linux's default."""


class ArrayStore:
    """Arrays by key; see the module's docstring for the files."""

    def __init__(self, folder: Path, *also: Path) -> None:
        """Reads ``folder`` and the folders of ``also``; nothing is written into the latter."""
        self.folder, self.also = folder, also
        self.parts: list[Path] = []
        """By the files of their keys."""
        self._open: dict[int, np.ndarray] = {}
        self._place: dict[str, tuple[int, int]] = {}
        self._torn: list[int] = []
        """Parts whose keys are no whole lines: whatever is asked for, they are checked."""
        self._sums: dict[str, str] = {}
        """Checksums of arrays that are checked by themselves."""
        self._layouts: dict[int, tuple[Path, tuple[int, ...], np.dtype[Any], int]] = {}
        """Of the parts that these are in: the file, and its `array_layout`."""
        clear_leftovers(folder)
        mirror.synchronise(folder, "part-*.keys", beside=".npy")
        self._index(frozenset())

    def _index(self, without: frozenset[Path]) -> None:
        self.parts, self._open, self._place, self._torn = [], {}, {}, []
        self._layouts = {}
        folders = (self.folder, *self.also)
        for file in [part for place in folders for part in sorted(place.glob("part-*.keys"))]:
            if file in without:
                continue
            try:
                # A damaged byte is a key that nobody asks for, until the part is checked.
                text = file.read_text(encoding="ascii", errors="replace")
            except FileNotFoundError:
                continue  # Another process has just set it aside.
            self.parts.append(file)
            if not text.endswith("\n") or "\0" in text:
                self._torn.append(len(self.parts) - 1)
            for row, key in enumerate(text.split("\n")[:-1]):
                self._place.setdefault(key, (len(self.parts) - 1, row))

    def check(self, keys: Sequence[str]) -> list[Path]:
        """Read the parts with these keys and forget the damaged ones; returns the key files of the
        damaged ones. A part that is only at the URL is checked when it is fetched."""
        damaged: list[Path] = []
        while True:
            numbers = {self._place[key][0] for key in keys if key in self._place} | {*self._torn}
            bad = [self.parts[n] for n in sorted(numbers) if not self._part_is_whole(n)]
            if not bad:
                return damaged
            damaged += bad
            self._index(frozenset(damaged))

    def set_damaged_aside(self, keys: Sequence[str]) -> None:
        """As `check`; damaged parts are renamed, with a warning, and fetched from the URL again."""
        damaged = [part for part in self.check(keys) if part.parent == self.folder]
        set_aside(damaged, ".npy")
        fetched = [part for part in damaged if mirror.fetch(part) and mirror.fetch(_array_of(part))]
        if fetched:
            self._index(frozenset(part for part in damaged if part not in fetched))
            set_aside(self.check(keys), ".npy")

    def _part_is_whole(self, number: int) -> bool:
        if number in self._open:
            return True
        part = self.parts[number]
        try:
            if not _array_of(part).is_file() and mirror.url_of(part) is not None:
                return True
            return is_whole(_array_of(part), part)
        except OSError:
            return False

    def __getstate__(self) -> dict[str, object]:
        """Without what is open: another process maps the files itself."""
        return {**self.__dict__, "_open": {}, "_layouts": {}}

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: str) -> bool:
        return key in self._place

    def gather(self, keys: Sequence[str]) -> np.ndarray:
        """A copy of the arrays of these keys, in that order; no keys: an array of length 0."""
        if len(keys) == 0:
            return np.zeros((0, 0, 0, 0), np.uint8)
        first = self.view(keys[0])
        out = np.empty((len(keys), *first.shape), first.dtype)
        for i, key in enumerate(keys):
            out[i] = self.view(key)
        return out

    def check_singly(self, sums: Mapping[str, str]) -> None:
        """From now on arrays of these keys are read without the rest of their parts, and checked by
        these checksums."""
        self._sums.update(sums)

    def view(self, key: str) -> np.ndarray:
        """The array of this key, read-only: memory-mapped, or read and checked by itself."""
        wanted = self._sums.get(key)
        if wanted is None:
            return self._array(key)
        try:
            number, row = self._place[key]
            if number not in self._layouts:
                part = self.parts[number]
                array, _ = mirror.local_copy(_array_of(part)), mirror.local_copy(part)
                self._layouts[number] = (array, *array_layout(array))
            file, (count, *shape), dtype, start = self._layouts[number]
            size = math.prod(shape) * dtype.itemsize
            with file.open("rb", buffering=0) as stream:
                stream.seek(start + row * size)
                content = stream.read(size)
            if row >= count or checksum([content]) != wanted:
                raise ValueError("it is damaged: not the bytes that were written")
        except (KeyError, OSError, ValueError) as error:
            raise self._unreadable(key, str(error)) from error
        return np.frombuffer(content, dtype).reshape(shape)

    def _array(self, key: str) -> np.ndarray:
        try:
            number, row = self._place[key]
            if number not in self._open:
                self._open[number] = self._mapped(self.parts[number])
                if len(self._open) > MOST_MAPPED:
                    del self._open[next(iter(self._open))]
            array: np.ndarray = self._open[number][row]
        except (KeyError, OSError, ValueError, IndexError) as error:
            reason = str(error) if isinstance(error, ValueError) else type(error).__name__
            raise self._unreadable(key, reason) from error
        return array

    def _unreadable(self, key: str, reason: str) -> CacheError:
        part = self.parts[self._place[key][0]] if key in self._place else self.folder
        if key in self._place and part.parent != self.folder:
            return CacheError(
                f"{part.parent}: {part.stem} cannot be read ({reason}). Get this folder again, or "
                "make it again."
            )
        return CacheError(
            f"{self.folder}: entry {key} of this cache cannot be read ({reason}). On a cluster "
            "every machine must see output.root; otherwise run the same command again: what is "
            "damaged is set aside and computed again."
        )

    def _mapped(self, part: Path) -> np.ndarray:
        # On a machine that has not read this part yet, both are fetched from the URL.
        array, keys = mirror.local_copy(_array_of(part)), mirror.local_copy(part)
        if not is_whole(array, keys):
            raise ValueError(f"{array.name} is damaged: not the bytes that were written")
        return mapped_array(array)


def _array_of(part: Path) -> Path:
    return part.with_suffix(".npy")


def write_part(folder: Path, keys: Sequence[str], arrays_N: np.ndarray) -> None:
    """Add a part, an array for each key; nothing where there are none."""
    if len(keys) == 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    array = io.BytesIO()
    np.save(array, np.ascontiguousarray(arrays_N), allow_pickle=False)
    names = "".join(f"{key}\n" for key in keys).encode("ascii")
    part = folder / f"{sealed_stem('part', array.getbuffer(), names)}.keys"
    for file, content in ((_array_of(part), array.getbuffer()), (part, names)):
        with written_whole(file) as temporary:
            temporary.write_bytes(content)
    mirror.put(_array_of(part))
    mirror.put(part)
