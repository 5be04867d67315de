"""Metadata: what is right comes through as it stands, what is wrong is named with its remedy."""

import json
import uuid
from dataclasses import replace

import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exreid.data.metadata import (
    Columns,
    codes,
    find_problems,
    normalised_path,
    read_image_table,
    read_table,
    select_split,
)
from exreid.data.metadata_rows import joined_text
from exreid.errors import ImageError, MetadataError
from exreid.gallery.photo_answers import PhotoAnswer
from exreid.storage.urls import file_signature, read_bytes

COLUMNS = Columns(split="split", encounter=("visit",))
CSV = """path,unique_name,split,visit,date
img/0.png,007,train,1,14.03.2016
img/1.png,007,test,2,
img/2.png,Nala,train,3,2016-03-15
img/3.png,12,test,,16/03/2016
"""


def _write(folder, text=CSV, name="metadata.csv"):
    (folder / "img").mkdir(exist_ok=True)
    for i in range(4):
        (folder / f"img/{i}.png").write_bytes(b"x")
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)
    return str(folder)


def _changed(**cells):
    """The table with one cell of row i (from 0) replaced: column=(i, value)."""
    rows = [line.split(",") for line in CSV.splitlines()]
    for column, (i, value) in cells.items():
        rows[i + 1][rows[0].index(column)] = value
    return "\n".join(",".join(row) for row in rows) + "\n"


def test_a_table_is_read_as_it_stands(tmp_path):
    table, rejected = read_image_table(_write(tmp_path), columns=COLUMNS)
    assert rejected == []
    assert table.rows["identity"].tolist() == ["007", "007", "Nala", "12"]
    assert table.rows["image_id"].tolist() == [f"img/{i}.png" for i in range(4)]
    assert table.rows["row"].tolist() == [2, 3, 4, 5]
    days = ["2016-03-14", "NaT", "2016-03-15", "2016-03-16"]
    expected = np.array(days, "datetime64[s]")
    np.testing.assert_array_equal(table.rows["date"].to_numpy("datetime64[s]"), expected)
    assert table.rows["encounter"].tolist() == ["1:1", "1:2", "1:3", None]
    assert table.rows["mask"].tolist() == [None] * 4
    assert table.original["visit"].tolist() == ["1", "2", "3", None]
    assert select_split(table, "test").tolist() == [1, 3]


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace(",", ";"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";").replace("visit", '"visit"'),
        lambda text: text.replace("\n", ",\n").replace("date,", "date"),  # a comma ends each row
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", "\t").encode("utf-16"),  # what Excel calls Unicode text
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace(",", " ,").replace("\n", " \n"),
    ],
)
def test_csv_in_its_spellings_gives_the_same_table(tmp_path, spell):
    plain, _ = read_image_table(_write(tmp_path), columns=COLUMNS)
    (tmp_path / "other").mkdir()
    other, _ = read_image_table(_write(tmp_path / "other", spell(CSV)), columns=COLUMNS)
    pd.testing.assert_frame_equal(other.rows, plain.rows)


def test_lines_are_those_of_the_file_past_empty_rows_and_line_breaks(tmp_path):
    text = 'path,unique_name,"no\nte"\n\nimg/0.png,a,"x\r\ny\nz"\nimg/1.png,,\n,,\nimg/2.png,c,\n'
    root = _write(tmp_path, text)
    table, rejected = read_image_table(root, columns=Columns(), on_error="skip")
    assert table.rows["row"].tolist() == [4, 9]
    assert [item.row for item in rejected] == [7]
    assert table.original.columns[2] == "no\nte"


def test_parquet_gives_the_text_that_a_csv_would(tmp_path):
    polygon = [[float(i) for i in range(2000)]]
    rle = {"size": [1, 2], "counts": "11"}
    frame = pd.DataFrame(
        {
            "path": ["img/0.png", "img/1.png"],
            "unique_name": [7, 8],
            "visit": [1.0, np.nan],
            "nullable": pd.array([9007199254740993, None], dtype="Int64"),
            "date": pd.to_datetime(["2016-03-14", None]),
            "polygon": [polygon, None],
            "rle": [rle, rle],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    columns = Columns(split=None, encounter=("visit",))
    table, _ = read_image_table(_write(tmp_path), metadata_file="t.parquet", columns=columns)
    assert table.rows["identity"].tolist() == ["7", "8"]
    assert table.rows["encounter"].tolist() == ["1:1", None]
    assert table.rows["date"].dt.day.tolist()[0] == 14
    assert table.original["nullable"].tolist() == ["9007199254740993", None]
    assert json.loads(table.original["polygon"][0]) == polygon
    assert table.original["polygon"][1] is None
    assert json.loads(table.original["rle"][0]) == rle


def test_files_are_looked_for_in_order(tmp_path):
    with pytest.raises(MetadataError, match=r"looked for Czech.*metadata\.csv.*dataset\.root"):
        read_table(str(tmp_path))
    _write(tmp_path)
    assert read_table(str(tmp_path))[1] == str(tmp_path / "metadata.csv")
    name = "CzechLynxDataset-Metadata-Real.csv"
    _write(tmp_path, name=name)
    assert read_table(str(tmp_path))[1] == str(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (CSV.replace("Nala", "Zdeněk").encode("iso8859-2"), r"not UTF-8 \(byte "),
        (b"", "not a CSV table"),
        (b"path,unique_name\n", "has no rows"),
        (b"path,unique_name\n,\n", "has no rows"),
        (b"path,unique_name\na,b\nc,d,e\n", "line 3"),
        (b"path,unique_name\na,b,c\nd,e,f\n", "loss of data"),
        (b'path,unique_name\na,"b\nc,d\n', "not a CSV table"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, data, says):
    with pytest.raises(MetadataError, match=says):
        read_table(_write(tmp_path, data))


def test_a_file_that_cannot_be_reached_is_refused(tmp_path):
    root = _write(tmp_path, b"no parquet", "bad.parquet")
    with pytest.raises(MetadataError, match="not a Parquet table"):
        read_table(root, "bad.parquet")
    with pytest.raises(MetadataError, match=r"none\.csv: no such metadata file.*metadata_file"):
        read_table(root, "none.csv")
    with pytest.raises(MetadataError, match="cannot be read.*[Pp]rotocol"):
        read_table("nosuch://bucket/folder")


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"path": (1, "img/./0.png")}, r"line 3: path 'img/0\.png' is in line 2 already"),
        ({"path": (0, "../x.png")}, "line 2: path .* leaves the data set's folder.*dataset.root"),
        ({"path": (0, "/etc/passwd")}, "line 2: path .* is absolute"),
        ({"path": (0, "")}, "line 2: path is empty"),
        ({"path": (3, "no.png")}, r"line 5: no such file .*no\.png"),
        ({"path": (3, "img")}, "line 5: no such file"),
        ({"unique_name": (1, "")}, r"line 3: img/1\.png: its unique_name is not known \(empty\)"),
        ({"unique_name": (1, "unknown")}, r"line 3: .* is not known \('unknown'\)"),
    ],
)
def test_a_bad_row_is_named_or_left_out_and_listed(tmp_path, cells, says):
    root = _write(tmp_path, _changed(**cells))
    with pytest.raises(MetadataError, match=says) as raised:
        read_image_table(root, columns=COLUMNS)
    assert "1 problem. dataset.on_error=skip" in str(raised.value)
    table, rejected = read_image_table(root, columns=COLUMNS, on_error="skip")
    (i, _), *_ = cells.values()
    assert table.rows["row"].tolist() == [line for line in range(2, 6) if line != i + 2]
    assert [(item.row, item.stage) for item in rejected] == [(i + 2, "metadata")]
    assert rejected[0].reason in str(raised.value)


def test_all_problems_are_found_and_five_are_shown(tmp_path):
    rows = "".join(f"../{i}.png,unknown,train,1,never\n" for i in range(10))
    root = _write(tmp_path, CSV + rows)
    problems = find_problems(root, columns=replace(COLUMNS, dates_count=True))
    assert len(problems) == 30
    assert {(p.row, p.column) for p in problems if p.row == 6} == {
        (6, "path"),
        (6, "unique_name"),
        (6, "date"),
    }
    assert all(p.problem and p.remedy and p.value for p in problems)
    with pytest.raises(MetadataError, match="30 problems") as raised:
        read_image_table(root, columns=replace(COLUMNS, dates_count=True))
    assert str(raised.value).count("  line ") == 5
    assert "and 25 more; exreid validate lists them all" in str(raised.value)


def test_of_rows_that_repeat_a_path_the_first_good_one_is_kept(tmp_path):
    text = CSV + "img/0.png,a,train,1,\n" + "img/9.png,b,train,1,\nimg/9.png,b,train,1,\n"
    rows = text.replace("img/0.png,007", "img/0.png,unknown", 1)
    table, rejected = read_image_table(_write(tmp_path, rows), columns=COLUMNS, on_error="skip")
    assert table.rows["row"].tolist() == [3, 4, 5, 6]
    assert "not known" in rejected[0].reason
    assert "is in line 6 too" in rejected[0].reason
    assert [item.row for item in rejected] == [2, 7, 8]


def test_ids_of_the_file_must_be_unique(tmp_path):
    rows = [f"{line},{'id' if i < 2 else ''}" for i, line in enumerate(CSV.splitlines()[1:])]
    text = "\n".join([CSV.splitlines()[0] + ",image_id", *rows])
    root = _write(tmp_path, text)
    with pytest.raises(MetadataError, match="line 3: image_id 'id' is in line 2 already"):
        read_image_table(root, columns=COLUMNS)
    table, _ = read_image_table(root, columns=COLUMNS, on_error="skip")
    assert table.rows["image_id"].tolist() == ["id", "img/2.png", "img/3.png"]


def test_unknown_identities_and_files_may_be_left_unchecked(tmp_path):
    root = _write(tmp_path, _changed(unique_name=(0, "wer?"), path=(3, "far\\away.png")))
    table, rejected = read_image_table(
        root,
        columns=COLUMNS,
        unknown_identities=["wer?"],
        require_identity=False,
        check_files=False,
    )
    assert rejected == []
    assert table.rows["identity"].tolist() == [None, "007", "Nala", "12"]
    assert table.rows["path"][3] == "far/away.png"
    assert table.rows["image_id"][3] == "far\\away.png"


def test_a_missing_column_is_named_with_the_nearest_one_and_the_key(tmp_path):
    root = _write(tmp_path)
    with pytest.raises(MetadataError, match="'Unique_Nam'.*mean 'unique_name'.*dataset.label_col"):
        read_image_table(root, columns=Columns(identity="Unique_Nam"))
    required = frozenset({"mask", "splitt"})
    wanted = Columns(split="splitt", encounter=("visits",), required=required)
    with pytest.raises(MetadataError) as raised:
        read_image_table(root, columns=wanted)
    for says in ("'visits'", "encounter_cols", "'splitt'", "split_col", "'mask'", "mask_col"):
        assert says in str(raised.value)
    assert "It has path, unique_name, split, visit, date." in str(raised.value)
    table, _ = read_image_table(root, columns=Columns(identity="none"), require_identity=False)
    assert table.rows["identity"].tolist() == [None] * 4


def test_an_empty_split_lists_the_splits_there_are(tmp_path):
    table, _ = read_image_table(_write(tmp_path, _changed(split=(0, ""))), columns=COLUMNS)
    says = r"'val'; the splits are 'test' \(2\), \(empty\) \(1\), 'train' \(1\)\. .*query_split_val"
    with pytest.raises(MetadataError, match=says):
        select_split(table, "val")


@pytest.mark.parametrize(
    "path",
    [
        *("..", "a/../../b", "a\\..\\..\\b", "..\\b", "/etc", "\\\\server\\share", "C:\\x", "c:x"),
        *("s3://b/x", "a::file:///etc/passwd", "a/zip://b", "", " ", ".", "./", "a\0"),
    ],
)
def test_paths_that_leave_the_root(path):
    with pytest.raises(ValueError, match=r"leaves|absolute|empty"):
        normalised_path(path)


@given(st.text("ab./\\:~ ", max_size=12))
def test_a_normalised_path_stays_below_the_root_and_as_it_is(text):
    try:
        path = normalised_path(text)
    except ValueError:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert normalised_path(path) == path


def test_encounters_of_several_columns_are_told_apart():
    parts = [["a", "a|1:b", "a", None], ["1:b|c", "c", "b", "x"]]
    joined = joined_text(parts, 4)
    assert joined[3] is None
    assert len(set(joined)) == 4


def test_codes_are_shared_and_sorted():
    first, second = codes(["b", None, "a"], ["c", "b"])
    assert (first.tolist(), second.tolist()) == ([1, -1, 0], [2, 1])
    assert first.dtype == second.dtype == np.int32


def test_a_root_may_be_a_url():
    root = f"memory://{uuid.uuid4().hex}/data"
    memory = fsspec.filesystem("memory")
    for path, text in (("metadata.csv", CSV), ("img/0.png", "x"), ("img/1.png", "y")):
        memory.pipe_file(f"{root}/{path}", text.encode())
    table, rejected = read_image_table(root, columns=COLUMNS, on_error="skip")
    assert table.rows["path"].tolist() == ["img/0.png", "img/1.png"]
    assert [item.row for item in rejected] == [4, 5]
    assert read_bytes(root, "img/1.png") == b"y"
    before = file_signature(root, "img/1.png")
    assert before == file_signature(root, "img/1.png")
    memory.pipe_file(f"{root}/img/1.png", b"longer")
    assert file_signature(root, "img/1.png") != before
    with pytest.raises(ImageError, match=r"no such file .*none\.png.*dataset\.root"):
        read_bytes(root, "none.png")


def test_a_file_that_changes_changes_its_signature(tmp_path):
    root = _write(tmp_path)
    before = file_signature(root, "img/0.png")
    assert before == file_signature(root, "img/0.png")
    replaced = tmp_path / "new"
    replaced.write_bytes(b"z")
    replaced.rename(tmp_path / "img/0.png")
    assert file_signature(root, "img/0.png") != before
    for read in (read_bytes, file_signature):
        with pytest.raises(ImageError, match=r"no such file .*none\.png.*dataset\.root"):
            read(root, "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_bytes(root, "img")


def test_absolute_paths_inside_the_data_sets_folder_are_relative_to_it(tmp_path, caplog):
    root = _write(tmp_path)
    relative, _ = read_image_table(root, columns=COLUMNS)
    text = CSV.replace("\nimg/", f"\n{tmp_path}/img/")
    assert text.count(f"{tmp_path}/") == 4
    _write(tmp_path, text, "absolute.csv")
    table, rejected = read_image_table(root, metadata_file="absolute.csv", columns=COLUMNS)
    assert table.rows["path"].tolist() == relative.rows["path"].tolist()
    assert table.rows["image_id"].tolist() == relative.rows["image_id"].tolist()
    assert rejected == []
    assert f"4 absolute paths inside {tmp_path}/ are read relative to it" in caplog.text
    # Beside it, and out of it again, they are what they were.
    for place in (f"{tmp_path}2/img", f"{tmp_path}/../img"):
        _write(tmp_path, CSV.replace("\nimg/0", f"\n{place}/0"), "outside.csv")
        with pytest.raises(MetadataError, match=r"is absolute|leaves the data set's folder"):
            read_image_table(root, metadata_file="outside.csv", columns=COLUMNS)


WINDOWS, SHARE = "C:\\survey\\2024\\", "\\\\server\\share\\"


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        (f"{WINDOWS}img\\a1.jpg", f"cut {WINDOWS!r} off the cells of path"),
        (f"{WINDOWS}gone\\a1.jpg", "cut off what comes before"),
        (f"{SHARE}img\\a1.jpg", f"cut {SHARE!r} off the cells of path"),
        ("/mnt/old/img/a1.jpg", "cut '/mnt/old/' off the cells of path"),
        ("https://example.org/x/img/a1.jpg", "download the photographs, or set dataset.root"),
    ],
)
def test_a_path_of_another_place_is_told_how_it_becomes_one_of_this(tmp_path, path, remedy):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a1.jpg").write_bytes(b"x")
    pd.DataFrame({"path": [path], "unique_name": ["a"]}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    (problem,) = find_problems(str(tmp_path), columns=Columns())
    assert remedy in problem.text


def test_back_slashes_of_relative_paths_are_read(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a1.jpg").write_bytes(b"x")
    _write(tmp_path, "path,unique_name\nimg\\a1.jpg,a\n", "metadata.csv")
    assert find_problems(str(tmp_path), columns=Columns()) == []


def test_a_folder_in_a_column_of_its_own_is_named(tmp_path):
    """As Timelapse writes it."""
    (tmp_path / "cam 1" / "June").mkdir(parents=True)
    (tmp_path / "cam 1" / "June" / "a1.jpg").write_bytes(b"x")
    text = "RelativePath,path,unique_name\ncam 1\\June,a1.jpg,a\ncam 1\\June,a2.jpg,a\n"
    _write(tmp_path, text, "metadata.csv")
    problems = find_problems(str(tmp_path), columns=Columns())
    for problem in problems:
        assert "column 'RelativePath'" in problem.text
        assert "'cam 1/June/a1.jpg'" in problem.text
        assert "dataset.path_col" in problem.text
    assert len(problems) == 2


def test_a_table_of_answers_is_no_table_of_labels(tmp_path):
    now = list(PhotoAnswer("a.jpg", "answered", leader="Zita", decision="new").row())
    before = ["photo", "status", "visit", "decision", "animal", "best_gallery_photo", "note"]
    for columns in (now, before):
        text = ",".join(columns) + "\n" + ",".join("x" for _ in columns) + "\n"
        root = _write(tmp_path, text, "identifications.csv")
        with pytest.raises(
            MetadataError, match=r"identifications.csv: these are answers of exreid"
        ):
            read_image_table(root, metadata_file="identifications.csv", columns=COLUMNS)
