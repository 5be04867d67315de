"""No cell of a CSV for people is a formula, and what is read back is what was."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exreid.records import Rejected
from exreid.storage.run_folder import write_rejected
from exreid.storage.spreadsheets import cell_as_it_was, csv_text, read_cells, safe_cell

BEGINS = ("=", "+", "-", "@", "\t", "\r")


@pytest.mark.parametrize(
    "text", ["=1+1", "+SUM(A1)", "-2+3", "@SUM(A1)", "\tx", "\r=1", "'=1", "-"]
)
def test_what_a_spreadsheet_would_run_is_text(text):
    assert safe_cell(text) == f"'{text}"
    assert cell_as_it_was(safe_cell(text)) == text


@pytest.mark.parametrize("cell", ["-0.5", "+3", "1e-5", "a=b", "lynx", "", "'tis", -1, 0.5, None])
def test_numbers_and_words_stand_as_they_are(cell):
    assert safe_cell(cell) == cell


@given(st.text())
def test_any_text_comes_back(text):
    written = safe_cell(text)
    assert cell_as_it_was(written) == text
    assert not written.startswith(BEGINS) or float(written) is not None


def test_the_files_for_people(tmp_path):
    rejected = [Rejected("=cmd|'/C calc'!A0", "-cam/007.jpg", 7, "decode", "+broken"),
                Rejected("007", "a,b\n.jpg", 8, "decode", "NA")]  # fmt: skip
    write_rejected(tmp_path / "rejected.csv", rejected)
    cells = list(csv.reader((tmp_path / "rejected.csv").open(newline="")))
    assert cells[1] == ["'=cmd|'/C calc'!A0", "'-cam/007.jpg", "7", "decode", "'+broken"]
    frame = read_cells(tmp_path / "rejected.csv")
    assert frame["image_id"].tolist() == ["=cmd|'/C calc'!A0", "007"]
    assert frame["path"].tolist() == ["-cam/007.jpg", "a,b\n.jpg"]
    assert frame["reason"].tolist() == ["+broken", "NA"]

    table = pd.DataFrame([{"query_id": "@x", "change": -0.5, "=h": 1}])
    assert csv_text(table) == "query_id,change,'=h\n'@x,-0.5,1\n"

    table = pd.DataFrame({"a": ["=1", None], "n": [-1.5, 2.0], "k": pd.array([1, None], "Int64")})
    rows = list(csv.reader(io.StringIO(csv_text(table))))
    assert rows == [["a", "n", "k"], ["'=1", "-1.5", "1"], ["", "2.0", ""]]
