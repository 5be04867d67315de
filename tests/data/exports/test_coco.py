"""COCO's JSON, as COCO's own tools read it."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO

from exreid.data.boxes import Box
from exreid.data.exports.coco import write_coco
from exreid.data.imports.read import import_source


def test_cocos_own_tools_read_it(answered, tmp_path):
    write_coco(answered, tmp_path / "annotations.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "annotations.json"))
    assert len(coco.getImgIds()) == 6
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == {"Lynx lynx", "animal"}
    (masked,) = [one for one in coco.loadAnns(coco.getAnnIds()) if "segmentation" in one]
    assert masked["name"] == "Müller, Ivo"
    inside = np.zeros((40, 60), np.uint8)
    inside[5:25, 10:30] = 1
    np.testing.assert_array_equal(coco.annToMask(masked), inside)
    assert masked["area"] == inside.sum()
    assert masked["bbox"] == [10, 5, 20, 20]


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [40, 60], "counts": [100, 50, 2250]},
        [[10.5, 5, 30, 5, 30, 25.25]],
        {"size": [40, 60], "counts": b"4X1b1"},
    ],
)
def test_masks_of_every_form_stay_as_they_are(answered, tmp_path, mask):
    one = replace(answered.animals[3], mask=mask)
    write_coco(replace(answered, animals=[one]), tmp_path / "a.json")
    (written,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    if isinstance(mask, dict) and isinstance(mask["counts"], bytes):
        mask = {**mask, "counts": mask["counts"].decode()}
    assert written["segmentation"] == mask


def test_a_turned_box_stays_turned(answered, tmp_path):
    one = replace(answered.animals[0], box=Box(10, 15, 30, 25, theta_rad=0.5))
    write_coco(replace(answered, animals=[one]), tmp_path / "a.json")
    cells = import_source(str(tmp_path / "a.json"), answered.root).cells
    assert json.loads(cells["bbox"][0]) == [10, 15, 20, 10]
    assert float(cells["theta"][0]) == 0.5
