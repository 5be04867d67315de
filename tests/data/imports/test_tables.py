"""Tables of wildlife-datasets, MiewID and Wildbook, and anybody's: columns, boxes, dialects."""

import json

import pandas as pd
import pytest

from exreid.data.boxes import read_numbers
from exreid.data.imports.read import Choices, import_source
from exreid.errors import MetadataError

# pandas.DataFrame.to_csv of a wildlife-datasets data set: lists print as Python has them.
WILDLIFE_DATASETS = """,image_id,identity,path,bbox,segmentation,date,orientation,species,split
0,8b5c,lynx_1,a/1.jpg,"[5.0, 6.0, 20.0, 10.0]",,2016-03-14 22:00:00,left,lynx,train
1,90ab,lynx_1,a/2.jpg,"[0, 0, 60, 40]","[[1, 6, 3, 6, 3, 16, 1, 16]]",,right,lynx,test
2,aa01,unknown,a/2.jpg,"[1, 6, 2, 10]","{'size': [40, 60], 'counts': [0, 2400]}",,,lynx,test
"""
MIEWID = """,theta,viewpoint,name,file_name,species,file_path,x,y,w,h,image_uuid
0,0.0,left,Kira,1.jpg,lion,/data/lions/a/1.jpg,5,6,20,10,u1
1,1.5707963,right,7,2.jpg,lion,/data/lions/a/2.jpg,20,10,30,30,u2
"""
WILDBOOK = """Encounter.mediaAsset0,Encounter.mediaAsset1,Encounter.individualID,Encounter.year,\
Encounter.month,Encounter.day,Encounter.hour,Encounter.minutes,Encounter.genus,\
Encounter.specificEpithet,Encounter.locationID,Sighting.sightingID,Encounter.sex
1.jpg,2.jpg,Kira,2016,3,14,22,5,Panthera,leo,Mara,s1,female
3.jpg,,,2016,3,,,,Panthera,leo,Mara,,male
"""


def _import(tmp_path, text, root, name="t.csv", what=None, **choices):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return import_source(str(tmp_path / name), root, what=what, choices=Choices(**choices))


def test_a_table_of_wildlife_datasets(photos, tmp_path):
    made = _import(tmp_path, WILDLIFE_DATASETS, photos("a/1.jpg", "a/2.jpg"))
    cells = made.cells
    assert made.form == "wildlife-datasets' table"
    assert cells["image_id"].tolist() == ["8b5c", "90ab", "aa01"]
    assert cells["unique_name"].tolist() == ["lynx_1", "lynx_1", "unknown"]
    assert cells["split-time_closed"].tolist() == ["train", "test", "test"]
    assert cells["viewpoint"].tolist() == ["left", "right", None]
    assert cells["bbox"].tolist() == [
        "[5.0, 6.0, 20.0, 10.0]",
        "[0.0, 0.0, 60.0, 40.0]",
        "[1.0, 6.0, 2.0, 10.0]",
    ]
    assert json.loads(cells["mask"][2]) == {"size": [40, 60], "counts": [0, 2400]}
    assert cells["species"].tolist() == ["lynx"] * 3


def test_parquet_of_wildlife_datasets_holds_real_lists(photos, tmp_path):
    frame = pd.DataFrame(
        {
            "image_id": [1, 2],
            "identity": ["a", "b"],
            "path": ["a/1.jpg", "a/2.jpg"],
            "bbox": [[5.0, 6.0, 20.0, 10.0], None],
            "date": pd.to_datetime(["2016-03-14", None]),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    made = import_source(str(tmp_path / "t.parquet"), photos("a/1.jpg", "a/2.jpg"))
    assert made.cells["bbox"].tolist() == ["[5.0, 6.0, 20.0, 10.0]", None]
    assert made.cells["date"].tolist() == ["2016-03-14 00:00:00", None]


def test_a_table_of_miewid_keeps_the_turn_of_its_boxes(photos, tmp_path):
    made = _import(tmp_path, MIEWID, photos("lions/a/1.jpg", "lions/a/2.jpg"))
    cells = made.cells
    assert made.form == "MiewID's table"
    assert cells["path"].tolist() == ["lions/a/1.jpg", "lions/a/2.jpg"]
    assert cells["unique_name"].tolist() == ["Kira", "7"]
    assert cells["theta"].tolist() == [None, "1.570796"]
    assert cells["bbox"].tolist() == ["[5.0, 6.0, 20.0, 10.0]", "[20.0, 10.0, 30.0, 30.0]"]


def test_a_sheet_of_wildbook_gives_a_row_for_each_photograph(photos, tmp_path):
    made = _import(tmp_path, WILDBOOK, photos("x/1.jpg", "x/2.jpg", "x/3.jpg"))
    cells = made.cells
    assert cells["path"].tolist() == ["x/1.jpg", "x/2.jpg", "x/3.jpg"]
    assert cells["unique_name"].tolist() == ["Kira", "Kira", None]
    assert cells["date"].tolist() == ["2016-03-14 22:05:00", "2016-03-14 22:05:00", None]
    assert cells["encounter"].tolist() == ["s1", "s1", "line 3"]
    assert cells["species"].tolist() == ["Panthera leo"] * 3
    assert cells["site"].tolist() == ["Mara"] * 3
    assert cells["Encounter.sex"].tolist() == ["female", "female", "male"]


def test_wildbooks_export_of_annotations_has_boxes(photos, tmp_path):
    text = (
        "Name0.value,Encounter.mediaAsset0,Annotation0.bbox,Annotation0.ViewPoint\n"
        'Kira,1.jpg,"[5, 6, 20, 10]",left\nKira,1.jpg,"[1, 6, 2, 10]",\n'
    )
    cells = _import(tmp_path, text, photos("1.jpg")).cells
    assert cells["bbox"].tolist() == ["[5.0, 6.0, 20.0, 10.0]", "[1.0, 6.0, 2.0, 10.0]"]
    assert cells["viewpoint"].tolist() == ["left", None]
    assert cells["image_id"].tolist() == ["1.jpg#2", "1.jpg#1"]


DIALECT = "Photo;Individual;DateTime;x;y;w;h\nC:\\cam\\1.jpg;Zoë;14.03.2016;5,5;6;20,25;10\n"


@pytest.mark.parametrize(
    "data",
    [
        DIALECT.encode(),
        b"\xef\xbb\xbf" + DIALECT.encode(),
        DIALECT.encode("utf-16"),
        DIALECT.replace(";", "\t").encode("utf-16-le"),
    ],
)
def test_dialects_of_csv_say_the_same(photos, tmp_path, data):
    made = _import(tmp_path, data, photos("cam/1.jpg"), box_format="xywh_px")
    row = made.cells.iloc[0].to_dict()
    assert row["path"] == "cam/1.jpg"
    assert row["unique_name"] == "Zoë"
    assert row["date"] == "14.03.2016"
    assert row["bbox"] == "[5.5, 6.0, 20.25, 10.0]"


def test_a_workbook_of_excel_is_a_table(photos, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    from datetime import datetime

    book = openpyxl.Workbook()
    book.active.append(["file", "animal", "date", "count"])
    book.active.append(["1.jpg", 7, datetime(2016, 3, 14, 22, 0), 2.5])
    book.create_sheet("empty")
    book.save(tmp_path / "t.xlsx")
    made = import_source(str(tmp_path / "t.xlsx"), photos("1.jpg"))
    assert made.cells.to_dict("records") == [
        {"path": "1.jpg", "unique_name": "7", "date": "2016-03-14 22:00:00", "count": "2.5"}
    ]
    book.create_sheet("more").append(["a"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(MetadataError, match="2 sheets with cells: Sheet, more.*--sheet"):
        import_source(str(tmp_path / "t.xlsx"), photos("1.jpg"))
    choices = Choices(sheet="Sheet")
    assert len(import_source(str(tmp_path / "t.xlsx"), photos("1.jpg"), choices=choices).cells) == 1


def test_a_formula_without_a_value_is_an_error(photos, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["path", "animal"])
    book.active.append(["1.jpg", '=CONCATENATE("a", "b")'])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(MetadataError, match=r"row 2: the formula '=CONC.*has no value"):
        import_source(str(tmp_path / "t.xlsx"), photos("1.jpg"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "no column names the photographs; it has a, b.*--column path=NAME"),
        ("path,animal,name\n1.jpg,a,b\n", r"'animal' and 'name' could both be its unique_name"),
        ("path,bbox\n1.jpg,1 2 3\n", "line 2: its bbox '1 2 3' is not a box"),
        ("path,bbox\n1.jpg,1 2 30 40\n", "could be xywh_px or xyxy_px.*--bbox-format"),
        ("path,theta\n1.jpg,90\n", "line 2: its theta '90' is not an angle in radians"),
        ("path,animal\n,a\n", "line 2: its path is empty"),
        ("path,x1,y1,x2,y2\n1.jpg,5,5,3,9\n", "not x1, y1, x2, y2"),
        ("path,animal\nno.jpg,a\n", "none of its 1 photographs is below .*--root"),
    ],
)
def test_what_a_table_leaves_open_is_asked(photos, tmp_path, text, says):
    with pytest.raises(MetadataError, match=says):
        _import(tmp_path, text, photos("1.jpg"))


def test_a_choice_settles_it(photos, tmp_path):
    text = "path,bbox,animal,name\n1.jpg,1 2 30 40,a,b\n"
    chosen = {"columns": {"unique_name": "name"}, "box_format": "xyxy_px"}
    row = _import(tmp_path, text, photos("1.jpg"), **chosen).cells.iloc[0].to_dict()
    assert (row["unique_name"], row["bbox"]) == ("b", "[1.0, 2.0, 29.0, 38.0]")


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("path,bbox\n1.jpg,0.1 0.25 0.5 0.5\n", "[6.0, 10.0, 30.0, 20.0]"),
        ("path,bbox\n1.jpg,30 20 10 10\n", "[30.0, 20.0, 10.0, 10.0]"),
        ("path,xmin,ymin,xmax,ymax\n1.jpg,6,10,36,30\n", "[6.0, 10.0, 30.0, 20.0]"),
        ("path,bboxX,bboxY,bboxWidth,bboxHeight\n1.jpg,0.1,.25,.5,.5\n", "[6.0, 10.0, 30.0, 20.0]"),
    ],
)
def test_a_box_is_guessed_only_where_it_cannot_be_another(photos, tmp_path, text, box):
    made = _import(tmp_path, text, photos("1.jpg"))
    assert made.cells["bbox"].tolist() == [box]
    assert "oxes read as" in " ".join(made.report())


@pytest.mark.parametrize(
    "text",
    [
        *("[1, 2.5, 3, 4]", "(1, 2.5, 3, 4)", "1 2.5 3 4", "1;2,5;3;4", "1, 2,5, 3, 4"),
        *("[1.0 2.5 3. 4. ]", "[np.float64(1.0), np.float64(2.5), np.int64(3), np.int64(4)]"),
    ],
)
def test_four_numbers_in_a_cell(text):
    assert read_numbers([text]) == [1.0, 2.5, 3.0, 4.0]


def test_timelapses_two_columns_are_one_path(photos, tmp_path):
    text = "RootFolder,File,RelativePath,DateTime,animal\nx,1.jpg,cam\\a,2016-03-14 22:00:00,Kira\n"
    cells = _import(tmp_path, text, photos("cam/a/1.jpg", "cam/b/1.jpg")).cells
    assert cells["path"].tolist() == ["cam/a/1.jpg"]
    assert cells["date"].tolist() == ["2016-03-14 22:00:00"]


def test_two_names_that_could_be_one_file_are_asked(photos, tmp_path):
    root = photos("x/1.jpg", "y/1.jpg")
    with pytest.raises(MetadataError, match=r"'1\.jpg' could be x/1\.jpg or y/1\.jpg"):
        _import(tmp_path, "path,animal\n1.jpg,a\n", root)
    root = photos("1.jpg", root="other")
    with pytest.raises(MetadataError, match=r"'a/1.jpg' and 'b/1.jpg' both seem to be 1\.jpg"):
        _import(tmp_path, "path,animal\na/1.jpg,a\nb/1.jpg,b\n", root)
