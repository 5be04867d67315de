"""Zip files: read as the folder that they hold, and never written beyond it."""

import json
import shutil
import stat
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from exreid.cli import main
from exreid.data.imports import zips
from exreid.data.imports.read import import_source
from exreid.data.photos import find_photos
from exreid.errors import ImageError, MetadataError
from tests.data.imports.test_camtrap import package
from tests.data.imports.test_cvat import CVAT

assert package


def _zipped(folder, file, *, inside=""):
    """The folder as a zip, as Python's own tool packs it."""
    base = str(file).removesuffix(".zip")
    parent, name = (str(Path(folder).parent), Path(folder).name) if inside else (folder, None)
    return shutil.make_archive(base, "zip", parent, name)


@pytest.mark.parametrize("inside", ["", "in a folder"])
def test_a_zip_is_read_as_its_folder(photos, package, tmp_path, inside):
    animals = photos("Kira/a.jpg", "Kira/b.jpg", "Nala/c.jpg", root="lynx")
    cvat = photos("images/cam/1.jpg", "images/cam/2.jpg", root="cvat")
    (Path(cvat) / "annotations.xml").write_text(CVAT)
    (tmp_path / "zips").mkdir()
    for folder in (animals, cvat, package()):
        expected = import_source(folder)
        file = _zipped(folder, tmp_path / "zips" / f"{Path(folder).name}.zip", inside=inside)
        for told in ("unpacked", "taken from"):
            made = import_source(file)
            pd.testing.assert_frame_equal(made.cells, expected.cells)
            assert made.notes[0].startswith(told)
        assert made.left_out == expected.left_out


@pytest.mark.parametrize("place", ["annotations/instances_default.json", "result.json"])
def test_the_coco_file_of_a_tools_zip_is_read_and_no_folder_named_images(photos, tmp_path, place):
    root = photos("images/a.jpg", "images/b.jpg", root="coco")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "images/b.jpg"}],
        "categories": [{"id": 1, "name": "lynx"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 10], "name": "Kira"},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [3, 4, 20, 10], "name": "Nala"},
        ],
    }
    file = Path(root) / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    zipped = _zipped(root, tmp_path / "zips" / "coco.zip")
    cells = import_source(zipped).cells
    assert dict(zip(cells["path"], cells["unique_name"], strict=True)) == {
        "images/a.jpg": "Kira",
        "images/b.jpg": "Nala",
    }
    pd.testing.assert_frame_equal(import_source(root).cells, cells)
    if file.parent.name == "annotations":
        (file.parent / "instances_more.json").write_text(json.dumps(content))
        with pytest.raises(MetadataError, match=r"2 JSON files.*instances_more.*--root"):
            import_source(root)


def test_a_zip_that_is_no_table_names_the_command_that_takes_it(photos, tmp_path, capsys):
    file = _zipped(photos("Kira/a.jpg", "Nala/c.jpg", root="lynx"), tmp_path / "card.zip")
    for words in (
        ["validate", file],
        ["probe", f"dataset.root={file}"],
        ["gallery", "build", file, "--out", str(tmp_path / "g"), f"output.root={tmp_path}"],
    ):
        assert main(words) == 1
        assert f"exreid import {file} --out metadata.parquet" in capsys.readouterr().err
    with pytest.raises(ImageError, match=r"card\.zip is a zip file\. Unpack it"):
        find_photos([Path(file)])


def test_the_photographs_of_a_zip_are_there_for_the_next_command(photos, tmp_path, capsys):
    file = _zipped(photos("Kira/a.jpg", "Nala/c.jpg", root="lynx"), tmp_path / "card.zip")
    assert main(["import", file, "--out", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    assert f"Unpacked 2 files into {tmp_path / 'card'}" in said
    assert f"dataset.root={tmp_path / 'card'} " in said
    table = pd.read_csv(tmp_path / "t.csv")
    assert all((tmp_path / "card" / path).is_file() for path in table["path"])
    assert main(["validate", f"dataset.root={tmp_path}", f"dataset.metadata_file={file}"]) == 1
    assert "card.zip --out metadata.parquet unpacks it" in capsys.readouterr().err


def _link(archive):
    info = zipfile.ZipInfo("Kira/link.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def _secret(archive):
    archive.writestr("Kira/a.jpg", "x")
    archive.filelist[0].flag_bits |= 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a: a.writestr("../evil.jpg", "x"), "'../evil.jpg' leads out of it"),
        (lambda a: a.writestr("Kira/../../evil.jpg", "x"), "leads out of it"),
        (lambda a: a.writestr("/tmp/evil.jpg", "x"), "leads out of it"),
        (lambda a: a.writestr("C:\\evil.jpg", "x"), "leads out of it"),
        (lambda a: a.writestr("Kira\\..\\..\\evil.jpg", "x"), "leads out of it"),
        (_link, "'Kira/link.jpg' is a link"),
        (_secret, "has a password"),
        (lambda a: (a.writestr("K/a.jpg", "x"), a.writestr("k/A.JPG", "y")), "has two files"),
        (lambda a: (a.writestr("K", "x"), a.writestr("K/a.jpg", "y")), "cannot be unpacked"),
        (lambda a: a.writestr("K/a.jpg", bytes(10**6)), "which is a trap"),
        (lambda a: a.writestr("__MACOSX/K/a.jpg", "x"), "an empty zip file"),
    ],
)
def test_what_would_leave_its_folder_is_refused_and_leaves_nothing(
    tmp_path, monkeypatch, spoil, says
):
    monkeypatch.setattr(zips, "OFTEN_ENOUGH", 10**5)
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    with zipfile.ZipFile(home / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        spoil(archive)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MetadataError, match=rf"z\.zip: .*{says}"):
        import_source(str(home / "z.zip"))
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil.jpg").exists()


def test_a_damaged_zip_and_a_folder_of_another_one_are_told(photos, tmp_path):
    file = Path(_zipped(photos("Kira/a.jpg", "Nala/c.jpg", root="lynx"), tmp_path / "card.zip"))
    whole = file.read_bytes()
    at = len(whole) // 3
    file.write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
    with pytest.raises(MetadataError, match="cannot be unpacked: Bad CRC|Error -3"):
        import_source(str(file))
    assert not (tmp_path / "card").exists()
    file.write_bytes(whole)
    (tmp_path / "card" / "Kira").mkdir(parents=True)
    (tmp_path / "card" / "Kira" / "a.jpg").write_bytes(b"another")
    with pytest.raises(MetadataError, match=r"which is there with another Kira/a\.jpg"):
        import_source(str(file))
    assert (tmp_path / "card" / "Kira" / "a.jpg").read_bytes() == b"another"
