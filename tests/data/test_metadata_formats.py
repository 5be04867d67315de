"""Metadata files: text in its encodings is read, and what is no table is named for what it is."""

import json

import pytest

from exreid.data.metadata import Columns, read_image_table, read_table
from exreid.errors import MetadataError

COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04" + bytes(range(200)), "Excel workbook.*CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0" + bytes(200), "old Excel workbook"),
        (b"\x1f\x8b" + bytes(200), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (json.dumps(COCO).encode(), r"has no animal.* photographs without an annotation \(1\)"),
        (json.dumps([{"path": "a"}]).encode(), "of no form that is known.*read_json"),
        (b"path,unique_name\na,Ren\xe9\n", r"not UTF-8 \(byte 22\).*CSV UTF-8"),
        (b"path,unique_name\na\0,b\n", "null bytes"),
        (b"path,unique_name,unique_name\na,b,c\n", "several columns are called 'unique_name'"),
    ],
)
def test_a_file_that_is_no_table_is_named_for_what_it_is(tmp_path, data, says):
    (tmp_path / "t.any").write_bytes(data)
    with pytest.raises(MetadataError, match=says) as raised:
        read_image_table(str(tmp_path), metadata_file="t.any", columns=Columns())
    assert len(str(raised.value)) < 1000


def test_the_message_on_a_large_file_is_short(tmp_path):
    names = ",".join(f"a long name of a column, the {i}th" for i in range(2000))
    (tmp_path / "t.csv").write_text(names + "\n" + "x," * 1000 + "\n")
    with pytest.raises(MetadataError) as raised:
        read_image_table(str(tmp_path), metadata_file="t.csv", columns=Columns())
    assert len(str(raised.value)) < 3000


def test_excels_own_line_about_the_separator_is_no_row(tmp_path):
    text = "sep=;\npath;unique_name\nimg/0.png;a,b\n\nimg/1.png;c\n"
    (tmp_path / "t.csv").write_text(text)
    table, _ = read_image_table(
        str(tmp_path), metadata_file="t.csv", columns=Columns(), check_files=False
    )
    assert table.rows["identity"].tolist() == ["a,b", "c"]
    assert table.rows["row"].tolist() == [3, 5]


def test_names_of_columns_are_stripped(tmp_path):
    (tmp_path / "metadata.csv").write_text(" path ,\u00a0unique_name\na,b\n", encoding="utf-8")
    cells, _ = read_table(str(tmp_path))
    assert list(cells.columns) == ["path", "unique_name"]


def test_a_formula_made_safe_is_the_name_again_beside_a_column_without_a_value(tmp_path):
    (tmp_path / "t.csv").write_text("path,unique_name,visit\na.jpg,'=1+1,\nb.jpg,Zita,\n")
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"y")
    columns = Columns(split=None, encounter=("visit",))
    table, _ = read_image_table(str(tmp_path), metadata_file="t.csv", columns=columns)
    assert table.rows["identity"].tolist() == ["=1+1", "Zita"]
    assert table.rows["encounter"].isna().all()
