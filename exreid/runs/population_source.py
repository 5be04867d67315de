"""The captures of a run or a gallery, and what is known of their mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.data.exports.animals import ExportedAnimal
from exreid.data.exports.captures import Capture
from exreid.data.exports.placed import PhotographRow, described, moments_of
from exreid.errors import RunError
from exreid.gallery.layout import MANIFEST
from exreid.metrics.population import (
    MatchRates,
    decided_rates,
    grouped_rates,
    rates_of_share,
    with_bias,
)
from exreid.progress import counted
from exreid.records import GalleryQuality
from exreid.report.review_sources import read_review
from exreid.report.reviewed import ReviewedRun
from exreid.report.run_images import site_column
from exreid.review.audit import LEAST_DRAWN
from exreid.review.state import State, agrees
from exreid.runs.export_source import (
    Source,
    find_source,
    new_numbers_from,
    read_source,
    records_of,
    with_answer,
)
from exreid.storage.run_files import TEXT, WHOLE, read_run_table
from exreid.storage.run_record import RunRecord, read_record

NOT_MEASURED = "How many matches are missed or wrong is not measured"
PAIR_RATES = (
    "false negatives are pairs of visits of one animal in two groups, false positives pairs in a "
    "group that are of two animals."
)
QUALITY_RATES = (
    "By the gallery's own photographs, answered at its threshold: false negatives are those of "
    "known animals that were not recognised, false positives those of animals left out that passed "
    "for known ones."
)
UNCONFIRMED = (
    "The animals are known ones that were recognised, and groups of new ones. No person has "
    "confirmed them, so their number has no interval."
)


@dataclass(frozen=True)
class Basis:
    """What is known of the number of animals and of the mistakes."""

    number: float | None
    """None: as many as there are names."""
    interval: tuple[float, float] | None
    rates: MatchRates | None
    words: list[str]
    """What the number and the rates rest on."""


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
    if record is not None and record.kind == "discover":
        source, basis = _discovery(folder, record, root, site)
    else:
        source = read_source(folder, root, site)
        basis = _of_gallery(folder) if record is None else _decided(folder, record)
    captures, left_out = _captures(source)
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
    run = read_review(folder)
    rows = run.photos.copy()
    column = site_column(rows, site)
    rows["site"] = None if column is None else rows[column]
    for name in ("mask", "bbox", "viewpoint", "date", "visit"):
        if name not in rows:
            rows[name] = None
    table = read_run_table(
        folder / "animals.parquet", {"image_id": TEXT, "encounter": TEXT, "group": WHOLE}
    ).to_pandas()
    rows["encounter"] = table["encounter"].to_numpy(object)
    state = run.state() if run.decisions.is_file() else None
    if state is not None and state.decisions:
        names, basis = run.animals(state), _reviewed(run, state)
    else:
        names = [f"animal {group}" for group in table["group"]]
        basis = _grouped(record, run.visit_N, table)
    roots = set(rows["root"])
    where = root or (str(roots.pop()) if len(roots) == 1 else "")
    return Source(where, record.run_id, records_of(rows), names, {}, set(), record), basis


def _reviewed(run: ReviewedRun, state: State) -> Basis:
    audit = state.audit
    if audit is None:
        told = (
            "The number of animals is that of the reviewed groups. It has no interval, as fewer "
            f"than {LEAST_DRAWN} of the review's questions were drawn by chance. {NOT_MEASURED}; "
            "exreid review goes on."
        )
        return Basis(state.animals, None, None, [told])
    told = (
        f"The number of animals and the rates ({PAIR_RATES[:-1]}) are estimated from the review's "
        f"{counted(audit.drawn, 'audit pair')}, each weighed by its chance of being drawn "
        f"(Horvitz-Thompson); {audit.against} of them were against the groups. The groups "
        f"themselves are {state.animals} with all answers."
    )
    words = [told]
    if not agrees(state, run.wrong):
        words.append("The audit does not confirm the groups yet; exreid review goes on.")
    return Basis(
        audit.animals.value,
        (audit.animals.low, audit.animals.high),
        with_bias(audit.missed, audit.mixed),
        words,
    )


def _grouped(record: RunRecord, visit_N: np.ndarray, table: pd.DataFrame) -> Basis:
    """A discovery that nobody has reviewed."""
    low, high = record.counts.get("animals_low"), record.counts.get("animals_high")
    interval = (float(low), float(high)) if isinstance(low, int) and isinstance(high, int) else None
    words = ["The number of animals is that of the groups, which nobody has reviewed."]
    if interval is not None:
        words.append(
            "Its interval holds if these animals split into groups as those did that the "
            "probabilities were measured on. exreid review gives one that needs no such guess."
        )
    rates = None
    known = table["identity"].notna() if "identity" in table else pd.Series(False, table.index)
    if known.any():
        of_visit = table[known].assign(visit=visit_N[known]).groupby("visit")
        sole = of_visit["identity"].nunique() == 1
        first = of_visit.first()[sole]
        truth_V = pd.factorize(first["identity"], sort=True)[0]
        rates = grouped_rates(truth_V, pd.factorize(first["group"], sort=True)[0])
    words.append(
        f"{NOT_MEASURED}: there are no names to measure it by."
        if rates is None
        else f"By the names in the table: {PAIR_RATES}"
    )
    return Basis(None, interval, rates, words)


def _of_gallery(folder: Path) -> Basis:
    from exreid.gallery.folder import open_gallery  # loads torch, which runs do without

    gallery = open_gallery(folder)
    words = [
        "The number of animals is that of the names that people gave, and is as right as these are."
    ]
    rates = _rates_of_quality(gallery.quality, None) if gallery.decides else None
    if rates is not None:
        words.append(QUALITY_RATES)
    return Basis(None, None, rates, words)


def _decided(folder: Path, record: RunRecord) -> Basis:
    """An identification, or a probe with decisions."""
    words = [UNCONFIRMED]
    file = folder / "open_set.parquet"
    if not file.exists():
        return Basis(None, None, None, words)
    empty = {"query_id": TEXT, "decision": TEXT}
    table = read_run_table(file, {"query_id": TEXT}, empty=empty).to_pandas()
    named_Q = (table["decision"] == "known").to_numpy(bool)
    if record.kind == "identify":
        rates = _rates_of_quality(record.quality, float(named_Q.mean()))
        words.append(
            f"{NOT_MEASURED}: the gallery has no figures of its own decisions."
            if rates is None
            else QUALITY_RATES
        )
        return Basis(None, None, rates, words)
    rates = decided_rates(
        table["is_known"].to_numpy(bool),
        named_Q,
        table["is_right"].to_numpy(bool),
        pd.factorize(table["identity"], sort=True)[0],
    )
    animals = table["identity"].nunique()
    words.append(
        f"By the names in the table there are {counted(animals, 'animal')} among the queries. "
        + (
            f"{NOT_MEASURED}: no query was called known."
            if rates is None
            else "By these names: false negatives are queries of known animals not called by "
            "their name, false positives those called by a wrong one."
        )
    )
    return Basis(None, None, rates, words)


def _rates_of_quality(
    quality: GalleryQuality | None, called_known: float | None
) -> MatchRates | None:
    if quality is None or quality.recognised is None or quality.passed is None:
        return None
    return rates_of_share(quality.recognised, quality.passed, quality.known_animals, called_known)


def _captures(source: Source) -> tuple[list[Capture], list[str]]:
    """A capture for each animal, visit and site; a photograph without a visit is one alone."""
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
    for i, one in enumerate(told):
        animal = one.animal or one.new_animal
        if animal is None:
            nameless[one.decision or "no name"] += 1
            continue
        visit = str(source.rows[i]["encounter"] or one.image_id)
        photographs.setdefault((animal, visit, one.site), []).append(i)
    captures = [
        _capture(animal, [told[i] for i in rows]) for (animal, *_), rows in photographs.items()
    ]
    captures.sort(key=lambda one: (one.moment or datetime.max, one.animal, one.path))
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
        (None if one is None else one.to_pydatetime(), one is not None and one != one.normalize())
        for one in moments
    ]


def _capture(animal: str, photographs: Sequence[ExportedAnimal]) -> Capture:
    first = min(photographs, key=lambda one: (one.moment or datetime.max, one.path))
    has_place = (one for one in photographs if None not in (one.latitude, one.longitude))
    placed = next(has_place, first)
    return Capture(
        animal,
        first.encounter or first.image_id,
        first.site,
        first.moment,
        first.has_time,
        len(photographs),
        first.path,
        frozenset(one.viewpoint for one in photographs if one.viewpoint),
        placed.latitude,
        placed.longitude,
        first.species,
    )
