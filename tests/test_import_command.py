"""`exreid import` writes a table that the other commands read, and says what it made of a file."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from exreid.cli import main
from exreid.data.metadata import Columns, read_image_table


@pytest.fixture
def detections(tmp_path):
    """A detector's file beside its photograph."""
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg")
    found = [{"category": "animal", "confidence": 0.9, "bbox": [6, 10, 36, 30]}]
    file = tmp_path / "md.json"
    file.write_text(json.dumps([{"file": "a.jpg", "detections": found}]))
    return file


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_is_written_and_read_again(detections, tmp_path, capsys, ending):
    out = tmp_path / "new" / f"t.{ending}"
    assert main(["import", "megadetector", str(detections), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "MegaDetector's file: 1 row, 1 photograph, 0 animals by name" in said
    assert f"dataset.metadata_file={out}" in said
    assert list(out.parent.iterdir()) == [out]
    table, _ = read_image_table(
        str(tmp_path), metadata_file=str(out), columns=Columns(), require_identity=False
    )
    assert table.original["bbox"].tolist() == ["[6.0, 10.0, 30.0, 20.0]"]


def test_parquet_holds_text_alone(detections, tmp_path):
    out = tmp_path / "t.parquet"
    main(["import", str(detections), "--out", str(out)])
    assert pd.read_parquet(out).to_dict("records") == [
        {"path": "a.jpg", "bbox": "[6.0, 10.0, 30.0, 20.0]", "confidence": "0.9"}
    ]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nothing", "md.json", "--out", "t.csv"], 2, "WHAT is one of folders, megadetector"),
        (["md.json", "--out", "t.txt"], 2, "name a .parquet or a .csv file"),
        (["md.json", "--out", "t.csv", "--min-confidence", "20"], 2, "not a number from 0 to 1"),
        (["md.json", "--out", "t.csv", "--column", "path"], 2, "takes ROLE=NAME"),
        (["coco", "md.json", "--out", "t.csv"], 1, "is not COCO's JSON.*looks like megadetector"),
        (["no.json", "--out", "t.csv"], 1, "no.json: no such"),
    ],
)
def test_wrong_words_are_told(detections, tmp_path, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tmp_path)
    assert main(["import", *words]) == code
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert not Path("t.csv").exists()
