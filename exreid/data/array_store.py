"""Arrays of one shape and type by key, memory-mapped when read: decoded images, local features.

A store is a folder for one stage with one setting. Its parts are ``part-*.npy``, (n, ...), each
with its keys in ``part-*.keys``, one a line. Both are written under temporary names, then renamed,
the keys last: a killed run leaves only whole parts, and several processes can write at once. What
was read lately stays in memory as far as it fits, by the operating system's page cache, which
all processes of a machine share. Where the folder is the copy of one behind a URL (see
`exreid.data.mirror`), parts go there as they are written, and come from there when they are read.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exreid.data import mirror
from exreid.errors import CacheError


class ArrayStore:
    """Arrays by key; see the module's docstring for the files."""

    def __init__(self, folder: Path, *also: Path) -> None:
        """What ``folder`` holds, and what the folders of ``also`` hold besides."""
        self.folder = folder
        self._parts: list[Path] = []
        self._open: dict[int, np.ndarray] = {}
        self._place: dict[str, tuple[int, int]] = {}
        mirror.synchronise(folder, "part-*.keys", beside=".npy")
        for file in [file for one in (folder, *also) for file in sorted(one.glob("part-*.keys"))]:
            self._parts.append(file.with_suffix(".npy"))
            for row, key in enumerate(file.read_text(encoding="ascii").split()):
                self._place.setdefault(key, (len(self._parts) - 1, row))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open: another process maps the files itself."""
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: str) -> bool:
        return key in self._place

    def gather(self, keys: Sequence[str]) -> np.ndarray:
        """A copy of the arrays of these keys, in that order; no keys: an array of length 0."""
        if len(keys) == 0:
            return np.zeros((0, 0, 0, 0), np.uint8)
        first = self._array(keys[0])
        out = np.empty((len(keys), *first.shape), first.dtype)
        for i, key in enumerate(keys):
            out[i] = self._array(key)
        return out

    def _array(self, key: str) -> np.ndarray:
        try:
            number, row = self._place[key]
            if number not in self._open:
                part = mirror.local_copy(self._parts[number])
                self._open[number] = np.load(part, mmap_mode="r")
            array: np.ndarray = self._open[number][row]
        except (KeyError, OSError, ValueError, IndexError) as error:
            raise CacheError(
                f"{self.folder}: entry {key} of this cache cannot be read "
                f"({type(error).__name__}). On a cluster every machine must see output.root; "
                "otherwise delete that folder: it is filled again."
            ) from error
        return array


def write_part(folder: Path, keys: Sequence[str], arrays_N: np.ndarray) -> None:
    """Add a part, an array for each key; nothing where there are none."""
    if len(keys) == 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    with temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(arrays_N))
    temporary.replace(folder / f"{name}.npy")
    temporary.write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    temporary.replace(folder / f"{name}.keys")
    mirror.publish(folder / f"{name}.npy")
    mirror.publish(folder / f"{name}.keys")
