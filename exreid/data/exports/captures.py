"""Captures as other programs read them: camtrapR's record table and secr's text files.

By the documentation of camtrapR 2.3.0 (`recordTableIndividual`) and of secr 5.0.0 ("Data input for
secr"). Letters: D detectors, O occasions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from exreid.data.imports.camtrap import Deployment
from exreid.progress import counted

DAY = timedelta(days=1)
EQUATOR_M, FLATTENING = 6378137.0, 1 / 298.257223563
"""Of the ellipsoid WGS 84."""
SESSION = "1"
RECORD_COLUMNS = (
    *("Station", "Species", "Individual", "DateTimeOriginal", "Date", "Time"),
    *("delta.time.secs", "delta.time.mins", "delta.time.hours", "delta.time.days"),
    *("Directory", "FileName", "n_images"),
)


@dataclass(frozen=True)
class Capture:
    """One animal on one visit at one site."""

    animal: str
    visit: str
    site: str | None
    moment: datetime | None
    """Of its first photograph."""
    has_time: bool
    """Whether the time of ``moment`` is known; otherwise only its day is."""
    photographs: int
    path: str
    """The first photograph."""
    flanks: frozenset[str] = frozenset()
    latitude: float | None = None
    longitude: float | None = None
    species: str | None = None


@dataclass(frozen=True)
class SecrFiles:
    """The texts for ``secr::read.capthist``."""

    captures: str
    traps: str
    occasions: int
    effort: bool
    """Whether the traps have the days that each camera was up."""
    notes: list[str]


def record_table(captures: Sequence[Capture]) -> tuple[pd.DataFrame, list[str]]:
    """The columns of camtrapR's ``recordTableIndividual``, by station, animal and time; and notes.
    ``delta.time`` is since the animal's last record at the station, 0 for its first."""
    usable = _located(captures)
    usable.sort(key=lambda found: (found[0], found[2].animal, found[1]))
    last: dict[tuple[str, str], datetime] = {}
    rows = []
    for site, moment, capture in usable:
        seconds = (moment - last.get((site, capture.animal), moment)).total_seconds()
        last[site, capture.animal] = moment
        folder, _, name = capture.path.rpartition("/")
        rows.append(
            {
                "Station": site,
                "Species": capture.species or "",
                "Individual": capture.animal,
                "DateTimeOriginal": f"{moment:%Y-%m-%d %H:%M:%S}",
                "Date": f"{moment:%Y-%m-%d}",
                "Time": f"{moment:%H:%M:%S}",
                "delta.time.secs": round(seconds),
                "delta.time.mins": round(seconds / 60),
                "delta.time.hours": round(seconds / 3600, 1),
                "delta.time.days": round(seconds / 86400, 1),
                "Directory": folder,
                "FileName": name,
                "n_images": capture.photographs,
            }
        )
    notes = []
    less = len(captures) - len(usable)
    if less:
        notes.append(
            f"{counted(less, 'capture has', 'captures have')} no site or no date: not in the "
            "record table, nor in the files for secr"
        )
    untimed = sum(not capture.has_time for *_, capture in usable)
    if untimed:
        notes.append(
            f"{counted(untimed, 'record has', 'records have')} a day and no time: they are at "
            "00:00:00 in the record table, which is right for occasions of whole days alone"
        )
    return pd.DataFrame(rows, columns=RECORD_COLUMNS), notes


def secr_files(
    captures: Sequence[Capture], deployments: Sequence[Deployment], occasion_days: int
) -> tuple[SecrFiles | None, list[str]]:
    """The capture file and the trap file, with the effort of the deployments where there are any;
    None, and why, without dates, sites or coordinates."""
    usable = _located(captures)
    places = _places(usable, deployments)
    if isinstance(places, str):
        return None, [places]
    place_of, notes = places
    moments = [moment for _, moment, _ in usable]
    first = min([*moments, *(deployment.start for deployment in deployments)])
    first = first.replace(hour=0, minute=0, second=0, microsecond=0)
    length = occasion_days * DAY
    ends = [-((first - deployment.end) // length) for deployment in deployments]  # rounded up
    occasions = max((max(moments) - first) // length + 1, *ends, 1)
    sites = sorted(place_of)
    detector, animal = _words(sites), _words(sorted({capture.animal for *_, capture in usable}))
    effort_DO = effort(deployments, sites, first, occasion_days, occasions)
    lines, outside = [], 0
    for site, moment, capture in usable:
        occasion = (moment - first) // length
        if deployments and effort_DO[sites.index(site), occasion] == 0:
            outside += 1
            continue
        words = (SESSION, animal[capture.animal], str(occasion + 1), detector[site])
        lines.append(" ".join(words))
    if outside:
        notes.append(
            f"{counted(outside, 'capture is', 'captures are')} not in the files for secr, as no "
            "camera was up at the site by the deployments"
        )
    if not deployments:
        notes.append(
            "the files for secr have no effort, and lack the cameras that saw no animal: give "
            "--deployments"
        )
    xy_D2 = projected_m(np.array([place_of[site] for site in sites]))
    traps = []
    for site, (x, y), days_O in zip(sites, xy_D2, effort_DO, strict=True):
        usage = " ".join(f"{value:.3g}" for value in days_O) if deployments else ""
        traps.append(" ".join(f"{detector[site]} {x:.1f} {y:.1f} {usage}".split()))
    head = f"# occasions of {counted(occasion_days, 'day')} from {first:%Y-%m-%d}"
    files = SecrFiles(
        "\n".join(["# Session ID Occasion Detector", head, *lines]) + "\n",
        "\n".join([f"# Detector X Y{' Effort' if deployments else ''}", head, *traps]) + "\n",
        occasions,
        bool(deployments),
        notes,
    )
    return files, notes


def effort(
    deployments: Sequence[Deployment],
    sites: Sequence[str],
    first: datetime,
    occasion_days: int,
    occasions: int,
) -> np.ndarray:
    """float64 (D, O): on how many days of each occasion a camera was up at each site; cameras at
    one site at the same time count once. No deployment starts before ``first``, or ends after the
    last occasion."""
    days_DO = np.zeros((len(sites), occasions))
    length = occasion_days * DAY
    for d, site in enumerate(sites):
        spans = sorted(
            (deployment.start, deployment.end)
            for deployment in deployments
            if deployment.site == site
        )
        covered = first
        for start, end in spans:
            covered = max(start, covered)
            while covered < end:
                occasion = (covered - first) // length
                stop = min(end, first + (occasion + 1) * length)
                days_DO[d, occasion] += (stop - covered) / DAY
                covered = stop
    return days_DO


def projected_m(degrees_D2: np.ndarray) -> np.ndarray:
    """Metres east and north of the middle, float64 (D, 2), of latitudes and longitudes in degrees:
    the ellipsoid's arcs at the middle's latitude. Right to 1% within about 60 km of the middle, up
    to latitudes of 60 degrees."""
    low, high = degrees_D2.min(axis=0), degrees_D2.max(axis=0)
    middle = (low + high) / 2
    squared = FLATTENING * (2 - FLATTENING)
    bent = 1 - squared * math.sin(math.radians(middle[0])) ** 2
    north_m = EQUATOR_M * (1 - squared) / bent**1.5
    east_m = EQUATOR_M / math.sqrt(bent) * math.cos(math.radians(middle[0]))
    radians_D2 = np.radians(degrees_D2 - middle)
    return np.stack([radians_D2[:, 1] * east_m, radians_D2[:, 0] * north_m], axis=1)


def _located(captures: Sequence[Capture]) -> list[tuple[str, datetime, Capture]]:
    """The captures with a site and a date, with these."""
    return [
        (capture.site, capture.moment, capture)
        for capture in captures
        if capture.site is not None and capture.moment is not None
    ]


def _places(
    usable: Sequence[tuple[str, datetime, Capture]], deployments: Sequence[Deployment]
) -> tuple[dict[str, tuple[float, float]], list[str]] | str:
    """Latitude and longitude of each site, and notes; a sentence where that is not known."""
    if not usable:
        return "no files for secr: no capture has both a site and a date"
    sites = {site for site, *_ in usable}
    stated: dict[str, list[tuple[float, float]]] = {}
    for deployment in deployments:
        stated.setdefault(deployment.site, []).append((deployment.latitude, deployment.longitude))
    if deployments:
        missing = sorted(sites - stated.keys())
        if missing:
            return f"no files for secr: the deployments have no site {', '.join(missing[:5])}"
    else:
        for site, _, capture in usable:
            if capture.latitude is not None and capture.longitude is not None:
                stated.setdefault(site, []).append((capture.latitude, capture.longitude))
        missing = sorted(sites - stated.keys())
        if missing:
            return (
                f"no files for secr: no latitude and longitude of {', '.join(missing[:5])}; give "
                "--deployments, or columns latitude and longitude"
            )
    wide = [site for site, places in stated.items() if len(set(places)) > 1]
    notes = []
    if wide:
        notes.append(
            f"{counted(len(wide), 'site has', 'sites have')} several coordinates, such as "
            f"{wide[0]!r}: the files for secr have their mean"
        )
    middle = {site: np.mean(places, axis=0) for site, places in stated.items()}
    return {site: (float(mean[0]), float(mean[1])) for site, mean in middle.items()}, notes


def _words(names: Sequence[str]) -> Mapping[str, str]:
    """Each name as secr takes identifiers: one word of letters, digits, points and hyphens; two
    names that would become one are numbered.

    >>> _words(["North_1", "North-1", "Fox"])
    {'North_1': 'North-1', 'North-1': 'North-1.2', 'Fox': 'Fox'}
    """
    made: dict[str, str] = {}
    for name in names:
        word = re.sub(r"[^\w.-]|_", "-", name) or "-"
        number, taken = 1, {*made.values(), *("NONE", "NA")}  # what R's readers take for nothing
        while (numbered := word if number == 1 else f"{word}.{number}") in taken:
            number += 1
        made[name] = numbered
    return made
