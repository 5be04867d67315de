"""Opening a gallery's folder, checked, also while another process replaces it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from exreid.errors import ConfigError, GalleryError
from exreid.gallery.folder import StoredGallery
from exreid.gallery.images_table import read_images_table
from exreid.gallery.layout import CHECKSUMS, DAMAGED, IMAGES, MANIFEST, checked, read_checksums
from exreid.gallery.manifest import (
    add_missing_flips,
    read_manifest,
    stored_config,
    with_stored_weights,
)
from exreid.gallery.swap import State, put_back, state_of

log = logging.getLogger(__name__)

OPEN_TRIES = 5
"""The most times that a gallery is opened, if another process replaces it meanwhile."""


def open_gallery(folder: Path) -> StoredGallery:
    """Open a gallery and check its files; GalleryError for any other folder."""
    folder = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - keeps symbolic links
    for _ in range(OPEN_TRIES):
        put_back(folder)
        state = state_of(folder, MANIFEST)
        try:
            gallery = _opened(folder, state)
            if not gallery.is_replaced():
                return gallery
        except (GalleryError, ConfigError, OSError):
            if state_of(folder, MANIFEST) == state:
                raise
    raise GalleryError(f"{folder}: is replaced again and again while it is read. Wait for that.")


def _opened(folder: Path, state: State) -> StoredGallery:
    if not (folder / MANIFEST).is_file():
        raise GalleryError(
            f"{folder}: no gallery (no {MANIFEST} in it). Make one: exreid gallery build FOLDER "
            "--out DIR."
        )
    checksums = read_checksums(folder)
    manifest = read_manifest(folder, checksums)
    config = stored_config(manifest, source=str(folder / MANIFEST))
    if checksums is None and "checksums" in manifest:
        raise GalleryError(f"{folder / CHECKSUMS}: is missing. {DAMAGED}")
    if checksums is None:
        log.warning(
            "%s: this gallery has no checksums (an earlier version of exreid wrote it): damage to "
            "its files goes unnoticed. Build it again, or add photographs to it, to have them.",
            folder,
        )
    add_missing_flips(manifest, config)
    config = with_stored_weights(config, folder, manifest, checksums)
    images = read_images_table(checked(folder, IMAGES, checksums))
    return StoredGallery(folder, manifest, config, *images, checksums, state)
