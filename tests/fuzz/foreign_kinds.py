"""Files of other programs: detectors, annotation tools, databases."""

import json
import re

from tests.fuzz import mutation
from tests.fuzz.outcome import call

SIZE = {"original_width": 512, "original_height": 384}


def foreign(world, rng, folder):
    """A file of another program, damaged as a tree, as text or as bytes; made into a table, or
    validated with. All rows of a table are photographs that are there."""
    name = rng.choice(list(DOCUMENTS))
    names = [row[1] for row in world.rows()[1:5]]
    content = DOCUMENTS[name](names)
    if isinstance(content, list | dict) and rng.random() < 0.7:
        content = mutation.mutated_tree(content, rng)
    text = content if isinstance(content, str) else json.dumps(content)
    if rng.random() < 0.3:
        text = mutation.mutated_text(text, rng)
    data = text.encode("utf-8", "replace")
    if rng.random() < 0.2:
        data = mutation.mutated_bytes(data, rng)
    file = folder / name
    file.write_bytes(data)
    if rng.random() < 0.2:
        keys = world.keys(folder / "out")
        return call("validate", "--quick", *keys, f"dataset.metadata_file={file}").faults
    words = ["--root", world.data, "--out", folder / "t.csv"]
    words += rng.choice(([], [], ["--on-error", "skip"], ["--only-named"]))
    ended = call("import", file, *words)
    found = re.search(r": (\d+) rows, (\d+) photographs", ended.out)
    if ended.code == 0 and found and int(found[2]) > min(int(found[1]), len(world.rows()) - 1):
        return [f"accounting: {found.group()}"]
    return ended.faults


def _megadetector(paths):
    detections = [
        {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.5, 0.5]},
        {"category": "2", "conf": 0.8, "bbox": [0.5, 0.2, 0.3, 0.5]},
    ]
    images = [{"file": path, "detections": detections} for path in paths]
    info = {"detector_metadata": {"typical_detection_threshold": 0.25}}
    return {"info": info, "detection_categories": {"1": "animal", "2": "person"}, "images": images}


def _detections(paths):
    found = [{"category": "animal", "confidence": 0.9, "bbox": [10.5, 20, 300, 200.5]}]
    return [{"file": path, "detections": found} for path in paths]


def _coco(paths):
    images = [
        {"id": i, "file_name": path, "width": 512, "height": 384} for i, path in enumerate(paths)
    ]
    annotations = [
        {
            "id": i,
            "image_id": i % len(paths),
            "category_id": 1,
            "bbox": [10 + i, 20, 100, 200],
            "segmentation": [[10, 20, 100, 20, 100, 90]],
            "name": f"n{i % 3}",
            "theta": 0.1 * (i % 2),
        }
        for i in range(2 * len(paths))
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "l"}]}


def _label_studio(paths):
    rectangle = {"x": 10, "y": 25, "width": 50, "height": 50, "rotation": 10}
    polygon = {"points": [[10, 10], [60, 10], [60, 70]], "polygonlabels": ["a"]}
    brush = {"format": "rle", "rle": [0, 0, 0, 4, 38, 41, 0, 0], "brushlabels": ["a"]}
    results = [
        {**SIZE, "id": "a", "type": "rectanglelabels", "value": rectangle},
        {**SIZE, "id": "b", "type": "polygonlabels", "value": polygon},
        {**SIZE, "id": "c", "type": "brushlabels", "value": brush},
    ]
    return [
        {"id": i, "data": {"image": path}, "annotations": [{"result": results[: i % 3]}]}
        for i, path in enumerate(paths)
    ]


def _cvat(paths):
    shapes = (
        '<box label="l" xtl="5" ytl="6" xbr="250" ybr="160"><attribute name="id">K</attribute>'
        "</box>"
        '<polygon label="l" points="30.0,10.0;40.0,10.0;40.0,20.0"></polygon>'
        '<mask label="l" rle="1, 2, 3, 2" left="10" top="5" width="4" height="2"></mask>'
    )
    images = [f'<image name="{path}" width="512" height="384">{shapes}</image>' for path in paths]
    return f"<annotations><version>1.1</version>{''.join(images)}</annotations>"


def _table(paths):
    lines = ["image_id,identity,path,bbox,date,orientation"]
    lines += [
        f'{i},k{i % 2},{path},"[5, 6, 90, 100]",2020-01-01,left' for i, path in enumerate(paths)
    ]
    return "\n".join(lines)


def _wildbook(paths):
    lines = ["Encounter.mediaAsset0;Encounter.individualID;Encounter.year;Encounter.month"]
    return "\n".join([*lines, *(f"{path};k;2020;3" for path in paths)])


DOCUMENTS = {
    "md.json": _megadetector,
    "list.json": _detections,
    "coco.json": _coco,
    "ls.json": _label_studio,
    "cvat.xml": _cvat,
    "wd.csv": _table,
    "wildbook.csv": _wildbook,
}
