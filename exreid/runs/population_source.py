"""The captures of a run or a gallery, and what is known of their mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from exreid.data.exports.animals import ExportedAnimal
from exreid.data.exports.captures import Capture
from exreid.data.exports.placed import PhotographRow, described, moments_of
from exreid.errors import RunError
from exreid.gallery.layout import MANIFEST
from exreid.progress import counted
from exreid.report.review_sources import read_discovered, read_review
from exreid.report.reviewed import DECISIONS
from exreid.report.run_images import site_column
from exreid.runs.export_source import (
    Source,
    find_source,
    new_numbers_from,
    read_source,
    records_of,
    with_answer,
)
from exreid.runs.population_basis import (
    Basis,
    of_confirmation,
    of_decisions,
    of_gallery,
    of_groups,
    of_review,
)
from exreid.storage.run_files import IN_GALLERY
from exreid.storage.run_record import RunRecord, read_record


@dataclass(frozen=True)
class PopulationSource:
    """What a run or a gallery says of its animals."""

    folder: Path
    is_run: bool
    captures: list[Capture]
    basis: Basis
    left_out: list[str]


def read_population(what: str, root: str | None, site: str | None) -> PopulationSource:
    """RunError for a run without animals: one that neither groups nor decides."""
    folder = find_source(what)
    is_run = not (folder / MANIFEST).is_file()
    record = read_record(folder) if is_run else None
    confirmed = None
    if record is not None and record.kind == "discover":
        source, basis = _discovery(folder, record, root, site)
    else:
        source = read_source(folder, root, site)
        basis = of_gallery(folder) if record is None else of_decisions(folder, record)
    if record is not None and record.kind == "identify" and (folder / DECISIONS).is_file():
        run = read_review(folder)
        state = run.state()
        if state.decisions:
            found = run.confirmed(state)
            visits = [run.subject.visits[v] for v in run.visit_N]
            confirmed = dict(zip(run.photos["image_id"], map(found.get, visits), strict=True))
            basis = of_confirmation(run, found)
    captures, left_out = _captures(source, confirmed)
    if not captures:
        raise RunError(
            f"{folder}: no photograph was given an animal, so there is no population to tell of. "
            + " ".join(left_out)
            + " A probe decides with benchmark.open_set.enabled=true, and a gallery decides if it "
            "can tell its animals apart."
        )
    return PopulationSource(folder, is_run, captures, basis, left_out)


def _discovery(
    folder: Path, record: RunRecord, root: str | None, site: str | None
) -> tuple[Source, Basis]:
    """The groups of a discovery, as its review has corrected them."""
    if record.status != "completed":
        raise RunError(f"{folder}: this run's status is {record.status!r}, not completed.")
    animals, rows = read_discovered(folder)
    column = site_column(rows, site)
    rows["site"] = None if column is None else rows[column]
    for name in ("mask", "bbox", "viewpoint", "date", "visit"):
        if name not in rows:
            rows[name] = None
    rows["encounter"] = animals["encounter"].to_numpy(object)
    names = [f"animal {group}" for group in animals["group"]]
    basis = of_groups(record, animals)
    if (folder / DECISIONS).is_file():
        run = read_review(folder)
        state = run.state()
        if state.decisions:
            names, basis = run.animals(state), of_review(run, state)
    roots = set(rows["root"])
    where = root or (str(roots.pop()) if len(roots) == 1 else "")
    return Source(where, record.run_id, records_of(rows), names, {}, set(), record), basis


def _captures(
    source: Source, confirmed: Mapping[str, str | None] | None
) -> tuple[list[Capture], list[str]]:
    """A capture for each animal, visit and site; a photograph without a visit is one alone. Where
    people have ``confirmed`` names by the images' ids, no other answers count."""
    moments = moments_of(source.root, source.rows) if source.root else _stated(source.rows)
    first_new = new_numbers_from(source)
    told = [
        replace(
            with_answer(described(row, (0, 0)), source, i, first_new),
            moment=moments[i][0],
            has_time=moments[i][1],
        )
        for i, row in enumerate(source.rows)
    ]
    photographs: dict[tuple[str, str, str | None], list[int]] = {}
    nameless: Counter[str] = Counter()
    for i, exported in enumerate(told):
        animal, kind = exported.animal or exported.new_animal, exported.decision or "no name"
        if confirmed is not None and exported.decision != IN_GALLERY:
            animal, kind = confirmed.get(exported.image_id), "not confirmed"
        if animal is None:
            nameless[kind] += 1
            continue
        visit = str(source.rows[i]["encounter"] or exported.image_id)
        photographs.setdefault((animal, visit, exported.site), []).append(i)
    captures = [
        _capture(animal, [told[i] for i in rows]) for (animal, *_), rows in photographs.items()
    ]
    captures.sort(
        key=lambda capture: (capture.moment or datetime.max, capture.animal, capture.path)
    )
    words = [
        f"Photographs without an animal's name, not counted: {count} ({kind})."
        for kind, count in sorted(nameless.items())
    ]
    alone = sum(row["encounter"] is None for row in source.rows)
    if alone:
        words.append(
            f"{counted(alone, 'photograph has', 'photographs have')} no encounter: each counts as "
            "a capture alone."
        )
    return captures, words


def _stated(rows: Sequence[PhotographRow]) -> list[tuple[datetime | None, bool]]:
    moments = [None if row["date"] is None else pd.Timestamp(row["date"]) for row in rows]
    return [
        (
            None if moment is None else moment.to_pydatetime(),
            moment is not None and moment != moment.normalize(),
        )
        for moment in moments
    ]


def _capture(animal: str, photographs: Sequence[ExportedAnimal]) -> Capture:
    first = min(
        photographs, key=lambda photograph: (photograph.moment or datetime.max, photograph.path)
    )
    has_place = (
        photograph
        for photograph in photographs
        if None not in (photograph.latitude, photograph.longitude)
    )
    placed = next(has_place, first)
    return Capture(
        animal,
        first.encounter or first.image_id,
        first.site,
        first.moment,
        first.has_time,
        len(photographs),
        first.path,
        frozenset(photograph.viewpoint for photograph in photographs if photograph.viewpoint),
        placed.latitude,
        placed.longitude,
        first.species,
    )
