"""Captures for camtrapR and secr, against files written by hand from the formats' documentation."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from exreid.data.exports.captures import Capture, effort, projected_m, record_table, secr_files
from exreid.data.imports.camtrap import Deployment, read_deployments
from exreid.data.imports.read import import_deployments
from exreid.errors import MetadataError

DAY = timedelta(days=1)


def _capture(animal, site, moment, photographs=1, **more):
    return Capture(animal, "v", site, moment, True, photographs, f"cards/{animal}.jpg", **more)


CAPTURES = [
    _capture("Zita", "North_1", datetime(2024, 5, 1, 22, 10, 5), 3, species="Lynx lynx"),
    _capture("Zita", "North_1", datetime(2024, 5, 3, 1, 10, 5), 2, species="Lynx lynx"),
    _capture("Old Bo", "South", datetime(2024, 5, 2, 4, 0, 0), species="Lynx lynx"),
    _capture("Zita", "South", datetime(2024, 5, 3, 23, 0, 0), species="Lynx lynx"),
]
DEPLOYMENTS = [
    Deployment("North_1", datetime(2024, 5, 1), datetime(2024, 5, 4), 45.0, 10.0),
    Deployment("South", datetime(2024, 5, 1, 12), datetime(2024, 5, 4), 44.0, 10.0),
    Deployment("Empty", datetime(2024, 5, 2), datetime(2024, 5, 3), 44.5, 11.0),
]


RECORD_COLUMNS = (
    "Station,Species,Individual,DateTimeOriginal,Date,Time,"
    "delta.time.secs,delta.time.mins,delta.time.hours,delta.time.days"
)


def test_the_record_table_is_that_of_camtrapr():
    """27 hours are between Zita's records at North_1: 97,200 seconds."""
    frame, notes = record_table(CAPTURES)
    rows = [line.rsplit(",", 3) for line in frame.to_csv(index=False).splitlines()]
    assert [row[0] for row in rows] == [
        RECORD_COLUMNS,
        "North_1,Lynx lynx,Zita,2024-05-01 22:10:05,2024-05-01,22:10:05,0,0,0.0,0.0",
        "North_1,Lynx lynx,Zita,2024-05-03 01:10:05,2024-05-03,01:10:05,97200,1620,27.0,1.1",
        "South,Lynx lynx,Old Bo,2024-05-02 04:00:00,2024-05-02,04:00:00,0,0,0.0,0.0",
        "South,Lynx lynx,Zita,2024-05-03 23:00:00,2024-05-03,23:00:00,0,0,0.0,0.0",
    ]
    assert [",".join(row[1:]) for row in rows] == [
        "Directory,FileName,n_images",
        "cards,Zita.jpg,3",
        "cards,Zita.jpg,2",
        "cards,Old Bo.jpg,1",
        "cards,Zita.jpg,1",
    ]
    assert notes == []


def test_what_has_no_place_or_date_is_counted():
    lost = [_capture("A", None, datetime(2024, 5, 1)), _capture("B", "South", None)]
    frame, notes = record_table([*CAPTURES, *lost])
    assert len(frame) == 4
    assert notes[0].startswith("2 captures have no site or no date")
    assert list(record_table(lost)[0]) == list(frame), "R reads no file without a first line"


def test_a_day_without_a_time_is_told():
    day = Capture("A", "v", "South", datetime(2024, 5, 1), False, 1, "a.jpg")
    _, notes = record_table([day])
    assert "1 record has a day and no time" in notes[0]


def test_the_files_for_secr_with_the_effort_of_each_camera():
    """One word for each identifier, no underscore in a detector's, occasions from 1, coordinates in
    metres: a degree of latitude at 44.5 degrees is 111.12 km, one of longitude 79.53 km. Cameras
    without a capture are there."""
    files, notes = secr_files(CAPTURES, DEPLOYMENTS, 1)
    assert notes == []
    captures = [line for line in files.captures.splitlines() if not line.startswith("#")]
    assert captures == [
        "1 Zita 1 North-1",
        "1 Zita 3 North-1",
        "1 Old-Bo 2 South",
        "1 Zita 3 South",
    ]
    traps = [line.split() for line in files.traps.splitlines() if not line.startswith("#")]
    assert [row[0] for row in traps] == ["Empty", "North-1", "South"]
    assert [row[3:] for row in traps] == [["0", "1", "0"], ["1", "1", "1"], ["0.5", "1", "1"]]
    place = {row[0]: (float(row[1]), float(row[2])) for row in traps}
    assert place["North-1"][1] - place["South"][1] == pytest.approx(111_120, rel=1e-3)
    assert place["Empty"][0] - place["South"][0] == pytest.approx(79_530, rel=1e-3)
    assert files.occasions == 3


def test_occasions_of_two_days():
    files, _ = secr_files(CAPTURES, DEPLOYMENTS, 2)
    assert "1 Zita 2 North-1" in files.captures
    (row,) = [line for line in files.traps.splitlines() if line.startswith("North-1")]
    assert row.split()[3:] == ["2", "1"]


def test_a_capture_while_no_camera_was_up_is_left_out_and_told():
    late = _capture("Zita", "Empty", datetime(2024, 5, 1, 3))
    files, notes = secr_files([*CAPTURES, late], DEPLOYMENTS, 1)
    assert "Empty" not in files.captures
    assert "1 capture is not in the files for secr" in notes[0]


def test_without_deployments_there_is_no_effort_and_a_note_says_so():
    placed = [_capture("A", "x", datetime(2024, 5, 2), latitude=45.0, longitude=10.0)]
    files, notes = secr_files(placed, [], 1)
    assert files.traps.splitlines()[-1] == "x 0.0 0.0"
    assert "have no effort" in notes[0]
    assert not files.effort


@pytest.mark.parametrize(
    ("captures", "deployments", "words"),
    [
        (CAPTURES, [], "no latitude and longitude of North_1, South"),
        (CAPTURES, DEPLOYMENTS[:1], "the deployments have no site South"),
        ([_capture("A", "x", None)], [], "no capture has both a site and a date"),
    ],
)
def test_files_that_cannot_be_made_are_told(captures, deployments, words):
    files, notes = secr_files(captures, deployments, 1)
    assert files is None
    assert words in notes[0]


def test_names_that_become_one_word_stay_two():
    clash = [
        _capture(animal, "s", datetime(2024, 5, 1), latitude=1.0, longitude=1.0)
        for animal in ("a b", "a-b", "NA")
    ]
    files, _ = secr_files(clash, [], 1)
    rows = [line.split()[1] for line in files.captures.splitlines() if not line.startswith("#")]
    assert rows == ["a-b", "a-b.2", "NA.2"]


def test_effort_is_the_days_with_a_camera_up_by_the_minute():
    first = datetime(2024, 5, 1)
    rng = np.random.default_rng(0)
    cameras = []
    for _ in range(6):
        start = first + timedelta(minutes=int(rng.integers(0, 5 * 1440)))
        end = min(start + timedelta(minutes=int(rng.integers(0, 3 * 1440))), first + 8 * DAY)
        cameras.append(Deployment("s", start, end, 0.0, 0.0))
    up = [
        any(one.start <= first + timedelta(minutes=m) < one.end for one in cameras)
        for m in range(8 * 1440)
    ]
    naive = np.array(up).reshape(4, 2 * 1440).sum(axis=1) / 1440
    assert effort(cameras, ["s"], first, 2, 4)[0] == pytest.approx(naive)


def test_metres_of_a_degree_at_45_degrees():
    """By the ellipsoid WGS 84: 111.132 km of latitude, 78.847 km of longitude."""
    places = projected_m(np.array([[44.5, 9.5], [45.5, 10.5]]))
    assert places[1] - places[0] == pytest.approx([78_847, 111_132], rel=1e-4)


def _row(**more):
    row = {
        "deploymentID": "d1",
        "locationID": "L1",
        "latitude": "45",
        "longitude": "10",
        "deploymentStart": "2024-05-01T00:00:00+02:00",
        "deploymentEnd": "2024-05-04T00:00:00+02:00",
    }
    return row | more


def test_deployments_are_of_the_column_that_has_the_sites():
    rows = [_row(), _row(deploymentID="d2")]
    assert [one.site for one in read_deployments(rows, {"L1"})] == ["L1", "L1"]
    assert [one.site for one in read_deployments(rows, {"d2"})] == ["d1", "d2"]


@pytest.mark.parametrize(
    ("row", "sites", "words"),
    [
        (_row(), {"x"}, "x are in none"),
        (_row(latitude=None), {"d1"}, "line 2: has no latitude and longitude"),
        (_row(deploymentEnd="2024-04-01"), {"d1"}, "line 2: ends before it starts"),
        (_row(deploymentStart="soon"), {"d1"}, "'soon' is not a time"),
    ],
)
def test_a_wrong_deployment_is_an_error(row, sites, words):
    with pytest.raises(MetadataError, match=words):
        read_deployments([row], sites)


def test_deployments_are_read_from_their_table_alone(tmp_path):
    file = tmp_path / "deployments.csv"
    file.write_text(",".join(_row()) + "\n" + ",".join(_row().values()) + "\n")
    (found,) = import_deployments(str(file), {"d1"})
    assert found.end - found.start == 3 * DAY
    with pytest.raises(MetadataError, match="deployments.csv: no column"):
        import_deployments(str(file), {"elsewhere"})
