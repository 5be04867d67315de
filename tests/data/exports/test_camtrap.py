"""A package of Camtrap DP is valid by the standard's own schemas, and invents nothing."""

import json
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from exreid.data.boxes import Box
from exreid.data.exports.camtrap import camtrap_package, write_camtrap
from tests.data.exports.camtrap_schemas import SCHEMAS

frictionless = pytest.importorskip("frictionless")


def _errors(folder):
    """What frictionless finds wrong with the package, with the standard's schemas, which
    datapackage.json names by their URLs, put in from here."""
    content = json.loads((folder / "datapackage.json").read_text())
    del content["profile"]
    for resource in content["resources"]:
        name = resource["name"]
        end = f"/camtrap-dp/1.0.2/{name}-table-schema.json"
        assert resource["schema"].endswith(end)
        resource["schema"] = SCHEMAS[name]
    package = frictionless.Package.from_descriptor(content, basepath=str(folder))
    report = package.validate()
    assert len(report.tasks) == 3
    return [
        (task.name, error.type, getattr(error, "field_name", ""))
        for task in report.tasks
        for error in task.errors
    ] + [("", error.type, "") for error in report.errors]


def _located(export):
    """Every photograph with a place and a time."""
    where = {"latitude": 49.5, "longitude": 16.25, "moment": datetime(2024, 5, 1, 23, 0)}
    return replace(
        export,
        animals=[one if one.moment else replace(one, **where) for one in export.animals],
    )


def test_the_package_is_valid(answered, tmp_path):
    notes = write_camtrap(_located(answered), tmp_path, ZoneInfo("Europe/Prague"))
    assert _errors(tmp_path) == []
    assert not [note for note in notes if "latitude" in note or "timestamp" in note]
    media = pd.read_csv(tmp_path / "media.csv", dtype=str)
    assert media["timestamp"][0] == "2024-05-01T22:10:05+02:00"
    content = json.loads((tmp_path / "datapackage.json").read_text())
    assert content["profile"].endswith("/camtrap-dp/1.0.2/camtrap-dp-profile.json")
    assert content["temporal"] == {"start": "2024-05-01", "end": "2024-05-01"}
    assert content["taxonomic"] == [{"scientificName": "Lynx lynx"}]


def test_what_is_not_known_stays_empty_and_is_told(answered, tmp_path):
    """The validator finds what the notes say is to be filled in, and nothing else."""
    notes = " ".join(write_camtrap(answered, tmp_path, None))
    errors = _errors(tmp_path)
    assert {(table, field) for table, kind, field in errors} == {
        *(("deployments", name) for name in
          ("latitude", "longitude", "deploymentStart", "deploymentEnd")),
        ("media", "timestamp"), ("observations", "eventStart"), ("observations", "eventEnd"),
    }  # fmt: skip
    assert {kind for _, kind, _ in errors} == {"constraint-error"}
    assert "latitude and longitude: fill them in for 2 of 3 rows" in notes
    assert "fill in timestamp for 4 of 6 rows of media.csv" in notes
    assert "project.samplingDesign" in notes
    assert "timestampIssues" in notes
    deployments = pd.read_csv(tmp_path / "deployments.csv", dtype=str)
    assert set(deployments["timestampIssues"]) == {"true"}


def test_an_observation_says_who_answered_and_only_known_animals(answered, tmp_path):
    rows = camtrap_package(answered, None).tables["observations"].set_index("observationID")
    first = rows.loc["cam 1/a.jpg#1"]
    assert first["individualID"] == "Zoë Ärmel"
    assert (first["classificationMethod"], first["classifiedBy"]) == ("machine", "exreid 0.1.0")
    assert first["classificationTimestamp"] == "2024-05-02T08:00:00+00:00"
    assert first["classificationProbability"] == 0.9
    assert first["eventID"] == "cam 1 2024-05-01"
    # By hand: [5, 5, 20, 20] of 60 x 40 pixels.
    box = [first[name] for name in ("bboxX", "bboxY", "bboxWidth", "bboxHeight")]
    assert box == pytest.approx([5 / 60, 5 / 40, 20 / 60, 20 / 40], abs=1e-6)
    new, unsure = rows.loc["e.jpg"], rows.loc["f.jpg"]
    assert new["individualID"] is None
    assert new["observationTags"] == "newAnimal:new_01"
    assert unsure["individualID"] is None
    assert unsure["classificationProbability"] is None
    assert unsure["observationComments"] == "Perhaps 007 (60%)"


def test_people_named_the_animals_of_a_gallery(answered):
    gallery = replace(answered, classified_by=None, classified_at=None)
    rows = camtrap_package(gallery, None).tables["observations"]
    assert rows["classificationMethod"].isna().all()
    assert rows["classifiedBy"].isna().all()


def test_a_turned_box_becomes_the_upright_one_around_it(answered):
    """By hand: a quarter turn of 20 x 10 about (20, 20) is 10 x 20 about it."""
    turned = replace(answered.animals[0], box=Box(10, 15, 30, 25, theta_rad=1.5707963))
    package = camtrap_package(replace(answered, animals=[turned]), None)
    row = package.tables["observations"].iloc[0]
    box = [row[name] for name in ("bboxX", "bboxY", "bboxWidth", "bboxHeight")]
    assert box == pytest.approx([15 / 60, 10 / 40, 10 / 60, 20 / 40], abs=1e-5)
    assert "1 turned boxes became upright ones around them" in package.notes
