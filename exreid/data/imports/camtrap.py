"""Camtrap DP: the packages of camera traps (https://camtrap-dp.tdwg.org, 1.0 and before)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from exreid.data.dates import parse_date
from exreid.data.imports.animals import NAME, Animal, Cells, Reading, StatedBox, without_repeats
from exreid.errors import MetadataError

PACKAGE_TABLES = ("deployments", "media", "observations")
_BOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
_OF_OBSERVATIONS = (
    *("observationID", "scientificName", "sex", "lifeStage", "behavior", "classifiedBy"),
    *("classificationMethod", "classificationProbability"),
)
SITE_KEYS = ("deploymentID", "locationID", "locationName")
"""Columns of deployments that may have what a table calls the site, the narrowest first."""


@dataclass(frozen=True)
class Deployment:
    """A camera at a site from ``start`` to ``end``."""

    site: str
    start: datetime
    end: datetime
    latitude: float
    longitude: float


def is_camtrap(content: object) -> bool:
    """Whether JSON is the ``datapackage.json`` of a Camtrap DP."""
    if not isinstance(content, dict) or not isinstance(content.get("resources"), list):
        return False
    names = {
        resource.get("name") for resource in content["resources"] if isinstance(resource, dict)
    }
    return {"media", "observations"} <= names


def table_files(content: Mapping[str, object]) -> dict[str, str]:
    """The file of each of `PACKAGE_TABLES`, relative to the package; MetadataError for a file
    outside it."""
    resources = content.get("resources")
    files = {}
    for resource in resources if isinstance(resources, list) else []:
        if not isinstance(resource, dict) or resource.get("name") not in PACKAGE_TABLES:
            continue
        path = resource.get("path")
        path = path[0] if isinstance(path, list) and len(path) == 1 else path
        if not isinstance(path, str) or "://" in path or path.startswith("/") or ".." in path:
            raise MetadataError(
                f"its table {resource['name']} is {path!r}: one file beside datapackage.json is "
                "read. Download it there, and name it in datapackage.json."
            )
        files[str(resource["name"])] = path
    missing = {"media", "observations"} - set(files)
    if missing:
        raise MetadataError(f"its datapackage.json names no table {' and no '.join(missing)}.")
    return files


def read_camtrap(
    deployments: Sequence[Cells], media: Sequence[Cells], observations: Sequence[Cells]
) -> Reading:
    """The animals of a package's three tables.

    An observation of one photograph gives a row with its box. One of an event that names an
    individual gives a row for each photograph of the event, unless the photograph has an
    observation already or the event has several individuals.
    """
    sites = {row.get("deploymentID"): row for row in deployments}
    by_id = {}
    for i, row in enumerate(media):
        if not row.get("mediaID") or not (row.get("filePath") or row.get("fileName")):
            raise MetadataError(f"media, line {i + 2}: has no mediaID, or no filePath.")
        by_id[row["mediaID"]] = row
    left_out: Counter[str] = Counter()
    animals: list[Animal] = []
    events: list[tuple[str, Cells]] = []
    observed = set()
    for i, row in enumerate(observations):
        place = f"observations, line {i + 2}"
        kind = row.get("observationType")
        if kind not in (None, "animal"):
            left_out[f"observations of the type {kind}"] += 1
        elif row.get("mediaID"):
            photo = by_id.get(row["mediaID"])
            if photo is None:
                raise MetadataError(f"{place}: its mediaID {row['mediaID']!r} is not in media.")
            observed.add(row["mediaID"])
            if _is_video(photo):
                left_out["observations in videos"] += 1
            else:
                animals.append(_animal(row, photo, sites, place, _box_of(row, place)))
        else:
            events.append((place, row))
    animals += _of_events(events, media, observed, sites, left_out)
    animals, repeats = without_repeats(animals)
    return Reading("Camtrap DP", animals, +(left_out + repeats))


def read_deployments(rows: Sequence[Cells], sites: Collection[str]) -> list[Deployment]:
    """The deployments, each at the site by the first of `SITE_KEYS` that has all ``sites``.

    Times with a zone are read as UTC, as the dates of a table are. MetadataError where sites are
    missing, and for a deployment without its coordinates, its start or its end.
    """
    found = {key: {row.get(key) for row in rows} for key in SITE_KEYS}
    key = next((key for key in SITE_KEYS if set(sites) <= found[key]), None)
    if key is None:
        lost = sorted(set(sites) - set().union(*found.values()))
        raise MetadataError(
            f"no column of {', '.join(SITE_KEYS)} has all sites of the captures"
            + (f": {', '.join(lost[:5])} are in none. " if lost else ". ")
            + "Name the column with the site by --site."
        )
    deployments = []
    for i, row in enumerate(rows):
        place = f"line {i + 2}"
        start = _moment(row.get("deploymentStart") or row.get("start"), place)
        end = _moment(row.get("deploymentEnd") or row.get("end"), place)
        try:
            latitude, longitude = (float(row.get(name) or "") for name in ("latitude", "longitude"))
        except ValueError:
            raise MetadataError(f"{place}: has no latitude and longitude.") from None
        if start > end:
            raise MetadataError(f"{place}: ends before it starts: {start} to {end}.")
        spans = (start.astype("datetime64[s]").item(), end.astype("datetime64[s]").item())
        site = row.get(key) or str(row.get("deploymentID"))
        deployments.append(Deployment(site, *spans, latitude, longitude))
    return deployments


def _of_events(
    events: Sequence[tuple[str, Cells]],
    media: Sequence[Cells],
    observed: set[str | None],
    sites: Mapping[str | None, Cells],
    left_out: Counter[str],
) -> list[Animal]:
    unobserved = [row for row in media if row.get("mediaID") not in observed and not _is_video(row)]
    named_events = [(place, row) for place, row in events if row.get("individualID")]
    nameless = len(events) - len(named_events)
    left_out["observations of events that name no individual"] += nameless
    moments = [_moment(row.get("timestamp"), "media") for row in unobserved] if named_events else []
    named: dict[int, list[tuple[str, Cells]]] = {}
    for place, row in named_events:
        start = _moment(row.get("eventStart"), place)
        end = _moment(row.get("eventEnd") or row.get("eventStart"), place)
        photo_index = [
            i
            for i, photo in enumerate(unobserved)
            if photo.get("deploymentID") == row.get("deploymentID") and start <= moments[i] <= end
        ]
        if not photo_index:
            left_out["observations of events without a photograph left"] += 1
        for i in photo_index:
            named.setdefault(i, []).append((place, row))
    animals = []
    for i, rows in sorted(named.items()):
        if len({row.get("individualID") for _, row in rows}) > 1:
            left_out["photographs of events with several individuals"] += 1
        else:
            place, row = rows[0]
            animals.append(_animal(row, unobserved[i], sites, place, None))
    return animals


def _animal(
    row: Cells, photo: Cells, sites: Mapping[str | None, Cells], place: str, box: StatedBox | None
) -> Animal:
    deployment = photo.get("deploymentID") or row.get("deploymentID")
    site = sites.get(deployment, {})
    cells: Cells = {
        **{name: row[name] for name in _OF_OBSERVATIONS if row.get(name)},
        **{name: site[name] for name in ("latitude", "longitude") if site.get(name)},
        NAME: row.get("individualID"),
        "date": photo.get("timestamp") or row.get("eventStart") or row.get("timestamp"),
        "encounter": row.get("eventID") or row.get("sequenceID") or photo.get("sequenceID"),
        "site": deployment,
        "location": site.get("locationName") or site.get("locationID"),
    }
    path = photo.get("filePath") or ""
    name = photo.get("fileName") or ""
    if path.startswith(("http://", "https://")) or not path:
        path = name or path  # what was downloaded has the file's name
    return Animal(path, place, cells, box)


def _box_of(row: Cells, place: str) -> StatedBox | None:
    cells = [row.get(name) for name in _BOX]
    if not any(cells):
        return None
    try:
        x, y, w, h = (float(text or "") for text in cells)
    except ValueError:
        raise MetadataError(f"{place}: {', '.join(_BOX)} are not four numbers: {cells}.") from None
    if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < w <= 1 and 0 < h <= 1):
        raise MetadataError(
            f"{place}: its box {[x, y, w, h]} is not in fractions of the photograph (0 to 1)."
        )
    return StatedBox((x, y, w, h), "fraction")


def _moment(text: str | None, place: str) -> np.datetime64:
    try:
        return parse_date(text or "")
    except (ValueError, OverflowError):
        raise MetadataError(f"{place}: {text!r} is not a time that can be read.") from None


def _is_video(photo: Cells) -> bool:
    return (photo.get("fileMediatype") or "").startswith("video/")
