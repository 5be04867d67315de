"""Putting a review's confirmed answers into a gallery."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from exreid.config.probe import ProbeConfig
from exreid.data.metadata_rows import with_part
from exreid.errors import GalleryError
from exreid.gallery.edits import Edit, accepted_name, now
from exreid.gallery.folder import StoredGallery
from exreid.progress import Progress, no_progress
from exreid.records import ImageTable
from exreid.report.review_sources import read_review
from exreid.report.reviewed import DECISIONS, ReviewedRun
from exreid.report.reviewed_gallery import SOURCE
from exreid.review.decisions import read_decisions, user_name
from exreid.review.state import State
from exreid.runs.gallery_build import Built
from exreid.runs.gallery_change import edit_gallery, edit_of, stored_places, unknown_images
from exreid.storage.run_record import RESULT_FILE

log = logging.getLogger(__name__)

OWN = ("image_id", "side", "root", "path", "mask", "bbox", "identity", "encounter", "viewpoint")
OWN_COLUMNS = (*OWN, "date", "visit", "gallery_images", "node")
"""Columns of the run's photographs that are no columns of the user's table."""


@dataclass(frozen=True)
class Applied:
    """What became of a review's visits."""

    built: Built | None
    """None where nothing was new."""
    visits: int
    """Confirmed ones."""
    left: int
    """Visits that nobody has confirmed."""
    already: int
    """Confirmed photographs that the gallery had."""


def apply_decisions(
    gallery: StoredGallery,
    config: ProbeConfig,
    file: Path,
    *,
    root: str | None = None,
    download: bool = False,
    progress: Progress = no_progress,
    verbose: bool = False,
) -> Applied:
    """The gallery with the photographs of the visits that a review confirmed, fitted once;
    ``file``: the decisions, in the folder of their run, or that folder; ``root``: where its
    photographs have moved. GalleryError where a name
    would be that of two animals, or one animal would have two."""
    file = file / DECISIONS if file.is_dir() else file
    of_run = any((file.parent / name).is_file() for name in (RESULT_FILE, SOURCE))
    if not file.is_file() or not of_run:
        raise GalleryError(
            f"{file}: is not a file of decisions in the folder of its run. exreid review apply RUN "
            f"{file.name} puts another person's answers there; then name RUN/{DECISIONS}."
        )
    run, given = read_review(file.parent), read_decisions(file)
    if given.torn:
        log.warning("%s: its last line was cut off and is not used: %r", file, given.torn)
    state = run.state_of(given.decisions)
    found = run.confirmed(state)
    say: dict[str, Any] = {"download": download, "progress": progress, "verbose": verbose}
    if run.kind == "gallery":
        return _renamed(gallery, config, run, found, **say)
    _refuse_unclear_names(run, state, file)
    left = len(run.subject.visits) - len(run.known) - len(found)
    table = _table(run, found, gallery, root)
    name_of = _final_names(gallery, run, table, config)
    names = table.rows["identity"].map(name_of).astype(object)
    table = replace(table, rows=table.rows.assign(identity=names))
    new, already = unknown_images(gallery, table, config)
    if not len(new):
        return Applied(None, len(found), left, already)
    after = dict(zip(new.rows["image_id"], new.rows["identity"], strict=True))
    edit = Edit("apply", dict.fromkeys(after, ""), after, user_name(), now())
    return Applied(edit_gallery(gallery, config, edit, new, **say), len(found), left, already)


def _renamed(
    gallery: StoredGallery,
    config: ProbeConfig,
    run: ReviewedRun,
    found: dict[str, str],
    **say: Any,
) -> Applied:
    """The gallery with the names that the review of its own animals has given. GalleryError for one
    that has changed since, and for a name of another animal."""
    if run.fingerprint != gallery.fingerprint:
        raise GalleryError(
            f"{gallery.folder}: has changed since it was reviewed, or is another gallery. Look "
            f"again, your answers are kept: exreid review {gallery.folder}"
        )
    rows, visits = gallery.table.rows, run.subject.visits
    now_called = zip(rows["image_id"], rows["identity"], run.visit_N.tolist(), strict=True)
    after = {
        image: found[visits[visit]]
        for image, name, visit in now_called
        if found.get(visits[visit], name) != name
    }
    for name in sorted(set(after.values()) - set(rows["identity"])):
        accepted_name(gallery.table, name, config.dataset.missing_values, instead_of=None)
    if not after:
        return Applied(None, len(found), 0, 0)
    edit = edit_of(gallery, "apply", after)
    return Applied(edit_gallery(gallery, config, edit, **say), len(found), 0, 0)


def _refuse_unclear_names(run: ReviewedRun, state: State, file: Path) -> None:
    names, visits = run.names(state), run.subject.visits
    group_V = state.result.doubts.group_V
    for name, groups in names.shared.items():
        first, second = (visits[int((group_V == group).argmax())] for group in groups[:2])
        raise GalleryError(
            f"{file}: {name} would be the name of two animals, that of {first} and that of "
            f"{second}. Go on with the review: exreid review {run.folder}"
        )
    for group, several in names.several.items():
        visit = visits[int((group_V == group).argmax())]
        raise GalleryError(
            f"{file}: the animal of {visit} is called {' and '.join(several)}. Go on with the "
            f"review: exreid review {run.folder}"
        )


def _final_names(
    gallery: StoredGallery, run: ReviewedRun, table: ImageTable, config: ProbeConfig
) -> dict[str, str]:
    """What each animal of the review is called in the gallery: a known one, or one whose
    photographs it has already, as those are called now, another by its new name."""
    rows = gallery.table.rows
    now_called = dict(zip(rows["image_id"], rows["identity"], strict=True))
    called: dict[str, set[str]] = {}
    for name, place in zip(
        table.rows["identity"], stored_places(gallery, table, config), strict=True
    ):
        if place is not None and name not in run.known.values():
            called.setdefault(name, set()).add(str(rows["identity"].iloc[place]))
    for node, name in run.known.items():
        ids = [run.photos["image_id"].iloc[row] for row in run.photos_of[node]]
        called[name] = {now_called[image] for image in ids if image in now_called}
    names = set(table.rows["identity"])
    found: dict[str, str] = {}
    for name, given in called.items():
        if name in names and len(given) != 1:
            what = f"is now {' and '.join(sorted(given))}" if given else "is in it no more"
            raise GalleryError(
                f"{gallery.folder}: {name}, of {run.folder.name}, {what}. Identify the photographs "
                "again."
            )
        if given:
            found[name] = min(given)
    known = set(found)
    for name in sorted(names - known):
        missing = config.dataset.missing_values
        found[name] = accepted_name(gallery.table, name, missing, instead_of=None)
    return found


def _table(
    run: ReviewedRun, name_of: dict[str, str], gallery: StoredGallery, root: str | None
) -> ImageTable:
    """The confirmed visits' photographs, each with its animal's name."""
    visits = run.subject.visits
    rows = [row for row, visit in enumerate(run.visit_N) if visits[visit] in name_of]
    photos = run.photos.iloc[rows].reset_index(drop=True)
    roots = [root] if root is not None else sorted(set(photos["root"].astype(str)))
    if len(roots) > 1:
        raise GalleryError(f"{run.folder}: its photographs are in several folders: {roots}.")
    held = set(gallery.table.rows["encounter"].dropna())
    text = {name: [_text(cell) for cell in _cells(photos, name)] for name in OWN}
    encounters = [
        with_part(name, run.folder.name) if name in held else name for name in text["encounter"]
    ]
    ids = [
        path if path is not None and image == f"new:{path}" else image
        for image, path in zip(text["image_id"], text["path"], strict=True)
    ]
    cells = {
        **{name: text[name] for name in ("path", "mask", "bbox", "viewpoint")},
        "image_id": ids,
        "identity": [name_of[visits[run.visit_N[row]]] for row in rows],
        "encounter": encounters,
        "split": None,
    }
    frame = pd.DataFrame(cells, dtype=object).assign(row=0)
    frame["date"] = pd.to_datetime(pd.Series(_cells(photos, "date"))).astype("datetime64[s]")
    original = photos.drop(columns=list(OWN_COLUMNS), errors="ignore").astype(object)
    return ImageTable(frame, original, roots[0] if roots else "", str(run.folder / DECISIONS))


def _cells(photos: pd.DataFrame, name: str) -> list[object]:
    return photos[name].tolist() if name in photos else [None] * len(photos)


def _text(cell: object) -> str | None:
    return cell if isinstance(cell, str) and cell else None
