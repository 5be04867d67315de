"""COCO with identities: names, boxes, masks, turned boxes and turned photographs."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from exreid.data.imports.coco import read_coco
from exreid.data.imports.read import Choices, import_source
from exreid.data.masks import decode_mask
from exreid.errors import MetadataError

# As Wildbook's exports have it (LILA's hyenas and leopards), with the second photograph as stored.
WILDBOOK = {
    "info": {"year": 2022},
    "licenses": [{"id": 1, "name": "CC"}],
    "categories": [{"id": 1, "name": "hyaena", "supercategory": "animal"}],
    "images": [
        {
            "id": 1,
            "file_name": "000000000001.jpg",
            "width": 60,
            "height": 40,
            "license": 1,
            "date_captured": "2016-03-14 22:00:00",
            "photographer": "P.",
        },
        {"id": 2, "file_name": "turned.jpg", "width": 60, "height": 40, "location": "den"},
        {"id": 3, "file_name": "nothing.jpg", "width": 60, "height": 40},
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 1,
            "bbox": [5, 6, 20, 10],
            "theta": 0.5,
            "viewpoint": "left",
            "name": "Kira",
            "individual_ids": [11, 12],
            "segmentation": [],
            "iscrowd": 0,
            "area": 200,
        },
        {
            "id": 12,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 6, 2, 10],
            "segmentation": [[1, 6, 3, 6, 3, 16, 1, 16]],
            "name": 7,
        },
        {
            "id": 13,
            "image_id": 2,
            "category_id": 1,
            "bbox": [0, 0, 30, 10],
            "segmentation": [[0, 0, 30, 0, 30, 10, 0, 10]],
            "name": "Kira",
        },
        {"id": 14, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ],
}


def _import(tmp_path, root, content, **choices):
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return import_source(str(tmp_path / "coco.json"), root, choices=Choices(**choices))


def test_a_wildbook_export_keeps_animals_boxes_and_all_that_is_said(photos, tmp_path):
    root = photos("images/000000000001.jpg", turned=["images/turned.jpg"])
    made = _import(tmp_path, root, WILDBOOK)
    cells = made.cells
    assert cells["image_id"].tolist()[:2] == [
        "images/000000000001.jpg#2",
        "images/000000000001.jpg#1",
    ]
    assert cells["unique_name"].tolist() == ["Kira", "7", "Kira"]
    assert cells["theta"].tolist() == ["0.5", None, None]
    assert cells["viewpoint"].tolist() == ["left", None, None]
    assert cells["date"].tolist() == ["2016-03-14 22:00:00", "2016-03-14 22:00:00", None]
    assert cells["site"].tolist() == [None, None, "den"]
    assert cells["photographer"].tolist() == ["P.", "P.", None]
    assert cells["annotation_id"].tolist() == ["11", "12", "13"]
    # Orientation 6 turns the stored upper left corner into the displayed upper right one.
    assert json.loads(cells["bbox"][2]) == [30, 0, 10, 30]
    mask = decode_mask(cells["mask"][2], (40, 60))
    expected = np.zeros((60, 40), bool)
    expected[:30, 30:] = True
    assert (mask == expected).all()
    assert made.left_out == {"annotations of crowds": 1, "photographs without an annotation": 1}
    assert (made.photographs, made.identities) == (2, 2)


def test_run_lengths_are_kept_as_they_are(photos, tmp_path):
    area = np.zeros((40, 60), np.uint8)
    area[3:9, 4:20] = 1
    packed = coco_masks.encode(np.asfortranarray(area))
    packed["counts"] = packed["counts"].decode()
    loose = {"size": [40, 60], "counts": [0, 60 * 40]}
    content = copy.deepcopy(WILDBOOK)
    content["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": packed, "individual_id": "x"},
        {"id": 2, "image_id": 2, "category_id": 1, "segmentation": loose, "individual_id": "y"},
    ]
    made = _import(tmp_path, photos("000000000001.jpg", "turned.jpg"), content)
    assert json.loads(made.cells["mask"][0]) == packed
    assert (decode_mask(made.cells["mask"][0], (60, 40)) == area).all()
    assert decode_mask(made.cells["mask"][1], (60, 40)).all()
    assert made.cells["unique_name"].tolist() == ["x", "y"]


def test_miewids_coco_names_animals_in_a_list_of_its_own(photos, tmp_path):
    content = {
        "images": [{"uuid": "i-1", "id": 5, "file_name": "a.jpg"}],
        "individuals": [{"uuid": "n-1", "name": "Kira"}],
        "categories": [{"id": 0, "species": "lion"}],
        "annotations": [
            {"uuid": "a-1", "image_uuid": "i-1", "bbox": [1, 2, 3, 4], "individual_uuid": "n-1"}
        ],
    }
    made = _import(tmp_path, photos("a.jpg"), content)
    assert made.cells["unique_name"].tolist() == ["Kira"]


def test_categories_are_names_when_asked(photos, tmp_path):
    content = copy.deepcopy(WILDBOOK)
    root = photos("000000000001.jpg", turned=["turned.jpg"])
    made = _import(tmp_path, root, content, identity="category")
    assert set(made.cells["unique_name"]) == {"hyaena"}
    for one in content["annotations"]:
        one.pop("name", None)
        one.pop("individual_ids", None)
    made = _import(tmp_path, root, content)
    assert "unique_name" not in made.cells
    assert "--identity" in " ".join(made.report())


def test_photographs_without_boxes_are_rows_and_several_names_on_one_are_left_out(photos, tmp_path):
    """COCO Camera Traps: an annotation can be of the whole photograph."""
    content = {
        "images": [
            {"id": "a", "file_name": "a.jpg", "seq_id": "s1", "datetime": "2016-03-14 22:00:00"},
            {"id": "b", "file_name": "b.jpg", "seq_id": "s1", "location": 33},
        ],
        "categories": [],
        "annotations": [
            {"id": "1", "image_id": "a", "individual_id": "Kira"},
            {"id": "2", "image_id": "b", "individual_id": "Kira"},
            {"id": "3", "image_id": "b", "individual_id": "Nala"},
        ],
    }
    made = _import(tmp_path, photos("a.jpg", "b.jpg"), content)
    assert made.cells["path"].tolist() == ["a.jpg"]
    assert made.cells["encounter"].tolist() == ["s1"]
    reason = "entries without box or mask, on photographs with several animals"
    assert made.left_out[reason] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["annotations"][0].update(image_id=9), r"annotations\[0\]: its image_id 9"),
        (lambda c: c["annotations"][0].update(bbox=[0.1, 0.2, 0.3, 0.4]), "looks like fractions"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "not a list"),
        (lambda c: c["annotations"][0].update(segmentation="x"), "neither a run length"),
        (lambda c: c["annotations"][0].update(theta="left"), "not a number of radians"),
        (lambda c: c["images"][1].update(id=1), "its id '1' is that of another image"),
        (lambda c: c["images"][1].pop("file_name"), r"images\[1\]: has no file_name"),
        (lambda c: [a.pop("name", None) for a in c["annotations"]], "names 2 animals"),
    ],
)
def test_what_coco_does_not_allow_is_named(change, says):
    content = copy.deepcopy(WILDBOOK)
    change(content)
    with pytest.raises(MetadataError, match=says):
        read_coco(content)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ([40, 6, 25, 10], r"annotations\[0\].*leaves the photograph of 60 x 40"),
        ([5, 6, 0, 10], "has no area"),
    ],
)
def test_a_box_that_does_not_fit_is_an_error_or_is_left_out(photos, tmp_path, box, says):
    content = copy.deepcopy(WILDBOOK)
    content["annotations"][0].update(bbox=box, theta=0)
    root = photos("000000000001.jpg", turned=["turned.jpg"])
    with pytest.raises(MetadataError, match=says):
        _import(tmp_path, root, content)
    made = import_source(str(tmp_path / "coco.json"), root, skip=True)
    assert len(made.cells) == 2
    assert made.left_out["entries that cannot be used"] == 1


def test_a_file_made_on_other_photographs_is_an_error(photos, tmp_path):
    content = copy.deepcopy(WILDBOOK)
    content["images"][0].update(width=120, height=80)
    with pytest.raises(MetadataError, match="120 x 80 pixels, and it has 60 x 40"):
        _import(tmp_path, photos("000000000001.jpg", turned=["turned.jpg"]), content)
