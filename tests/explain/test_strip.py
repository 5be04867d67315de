"""Neighbours by animal: order, flags, and what is not known."""

import numpy as np
import pandas as pd
import pytest

from exreid.data.metadata import Columns, load_images
from exreid.explain.strip import neighbours_by_identity, strip_rows


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            "identity": ["Luna", "Mira", "Luna", None, None],
            "encounter": ["7", "8", None, "9", "9"],
            "viewpoint": ["left", "right", "left", None, "left"],
            "date": ["2016-03-14", None, "2016-03-15", None, None],
            "site": ["T1", "T1", "T2", "T3", "T3"],
        },
        index=["a", "b", "c", "d", "e"],
        dtype=object,
    )


def test_animals_stand_where_their_best_image_stands(rows):
    query = {"identity": "Luna", "encounter": "8", "viewpoint": "left"}
    found = neighbours_by_identity(
        ["b", "c", "a", "d", "e"], [0.9, 0.8, 0.7, 0.6, np.nan], rows, query=query
    )
    assert [one.identity for one in found] == ["Mira", "Luna", None, None]
    assert [one.rank for one in found] == [1, 2, 3, 4]
    mira, luna, unknown, other = found
    assert (mira.image_id, mira.score, mira.site, mira.date) == ("b", 0.9, "T1", None)
    assert mira.same_encounter
    assert mira.other_side
    assert mira.is_match is False
    assert luna.images == ("c", "a")
    assert luna.date == "2016-03-15"
    assert not luna.same_encounter, "an unknown encounter is no same one"
    assert luna.is_match is True
    assert unknown.is_match is None
    assert not unknown.other_side, "an unknown side is no other side"
    assert np.isnan(other.score)
    assert other.images == ("e",), "images of unknown animals are not thrown together"


def test_a_query_of_unknown_identity_has_no_right_and_wrong(rows):
    found = neighbours_by_identity(["a", "b"], [0.9, 0.8], rows, most=1)
    assert len(found) == 1
    assert found[0].is_match is None
    assert not found[0].same_encounter


def test_a_candidate_that_the_table_lacks_is_named(rows):
    with pytest.raises(KeyError, match="'z'"):
        neighbours_by_identity(["a", "z"], [1, 0], rows)


def test_rows_of_a_table_keep_what_the_file_says(dataset):
    columns = Columns(encounter=("source", "encounter"), viewpoint="pose")
    table, _ = load_images(str(dataset), columns=columns)
    rows = strip_rows(table, site_col="trap_id")
    assert list(rows.index) == table.rows["image_id"].tolist()
    assert rows["site"].tolist() == [str(one) for one in table.original["trap_id"]]
    days = table.rows["date"]
    assert days.isna().any(), "some dates are missing"
    for shown, day in zip(rows["date"], days, strict=True):
        assert shown == (None if pd.isna(day) else day.strftime("%Y-%m-%d"))
    assert set(rows["viewpoint"]) == {"left", "right"}
