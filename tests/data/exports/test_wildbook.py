"""Wildbook's spreadsheets: 200 rows each, nothing called NA, and only what Wildbook takes."""

from dataclasses import replace

import openpyxl
import pytest

from exreid.data.exports.wildbook import write_wildbook
from exreid.errors import ConfigError


def _rows(file):
    """The sheet's rows, by their columns' names, empty cells left out."""
    header, *rows = openpyxl.load_workbook(file).active.iter_rows(values_only=True)
    return [
        {name: cell for name, cell in zip(header, row, strict=True) if cell is not None}
        for row in rows
    ]


def test_two_hundred_rows_a_file(answered, tmp_path):
    first = answered.animals[0]
    animals = [replace(first, image_id=f"{i}", path=f"p{i}.jpg") for i in range(401)]
    write_wildbook(replace(answered, animals=animals), tmp_path, lambda path, target: None)
    files = [tmp_path / f"wildbook-{number}.xlsx" for number in (1, 2, 3)]
    assert sorted(tmp_path.glob("*.xlsx")) == files
    sheets = [_rows(file) for file in files]
    assert [len(sheet) for sheet in sheets] == [200, 200, 1]
    assert sheets[2][0]["Encounter.otherCatalogNumbers"] == "400"


def test_a_row_says_what_wildbook_asks_for(answered, tmp_path):
    notes = write_wildbook(answered, tmp_path, lambda path, target: None)
    rows = _rows(tmp_path / "wildbook-1.xlsx")
    assert rows[0] == {
        "Encounter.mediaAsset0": "a.jpg",
        "Encounter.individualID": "Zoë Ärmel",
        "Encounter.year": 2024,
        "Encounter.month": 5,
        "Encounter.day": 1,
        "Encounter.hour": 22,
        "Encounter.minutes": 10,
        "Encounter.locationID": "cam 1",
        "Encounter.decimalLatitude": 49.5,
        "Encounter.decimalLongitude": 16.25,
        "Encounter.genus": "Lynx",
        "Encounter.specificEpithet": "lynx",
        "Encounter.occurrenceID": "card-1_cam_1_2024-05-01",
        "Encounter.otherCatalogNumbers": "cam 1/a.jpg#1",
        "Encounter.state": "unapproved",
        "Annotation0.bbox": "[5, 5, 20, 20]",
    }
    new = rows[5]
    assert "Encounter.individualID" not in new
    assert new["Encounter.occurrenceRemarks"] == "No known animal; nearest 007 (6%) (new_01)"
    assert "Wildbook asks for Encounter.year: fill it in, in 4 rows" in notes


@pytest.mark.parametrize("name", ["NA", "n/a", "unknown", "NaN"])
def test_nothing_is_called_na(answered, tmp_path, name):
    odd = replace(answered.animals[0], site=name, viewpoint=name)
    write_wildbook(replace(answered, animals=[odd]), tmp_path, lambda path, target: None)
    (row,) = _rows(tmp_path / "wildbook-1.xlsx")
    assert name not in row.values()
    named = replace(odd, animal=name)
    with pytest.raises(ConfigError, match=f"an animal is called '{name}'"):
        write_wildbook(replace(answered, animals=[named]), tmp_path, lambda path, target: None)


def test_encounters_of_one_plain_name_stay_two(answered, tmp_path):
    first = answered.animals[0]
    animals = [replace(first, encounter=one) for one in ("a b", "a/b", "a b")]
    write_wildbook(replace(answered, animals=animals), tmp_path, lambda path, target: None)
    visits = [row["Encounter.occurrenceID"] for row in _rows(tmp_path / "wildbook-1.xlsx")]
    assert visits == ["card-1_a_b", "card-1_a_b_2", "card-1_a_b"]
