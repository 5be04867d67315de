"""Names that look alike are one, or said to be two; what says nothing is empty; all is counted."""

import unicodedata

import pytest

from exreid.data.metadata import Columns, find_problems, read_image_table, select_split
from exreid.data.metadata_cells import similar_names
from exreid.data.metadata_formats import clean_text
from exreid.errors import MetadataError

COLUMNS = Columns(split="split", encounter=("visit",), viewpoint="side")


def _read(folder, rows, columns=COLUMNS, **options):
    """The table of (name, split, visit, side, date), and all that was said."""
    (folder / "img").mkdir(exist_ok=True)
    lines = ["path,unique_name,split,visit,side,date"]
    for i, cells in enumerate(rows):
        (folder / f"img/{i}.png").write_bytes(b"x")
        lines.append(",".join([f"img/{i}.png", *cells]))
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = []
    table, _ = read_image_table(
        str(folder),
        columns=columns,
        require_identity=False,
        say=said.append,
        say_similar=said.append,
        **options,
    )
    return table.rows, "\n".join(said)


def _row(name="a", split="train", visit="1", side="left", date="2016-03-14"):
    return name, split, visit, side, date


@pytest.mark.parametrize(
    "text",
    ["Bela ", "\tBela", "Bela\u00a0", "\u2003Bela", "\ufeffBela", "Bela\u200b", " Bela \r"],
)
def test_white_space_around_a_name_is_no_part_of_it(text):
    assert clean_text(text) == "Bela"


def test_unicode_forms_and_kinds_of_spaces_are_one():
    assert clean_text(unicodedata.normalize("NFD", "Zoë")) == "Zoë"
    assert clean_text("Bela\u00a0II") == "Bela II"
    assert clean_text("x\ud800").isprintable()


def test_one_name_in_four_spellings_is_one_animal_and_the_change_is_counted(tmp_path):
    names = ["Zoë", unicodedata.normalize("NFD", "Zoë"), "Zoë ", "Zoë\u00a0", "Bela"]
    rows, said = _read(tmp_path, [_row(name) for name in names])
    assert rows["identity"].tolist() == ["Zoë"] * 4 + ["Bela"]
    assert "unique_name 3 (" in said


@pytest.mark.parametrize(
    "marker",
    ["NA", "na", "N/A", "#N/A", "NaN", "nan", "NaT", "None", "NULL", "null", "Unknown", "UNKNOWN",
     "unidentified", "Unidentified ", "-", "--", "?", "??", " ", "\u00a0"],
)  # fmt: skip
def test_a_marker_is_no_animal_no_visit_no_side_no_split_and_no_date(tmp_path, marker):
    rows, said = _read(tmp_path, [_row(), (marker,) * 5, (marker,) * 5])
    for name in ("identity", "split", "encounter", "viewpoint"):
        assert rows[name].isna().tolist() == [False, True, True], name
    assert rows["date"].isna().tolist() == [False, True, True]
    for name in ("unique_name", "split", "visit", "side", "date"):
        assert f"{name} 2 (" in said


def test_markers_are_those_of_the_config(tmp_path):
    columns = Columns(split="split", missing_values=("wer?",))
    rows, said = _read(tmp_path, [_row("NA"), _row("Wer?"), _row("Nan")], columns)
    assert rows["identity"].tolist() == ["NA", None, "Nan"]
    assert "dataset.missing_values" in said
    rows, _ = _read(tmp_path, [_row("NA"), _row("?")], Columns(missing_values=()))
    assert rows["identity"].tolist() == ["NA", "?"]


def test_ids_stay_as_they_stand(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text("path,unique_name,image_id\na.png,a,unknown\n")
    table, _ = read_image_table(str(tmp_path), columns=Columns())
    assert table.rows["image_id"].tolist() == ["unknown"]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["Kira", "kira", "KIRA"], [["KIRA", "Kira", "kira"]]),
        (["1", "1.0", "01", "2"], [["01", "1", "1.0"]]),
        (["lynx_01", "lynx_1"], [["lynx_01", "lynx_1"]]),
        (["1,0", "1"], [["1", "1,0"]]),
        (["Bela  II", "bela II"], [["Bela  II", "bela II"]]),
        (["STRASSE", "straße"], [["STRASSE", "straße"]]),
        (["lynx_1", "lynx_10", "lynx_100", "A1", "A2", "1.5", "1.05", "Zoe", "Zoë"], []),
    ],
)
def test_names_that_differ_by_case_or_number_format(names, groups):
    assert [sorted(group) for group in similar_names([*names, None])] == groups


def test_similar_names_are_a_warning(tmp_path):
    rows = [_row("Kira"), _row("kira"), _row("Kira", split="Train"), _row(visit="01")]
    _, said = _read(tmp_path, rows)
    assert "unique_name: names that differ only by case" in said
    assert "'Kira' (2) and 'kira' (1)" in said
    assert "'Train' (1) and 'train' (3)" in said
    assert "'01' (1) and '1' (3)" in said


def test_a_clean_table_says_nothing(tmp_path):
    rows = [_row("a"), _row("b", split="test"), _row("", visit="", side="", date="")]
    assert _read(tmp_path, rows)[1] == ""


def test_truth_values_are_split_values(tmp_path):
    rows, _ = _read(tmp_path, [_row(split="TRUE"), _row(split="False"), _row(split="true")])
    assert rows["split"].tolist() == ["true", "false", "true"]
    table, _ = read_image_table(str(tmp_path), columns=COLUMNS)
    assert select_split(table, "True").tolist() == [0, 2]


def test_an_unreadable_date_stops_only_who_uses_dates(tmp_path):
    rows, said = _read(tmp_path, [_row(date="in spring"), _row()])
    assert rows["date"].isna().tolist() == [True, False]
    assert "date: 1 cell such as 'in spring'" in said
    columns = Columns(dates_count=True)
    problems = find_problems(str(tmp_path), columns=columns)
    assert [(p.row, p.column, p.value) for p in problems] == [(2, "date", "in spring")]


def test_only_what_is_wrong_with_the_split_that_is_read_counts(tmp_path):
    rows = [_row("a"), _row("", split="query")]
    _read(tmp_path, rows)
    with pytest.raises(MetadataError, match="line 3"):
        read_image_table(str(tmp_path), columns=COLUMNS)
    table, rejected = read_image_table(str(tmp_path), columns=COLUMNS, split="train")
    assert table.rows["identity"].tolist()[0] == "a"
    assert rejected == []


def _one_row(folder, path):
    (folder / "metadata.csv").write_text(f"path,unique_name\n{path},a\n", encoding="utf-8")
    said = []
    table, _ = read_image_table(str(folder), columns=Columns(), say=said.append)
    return table.rows.iloc[0], "".join(said)


@pytest.mark.parametrize(
    ("disk", "told"),
    [
        ("img/A1.JPG", "img/A1.jpg"),
        ("Img/a1.jpg", "img/A1.JPG"),
        (unicodedata.normalize("NFD", "Zoë/1.jpg"), "Zoë/1.jpg"),
        ("Zoë/1.jpg", unicodedata.normalize("NFD", "Zoë/1.jpg")),
    ],
)
def test_a_file_is_found_under_another_case_or_unicode_form(tmp_path, disk, told):
    (tmp_path / disk).parent.mkdir()
    (tmp_path / disk).write_bytes(b"x")
    row, said = _one_row(tmp_path, told)
    assert (row["path"], row["image_id"]) == (disk, told)
    assert "read under another case or Unicode form: 1 file, such as" in said


def test_a_file_that_is_there_as_told_is_taken_and_two_others_are_named(tmp_path):
    for name in ("a.jpg", "a.JPG"):
        (tmp_path / name).write_bytes(b"x")
    row, said = _one_row(tmp_path, "a.jpg")
    assert (row["path"], said) == ("a.jpg", "")
    with pytest.raises(MetadataError, match="no such file .*differ from it by case alone"):
        _one_row(tmp_path, "A.jpg")


def test_two_names_of_one_file_are_one_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text("path,unique_name\na.jpg,a\nA.JPG,b\n")
    with pytest.raises(MetadataError, match="line 3: path 'a.jpg' is in line 2 already"):
        read_image_table(str(tmp_path), columns=Columns())
