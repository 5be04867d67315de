"""What the number of animals of a run or a gallery rests on, and what is known of its mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from exreid.metrics.population import (
    MatchRates,
    decided_rates,
    grouped_rates,
    rates_of_share,
    with_bias,
)
from exreid.progress import counted
from exreid.records import GalleryQuality
from exreid.report.reviewed import ReviewedRun
from exreid.review.audit import LEAST_DRAWN
from exreid.review.state import State, agrees
from exreid.storage.run_files import TEXT, read_run_table
from exreid.storage.run_record import RunRecord

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


def of_confirmation(run: ReviewedRun, found: Mapping[str, str]) -> Basis:
    """An identification of which people confirmed the visits ``found``, by their animals' names."""
    visits = len(run.subject.visits) - len(run.known)
    told = (
        f"Only what people confirmed is counted: {len(found)} of {counted(visits, 'visit')}. "
        "exreid review goes on with the others."
    )
    return Basis(None, None, None, [told])


def of_review(run: ReviewedRun, state: State) -> Basis:
    """A discovery, by the audit of its review where that has drawn enough pairs."""
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
    if audit.fewest.value < audit.animals.value:
        low, high = audit.interval_of_groups
        words.append(
            "The number is that of groups that people can tell apart. An animal whose left and "
            "right flank no visit joins is two of them, so the interval begins at the least number "
            "of animals that they can be"
            + (
                "."
                if run.flank_V.any()
                else ", half of them where no photograph's flank is known (dataset.viewpoint_col). "
                f"If all show one side, it is {low} to {high}."
            )
        )
    if not agrees(state, run.wrong):
        words.append("The audit does not confirm the groups yet; exreid review goes on.")
    return Basis(
        audit.animals.value,
        audit.range_of_animals,
        with_bias(audit.missed, audit.mixed),
        words,
    )


def of_groups(record: RunRecord, table: pd.DataFrame) -> Basis:
    """A discovery that nobody has reviewed; ``table`` is ``animals.parquet``."""
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
        of_visit = table[known].groupby("encounter")
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


def of_gallery(folder: Path) -> Basis:
    """A gallery, by its names."""
    from exreid.gallery.opening import open_gallery  # loads torch, which runs do without

    gallery = open_gallery(folder)
    words = [
        "The number of animals is that of the names that people gave, and is as right as these are."
    ]
    rates = _rates_of_quality(gallery.quality, None) if gallery.decides else None
    if rates is not None:
        words.append(QUALITY_RATES)
    return Basis(None, None, rates, words)


def of_decisions(folder: Path, record: RunRecord) -> Basis:
    """An identification, or a probe with decisions."""
    words = [UNCONFIRMED]
    file = folder / "open_set.parquet"
    if not file.exists():
        return Basis(None, None, None, words)
    empty = {"query_id": TEXT, "decision": TEXT}
    table = read_run_table(file, {"query_id": TEXT}, empty=empty).to_pandas()
    named_Q = (table["decision"] == "known").to_numpy(bool)
    if record.kind == "identify":
        words.append("exreid review confirms them.")
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
