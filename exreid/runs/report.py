"""The report of a finished run: one folder of static pages that opens from disk.

What is read of a run's folder: ``result.json``, ``config.snapshot.yaml``, ``queries.parquet`` and
``rankings.parquet``; and where they are there ``answers``, ``fusion``, ``open_set``,
``encounters``, ``matches``, ``calibration_pairs`` and ``new_animals`` (``.parquet``),
``fusion.json``, ``open_set.json``, ``faithfulness.json``, ``rejected.csv``, ``leaks.csv``.

A run that knows no truth (``result.json`` with ``"kind": "identify"``) has the same files, with
``identity``, ``is_match``, ``is_known`` and ``is_right`` null. Where its photographs are not those
of the snapshot's data set, ``photos.parquet`` says where they are: a row per query and gallery
photograph with ``image_id``, ``root`` and ``path`` (relative to it), and optionally ``mask``,
``identity``, ``date`` (text), ``encounter``, ``visit`` (how that is shown), ``viewpoint``,
``gallery_images`` (how many the gallery has of the animal) and any further columns, which are shown
as they are. ``root`` and ``path`` are null for a photograph without a picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from exreid.errors import RunError
from exreid.progress import Progress, no_progress
from exreid.report.compare import Comparison
from exreid.report.compare import compare as compare_runs
from exreid.report.content import HEADLINES, MetricRow, Overview
from exreid.report.data import RunData, read_run_data
from exreid.report.data_files import write_whole
from exreid.report.overview import overview
from exreid.report.pages import pages_version, write_pages
from exreid.report.pictures import Picture, make_pictures
from exreid.report.queries import QueryPages, Shown
from exreid.report.write import PairRows, example_rows, wanted_pictures, write_index, write_parts
from exreid.storage import mirror
from exreid.storage.run_files import damage_named

MOST_WORKERS = 8
IN_PROCESS = 64
"""Fewer photographs are not worth other processes."""
MARKER = "report.json"
SHOWN_FAULTS = 20


def write_report(
    run_dir: Path,
    out: Path | None = None,
    *,
    compare: Sequence[Path] = (),
    root: str | None = None,
    site_column: str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Write the report of a run; returns its first page.

    ``out`` is ``RUN_DIR/report`` by default; where that is a copy of a URL, it goes there too.
    Where it holds the report of this very run already, nothing is done; photographs that are there
    are never made again. ``compare``: further runs on the same split. ``root`` replaces the data
    set's folder where it has moved. ``site_column``: the column with the place; by default the
    likeliest. ``workers``: processes (None: as the CPUs allow).

    RunError where a folder is no finished run, its photographs cannot be found, or runs are not on
    one split.
    """
    out = (run_dir / "report" if out is None else out).absolute()
    first = out / "index.html"
    mark = _mark(run_dir, compare, root, site_column)
    if first.exists() and _marked(out) == mark:
        return first
    _check_out(out)
    workers = min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
    data = read_run_data(run_dir, root=root, site_column=site_column)
    with damage_named(run_dir):
        return _write(data, compare, out, mark, workers=workers, progress=progress)


def _write(
    data: RunData,
    compare: Sequence[Path],
    out: Path,
    mark: str,
    *,
    workers: int,
    progress: Progress,
) -> Path:
    run_dir, first = data.folder, out / "index.html"
    comparison = _comparison(data, [run_dir, *compare]) if compare else None
    pages = QueryPages(data)
    advance = progress("Reading answers", len(data.queries))
    shown = []
    for one in pages.shown():
        shown.append(one)
        advance(1)
    pairs = PairRows(data, pages)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).unlink(missing_ok=True)
    pictures, notes = _pictures(data, shown, pairs, out, workers=workers, progress=progress)
    write_index(out / "data" / "index.js", data, pages, pictures)
    write_parts(
        out / "data",
        data,
        shown,
        pairs,
        pictures,
        workers=workers if len(shown) > IN_PROCESS else 1,
        on_progress=progress("Writing answers", len(shown)),
    )
    run = overview(data, pages.index, comparison, probability_of=pages.probability_of, notes=notes)
    write_pages(
        out,
        run,
        examples=example_rows(data, pages.index, pictures),
        headline=_headline(run),
        again=f"exreid probe --config {shlex.quote(str(run_dir / 'config.snapshot.yaml'))} "
        "output.run_id=NEW_NAME",
    )
    mirror.publish_folder(out)
    write_whole(out / MARKER, json.dumps({"mark": mark, "run_id": run.run_id}) + "\n")
    mirror.publish_folder(out)
    return first


def _pictures(
    data: RunData,
    shown: Sequence[Shown],
    pairs: PairRows,
    out: Path,
    *,
    workers: int,
    progress: Progress,
) -> tuple[dict[int, Picture], list[str]]:
    """The photographs by place, and what is wrong with some of them."""
    wanted = wanted_pictures(data, shown, pairs)
    made = make_pictures(
        list(wanted.values()),
        out,
        workers=workers if len(wanted) > IN_PROCESS else 1,
        on_progress=progress("Making pictures", len(wanted)),
    )
    if made and not any(one.key for one in made):
        lost = next(one.error for one in made)
        raise RunError(
            f"{data.folder}: none of its {len(made)} photographs can be read ({lost}) If the data "
            "set has moved, give its folder with --root FOLDER."
        )
    faults = [
        f"{data.photos.rows['image_id'].iat[i]}: {one.error}"
        for i, one in zip(wanted, made, strict=True)
        if one.error
    ]
    notes = faults[:SHOWN_FAULTS]
    if len(faults) > SHOWN_FAULTS:
        notes.append(f"and {len(faults) - SHOWN_FAULTS} more photographs that are not shown whole.")
    return dict(zip(wanted, made, strict=True)), notes


def _comparison(data: RunData, folders: Sequence[Path]) -> Comparison:
    if not data.truth_known or data.config is None:
        raise RunError(f"{data.folder}: a run without known animals cannot be compared.")
    return compare_runs(folders)


def _headline(run: Overview) -> list[MetricRow]:
    rows = {row.name: row for row in run.metrics}
    return [rows[name] for name in HEADLINES if name in rows]


def _mark(run_dir: Path, compare: Sequence[Path], root: str | None, site_column: str | None) -> str:
    """What changes when the report would."""
    lines = [pages_version(), str(root), str(site_column)]
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
    """A folder that holds something else is left alone."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out}: is a file. Give a folder with --out.")
    there = {file.name for file in out.iterdir()}
    ours = {"index.html", MARKER, "t", "p", "data", "pictures.parquet"}
    if there and not there & ours:
        raise RunError(f"{out}: holds other files. Give an empty folder with --out.")
