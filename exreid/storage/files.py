"""Files that appear whole or not at all, and whose damage is noticed.

A file is written under a temporary name that names its writer, then renamed. A part of a cache has
a checksum in its name, a gallery's file in a list beside it: XXH3, which finds damage, not forgery,
as fast as memory is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash

from exreid.errors import ExreidError

log = logging.getLogger(__name__)

Bytes: TypeAlias = bytes | memoryview | pa.Buffer
CHUNK_BYTES = 2**23
SEALED = re.compile(r"-([0-9a-f]{16})$")
"""The end of a name, before its ending, that is a checksum."""
TEMPORARY = re.compile(r"^\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
ABANDONED_S = 24 * 3600.0
"""A temporary file of another machine that is unchanged for this long has no writer any more."""
THIS_MACHINE = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
"""This machine, in the names of temporary files: its process ids mean nothing elsewhere."""

_known: dict[tuple[tuple[str, int, int, int], ...], str] = {}
"""The checksums that this process has computed, by path, size, time and inode of the files."""


def checksum(contents: Iterable[Bytes]) -> str:
    """16 hex digits (XXH3, 64 bits) of these bytes, one after the other.

    >>> checksum([])  # as its specification has it
    '2d06800538d394c2'
    """
    digest = xxhash.xxh3_64()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def checksum_of(*files: Path) -> str:
    """The checksum of the files' bytes, one after the other; read once in a process, and again
    after a change. The files are not mapped: one that is cut off gives another checksum, one that
    cannot be read an OSError, neither a signal."""
    states = tuple(_state(file) for file in files)
    if states not in _known:
        _known[states] = checksum(chunk for file in files for chunk in _chunks(file))
    return _known[states]


def _chunks(file: Path) -> Iterable[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def sealed_stem(kind: str, *contents: Bytes) -> str:
    """A new name, without its ending, for files with these bytes: nobody else uses it, names sort
    by time, and `is_whole` knows the files by it."""
    return f"{kind}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}-{checksum(contents)}"


def is_whole(*files: Path) -> bool:
    """Whether files of one name still have the bytes that it was made for; a name without a
    checksum (of an earlier version) says nothing. OSError where they cannot be read."""
    named = SEALED.search(files[0].stem)
    return named is None or checksum_of(*files) == named[1]


def _state(file: Path) -> tuple[str, int, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns, status.st_ino


def set_aside(damaged: Sequence[Path], *endings: str) -> None:
    """Rename damaged parts of a cache, so that their entries are computed again, with a warning.

    ``endings``: of the files that belong to each under the same name.
    """
    if not damaged:
        return
    for part in damaged:
        for file in (part, *(part.with_suffix(ending) for ending in endings)):
            try:
                file.replace(file.with_name(f"{file.name}.damaged"))
            except FileNotFoundError:
                pass  # Another process was faster, or this is the file that is missing.
            except OSError as error:
                log.warning("%s: damaged, and cannot be set aside: %s.", file, error.strerror)
    log.warning(
        "%s: %d damaged file(s) of this cache (not the bytes that were written: %s%s) set aside as "
        "*.damaged; what they held is computed again. Check the disk.",
        damaged[0].parent,
        len(damaged),
        damaged[0].name,
        ", ..." if len(damaged) > 1 else "",
    )


def mapped(file: Path) -> pa.Buffer:
    """The file's bytes, memory-mapped; the file itself is closed again."""
    with pa.memory_map(str(file)) as stream:
        return stream.read_buffer()


def mapped_array(file: Path) -> np.ndarray:
    """The array of a .npy file, read-only, as `mapped`; ValueError as `array_layout`."""
    shape, dtype, start = array_layout(file)
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(mapped(file), dtype, offset=start).reshape(shape)


def array_layout(file: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """The shape and dtype of a .npy file's array, and the byte where it starts. ValueError for a
    file of another kind, one longer or shorter than its array, or an array of objects."""
    with file.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise ValueError(f"of an unknown version {version}")
        shape, fortran, dtype = reader(stream)
        start, size = stream.tell(), os.fstat(stream.fileno()).st_size
    count = math.prod(shape)
    if dtype.hasobject or fortran:
        raise ValueError("it has objects, or columns first")
    if size != start + count * dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"{size} bytes, where its header says {start + count * dtype.itemsize}")
    return shape, dtype, start


def read_json(file: Path, *, error: type[ExreidError], remedy: str, kind: type = dict) -> Any:
    """The JSON object (or another ``kind``) in a file. Raises ``error``, with the file and the
    remedy, for anything else, and OSError where the system refuses."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as reason:
        raise error(f"{file}: is not JSON. {remedy}") from reason
    if not isinstance(content, kind):
        raise error(f"{file}: has something else than a {kind.__name__}. {remedy}")
    return content


def temporary_beside(file: Path, *, ending: str = "") -> Path:
    """A hidden name in the file's folder, for use while it is written; ``ending`` for writers that
    need one. `clear_leftovers` learns from the name whether the writer still runs."""
    writer = f"{THIS_MACHINE}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return file.with_name(f".{file.name[:150]}.{writer}.tmp{ending}")


@contextmanager
def written_whole(file: Path, *, ending: str = "") -> Iterator[Path]:
    """A temporary name to write under, as `temporary_beside` gives it, which becomes the file's at
    the end of the block; what a block that raises has written is gone."""
    temporary = temporary_beside(file, ending=ending)
    try:
        yield temporary
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def clear_leftovers(folder: Path, *, below: bool = False) -> None:
    """Delete the temporary files and folders in this folder whose writers are gone; with ``below``
    also those in the folders below it."""
    for part in [Path(name) for name, _, _ in os.walk(folder)] if below else [folder]:
        _clear(part)


def _clear(folder: Path) -> None:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for name in names:
        named = TEMPORARY.match(name)
        if named is None:
            continue
        file = folder / name
        try:
            old = time.time() - file.stat().st_mtime > ABANDONED_S
            if old or (named[1] == THIS_MACHINE and not _is_running(int(named[2]))):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        except OSError:
            continue  # Its writer has just finished, or the folder is not ours to tidy.


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
