"""Masks and boxes of Label Studio and SAM, and folders of PNGs."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_masks

from exreid.data.imports.brush import decode_brush
from exreid.data.imports.read import import_source
from exreid.data.masks import decode_mask
from exreid.errors import MetadataError


def _masks(made):
    return [None if mask is None else decode_mask(mask, (60, 40)) for mask in made.cells["mask"]]


def _pack(values, word=8, sizes=(3, 4, 8, 16)):
    """rle-pack's stream, bit by bit: every run, and every value alone, in the smallest length."""
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    i = 0
    while i < len(values):
        j = i + 1
        while j < len(values) and values[j] == values[i] and j - i < 2 ** sizes[3]:
            j += 1
        kind = next(k for k, size in enumerate(sizes) if j - i - 1 < 2**size)
        bits += f"{int(j - i > 1)}{kind:02b}{j - i - 1:0{sizes[kind]}b}{values[i]:0{word}b}"
        i = j
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


@settings(max_examples=50, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 40))))
def test_a_brush_is_what_was_packed(mask_HW):
    values = np.repeat(mask_HW.reshape(-1) * 255, 4).tolist()
    assert (decode_brush(_pack(values), mask_HW.shape, "x") == mask_HW).all()


def test_values_that_follow_each_other_are_read_one_by_one():
    # 8 values of 8 bits; one piece that is no run (0), length kind 0 (3 bits), 8 values (7).
    bits = f"{8:032b}{7:05b}{'0010' * 4}0{0:02b}{7:03b}" + "".join(f"{v:08b}" for v in range(8))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 2), "x").tolist() == [[True, True]]  # alphas 3 and 7
    for wrong, says in ((data[:-3], "cut off"), ([], "list of bytes"), ([256], "list of bytes")):
        with pytest.raises(MetadataError, match=says):
            decode_brush(wrong, (1, 2), "x")
    with pytest.raises(MetadataError, match="has 8 values, and its photograph 16"):
        decode_brush(data, (2, 2), "x")


BRUSH = np.zeros((40, 60), bool)
BRUSH[5:9, 10:30] = True
SIZE = {"original_width": 60, "original_height": 40, "image_rotation": 0}
LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"image": "/data/upload/3/1f2e3d4c-1.jpg", "site": "den"},
        "annotations": [
            {
                "id": 5,
                "was_cancelled": False,
                "result": [
                    {
                        **SIZE,
                        "id": "r1",
                        "type": "rectanglelabels",
                        "from_name": "tag",
                        "to_name": "image",
                        "value": {
                            "x": 10,
                            "y": 25,
                            "width": 50,
                            "height": 50,
                            "rotation": 0,
                            "rectanglelabels": ["lynx"],
                        },
                    },
                    {
                        **SIZE,
                        "id": "r1",
                        "type": "choices",
                        "from_name": "identity",
                        "to_name": "image",
                        "value": {"x": 10, "y": 25, "width": 50, "choices": ["Kira"]},
                    },
                    {
                        **SIZE,
                        "id": "r2",
                        "type": "polygonlabels",
                        "from_name": "tag",
                        "to_name": "image",
                        "value": {
                            "points": [[50, 25], [75, 25], [75, 50], [50, 50]],
                            "closed": True,
                            "polygonlabels": ["lynx"],
                        },
                    },
                    {
                        **SIZE,
                        "id": "r3",
                        "type": "brushlabels",
                        "from_name": "tag",
                        "to_name": "image",
                        "value": {
                            "format": "rle",
                            "rle": _pack(np.repeat(BRUSH.reshape(-1) * 255, 4).tolist()),
                            "brushlabels": ["lynx"],
                        },
                    },
                ],
            }
        ],
    },
    {"id": 2, "data": {"image": "/data/local-files/?d=cam/2.jpg"}, "annotations": []},
]


def test_regions_of_label_studio(photos, tmp_path):
    (tmp_path / "ls.json").write_text(json.dumps(LABEL_STUDIO))
    made = import_source(str(tmp_path / "ls.json"), photos("1.jpg", "cam/2.jpg"))
    cells = made.cells
    assert cells["path"].tolist() == ["1.jpg"] * 3
    assert cells["unique_name"].tolist() == ["Kira", None, None]
    assert cells["site"].tolist() == ["den"] * 3
    assert json.loads(cells["bbox"][0]) == [6, 10, 30, 20]
    _, polygon, brushed = _masks(made)
    expected = np.zeros((40, 60), bool)
    expected[10:20, 30:45] = True
    assert (polygon == expected).all()
    assert (brushed == BRUSH).all()
    assert made.left_out == {"photographs without a region": 1}


def test_a_turned_rectangle_turns_about_its_corner(photos, tmp_path):
    """Label Studio turns a rectangle clockwise about its upper left corner: by 90 degrees, one
    of 20 x 10 px at (30, 10) covers x 20 to 30, y 10 to 30; its middle is (25, 20)."""
    task = json.loads(json.dumps(LABEL_STUDIO[0]))
    region = task["annotations"][0]["result"][0]
    region["value"].update(x=50, y=25, width=100 / 3, height=25, rotation=90)
    task["annotations"][0]["result"] = [region]
    (tmp_path / "ls.json").write_text(json.dumps([task]))
    cells = import_source(str(tmp_path / "ls.json"), photos("1.jpg")).cells
    assert json.loads(cells["bbox"][0]) == [15, 15, 20, 10]
    assert float(cells["theta"][0]) == pytest.approx(math.pi / 2, abs=1e-5)


def _rle(mask_HW):
    packed = coco_masks.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def _sam(count):
    one = {
        "segmentation": _rle(BRUSH),
        "bbox": [10, 5, 20, 4],
        "area": 80,
        "predicted_iou": 0.97,
        "stability_score": 0.98,
        "crop_box": [0, 0, 60, 40],
        "point_coords": [[12, 6]],
    }
    return [one] * count


def test_masks_of_sam_in_both_layouts(photos, tmp_path):
    root = photos("cam/1.jpg", "cam/2.png", "3.jpg")
    folder = tmp_path / "sam"
    folder.mkdir()
    image = {"image_id": 2, "width": 60, "height": 40, "file_name": "2.png"}
    (folder / "1.json").write_text(json.dumps(_sam(1)))
    (folder / "sa_2.json").write_text(json.dumps({"image": image, "annotations": _sam(1)}))
    (folder / "3.json").write_text(json.dumps(_sam(2)))
    made = import_source(str(folder), root)
    assert made.cells["path"].tolist() == ["cam/1.jpg", "cam/2.png"]
    assert all((mask == BRUSH).all() for mask in _masks(made))
    reason = "photographs with no mask or several, and nothing says which is the animal"
    assert made.left_out == {reason: 1}


def test_a_folder_of_pngs_and_a_table_of_names(photos, tmp_path):
    root = photos("cam/1.jpg", "cam/2.jpg", "3.jpg")
    folder = tmp_path / "masks"
    (folder / "cam").mkdir(parents=True)
    Image.fromarray(BRUSH).save(folder / "cam" / "1.png")
    Image.fromarray(BRUSH.astype(np.uint8) * 255).save(folder / "3.png")
    (tmp_path / "names.csv").write_text("path,animal\ncam/1.jpg,Kira\ncam/2.jpg,Nala\n")
    made = import_source(str(folder), root, table=str(tmp_path / "names.csv"))
    assert made.cells["path"].tolist() == ["cam/1.jpg", "cam/2.jpg"]
    assert made.cells["unique_name"].tolist() == ["Kira", "Nala"]
    kira, nala = _masks(made)
    assert (kira == BRUSH).all()
    assert nala is None
    assert made.left_out == {"animals on photographs that the table does not have": 1}


def test_animals_that_a_mask_image_numbers_get_a_row_each(photos, tmp_path):
    root = photos("cam/1.jpg", "cam/2.jpg")
    folder = tmp_path / "masks"
    (folder / "cam").mkdir(parents=True)
    numbers = np.zeros(BRUSH.shape, np.uint8)
    numbers[:10, 30:50], numbers[20:30, :20] = 1, 2
    Image.fromarray(numbers).save(folder / "cam" / "1.png")
    Image.fromarray(BRUSH).save(folder / "cam" / "2.png")
    made = import_source(str(folder), root)
    assert made.cells["image_id"].tolist() == ["cam/1.jpg#1", "cam/1.jpg#2", None]
    first, second, alone = _masks(made)
    assert (first == (numbers == 1)).all()
    assert (second == (numbers == 2)).all()
    assert (alone == BRUSH).all()
    assert "1 photograph has several animals by their masks" in made.notes
    names = "path,image_id,unique_name\ncam/1.jpg,cam/1.jpg#2,Nala\ncam/1.jpg,cam/1.jpg#1,Kira\n"
    (tmp_path / "names.csv").write_text(names)
    named = import_source(str(folder), root, table=str(tmp_path / "names.csv"))
    assert named.cells["unique_name"].tolist() == ["Nala", "Kira"]
    nala, kira = _masks(named)
    assert (kira == first).all()
    assert (nala == second).all()


def test_a_mask_of_another_size_is_an_error(photos, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(BRUSH[:20]).save(folder / "1.png")
    with pytest.raises(MetadataError, match="its mask is 60 x 20 pixels, the photograph 60 x 40"):
        import_source(str(folder), photos("1.jpg"))


def test_the_short_json_of_label_studio_says_the_same(photos, tmp_path):
    """JSON-MIN of the same task: regions have lost their ids, and lie where they lay."""
    whole = LABEL_STUDIO[0]
    short = {"image": whole["data"]["image"], "site": "den", "id": 1, "annotator": 2,
             "annotation_id": 5, "created_at": "2026-01-01", "lead_time": 1.5}  # fmt: skip
    for one in whole["annotations"][0]["result"]:
        value = dict(one["value"])
        if one["type"] == "choices":
            value |= {"height": 50, "rotation": 0}  # of its region, as Label Studio writes it
        short.setdefault(one["from_name"], []).append(value | SIZE)
    root = photos("1.jpg", "cam/2.jpg")
    for name, content in (("ls", [whole]), ("min", [short])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    made, expected = (import_source(str(tmp_path / f"{n}.json"), root) for n in ("min", "ls"))
    assert made.cells.to_dict("records") == expected.cells.to_dict("records")
    assert made.left_out == expected.left_out
