"""MegaDetector's forms are told apart, and each gives the boxes that it means."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exreid.data.imports.content import choose, parse_json, read_content
from exreid.data.imports.megadetector import form_of, read_megadetector
from exreid.data.imports.read import Choices, import_source
from exreid.errors import MetadataError

FRACTIONS = """{
 "info": {"format_version": "1.5", "detector": "md_v5a.0.1.pt",
          "detector_metadata": {"typical_detection_threshold": 0.25}},
 "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
 "images": [
  {"file": "cam1\\\\IMG_1.JPG", "detections": [
    {"category": "1", "conf": 0.926, "bbox": [0.1, 0.25, 0.5, 0.5]},
    {"category": "2", "conf": 0.9, "bbox": [0.0, 0.0, 0.5, 0.5]},
    {"category": "1", "conf": 0.061, "bbox": [0.1, 0.1, 0.3, 0.3]}]},
  {"file": "cam1/IMG_2.JPG", "detections": [
    {"category": "1", "conf": 0.8, "bbox": [0.5, 0.0, 0.5, 0.5]},
    {"category": "1", "conf": 0.7, "bbox": [0.0, 0.0, 0.25, 1.0]}]},
  {"file": "empty.jpg", "detections": []},
  {"file": "bad.jpg", "failure": "Failure image access", "detections": null},
  {"file": "v.mp4", "frame_rate": 20, "frames_processed": [0], "detections": [
    {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4], "frame_number": 0}]}
 ]}"""
LIST = """[
 {"file": "cam1/IMG_1.JPG", "detections": [
   {"category": "animal", "confidence": 0.93, "bbox": [6.0, 10.0, 36.0, 30.0]},
   {"category": "person", "confidence": 0.81, "bbox": [12.0, 4.5, 40.3, 20.9]}]},
 {"file": "cam1/IMG_2.JPG", "detections": []}]"""
COLUMNS = """{"annotations": [{"img_id": "cam1/IMG_1.JPG", "bbox": [[6, 10, 36, 30], [0, 0, 9, 9]],
 "category": [0, 1], "confidence": [0.93, 0.9]}], "categories": {"0": "animal", "1": "person"}}"""


def test_boxes_as_fractions_become_pixels_and_what_is_left_out_is_counted(photos, tmp_path):
    root = photos("cam1/IMG_1.JPG", "cam1/IMG_2.JPG")
    (tmp_path / "md.json").write_text(FRACTIONS)
    made = import_source(str(tmp_path / "md.json"), root)
    assert made.cells["path"].tolist() == ["cam1/IMG_1.JPG", "cam1/IMG_2.JPG", "cam1/IMG_2.JPG"]
    boxes = [json.loads(box) for box in made.cells["bbox"]]
    assert boxes == [[6, 10, 30, 20], [30, 0, 30, 20], [0, 0, 15, 40]]
    # The left box of two is the first, whatever the file's order.
    assert made.cells["image_id"].tolist() == [None, "cam1/IMG_2.JPG#2", "cam1/IMG_2.JPG#1"]
    assert dict(made.left_out) == {
        "detections of the category person": 1,
        "detections of a confidence under 0.25": 1,
        "photographs without a detection": 1,
        "photographs that the detector could not read": 1,
        "videos": 1,
    }
    assert "typical threshold" in " ".join(made.report())


@pytest.mark.parametrize("text", [LIST, COLUMNS])
def test_corners_in_pixels_are_the_same_box(photos, tmp_path, text):
    (tmp_path / "md.json").write_text(text)
    made = import_source(str(tmp_path / "md.json"), photos("cam1/IMG_1.JPG"))
    assert made.cells["bbox"].tolist() == ["[6.0, 10.0, 30.0, 20.0]"]


def test_names_come_from_a_table(photos, tmp_path):
    root = photos("cam1/IMG_1.JPG", "cam1/IMG_2.JPG", "c.jpg")
    (tmp_path / "md.json").write_text(FRACTIONS)
    mask = '"{""size"": [40, 60], ""counts"": [0, 2400]}"'
    names = (
        "path;unique_name;split-time_closed;mask\n"
        f"cam1/IMG_1.JPG;Kira;test;{mask}\ncam1/IMG_2.JPG;Nala;;\nc.jpg;Ayo;train;{mask}\n"
    )
    (tmp_path / "names.csv").write_text(names)
    made = import_source(str(tmp_path / "md.json"), root, table=str(tmp_path / "names.csv"))
    assert made.cells["unique_name"].tolist() == ["Kira", "Ayo"]
    assert made.cells["bbox"].tolist() == ["[6.0, 10.0, 30.0, 20.0]", None]
    assert made.cells["split-time_closed"].tolist() == ["test", "train"]
    assert made.cells["mask"].notna().all()
    reason = "animals on photographs with several, that no image_id of the table names"
    assert made.left_out[reason] == 2


def test_a_table_names_animals_of_one_photograph_by_their_image_id(photos, tmp_path):
    root = photos("cam1/IMG_1.JPG", "cam1/IMG_2.JPG", "c.jpg")
    (tmp_path / "md.json").write_text(FRACTIONS)
    source, table = str(tmp_path / "md.json"), tmp_path / "names.csv"
    alone = import_source(source, root).cells.set_index("image_id")
    first, second = (f"cam1/IMG_2.JPG#{n}" for n in (1, 2))
    lines = f"cam1/IMG_2.JPG,{second},Nala\ncam1/IMG_2.JPG,{first},Kira\ncam1/IMG_1.JPG,,Ayo\n"
    table.write_text(f"path,image_id,unique_name\n{lines}")
    made = import_source(source, root, table=str(table))
    assert made.cells["unique_name"].tolist() == ["Nala", "Kira", "Ayo"]
    assert made.cells["bbox"].tolist()[:2] == alone["bbox"][[second, first]].tolist()
    assert not made.left_out.get("animals on photographs that the table does not have")
    table.write_text(f"path,image_id,unique_name\ncam1/IMG_2.JPG,{second},Nala\n")
    left_out = import_source(source, root, table=str(table)).left_out
    assert sum(left_out[reason] for reason in left_out if "image_id" in reason) == 1
    table.write_text("path,image_id,unique_name\ncam1/IMG_2.JPG,cam1/IMG_2.JPG#3,Nala\n")
    with pytest.raises(MetadataError, match=r"line 2 of the table: .*IMG_2.JPG#3.*has 2 animals"):
        import_source(source, root, table=str(table))


def test_the_confidence_is_the_users_where_given(photos, tmp_path):
    root = photos("cam1/IMG_1.JPG", "cam1/IMG_2.JPG")
    (tmp_path / "md.json").write_text(FRACTIONS)
    made = import_source(str(tmp_path / "md.json"), root, choices=Choices(min_confidence=0.05))
    assert len(made.cells) == 4
    made = import_source(str(tmp_path / "md.json"), root, choices=Choices(category="person"))
    assert made.cells["bbox"].tolist() == ["[0.0, 0.0, 30.0, 20.0]"]


share = st.floats(0, 1).map(lambda x: round(x, 4))
names = st.from_regex(r"[a-z]{1,8}/[A-Za-z0-9_]{1,12}\.(jpg|JPG|png)", fullmatch=True)


@st.composite
def fractions_box(draw):
    x, y = draw(st.floats(0, 0.9)), draw(st.floats(0, 0.9))
    w, h = draw(st.floats(0, 1 - x)), draw(st.floats(0, 1 - y))
    return [round(n, 4) for n in (x, y, w, h)]


@st.composite
def corners_box(draw):
    x, y = draw(st.floats(0, 4000)), draw(st.floats(0, 3000))
    w, h = draw(st.floats(2, 2000)), draw(st.floats(2, 2000))
    return [round(n, 1) for n in (x, y, x + w, y + h)]


@st.composite
def fractions_file(draw):
    detection = st.fixed_dictionaries(
        {"category": st.sampled_from("123"), "conf": share, "bbox": fractions_box()}
    )
    image = st.fixed_dictionaries({"file": names, "detections": st.lists(detection, max_size=3)})
    return {
        "info": {"format_version": "1.4"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "images": draw(st.lists(image, min_size=1, max_size=4)),
    }


@st.composite
def list_file(draw):
    detection = st.fixed_dictionaries(
        {
            "category": st.sampled_from(["animal", "person", "vehicle"]),
            "confidence": share,
            "bbox": corners_box(),
        }
    )
    image = st.fixed_dictionaries({"file": names, "detections": st.lists(detection, max_size=3)})
    return draw(st.lists(image, min_size=1, max_size=4))


def _count(images, word):
    return sum(len([d for d in image["detections"] if d["category"] == word]) for image in images)


def _animals(content, word):
    images = content["images"] if isinstance(content, dict) else content
    if not any(image["detections"] for image in images):
        return read_megadetector(content).animals
    if not _count(images, word):
        with pytest.raises(MetadataError, match="no detection of the category 'animal'"):
            read_megadetector(content, min_confidence=0)
        return None
    found = read_megadetector(content, min_confidence=0).animals
    assert len(found) == _count(images, word)
    return found


@settings(max_examples=250, deadline=None)
@given(fractions_file())
def test_any_file_of_fractions_is_told_as_one(content):
    assert form_of(json.loads(json.dumps(content))) == "fractions"
    found = _animals(content, "1")
    assert found is None or all(animal.box.unit == "fraction" for animal in found)


@settings(max_examples=250, deadline=None)
@given(list_file())
def test_any_list_of_corners_is_told_as_one(content):
    assert form_of(json.loads(json.dumps(content))) == "list"
    found = _animals(content, "animal")
    assert found is None or all(animal.box.unit == "px" for animal in found)


@settings(max_examples=100, deadline=None)
@given(fractions_file(), list_file(), st.booleans())
def test_a_mixed_file_is_refused_with_the_place(fractions, corners, swap):
    """Entries of the other form among those of one, or its boxes under the names of the other."""
    fractions["images"] = [one for one in fractions["images"] if one["detections"]]
    corners = [one for one in corners if one["detections"]]
    if not fractions["images"] or not corners:
        return
    if swap:
        content = [*corners, *fractions["images"]]
    else:
        content = {**fractions, "images": [*fractions["images"], *corners]}
    with pytest.raises(MetadataError, match=r"\[\d+\]\.detections\[0\].*mixes two forms"):
        read_megadetector(content)


@settings(max_examples=100, deadline=None)
@given(fractions_file() | list_file(), st.floats(0.01, 0.99))
def test_a_file_that_is_cut_off_is_refused_by_name(content, part):
    text = json.dumps(content)
    cut = text[: max(1, int(len(text) * part))]
    with pytest.raises(MetadataError, match=r"^md\.json: its JSON is (cut off|damaged)"):
        parse_json(cut.encode(), "md.json")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[0.1, 0.25, 0.5, 0.5]", "[6.0, 10.0, 36.0, 30.0]", r"images\[0\].*in pixels.*mixes two"),
        ("[0.1, 0.25, 0.5, 0.5]", "[0.7, 0.25, 0.9, 0.5]", r"leaves the photograph.*corners"),
        ("[0.1, 0.25, 0.5, 0.5]", "[0.1, 0.25, -0.5, 0.5]", r"negative width or height"),
        ("[0.1, 0.25, 0.5, 0.5]", "[0.1, 0.25, 0.5]", "not a list of 4 numbers"),
        ('"category": "1", "conf": 0.926', '"category": null, "conf": 0.926', "has no category"),
        ('"conf": 0.926', '"conf": 92.6', "not a number from 0 to 1"),
        ('"conf": 0.926', '"confidence": 0.926', "has no 'conf'.*mixes two forms"),
        ('"file": "empty.jpg", "detections": []', '"file": "empty.jpg"', "Is the file whole"),
        ('"file": "empty.jpg"', '"name": "empty.jpg"', r"images\[2\]: has no 'file'"),
    ],
)
def test_what_fractions_do_not_allow_is_named(old, new, says):
    assert old in FRACTIONS
    with pytest.raises(MetadataError, match=says):
        read_megadetector(json.loads(FRACTIONS.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[6.0, 10.0, 36.0, 30.0]", "[0.1, 0.25, 0.6, 0.75]", "looks like fractions.*mixes two"),
        ("[6.0, 10.0, 36.0, 30.0]", "[30.0, 10.0, 6.0, 30.0]", "should be the corners"),
        ('"category": "animal"', '"category": "1"', "not a word such as"),
    ],
)
def test_what_a_list_does_not_allow_is_named(old, new, says):
    with pytest.raises(MetadataError, match=says):
        read_megadetector(json.loads(LIST.replace(old, new)))


def test_a_category_without_a_name_is_no_detection():
    """As the format's description says."""
    found = read_megadetector(
        json.loads(
            FRACTIONS.replace('"category": "1", "conf": 0.9', '"category": "7", "conf": 0.9')
        )
    )
    assert len(found.animals) == 2
    assert found.left_out["detections of the category '7', which the file does not name"] == 1


def test_a_file_that_is_no_detectors_is_refused_by_name(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(MetadataError, match=r"x\.json: is JSON, .*of no form that is known"):
        choose(read_content(str(tmp_path / "x.json")), None)
    with pytest.raises(MetadataError, match=r"x\.json: is not MegaDetector's JSON"):
        choose(read_content(str(tmp_path / "x.json")), "megadetector")
