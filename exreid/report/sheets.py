"""The report of a discovery: each group as a sheet of its photographs, by visit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from exreid.data.metadata_rows import encounter_name
from exreid.errors import RunError
from exreid.explain.words import metric_words
from exreid.progress import Progress, counted
from exreid.report.pages import MetricRow, copy_static, write_page
from exreid.report.pictures import Picture, Wanted, make_pictures, picture_file
from exreid.report.read import SNAPSHOT, run_config
from exreid.storage.files import clear_leftovers
from exreid.storage.run_files import (
    NUMBER,
    PHOTOS,
    TEXT,
    WHOLE,
    read_run_json,
    read_run_table,
)
from exreid.storage.run_record import RunRecord, read_record

ANIMALS = {"image_id": TEXT, "encounter": TEXT, "group": WHOLE, "probability": NUMBER}
ON_A_PAGE = 400
"""Photographs; a group is never cut."""
FIRST_LARGE = 20_000
"""Photographs that have a large picture; those after them have the small one alone."""
HEADLINE = ("ari", "pair_precision", "pair_recall", "bcubed_precision")
IN_PROCESS = 64


@dataclass(frozen=True)
class SheetPhoto:
    """A photograph on a sheet."""

    title: str
    thumb: str
    large: str
    """The path of the large picture; empty without one."""
    note: str
    """Why there is no picture; empty with one."""


@dataclass(frozen=True)
class SheetVisit:
    """The photographs of a visit."""

    title: str
    date: str
    name: str
    """The animal's known names; empty where nobody has one."""
    probability: float
    photos: Sequence[SheetPhoto]


@dataclass(frozen=True)
class Sheet:
    """A group."""

    number: int
    note: str
    names: str
    """Its animals' known names; empty where nobody has one."""
    visits: Sequence[SheetVisit]
    photographs: int


@dataclass(frozen=True)
class DiscoveryPages:
    """What all pages show."""

    run_id: str
    written: str
    title: str
    lead: Sequence[str]
    words: Sequence[str]
    metrics: Sequence[MetricRow]
    sheets: Sequence[Sequence[Sheet]]
    """By page."""
    notes: Sequence[str]


def write_sheets(
    folder: Path, out: Path, *, root: str | None, workers: int, progress: Progress
) -> None:
    """The pages of a discovery; RunError where it has not ended, or none of its photographs can be
    read. ``root`` replaces their folder, where it has moved."""
    record = read_record(folder)
    if record.status != "completed":
        raise RunError(
            f"{folder}: this run's status is {record.status!r}, not completed. Only completed runs "
            "have a report."
        )
    animals = read_run_table(folder / "animals.parquet", ANIMALS, key="image_id").to_pandas()
    photos = read_run_table(folder / "photos.parquet", PHOTOS, key="image_id").to_pandas()
    photos = photos.astype(object).where(photos.notna(), None).set_index("image_id")
    rows = animals.join(photos[[*{"date", "root", "path", "mask"}]], on="image_id")
    if root is not None:
        rows["root"] = root
    rows["bbox"] = rows["image_id"].map(photos["bbox"]) if "bbox" in photos else None
    rows = rows.astype(object).where(rows.notna(), None)
    out.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out, below=True)
    wanted = _wanted(folder, rows)
    pictures = make_pictures(
        wanted,
        out,
        workers=workers if len(wanted) > IN_PROCESS else 1,
        on_progress=progress("Making pictures", len(wanted)),
    )
    if pictures and not any(picture.key for picture in pictures.values()):
        raise RunError(
            f"{folder}: none of its {len(pictures)} photographs can be read "
            f"({pictures[0].error}) If they have moved, give their folder with --root FOLDER."
        )
    _write(out, record, read_run_json(folder / "discovery.json"), _sheets(rows, pictures))


def _wanted(folder: Path, rows: pd.DataFrame) -> dict[int, Wanted]:
    snapshot = folder / SNAPSHOT
    config = run_config(folder, snapshot.read_text(encoding="utf-8"))
    crop, margin = (config.dataset.cropped, config.dataset.crop_margin) if config else ("none", 0.0)
    columns = (rows[name].tolist() for name in ("root", "path", "mask", "bbox"))
    return {
        i: Wanted(place, path, mask, i < FIRST_LARGE, bbox, crop, margin)
        for i, (place, path, mask, bbox) in enumerate(zip(*columns, strict=True))
    }


def _sheets(rows: pd.DataFrame, pictures: Mapping[int, Picture]) -> list[Sheet]:
    known = "identity" in rows and rows["identity"].notna().any()
    rows = rows.assign(place=range(len(rows)))
    sheets = []
    for number, group in rows.groupby("group", sort=True):
        visits = []
        for encounter, of_visit in group.groupby("encounter", sort=False):
            dates = sorted({str(date)[:10] for date in of_visit["date"] if date})
            visits.append(
                SheetVisit(
                    str(encounter_name(str(encounter))),
                    " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
                    _names(of_visit) if known else "",
                    float(of_visit["probability"].iloc[0]),
                    [_photo(row, pictures) for _, row in of_visit.iterrows()],
                )
            )
        visits.sort(key=lambda visit: visit.date)  # without dates in the table's order
        note = f"{counted(len(group), 'photograph')}, {counted(len(visits), 'visit')}"
        names = _names(group) if known else ""
        sheets.append(Sheet(int(str(number)), note, names, visits, len(group)))
    return sheets


def _names(rows: pd.DataFrame) -> str:
    counts = rows["identity"].dropna().value_counts()
    return ", ".join(
        f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items()
    )


def _photo(row: pd.Series, pictures: Mapping[int, Picture]) -> SheetPhoto:
    picture = pictures[int(row["place"])]
    title = os.path.basename(str(row["image_id"]))  # noqa: PTH119 - an id, not a path on a disk
    if not picture.key:
        return SheetPhoto(title, "", "", picture.error)
    large = picture_file(picture.key, "p") if picture.large else ""
    return SheetPhoto(title, picture_file(picture.key, "t"), large, "")


def _by_page(sheets: Sequence[Sheet]) -> list[list[Sheet]]:
    pages: list[list[Sheet]] = [[]]
    for sheet in sheets:
        count = sum(before.photographs for before in pages[-1])
        if pages[-1] and count + sheet.photographs > ON_A_PAGE:
            pages.append([])
        pages[-1].append(sheet)
    return pages


def _write(
    out: Path, record: RunRecord, discovery: dict[str, object], sheets: Sequence[Sheet]
) -> None:
    words = discovery["words"]
    assert isinstance(words, list)
    groups = counted(len(sheets), "group")
    photographs = counted(sum(sheet.photographs for sheet in sheets), "photograph")
    pages = DiscoveryPages(
        record.run_id,
        record.written[:16].replace("T", " "),
        f"{groups} of {photographs}",
        [str(word) for word in words[:2]],
        [str(word) for word in words[2:]],
        [_metric(name, record) for name in record.metrics],
        _by_page(sheets),
        [photo.note for sheet in sheets for v in sheet.visits for photo in v.photos if photo.note],
    )
    files = [f"sheets-{n + 1}.html" if n else "sheets.html" for n in range(len(pages.sheets))]
    places = (("index.html", "Summary"), (files[0], "Animals"))
    common = {"run": pages, "pages": places, "files": files}
    headline = [row for row in pages.metrics if row.name in HEADLINE]
    write_page(
        out / "index.html",
        "discovery.html",
        **common,
        page="index",
        title="Summary",
        headline=headline,
    )
    for n, file in enumerate(files):
        write_page(out / file, "sheets.html", **common, page="sheets", title="Animals", number=n)
    copy_static(out)


def _metric(name: str, record: RunRecord) -> MetricRow:
    label, meaning = metric_words(name)
    interval = record.intervals.get(name)
    return MetricRow(name, label, meaning, record.metrics[name], interval, [])
