"""One act at a URL, tried a few times, with an error that says what is left to do."""

from __future__ import annotations

import posixpath
import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec import AbstractFileSystem

from exreid.errors import StorageError

Value = TypeVar("Value")

WAITS_S = (0.5, 2.0, 8.0)
"""Before each further try of what failed."""
WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""Protocols whose objects appear whole: no other name is needed while they are written."""


def at_url(url: str, act: Callable[[AbstractFileSystem, str], Value], *, kept: Path) -> Value:
    """``act`` of the URL's file system and the path in it. StorageError once the last try has
    failed; ``kept`` is where what was finished is on this machine."""
    waits = iter(WAITS_S)
    while True:
        try:
            system, inner = open_url(url)
            system.invalidate_cache()
            return act(system, inner)
        except (OSError, ValueError, ImportError) as error:
            wait_s = next(waits, None)
            if wait_s is None or isinstance(error, (PermissionError, ImportError)):
                raise StorageError(
                    f"{url}: cannot be reached or written ({str(error) or type(error).__name__}). "
                    f"What was finished is in {kept}, and is uploaded when the same "
                    "command is run again. Check the URL, its credentials and the network."
                ) from error
            time.sleep(wait_s)


def open_url(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, without a cache of its listings, and the path in it."""
    protocol, inner = url.split("://", 1)
    system = _system(protocol)
    return system, system._strip_protocol(f"{protocol}://{inner}")


@lru_cache
def _system(protocol: str) -> AbstractFileSystem:
    return fsspec.filesystem(protocol, use_listings_cache=False)


def upload(system: AbstractFileSystem, file: Path, inner: str) -> None:
    """Write a file to a path, whole or not at all."""
    names = system.protocol
    protocols = (names,) if isinstance(names, str) else tuple(names)
    if WHOLE_PUTS & set(protocols):
        system.put_file(str(file), inner)
        return
    temporary = f"{inner}.{uuid.uuid4().hex[:8]}.tmp"
    system.makedirs(posixpath.dirname(inner), exist_ok=True)
    system.put_file(str(file), temporary)
    system.mv(temporary, inner)


def listed(system: AbstractFileSystem, inner: str) -> dict[str, int | None]:
    """Names of what is right in a folder, with the size of each file, None of a folder; empty where
    there is no such folder."""
    try:
        entries = system.ls(inner, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {
        posixpath.basename(entry["name"].rstrip("/")): None
        if entry.get("type") == "directory"
        else int(entry["size"] or 0)
        for entry in entries
    }
