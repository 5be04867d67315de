"""A new gallery in the place of an old one, so that at every moment one of them exists."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from exreid.errors import GalleryError

WAIT_S = 10.0
"""Wait for another process between its two renames, in seconds."""

State = tuple[int, int, int] | None


def state_of(folder: Path, manifest: str) -> State:
    """Inodes and time of a gallery, which another one in its place does not have; None without
    one."""
    try:
        inside = (folder / manifest).stat()
        return folder.stat().st_ino, inside.st_ino, inside.st_mtime_ns
    except OSError:
        return None


@contextmanager
def new_folder(out: Path, check: Callable[[Path], object]) -> Iterator[Path]:
    """A folder that takes the place of ``out`` after the with-block, once ``check`` has opened it.
    Until then, and after a failure, the old folder stays."""
    out = Path(os.path.abspath(out.expanduser()))  # noqa: PTH100
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    lock = _lock(out, 0)
    try:
        # To the lock, a folder without the right to write looks locked.
        temporary.mkdir()
        temporary.rmdir()
        lock.acquire()
    except Timeout as error:
        raise GalleryError(f"{out}: another process is writing it. Wait for it.") from error
    try:
        _tidy(out)
        temporary.mkdir()
        yield temporary
        check(temporary)
        old = out.with_name(f"{temporary.name}.old")
        if out.exists():
            out.replace(old)
        try:
            temporary.replace(out)
        except BaseException:
            if old.exists():
                old.replace(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()


def put_back(out: Path) -> None:
    """Put a gallery back that a killed process took away and did not replace."""
    aside = _aside(out)
    if out.exists() or not aside:
        return
    try:
        with _lock(out, WAIT_S):
            _tidy(out)
    except (OSError, Timeout) as error:
        raise GalleryError(
            f"{out}: a process that was killed left this gallery as {aside[-1]}, and it cannot be "
            f"put back ({error}). Rename that folder to {out.name}."
        ) from error


def _aside(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f".{glob.escape(out.name)}.*.tmp.old"))


def _lock(out: Path, timeout_s: float) -> FileLock:
    return FileLock(out.with_name(f".{out.name}.lock"), timeout=timeout_s)


def _tidy(out: Path) -> None:
    """Remove what a killed build left beside the gallery; put the gallery back if the build was
    killed between its two renames."""
    for left in _aside(out):
        if not out.exists():
            left.replace(out)
    for left in sorted(out.parent.glob(f".{glob.escape(out.name)}.*.tmp*")):
        shutil.rmtree(left, ignore_errors=True)
