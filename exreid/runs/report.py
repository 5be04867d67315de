"""The report of a finished run: one folder of static pages that opens from disk.

What is read of a run's folder: ``result.json``, ``config.snapshot.yaml``, ``queries.parquet`` and
``rankings.parquet``; and where they are there ``answers``, ``fusion``, ``open_set``,
``encounters``, ``matches``, ``calibration_pairs`` and ``new_animals`` (``.parquet``),
``fusion.json``, ``open_set.json``, ``faithfulness.json``, ``rejected.csv``, ``leaks.csv``.

A run that knows no truth (``result.json`` with ``"kind": "identify"``) has the same files, with
``identity``, ``is_match``, ``is_known`` and ``is_right`` null. Where its photographs are not those
of the snapshot's data set, ``photos.parquet`` says where they are: a row per query and gallery
photograph with ``image_id``, ``root`` and ``path`` (relative to it), and optionally ``mask``,
``bbox`` (as `exreid.data.boxes.box_text` has it),
``identity``, ``date`` (text), ``encounter``, ``visit`` (how that is shown), ``viewpoint``,
``gallery_images`` (how many the gallery has of the animal) and any further columns, which are shown
as they are. ``root`` and ``path`` are null for a photograph without a picture.

A discovery (``"kind": "discover"``) has pages of its groups alone (`exreid.report.sheets`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from exreid.errors import RunError
from exreid.progress import Progress, counted, no_progress
from exreid.report.matched_pairs import matched_rows
from exreid.report.outcomes import query_outcomes
from exreid.report.overview import overview
from exreid.report.page_data import write_index, write_parts
from exreid.report.pages import pages_version, write_pages, write_whole
from exreid.report.pictures import Picture, make_pictures, wanted_pictures
from exreid.report.queries import query_pages
from exreid.report.read import RunData, read_run_data
from exreid.report.sheets import write_sheets
from exreid.report.side_by_side import Comparison
from exreid.report.side_by_side import compare as compare_runs
from exreid.storage import mirror
from exreid.storage.files import clear_leftovers
from exreid.storage.run_files import damage_named
from exreid.storage.run_record import record_of

log = logging.getLogger(__name__)
MOST_WORKERS = 8
IN_PROCESS = 64
"""Fewer images are not worth other processes."""
MARKER = "report.json"
SHOWN_FAULTS = 20


def write_report(
    run_dir: Path,
    out: Path | None = None,
    *,
    compare: Sequence[Path] = (),
    root: str | None = None,
    gallery_root: str | None = None,
    site_column: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write the report of a run; returns its first page.

    ``out`` is ``RUN_DIR/report`` by default; where that is a copy of a URL, it goes there too.
    Where it holds the report of this very run already, nothing is done; pictures that are there
    are never made again. ``compare``: further runs on the same split. ``root`` replaces the data
    set's folder, or that of an identification's photographs, where it has moved; ``gallery_root``
    the folder of an identification's gallery. ``site_column``: the column with the place; by
    default the likeliest. ``workers``: processes (None: as the CPUs allow).

    RunError where a folder is no finished run, its images cannot be found, or runs are not on
    one split.
    """
    out = (run_dir / "report" if out is None else out).absolute()
    first = out / "index.html"
    mark = _mark(run_dir, compare, root, gallery_root, site_column)
    if first.exists() and _marked(out) == mark:
        return first
    _check_out(out)
    workers = min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
    record = record_of(run_dir)
    if record is not None and record.kind == "discover":
        if compare or gallery_root or site_column:
            raise RunError(f"{run_dir}: a discovery has no --compare, --gallery or --site.")
        with damage_named(run_dir):
            write_sheets(run_dir, out, root=root, workers=workers, progress=progress)
        return _finished(out, mark, record.run_id)
    data = read_run_data(run_dir, root=root, gallery_root=gallery_root, site_column=site_column)
    with damage_named(run_dir):
        _write(data, out, _comparison(data, compare), workers=workers, progress=progress)
    return _finished(out, mark, data.result.run_id)


def _finished(out: Path, mark: str, run_id: str) -> Path:
    """Mark the report as whole; its first page."""
    mirror.publish_folder(out)
    write_whole(out / MARKER, json.dumps({"mark": mark, "run_id": run_id}) + "\n")
    mirror.publish_folder(out)
    return out / "index.html"


def _write(
    data: RunData, out: Path, comparison: Comparison | None, *, workers: int, progress: Progress
) -> None:
    outcomes = query_outcomes(data)
    advance, pages = progress("Reading answers", len(data.queries)), []
    for page in query_pages(data, outcomes):
        pages.append(page)
        advance(1)
    matched = matched_rows(data)
    out.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out, below=True)
    (out / MARKER).unlink(missing_ok=True)
    wanted = wanted_pictures(data, pages, matched)
    pictures = make_pictures(
        wanted,
        out,
        workers=workers if len(wanted) > IN_PROCESS else 1,
        on_progress=progress("Making pictures", len(wanted)),
    )
    notes = _faults(data, pictures)
    write_index(out / "data" / "index.js", data, outcomes, pictures)
    write_parts(
        out / "data",
        data,
        pages,
        matched,
        pictures,
        workers=workers if len(pages) > IN_PROCESS else 1,
        on_progress=progress("Writing answers", len(pages)),
    )
    write_pages(out, overview(data, outcomes, comparison, pictures, notes=notes))


def _comparison(data: RunData, folders: Sequence[Path]) -> Comparison | None:
    if not folders:
        return None
    if not data.truth_known or data.config is None:
        raise RunError(f"{data.folder}: a run without known animals cannot be compared.")
    return compare_runs([data.folder, *folders])


def _faults(data: RunData, pictures: Mapping[int, Picture]) -> list[str]:
    """What is wrong with some pictures; RunError where there is none at all."""
    identifies = data.result.kind == "identify"
    if pictures and not any(picture.key for picture in pictures.values()):
        lost = next(picture.error for picture in pictures.values())
        gallery = ", and that of the gallery with --gallery FOLDER" if identifies else ""
        raise RunError(
            f"{data.folder}: none of its {len(pictures)} photographs can be read ({lost}) If they "
            f"have moved, give their folder with --root FOLDER{gallery}."
        )
    image_ids = data.images.rows["image_id"]
    notes = [
        f"{image_ids.iat[image]}: {picture.error}"
        for image, picture in pictures.items()
        if picture.error
    ]
    if len(notes) > SHOWN_FAULTS:
        more = f"and {counted(len(notes) - SHOWN_FAULTS, 'more photograph')} not shown whole."
        notes = [*notes[:SHOWN_FAULTS], more]
    known = [picture for image, picture in pictures.items() if image >= len(data.queries)]
    if identifies and known and all(picture.error for picture in known):
        lost = (
            "None of the gallery's photographs can be read. If the gallery has moved, give its "
            "folder with --gallery FOLDER."
        )
        log.warning("%s: %s", data.folder, lost)
        notes = [lost, *notes]
    return notes


def _mark(run_dir: Path, compare: Sequence[Path], *options: str | None) -> str:
    """What changes when the report would."""
    lines = [pages_version(), *map(str, options)]
    for folder in (run_dir, *compare):
        for file in sorted(folder.glob("*")) if folder.is_dir() else []:
            if file.is_file() and not file.name.startswith("."):
                status = file.stat()
                lines.append(f"{file.absolute()} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _marked(out: Path) -> str | None:
    try:
        mark = json.loads((out / MARKER).read_text(encoding="utf-8")).get("mark")
    except (OSError, ValueError, AttributeError):
        return None
    return str(mark)


def _check_out(out: Path) -> None:
    """RunError for a folder that holds something else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out}: is a file. Give a folder with --out.")
    there = {file.name for file in out.iterdir()}
    ours = {"index.html", MARKER, "t", "p", "data", "pictures.parquet"}
    if there and not there & ours:
        raise RunError(f"{out}: has other files. Give an empty folder with --out.")
