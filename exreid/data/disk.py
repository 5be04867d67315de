"""What an error of the operating system, or a full disk, means for whoever writes there."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from exreid.errors import StorageError

FULL = {errno.ENOSPC, errno.EDQUOT}
NEARLY_FULL_BYTES = 2**20
"""Less than this much free space counts as none where an error does not say what it is."""


def storage_error(error: BaseException, folder: Path) -> StorageError | None:
    """What an error of the operating system means for a run that writes to this folder.

    Libraries that write in C++ raise RuntimeErrors of their own: where the disk is then full, that
    is taken as the reason.
    """
    if not isinstance(error, (OSError, RuntimeError)):
        return None
    free = _free_bytes(folder)
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL or (free is not None and free < NEARLY_FULL_BYTES):
        place = getattr(error, "filename", None) or folder
        return StorageError(
            f"the disk is full: {place} could not be written ({_shown(free)} free). What was "
            "finished is kept. Make room, or set another output.root."
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        place = f"{error.filename}: " if error.filename else ""
        return StorageError(
            f"{place}{error.strerror or error}. What was finished is kept. Check that the storage "
            f"of {folder} can be reached and written."
        )
    return None


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _shown(free: int | None) -> str:
    return "unknown" if free is None else f"{free / 2**20:.1f} MB"
