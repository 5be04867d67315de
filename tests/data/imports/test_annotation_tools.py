"""Masks and boxes of CVAT, Label Studio and SAM, and folders of PNGs."""

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

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>lynx</name><size>2</size><mode>annotation</mode></task></meta>
  <image id="0" name="cam/1.jpg" width="60" height="40">
    <box label="lynx" source="manual" occluded="0" xtl="5.00" ytl="6.00" xbr="25.00" ybr="16.00"
         rotation="90.00" z_order="0">
      <attribute name="individual">Kira</attribute>
    </box>
    <polygon label="lynx" occluded="0" points="30.0,10.0;40.0,10.0;40.0,20.0;30.0,20.0" z_order="0">
      <attribute name="individual">Nala</attribute>
      <attribute name="side">left</attribute>
    </polygon>
    <tag label="night" source="manual"></tag>
  </image>
  <image id="1" name="cam/2.jpg" width="60" height="40">
    <mask label="lynx" source="manual" occluded="0" rle="1, 2, 3, 2" left="10" top="5" width="4"
          height="2" z_order="0"></mask>
  </image>
  <image id="2" name="cam/3.jpg" width="60" height="40"></image>
</annotations>"""


def _masks(made):
    return [None if mask is None else decode_mask(mask, (60, 40)) for mask in made.cells["mask"]]


def test_shapes_of_cvat(photos, tmp_path):
    (tmp_path / "annotations.xml").write_text(CVAT)
    made = import_source(str(tmp_path / "annotations.xml"), photos("cam/1.jpg", "cam/2.jpg"))
    cells = made.cells
    assert cells["unique_name"].tolist() == ["Kira", "Nala", None]
    assert cells["label"].tolist() == ["lynx"] * 3
    assert cells["side"].tolist() == [None, "left", None]
    assert json.loads(cells["bbox"][0]) == [5, 6, 20, 10]
    assert float(cells["theta"][0]) == pytest.approx(math.pi / 2, abs=1e-5)
    _, polygon, brushed = _masks(made)
    assert polygon[10:20, 30:40].all()
    assert polygon.sum() == 100
    # Row by row from (10, 5): 1 off, 2 on, 3 off, 2 on, in rows of 4.
    expected = np.zeros((40, 60), bool)
    expected[5, 11:13] = True
    expected[6, 12:14] = True
    assert (brushed == expected).all()
    assert made.left_out == {
        "shapes of the kind tag": 1,
        "photographs without a box, polygon or mask": 1,
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("</annotations>", "", "damaged or cut off XML"),
        ("<version>", "<track id='0'/><version>", "has tracks, and no original_size"),
        ("<annotations>", "<!DOCTYPE a><annotations>", "DOCTYPE"),
        ('rle="1, 2, 3, 2"', 'rle="1, 2, 3, 3"', "'cam/2.jpg', shape 1: .*runs cover 9 pixels"),
        ('left="10"', 'left="58"', "leaves the image"),
        ('xtl="5.00"', 'xtl=""', "'cam/1.jpg', shape 1: is damaged: its xtl"),
        ('name="side"', 'name="id"', "fields individual and id could both name"),
    ],
)
def test_what_cvat_does_not_write_is_named(photos, tmp_path, old, new, says):
    assert old in CVAT
    (tmp_path / "a.xml").write_text(CVAT.replace(old, new))
    with pytest.raises(MetadataError, match=rf"a\.xml: .*{says}"):
        import_source(str(tmp_path / "a.xml"), photos("cam/1.jpg", "cam/2.jpg"))


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
    assert "1 photographs have several animals by their masks" in made.notes


def test_a_mask_of_another_size_is_an_error(photos, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(BRUSH[:20]).save(folder / "1.png")
    with pytest.raises(MetadataError, match="its mask is 60 x 20 pixels, the photograph 60 x 40"):
        import_source(str(folder), photos("1.jpg"))


def _video(size=3, **task):
    """Frame 0 has both animals, frame 1 one; Kira leaves at frame 1."""
    told = "".join(f"<{name}>{value}</{name}>" for name, value in {"size": size, **task}.items())
    box = "xtl='{}' ytl='6' xbr='{}' ybr='16'"
    kira, nala = box.format(5, 25), box.format(30, 50)
    return f"""<annotations><version>1.1</version><meta><task><name>night</name>{told}
      <original_size><width>60</width><height>40</height></original_size>
      <source>clip.mp4</source></task></meta>
    <track id="0" label="lynx"><box frame="0" keyframe="1" outside="0" {kira}>
      <attribute name="individual">Kira</attribute></box>
      <box frame="1" keyframe="1" outside="1" {kira}>
      <attribute name="individual">Kira</attribute></box></track>
    <track id="1" label="lynx">
      <box frame="0" keyframe="1" outside="0" {nala}></box>
      <box frame="1" keyframe="0" outside="0" {nala}></box>
      <points frame="2" outside="0" points="1,2"></points></track></annotations>"""


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (["frame_000000.jpg", "frame_000001.png", "other.jpg"], {}),
        (["a.jpg", "b.jpg", "c.jpg"], {"start_frame": 0, "frame_filter": ""}),
    ],
)
def test_tracks_of_a_cvat_video_are_animals_on_its_frames(photos, tmp_path, names, task):
    (tmp_path / "v.xml").write_text(_video(**task))
    made = import_source(str(tmp_path / "v.xml"), photos(*names))
    cells = made.cells
    assert cells["path"].tolist() == [names[0], names[0], names[1]]
    assert cells["unique_name"].tolist() == ["Kira", None, None]
    assert cells["track"].tolist() == ["0", "1", "1"]
    assert set(cells["encounter"]) == {"clip.mp4"}
    assert [json.loads(box) for box in cells["bbox"]] == [[5, 6, 20, 10], *2 * [[30, 6, 20, 10]]]
    assert made.left_out == {"frames that an animal has left": 1, "shapes of the kind points": 1}
    assert any("order of names" in note for note in made.notes) == (names[0] == "a.jpg")


@pytest.mark.parametrize(
    ("names", "task", "says"),
    [
        (["a.jpg", "b.jpg"], {}, "should be called frame_000000.jpg. ffmpeg"),
        (["a.jpg", "b.jpg", "c.jpg"], {"start_frame": 100}, "frame_000000.jpg"),
        (["a.jpg", "b.jpg", "c.jpg"], {"frame_filter": "step=5"}, "frame_000000.jpg"),
        (["frame_000000.jpg", "b.jpg", "c.jpg"], {}, "frame 1 of its tracks"),
        (["x/frame_000000.jpg", "y/frame_000000.jpg", "c.jpg"], {}, "could be x/.* or y/"),
    ],
)
def test_frames_that_may_be_other_ones_are_refused(photos, tmp_path, names, task, says):
    (tmp_path / "v.xml").write_text(_video(**task))
    with pytest.raises(MetadataError, match=rf"v\.xml: .*{says}"):
        import_source(str(tmp_path / "v.xml"), photos(*names))


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
