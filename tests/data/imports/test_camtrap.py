"""Camtrap DP: observations of photographs and of events, with their boxes, sites and visits."""

import json
from pathlib import Path

import pytest

from exreid.data.imports.read import import_source
from exreid.errors import MetadataError

PACKAGE = {
    "profile": "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0/camtrap-dp-profile.json",
    "name": "example",
    "resources": [
        {"name": name, "path": f"{name}.csv", "profile": "tabular-data-resource"}
        for name in ("deployments", "media", "observations")
    ],
}
DEPLOYMENTS = """deploymentID,locationID,locationName,latitude,longitude,deploymentStart
d1,l1,B_HS_val 2,51.496,4.774,2020-05-30T02:57:37Z
d2,l2,B_DL_val 5,51.181,5.655,2020-06-19T21:00:00Z
"""
MEDIA = """mediaID,deploymentID,captureMethod,timestamp,filePath,filePublic,fileName,fileMediatype
m1,d1,activityDetection,2020-06-12T04:04:29Z,media/m1.jpg,true,m1.jpg,image/jpeg
m2,d1,activityDetection,2020-06-12T04:04:30Z,https://x.org/files/m2.jpg,true,m2.jpg,image/jpeg
m3,d1,activityDetection,2020-06-12T04:04:31Z,media/m3.jpg,true,m3.jpg,image/jpeg
m4,d2,activityDetection,2020-06-12T04:04:31Z,media/m4.jpg,true,m4.jpg,image/jpeg
m5,d2,activityDetection,2020-06-12T04:05:31Z,media/m5.mp4,true,m5.mp4,video/mp4
"""
OBSERVATIONS = """observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,\
observationType,scientificName,individualID,bboxX,bboxY,bboxWidth,bboxHeight,classificationMethod
o1,d1,m1,e1,2020-06-12T04:04:29Z,2020-06-12T04:04:31Z,media,animal,Lynx,Kira,0.5,0.25,0.5,0.5,human
o2,d1,m1,e1,2020-06-12T04:04:29Z,2020-06-12T04:04:31Z,media,animal,Lynx lynx,,0,0,0.5,0.25,human
o3,d1,,e1,2020-06-12T04:04:29Z,2020-06-12T04:04:31Z,event,animal,Lynx lynx,Kira,,,,,human
o4,d2,m5,e2,2020-06-12T04:05:31Z,2020-06-12T04:05:31Z,media,animal,Lynx lynx,Nala,,,,,human
o5,d2,m4,e2,2020-06-12T04:04:31Z,2020-06-12T04:04:31Z,media,blank,,,,,,,machine
o6,d2,,e3,2020-06-12T04:04:31Z,2020-06-12T04:04:31Z,event,animal,Lynx lynx,,,,,,human
"""


@pytest.fixture
def package(photos):
    """A folder with the package and its photographs."""

    def make(observations=OBSERVATIONS, content=PACKAGE):
        root = photos("media/m1.jpg", "media/m2.jpg", "media/m3.jpg", "media/m4.jpg", root="dp")
        for name, text in (
            ("datapackage.json", json.dumps(content)),
            ("deployments.csv", DEPLOYMENTS),
            ("media.csv", MEDIA),
            ("observations.csv", observations),
        ):
            (Path(root) / name).write_text(text)
        return root

    return make


def test_observations_of_photographs_and_events_become_rows(package):
    made = import_source(package())
    cells = made.cells.set_index("path")
    assert made.cells["path"].tolist() == [
        "media/m1.jpg",
        "media/m1.jpg",
        "media/m2.jpg",
        "media/m3.jpg",
    ]
    assert made.cells["unique_name"].tolist() == ["Kira", None, "Kira", "Kira"]
    assert [json.loads(box) for box in cells.loc["media/m1.jpg", "bbox"]] == [
        [30, 10, 30, 20],
        [0, 0, 30, 10],
    ]
    assert set(made.cells["encounter"]) == {"e1"}
    assert set(made.cells["site"]) == {"d1"}
    assert set(made.cells["location"]) == {"B_HS_val 2"}
    assert cells.loc["media/m3.jpg", "date"] == "2020-06-12T04:04:31Z"
    assert cells.loc["media/m3.jpg", "latitude"] == "51.496"
    assert made.left_out == {
        "observations in videos": 1,
        "observations of the type blank": 1,
        "observations of events that name no individual": 1,
    }


def test_an_event_with_two_individuals_names_no_photograph(package):
    both = OBSERVATIONS + (
        "o7,d1,,e1,2020-06-12T04:04:30Z,2020-06-12T04:04:30Z,event,animal,Lynx,Nala,,,,,human\n"
    )
    made = import_source(package(both))
    assert made.cells["path"].tolist() == ["media/m1.jpg", "media/m1.jpg", "media/m3.jpg"]
    assert made.left_out["photographs of events with several individuals"] == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("o1,d1,m1", "o1,d1,m9", "line 2: its mediaID 'm9' is not in media"),
        (
            "o3,d1,,e1,2020-06-12T04:04:29Z",
            "o3,d1,,e1,yesterday",
            "line 4: 'yesterday' is not a time",
        ),
        ("0.5,0.25,0.5,0.5", "30,10,30,20", "line 2: its box .* is not in fractions"),
        ("0.5,0.25,0.5,0.5", "0.5,0.25,,0.5", "are not four numbers"),
    ],
)
def test_what_a_package_does_not_allow_is_named(package, old, new, says):
    assert old in OBSERVATIONS
    with pytest.raises(MetadataError, match=says):
        import_source(package(OBSERVATIONS.replace(old, new)))


@pytest.mark.parametrize("path", ["../media.csv", "/etc/media.csv", "https://x.org/media.csv"])
def test_a_package_reads_nothing_outside_its_folder(package, path):
    content = json.loads(json.dumps(PACKAGE))
    content["resources"][1]["path"] = path
    with pytest.raises(MetadataError, match="one file beside datapackage.json is read"):
        import_source(package(content=content))
