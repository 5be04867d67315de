"""A row is an animal in a photograph: boxes, ids, and what tells two animals apart."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import Columns, read_image_table
from exreid.errors import MetadataError
from exreid.pipeline.inputs import read_images

COLUMNS = Columns(split=None)


def _written(folder, **columns) -> str:
    frame = pd.DataFrame(columns)
    frame.to_csv(folder / "metadata.csv", index=False)
    for path in set(frame["path"]):
        Image.new("RGB", (100, 80)).save(folder / path)
    return str(folder)


def _two(folder, **more) -> str:
    """Two animals on a.jpg, one on b.jpg."""
    boxes = ["[50, 10, 40, 40]", "[5, 10, 40, 40]", "[0, 0, 50, 50]"]
    content = {"path": ["a.jpg", "a.jpg", "b.jpg"], "unique_name": ["Kira", "Lu", "Kira"]}
    return _written(folder, **{**content, "bbox": boxes, **more})


def test_ids_count_boxes_from_left_to_right_in_any_order_of_rows(tmp_path):
    table, _ = read_image_table(_two(tmp_path), columns=COLUMNS)
    assert table.rows["image_id"].tolist() == ["a.jpg#2", "a.jpg#1", "b.jpg"]
    frame = pd.read_csv(tmp_path / "metadata.csv").iloc[::-1]
    frame.to_csv(tmp_path / "metadata.csv", index=False)
    turned, _ = read_image_table(str(tmp_path), columns=COLUMNS)
    assert dict(zip(turned.rows["image_id"], turned.rows["identity"], strict=True)) == dict(
        zip(table.rows["image_id"], table.rows["identity"], strict=True)
    )
    named, _ = read_image_table(_two(tmp_path, image_id=["x", "y", "z"]), columns=COLUMNS)
    assert named.rows["image_id"].tolist() == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("columns", "kind", "how"),
    [
        ({"bbox": ["50 10 40 40"]}, None, "[50, 10, 40, 40]"),
        ({"bbox": ["[0.5, 0.125, 0.4, 0.5]"]}, None, '{"xywh_norm": [0.5, 0.125, 0.4, 0.5]}'),
        ({"bbox": ["50;10;90;50"]}, "xyxy_px", "[50, 10, 40, 40]"),
        ({"bbox": ["[50, 10, 40, 40]"], "theta": ["0,5"]}, None,
         '{"xywh_px": [50, 10, 40, 40], "theta": 0.5}'),
        ({"bbox": [None]}, None, None),
    ],
)  # fmt: skip
def test_boxes_are_read_in_the_formats_that_tables_have(tmp_path, columns, kind, how):
    root = _written(tmp_path, path=["a.jpg"], unique_name=["Kira"], **columns)
    told: list[str] = []
    wanted = Columns(split=None, bbox_format=kind)
    table, _ = read_image_table(root, columns=wanted, say=told.append)
    assert table.rows["bbox"].tolist() == [how]
    guessed = [text for text in told if "dataset.bbox_format" in text]
    assert len(guessed) == (kind is None and how is not None)


def test_four_columns_are_one_box(tmp_path):
    names = ("x", "y", "w", "h")
    cells = dict(zip(names, [[50], [10], [40], [40.5]], strict=True))
    root = _written(tmp_path, path=["a.jpg"], unique_name=["Kira"], **cells)
    table, _ = read_image_table(root, columns=Columns(split=None, bbox=names))
    assert table.rows["bbox"].tolist() == ["[50, 10, 40, 40.5]"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"bbox": [None, "[5, 10, 40, 40]", None]}, r"line 3.*'a.jpg' is in line 2.*bbox_cols"),
        ({"bbox": ["[5, 10, 40, 40]"] * 3}, r"'a.jpg' is in line 2 already"),
        ({"bbox": ["1, 2, 3"] * 3}, r"line 2: bbox '1, 2, 3' is not a box of four numbers"),
        ({"bbox": ["[5, 10, 0, 40]"] * 3}, "has no width or no height"),
        ({"bbox": ["[5, 10, 2, 2]"] * 3}, "fewer than 16 pixels"),
        ({"theta": ["north"] * 3}, "has the angle theta 'north'"),
        ({"image_id": ["x", "x", "y"]}, "image_id 'x' is in line 2"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_the_remedy(tmp_path, more, says):
    with pytest.raises(MetadataError, match=says):
        read_image_table(_two(tmp_path, **more), columns=COLUMNS)


def test_two_animals_that_would_be_the_same_picture_are_refused(tmp_path):
    root = _two(tmp_path)
    dataset = {"root": root, "make_split": "closed_set"}

    def read(**keys):
        return read_images(ProbeConfig.model_validate({"dataset": {**dataset, **keys}}))

    for keys in ({}, {"crop": "box"}, {"no_background": True, "crop": "none"}):
        assert len(read(**keys)[0]) == 3
    with pytest.raises(MetadataError, match=r"line 2: a.jpg shows several animals.*dataset.crop="):
        read(crop="none")


def test_a_row_that_repeats_another_leaves_the_id_of_the_first_as_it_was(tmp_path):
    root = _two(tmp_path, bbox=["[5, 10, 40, 40]"] * 3)
    table, rejected = read_image_table(root, columns=COLUMNS, on_error="skip")
    assert table.rows["image_id"].tolist() == ["a.jpg", "b.jpg"]
    assert [one.image_id for one in rejected] == ["a.jpg"]
    root = _two(tmp_path, bbox=[None, "[5, 10, 40, 40]", None])
    table, rejected = read_image_table(root, columns=COLUMNS, on_error="skip")
    assert table.rows["image_id"].tolist() == ["a.jpg", "b.jpg"]


def test_the_rows_of_a_table_keep_their_boxes(tmp_path):
    table, _ = read_image_table(_two(tmp_path), columns=COLUMNS)
    assert table.take(np.array([2, 0])).regions == ["[0, 0, 50, 50]\0", "[50, 10, 40, 40]\0"]
