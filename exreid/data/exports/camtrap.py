"""Camtrap DP 1.0.2, the packages of camera traps (https://camtrap-dp.tdwg.org)."""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path, PurePosixPath

import pandas as pd

from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.progress import counted
from exreid.records import Json

VERSION_URL = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/"
PACKAGE_COLUMNS = {
    "deployments": (
        *("deploymentID", "locationID", "locationName", "latitude", "longitude"),
        *("coordinateUncertainty", "deploymentStart", "deploymentEnd", "setupBy", "cameraID"),
        *("cameraModel", "cameraDelay", "cameraHeight", "cameraDepth", "cameraTilt"),
        *("cameraHeading", "detectionDistance", "timestampIssues", "baitUse", "featureType"),
        *("habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
    ),
    "media": (
        *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic"),
        *("fileName", "fileMediatype", "exifData", "favorite", "mediaComments"),
    ),
    "observations": (
        *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd"),
        *("observationLevel", "observationType", "cameraSetupType", "scientificName", "count"),
        *("lifeStage", "sex", "behavior", "individualID", "individualPositionRadius"),
        *("individualPositionAngle", "individualSpeed", "bboxX", "bboxY", "bboxWidth"),
        *("bboxHeight", "classificationMethod", "classifiedBy", "classificationTimestamp"),
        *("classificationProbability", "observationTags", "observationComments"),
    ),
}
"""Every column of the standard's three tables, in its order."""
UNKNOWN_SITE = "unknown"
_FORBIDDEN_PATH = re.compile(r"[./~]|.*\.\.")


@dataclass(frozen=True)
class Package:
    """A package, and notes on what its owner has to fill in."""

    tables: dict[str, pd.DataFrame]
    """Tables with `PACKAGE_COLUMNS`; None for unknown cells."""
    description: dict[str, Json]
    """``datapackage.json``."""
    notes: list[str]


def write_camtrap(export: Export, out: Path, zone: tzinfo | None) -> list[str]:
    """``datapackage.json`` and the three tables; notes of what has to be filled in."""
    package = camtrap_package(export, zone)
    for name, table in package.tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    text = json.dumps(package.description, indent=2, ensure_ascii=False) + "\n"
    (out / "datapackage.json").write_text(text, encoding="utf-8")
    return package.notes


def camtrap_package(export: Export, zone: tzinfo | None) -> Package:
    """A deployment for each site, a medium for each photograph, an observation for each animal.

    Only known animals are an ``individualID``. ``zone`` is that of the cameras' clocks; without it,
    times are written as UTC and marked by ``timestampIssues``. Unknown cells are empty.
    """
    sites: dict[str, list[ExportedAnimal]] = {}
    for entry in export.animals:
        sites.setdefault(_site(entry), []).append(entry)
    events: dict[tuple[str, str], list[ExportedAnimal]] = {}
    for entry in export.animals:
        events.setdefault(_event(entry), []).append(entry)
    first = {entry.path: entry for entry in reversed(export.animals)}
    rows = {
        "deployments": [_deployment(name, entries, zone) for name, entries in sites.items()],
        "media": [_medium(first[path], zone) for path in export.paths],
        "observations": [
            _observation(entry, events[_event(entry)], export, zone) for entry in export.animals
        ],
    }
    tables = {
        name: pd.DataFrame(rows[name], columns=list(columns), dtype=object)
        for name, columns in PACKAGE_COLUMNS.items()
    }
    notes = _notes(export, tables, zone)
    return Package(tables, _description(export, tables["deployments"], notes), notes)


def _site(entry: ExportedAnimal) -> str:
    """The site; if it is not known, the photograph's folder."""
    return entry.site or entry.path.rpartition("/")[0] or UNKNOWN_SITE


def _event(entry: ExportedAnimal) -> tuple[str, str]:
    return (
        _site(entry),
        f"encounter {entry.encounter}" if entry.encounter else f"photograph {entry.path}",
    )


def _deployment(
    name: str, entries: Sequence[ExportedAnimal], zone: tzinfo | None
) -> dict[str, Json]:
    located = next(
        (entry for entry in entries if None not in (entry.latitude, entry.longitude)), None
    )
    start, end = _span(entries, zone)
    doubtful = zone is None or not all(entry.moment and entry.has_time for entry in entries)
    return {
        "deploymentID": name,
        "locationID": entries[0].site,
        "latitude": None if located is None else located.latitude,
        "longitude": None if located is None else located.longitude,
        "deploymentStart": start,
        "deploymentEnd": end,
        "timestampIssues": "true" if doubtful else "false",
        "deploymentComments": "Start and end are those of its first and last photograph here.",
    }


def _medium(entry: ExportedAnimal, zone: tzinfo | None) -> dict[str, Json]:
    ending = PurePosixPath(entry.path).suffix.lower()
    kind = mimetypes.types_map.get(ending) or f"image/{ending[1:] or 'jpeg'}"
    return {
        "mediaID": entry.path,
        "deploymentID": _site(entry),
        "timestamp": _time_text(entry.moment, zone),
        "filePath": entry.path,
        "filePublic": "false",
        "fileName": PurePosixPath(entry.path).name,
        "fileMediatype": kind,
    }


def _observation(
    entry: ExportedAnimal, event: Sequence[ExportedAnimal], export: Export, zone: tzinfo | None
) -> dict[str, Json]:
    start, end = _span(event, zone)
    machine = export.classified_by is not None
    row: dict[str, Json] = {
        "observationID": entry.image_id,
        "deploymentID": _site(entry),
        "mediaID": entry.path,
        "eventID": entry.encounter,
        "eventStart": start,
        "eventEnd": end,
        "observationLevel": "media",
        "observationType": "animal",
        "scientificName": entry.species,
        "count": 1,
        "individualID": entry.animal,
        "classificationMethod": "machine" if machine else None,
        "classifiedBy": export.classified_by,
        "classificationTimestamp": export.classified_at,
        "classificationProbability": _probability(entry) if machine else None,
        "observationTags": f"newAnimal:{entry.new_animal}" if entry.new_animal else None,
        "observationComments": entry.answer,
    }
    if (box := entry.upright_box) is not None:
        width, height = entry.wh_px
        row |= {
            "bboxX": round(box.left / width, 6),
            "bboxY": round(box.top / height, 6),
            "bboxWidth": round(box.wh[0] / width, 6),
            "bboxHeight": round(box.wh[1] / height, 6),
        }
    return row


def _probability(entry: ExportedAnimal) -> float | None:
    """The probability that the named animal is the right one; None without a name."""
    if entry.animal is None or entry.probability is None:
        return None
    return round(entry.probability, 6)


def _span(entries: Sequence[ExportedAnimal], zone: tzinfo | None) -> tuple[str | None, str | None]:
    moments = [entry.moment for entry in entries if entry.moment is not None]
    if not moments:
        return None, None
    return _time_text(min(moments), zone), _time_text(max(moments), zone)


def _time_text(moment: datetime | None, zone: tzinfo | None) -> str | None:
    """ISO with a zone, as the standard requires."""
    return None if moment is None else moment.replace(tzinfo=zone or UTC).isoformat()


def _notes(export: Export, tables: dict[str, pd.DataFrame], zone: tzinfo | None) -> list[str]:
    deployments, media = tables["deployments"], tables["media"]
    notes = ["the photographs are not copied: filePath is below " + export.root]
    unlocated = int(deployments[["latitude", "longitude"]].isna().any(axis=1).sum())
    if unlocated:
        notes.append(
            f"Camtrap DP requires latitude and longitude: fill them in for {unlocated} of "
            f"{counted(len(deployments), 'row')} of deployments.csv"
        )
    if any(entry.site is None for entry in export.animals):
        notes.append("no site is known of some photographs: their folder is their deploymentID")
    untimed = int(media["timestamp"].isna().sum())
    if untimed:
        notes.append(
            f"Camtrap DP requires times: fill in timestamp for {untimed} of "
            f"{counted(len(media), 'row')} of media.csv, and eventStart and eventEnd in "
            "observations.csv"
        )
    if untimed < len(media) and zone is None:
        notes.append(
            "times are written as UTC and marked (timestampIssues), since the zone of the cameras' "
            "clocks is not known: name it with --timezone"
        )
    days = sum(entry.moment is not None and not entry.has_time for entry in export.animals)
    if days:
        midnight = counted(days, "time is midnight", "times are midnight")
        notes.append(f"{midnight}, since only the day is known (timestampIssues)")
    odd = int(media["filePath"].map(lambda path: bool(_FORBIDDEN_PATH.match(path))).sum())
    if odd:
        notes.append(
            f"Camtrap DP forbids {odd} of the paths: they begin with a dot or ~, or have two dots "
            "in a row. Rename those files"
        )
    if export.turned:
        notes.append(f"{export.turned} turned boxes became upright ones around them")
    return notes


def _description(export: Export, deployments: pd.DataFrame, notes: list[str]) -> dict[str, Json]:
    """``datapackage.json``, with a note on the fields that the owner has to add."""
    resources: list[Json] = [
        {
            "name": name,
            "path": f"{name}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": f"{VERSION_URL}{name}-table-schema.json",
        }
        for name in PACKAGE_COLUMNS
    ]
    places = deployments[["longitude", "latitude"]].dropna()
    moments = [entry.moment.date().isoformat() for entry in export.animals if entry.moment]
    species = sorted({entry.species for entry in export.animals if entry.species})
    missing = ["contributors", "project.samplingDesign", "project.captureMethod"]
    missing += [] if len(places) else ["spatial"]
    missing += [] if moments else ["temporal"]
    missing += [] if species else ["taxonomic"]
    notes.append(f"Camtrap DP also requires, in datapackage.json: {', '.join(missing)}")
    content: dict[str, Json] = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", export.name.lower()).strip("-") or "exreid",
        "title": export.name,
        "created": export.classified_at or datetime.now(UTC).isoformat(timespec="seconds"),
        "profile": f"{VERSION_URL}camtrap-dp-profile.json",
        "resources": resources,
        "project": {
            "title": export.name,
            "individualAnimals": True,
            "observationLevel": ["media"],
        },
        "taxonomic": [{"scientificName": name} for name in species],
    }
    if len(places):
        content["spatial"] = {"type": "MultiPoint", "coordinates": places.to_numpy().tolist()}
    if moments:
        content["temporal"] = {"start": min(moments), "end": max(moments)}
    return content
