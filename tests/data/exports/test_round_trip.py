"""What is exported comes back by `exreid import`: every animal, every box, from every format."""

import json
import shutil
from pathlib import Path

import pytest

from exreid.data.exports.camtrap import write_camtrap
from exreid.data.exports.coco import write_coco
from exreid.data.exports.folders import write_folders
from exreid.data.exports.table import people_table, write_people_table
from exreid.data.exports.wildbook import write_wildbook
from exreid.data.imports.read import Choices, import_source

NAMES = {"Zoë Ärmel", "007", "=1+1", "Müller, Ivo"}


@pytest.fixture
def place(card, tmp_path):
    """Copies a photograph to below ``out``."""

    def copy(path, target):
        file = tmp_path / "out" / target
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(card / path, file)

    (tmp_path / "out").mkdir()
    return copy


def _wanted(export, *, with_new=False):
    """(photograph, animal, box) of each animal."""
    rows = []
    for one in export.animals:
        name = one.animal or (one.new_animal if with_new else None)
        box = one.box and [one.box.left, one.box.top, *one.box.wh]
        rows.append((one.path, name, box))
    return sorted(rows, key=str)


def _found(cells, path_of=lambda path: path):
    boxes = cells["bbox"] if "bbox" in cells else [None] * len(cells)
    return sorted(
        (
            (path_of(path), name, None if box is None else json.loads(box))
            for path, name, box in zip(cells["path"], cells["unique_name"], boxes, strict=True)
        ),
        key=str,
    )


@pytest.mark.parametrize("name", ["animals.csv", "animals.xlsx"])
def test_a_table(answered, tmp_path, name):
    write_people_table(people_table(answered), tmp_path / name)
    made = import_source(str(tmp_path / name), answered.root, what="table")
    assert _found(made.cells) == _wanted(answered, with_new=True)


def test_coco_with_the_mask_as_it_came(answered, mask, tmp_path):
    write_coco(answered, tmp_path / "annotations.json")
    made = import_source(str(tmp_path / "annotations.json"), answered.root)
    assert _found(made.cells) == _wanted(answered)
    assert [json.loads(cell) for cell in made.cells["mask"].dropna()] == [mask]
    (new,) = made.cells["new_animal"].dropna()
    assert new == "new_01"


def test_a_camtrap_dp(answered, tmp_path, place):
    write_camtrap(answered, tmp_path / "out", None)
    made = import_source(str(tmp_path / "out"), answered.root)
    found = [(path, name, box and pytest.approx(box, abs=0.01)) for path, name, box in
             _wanted(answered)]  # fmt: skip
    assert _found(made.cells) == found
    assert set(made.cells["site"]) == {"cam 1", "cam 2", "unknown"}


def test_spreadsheets_of_wildbook(answered, tmp_path, place):
    write_wildbook(answered, tmp_path / "out", place)
    file = str(tmp_path / "out" / "wildbook-1.xlsx")
    made = import_source(file, str(tmp_path / "out" / "photographs"))
    ids = dict(zip(made.cells["path"], made.cells["Encounter.otherCatalogNumbers"], strict=True))
    found = _found(made.cells, lambda path: ids[path].partition("#")[0])
    assert found == _wanted(answered)
    assert set(made.cells["path"]) == {"a.jpg", "cam 2 a.jpg", "b u.jpg", "d.png", "e.jpg", "f.jpg"}


def test_folders(answered, card, tmp_path, place):
    before = {file: file.stat().st_mtime_ns for file in card.rglob("*")}
    write_folders(answered, tmp_path / "out", place)
    out = tmp_path / "out"
    assert {file: file.stat().st_mtime_ns for file in card.rglob("*")} == before
    # Whose a photograph is says its content: a copy of the source's.
    source = {file.read_bytes(): file.relative_to(card).as_posix() for file in card.rglob("*.*g")}
    made = import_source(str(out), what="folders")
    found = _found(made.cells, lambda path: source[(out / path).read_bytes()])
    assert found == [(path, name, None) for path, name, _ in _wanted(answered, with_new=True)]
    assert {file.name for file in out.iterdir()} == {
        *NAMES, "new_01", "unmatched", "photographs.csv"}  # fmt: skip
    # The table beside them has the boxes.
    made = import_source(str(out / "photographs.csv"))
    found = _found(made.cells, lambda path: source[(out / path).read_bytes()])
    assert found == _wanted(answered, with_new=True)


def test_names_that_look_like_a_day_need_the_template(answered, tmp_path, place):
    place("e.jpg", "2016/e.jpg")
    place("f.jpg", "Zita/f.jpg")
    out = str(tmp_path / "out")
    assert len(import_source(out, what="folders").cells) == 1
    choices = Choices(template="{unique_name}/*")
    made = import_source(out, what="folders", choices=choices)
    assert set(made.cells["unique_name"]) == {"2016", "Zita"}


def test_what_a_spreadsheet_sees(answered, tmp_path):
    """No cell is a formula, zeros stay, and Excel knows the CSV for UTF-8."""
    openpyxl = pytest.importorskip("openpyxl")
    frame = people_table(answered)
    write_people_table(frame, tmp_path / "t.csv")
    data = (tmp_path / "t.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    assert "cam 2/a.jpg,'=1+1," in data.decode("utf-8-sig")
    write_people_table(frame, tmp_path / "t.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx").active
    column = [cell for cell in sheet["B"] if cell.value is not None]
    assert [cell.value for cell in column[1:5]] == ["Zoë Ärmel", "007", "=1+1", "Müller, Ivo"]
    assert {cell.data_type for cell in column} == {"s"}
    probability = sheet.cell(2, [*frame.columns].index("probability") + 1)
    assert (probability.value, probability.data_type) == (0.9, "n")
    assert Path(tmp_path / "t.xlsx").stat().st_size > 0
