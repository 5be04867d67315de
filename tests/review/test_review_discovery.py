"""A review begins with the files of a discovery."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exreid.errors import ReviewError
from exreid.review.discovery import read_discovery


def _write(folder: Path) -> None:
    animals = {
        "image_id": ["i1", "i2", "i3", "i4", "i5"],
        "encounter": ["visit b", "visit b", "visit a", "visit c", "visit d"],
    }
    pairs = {
        "first_encounter": ["visit b", "visit c"],
        "second_encounter": ["visit a", "visit d"],
        "first_id": ["i2", "i4"],
        "second_id": ["i3", "i5"],
        "probability": [0.95, 0.97],
    }
    photos = {"image_id": animals["image_id"], "path": ["1", "2", "3", "4", "4"]}
    for name, columns in (("animals", animals), ("pairs", pairs), ("photos", photos)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def test_visits_pairs_and_their_photographs_are_read(tmp_path):
    _write(tmp_path)
    found = read_discovery(tmp_path)
    assert found.subject.visits == ("visit a", "visit b", "visit c", "visit d")
    assert found.images["visit b"] == ("i1", "i2")
    assert found.alike["visit a", "visit b"] == ("i3", "i2")
    graph = found.subject.graph
    assert graph.pair_P2.tolist() == [[0, 1], [2, 3]]
    assert graph.evidence_P[1] < -1000, "two animals of one photograph"
    assert found.subject.start.group_V[2] != found.subject.start.group_V[3]


def test_another_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ReviewError, match=r"animals\.parquet: .*finished exreid discover"):
        read_discovery(tmp_path)
    _write(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"nothing")
    with pytest.raises(ReviewError, match=r"pairs\.parquet: .*finished exreid discover"):
        read_discovery(tmp_path)


def test_a_pair_of_a_visit_that_is_not_among_the_animals_is_an_error(tmp_path):
    _write(tmp_path)
    pairs = pq.read_table(tmp_path / "pairs.parquet").to_pydict()
    pairs["first_encounter"][0] = "visit x"
    pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")
    with pytest.raises(ReviewError, match=r"pairs\.parquet"):
        read_discovery(tmp_path)
