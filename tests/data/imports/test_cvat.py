"""CVAT's XML: shapes on photographs, and tracks on a video's frames."""

import json
import math

import numpy as np
import pytest

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
