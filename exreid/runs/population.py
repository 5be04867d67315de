"""From the answers of a run or a gallery to its population, told from top to bottom."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.data.exports.captures import Capture, SecrFiles, record_table, secr_files
from exreid.data.imports.read import import_deployments
from exreid.errors import ConfigError
from exreid.explain.plots import DiscoveryCurve, draw_discovery
from exreid.metrics.population import (
    Flanks,
    animals_so_far,
    count_flanks,
    mean_animals_so_far,
)
from exreid.metrics.uncertainty import Estimate
from exreid.records import Json
from exreid.runs.population_basis import Basis
from exreid.runs.population_source import read_population
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text
from exreid.storage.urls import is_remote

FOLDER = "population"
POPULATION, CAPTURES, ANIMALS = "population.json", "captures.csv", "animals.csv"
RECORDS, SECR_CAPTURES, SECR_TRAPS = "record_table.csv", "secr_captures.txt", "secr_traps.txt"
CURVE = "discovery_curve.png"


@dataclass(frozen=True)
class Population:
    """What was found."""

    out: Path
    captures: list[Capture]
    basis: Basis
    flanks: Flanks
    secr: SecrFiles | None
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """The animals."""
        return sorted({capture.animal for capture in self.captures})

    @property
    def sites(self) -> list[str]:
        """The known sites."""
        return sorted({capture.site for capture in self.captures if capture.site is not None})

    @property
    def number(self) -> float | None:
        """The number of animals; None where it is not that of the names, as the interval says."""
        number, interval = self.basis.number, self.basis.interval
        number = len(self.names) if number is None else number
        return None if interval and not interval[0] <= number <= interval[1] else number

    def as_json(self) -> dict[str, Json]:
        """``population.json``; what is not known is null."""
        rates = self.basis.rates
        return {
            "animals": self.number,
            "interval": None if self.basis.interval is None else [*self.basis.interval],
            "named_animals": len(self.names),
            "captures": len(self.captures),
            "sites": len(self.sites),
            "flanks": {**asdict(self.flanks), "low": self.flanks.low, "high": self.flanks.high},
            "false_negative_rate": None if rates is None else _numbers(rates.missed),
            "false_positive_rate": None if rates is None else _numbers(rates.wrong),
            "abundance_bias": None if rates is None else _numbers(rates.bias),
            "secr_occasions": None if self.secr is None else self.secr.occasions,
            "words": [*self.basis.words, *self.notes],
        }


def run_population(
    what: str,
    out: Path | None,
    *,
    root: str | None = None,
    site: str | None = None,
    deployments: str | None = None,
    occasion_days: int = 1,
) -> Population:
    """Write the captures, histories and figures of a run or a gallery into ``out``, by default a
    folder of the run.

    ``root`` is where photographs have moved, ``site`` the column with the place, ``deployments`` a
    Camtrap DP or its table of deployments. ConfigError for a gallery without ``out``.
    """
    source = read_population(what, root, site)
    if out is None:
        if not source.is_run or is_remote(what):
            raise ConfigError(f"{what}: name the folder to write to with --out.")
        out = source.folder / FOLDER
    captures = source.captures
    known = {capture.site for capture in captures if capture.site is not None}
    cameras = [] if deployments is None else import_deployments(deployments, known)
    out.mkdir(parents=True, exist_ok=True)
    records, record_notes = record_table(captures)
    secr, secr_notes = secr_files(captures, cameras, occasion_days)
    flanks = count_flanks([frozenset[str]().union(*of) for of in _flanks_of(captures).values()])
    write_text(out / CAPTURES, csv_text(_capture_table(captures)))
    write_text(out / ANIMALS, csv_text(_animal_table(captures)))
    write_text(out / RECORDS, records.to_csv(index=False))  # for R: every name as it is
    if secr is None:
        for name in (SECR_CAPTURES, SECR_TRAPS):
            (out / name).unlink(missing_ok=True)  # of an earlier call
    else:
        write_text(out / SECR_CAPTURES, secr.captures)
        write_text(out / SECR_TRAPS, secr.traps)
    draw_discovery(out / CURVE, discovery_curve(captures))
    notes = [
        *source.left_out,
        *(f"{note[:1].upper()}{note[1:]}." for note in [*record_notes, *secr_notes]),
    ]
    made = Population(out, captures, source.basis, flanks, secr, notes)
    write_text(out / POPULATION, json.dumps(made.as_json(), indent=1) + "\n")
    return made


def discovery_curve(captures: Sequence[Capture]) -> DiscoveryCurve:
    """The animals found so far, of captures in the order of their times."""
    dated = [capture for capture in captures if capture.moment is not None]
    code_C, _ = pd.factorize(np.array([capture.animal for capture in dated], object), sort=True)
    count_A = np.array(list(pd.Series([capture.animal for capture in captures]).value_counts()))
    return DiscoveryCurve(
        animals_so_far(code_C),
        np.array([capture.moment for capture in dated], "datetime64[s]"),
        mean_animals_so_far(count_A),
    )


def _flanks_of(captures: Sequence[Capture]) -> dict[str, list[frozenset[str]]]:
    found: dict[str, list[frozenset[str]]] = {}
    for capture in captures:
        found.setdefault(capture.animal, []).append(capture.flanks)
    return found


def _capture_table(captures: Sequence[Capture]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "animal": capture.animal,
            "encounter": capture.visit,
            "site": capture.site,
            "time": None
            if capture.moment is None
            else str(capture.moment if capture.has_time else capture.moment.date()),
            "photographs": capture.photographs,
            "flanks": " ".join(sorted(capture.flanks)),
            "first_photograph": capture.path,
        }
        for capture in captures
    )


def _animal_table(captures: Sequence[Capture]) -> pd.DataFrame:
    """A row for each animal and site."""
    rows: dict[tuple[str, str], list[Capture]] = {}
    for capture in captures:
        rows.setdefault((capture.animal, capture.site or ""), []).append(capture)
    table = []
    for (animal, site), of in sorted(rows.items()):
        days = sorted(str(capture.moment.date()) for capture in of if capture.moment is not None)
        table.append(
            {
                "animal": animal,
                "site": site or None,
                "captures": len(of),
                "photographs": sum(capture.photographs for capture in of),
                "first": days[0] if days else None,
                "last": days[-1] if days else None,
            }
        )
    return pd.DataFrame(table)


def _numbers(estimate: Estimate | None) -> Json:
    """The value and the ends of the interval; an infinite end is null."""
    if estimate is None:
        return None
    return {
        name: value if math.isfinite(value) else None for name, value in asdict(estimate).items()
    }
