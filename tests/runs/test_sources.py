"""Files of other programs go straight to a probe or a gallery, with a plain table's numbers."""

import csv
import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.masks import decode_mask
from exreid.runs.probe import run_probe

SMALL = ["dataset.image_size=96", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"]
WH = (512, 384)


@pytest.fixture(scope="module")
def table(dataset):
    """The photographs, their animals, visits and the boxes of their masks."""
    rows = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    rows["visit"] = rows["source"] + "-" + rows["encounter"]
    rows["bbox"] = [_box(mask) for mask in rows["mask"]]
    return rows


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    """The photographs without a table, and one cache for all runs."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(dataset / "CzechLynx", folder / "photos" / "CzechLynx")
    return folder


def _box(mask):
    ys, xs = np.nonzero(decode_mask(mask, WH))
    left, top = int(xs.min()), int(ys.min())
    return [left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top]


def _coco(rows, root):
    images = [
        {"id": i, "file_name": path, "width": WH[0], "height": WH[1], "seq_id": visit}
        for i, (path, visit) in enumerate(zip(rows["path"], rows["visit"], strict=True))
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": box, "name": name}
        for i, (box, name) in enumerate(zip(rows["bbox"], rows["unique_name"], strict=True))
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "l"}]}
    (root / "coco.json").write_text(json.dumps(content))
    return "coco.json"


def _camtrap(rows, root):
    names = ("deployments", "media", "observations")
    resources = [{"name": name, "path": f"{name}.csv"} for name in names]
    package = {"profile": "camtrap-dp-profile.json", "resources": resources}
    (root / "datapackage.json").write_text(json.dumps(package))
    media = ["mediaID,deploymentID,timestamp,filePath,fileMediatype"]
    header = (
        "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,"
        "observationType,individualID,bboxX,bboxY,bboxWidth,bboxHeight"
    )
    observations = [header]
    time = "2020-06-12T04:04:29Z"
    for i, row in rows.iterrows():
        x, y, w, h = (n / side for n, side in zip(row["bbox"], WH * 2, strict=True))
        media.append(f"m{i},d1,{time},{row['path']},image/jpeg")
        observations.append(
            f"o{i},d1,m{i},{row['visit']},{time},{time},media,animal,{row['unique_name']},"
            f"{x},{y},{w},{h}"
        )
    tables = {"deployments": ["deploymentID", "d1"], "media": media, "observations": observations}
    for name, lines in tables.items():
        (root / f"{name}.csv").write_text("\n".join(lines))
    return "datapackage.json"


def _wildbook(rows, root):
    with (root / "bulk.csv").open("w", newline="") as stream:
        out = csv.writer(stream, delimiter=";")
        out.writerow(
            [
                "Encounter.mediaAsset0",
                "Encounter.individualID",
                "Sighting.sightingID",
                "Encounter.year",
            ]
        )
        for path, name, visit in zip(rows["path"], rows["unique_name"], rows["visit"], strict=True):
            out.writerow([path.rpartition("/")[2], name, visit, 2016])
    return "bulk.csv"


def _workbook(rows, root):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["Encounter.mediaAsset0", "Encounter.individualID", "Sighting.sightingID"])
    for path, name, visit in zip(rows["path"], rows["unique_name"], rows["visit"], strict=True):
        book.active.append([path, name, visit])
    book.save(root / "bulk.xlsx")
    return "bulk.xlsx"


def _miewid(rows, root):
    boxes = np.array(rows["bbox"].tolist())
    frame = pd.DataFrame({"file_path": "/data/x/" + rows["path"], "name": rows["unique_name"]})
    frame["theta"], frame["encounter"] = 0.0, rows["visit"]
    frame[["x", "y", "w", "h"]] = boxes
    frame.to_csv(root / "miewid.csv")
    return "miewid.csv"


LAYOUTS = [_coco, _camtrap, _wildbook, _workbook, _miewid]
WITHOUT_BOXES = [_wildbook, _workbook]


def _probe(folder, *overrides):
    places = [f"dataset.root={folder / 'photos'}", f"output.root={folder / 'out'}"]
    config = load_config(ProbeConfig, None, [*places, *SMALL, *overrides])
    return run_probe(config)[1]


@pytest.fixture(scope="module")
def tables(folder, table):
    """A plain table of the same photographs, with and without boxes."""
    plain = table[["path", "unique_name"]].assign(encounter=table["visit"])
    plain.to_csv(folder / "plain.csv", index=False)
    plain.assign(bbox=table["bbox"]).to_csv(folder / "boxes.csv", index=False)
    return {name: folder / f"{name}.csv" for name in ("plain", "boxes")}


@pytest.fixture(scope="module")
def reference(folder, tables):
    """The numbers of the plain tables."""
    return {name: _plain_probe(folder, file) for name, file in tables.items()}


def _plain_probe(folder, file):
    keys = ("dataset.encounter_cols=[encounter]", "dataset.make_split=closed_set")
    return _probe(folder, f"dataset.metadata_file={file}", *keys)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_probe_takes_the_file_as_it_is(folder, table, reference, layout, caplog):
    name = layout(table, folder / "photos")
    found = name == "datapackage.json"  # by its name
    result = _probe(folder, *([] if found else [f"dataset.metadata_file={name}"]))
    expected = reference["plain" if layout in WITHOUT_BOXES else "boxes"]
    assert result.metrics == expected.metrics
    assert result.counts["queries"] == expected.counts["queries"]
    assert "dataset.make_split=closed_set" in caplog.text
    for file in (folder / "photos").glob("*.*"):
        file.unlink()


def test_a_table_of_wildlife_datasets_keeps_its_split(folder, table):
    frame = pd.DataFrame(
        {
            "image_id": range(len(table)),
            "identity": table["unique_name"],
            "path": table["path"],
            "bbox": table["bbox"],
            "split": table["split-time_closed"],
        }
    )
    frame.to_csv(folder / "wd.csv")
    plain = table[["path", "unique_name", "split-time_closed", "bbox"]]
    plain.to_csv(folder / "plain-split.csv", index=False)
    expected = _probe(folder, f"dataset.metadata_file={folder / 'plain-split.csv'}")
    result = _probe(folder, f"dataset.metadata_file={folder / 'wd.csv'}")
    assert result.metrics == expected.metrics
    assert result.counts["gallery_images"] == expected.counts["gallery_images"]


def test_a_detectors_file_and_names_end_in_a_table_for_a_probe(folder, table, reference):
    images = [
        {
            "file": path,
            "detections": [
                {
                    "category": "1",
                    "conf": 0.9,
                    "bbox": [n / side for n, side in zip(box, WH * 2, strict=True)],
                }
            ],
        }
        for path, box in zip(table["path"], table["bbox"], strict=True)
    ]
    content = {"info": {}, "detection_categories": {"1": "animal"}, "images": images}
    (folder / "md.json").write_text(json.dumps(content))
    out = folder / "md.parquet"
    words = ["import", str(folder / "md.json"), "--root", str(folder / "photos")]
    assert main([*words, "--table", str(folder / "plain.csv"), "--out", str(out)]) == 0
    assert _plain_probe(folder, out).metrics == reference["boxes"].metrics
    assert pd.read_parquet(out)["bbox"].map(json.loads).tolist() == table["bbox"].tolist()


def test_a_file_without_names_is_told_what_it_lacks(folder, table, capsys):
    detections = [{"category": "animal", "confidence": 0.9, "bbox": [1, 2, 300, 200]}]
    content = [{"file": table["path"][0], "detections": detections}]
    (folder / "list.json").write_text(json.dumps(content))
    words = [f"dataset.root={folder / 'photos'}", f"dataset.metadata_file={folder / 'list.json'}"]
    assert main(["validate", *words]) == 1
    assert "none of its 1 animals has a name" in capsys.readouterr().err


def test_a_gallery_is_built_from_coco_and_names_new_photographs(folder, table, capsys):
    rows = table.reset_index(drop=True)
    known = rows.index % 6 != 0
    name = _coco(rows[known].reset_index(drop=True), folder / "photos")
    words = [f"dataset.root={folder / 'photos'}", f"dataset.metadata_file={name}", *SMALL]
    gallery = folder / "g"
    out = f"output.root={folder / 'out'}"
    assert (
        main(["gallery", "build", "--out", str(gallery), *words, out, "benchmark.method=cosine"])
        == 0
    )
    card = folder / "card"
    card.mkdir()
    for path in rows["path"][~known]:
        shutil.copy(folder / "photos" / path, card)
    answers = folder / "answers.csv"
    words = ["identify", str(card), "--gallery", str(gallery), "--csv", str(answers)]
    assert main([*words, out]) == 0
    assert len(pd.read_csv(answers)) == (~known).sum()

    # A detector's file says which of them have an animal, and where.
    found = [{"category": "animal", "confidence": 0.9, "bbox": [20, 20, 500, 370]}]
    names = sorted(file.name for file in card.iterdir())
    content = [{"file": f"D:/x/{name}", "detections": found} for name in names[1:]]
    content.append({"file": names[0], "detections": []})
    (folder / "card.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main([*words, "--detections", str(folder / "card.json"), out]) == 0
    assert "1 photograph has no animal in" in capsys.readouterr().err
    assert sorted(pd.read_csv(answers).iloc[:, 0].str.rpartition("/")[2]) == names[1:]


def test_validate_counts_sites_and_sees_an_animal_at_two_within_an_hour(folder, table, capsys):
    times = ["2020-06-12 04:00:00", "2020-06-12 04:59:00", "2020-06-12 06:00:01", "2020-06-12"]
    frame = pd.DataFrame(
        {
            "path": table["path"][:4],
            "unique_name": "Kira",
            "date": times,
            "site": ["north", "south", "north", "south"],
        }
    )
    frame.to_csv(folder / "sites.csv", index=False)
    words = [f"dataset.root={folder / 'photos'}", f"dataset.metadata_file={folder / 'sites.csv'}"]
    main(["validate", "--quick", *words, "dataset.make_split=closed_set"])
    said = capsys.readouterr().out
    assert "Sites (site): 2, 2 to 2 images each" in said
    assert "Kira at north (line 2) and south (line 3). Is a name wrong" in said


def test_validate_draws_crops_to_look_at(folder, table, tables, capsys):
    file = folder / "crops.png"
    words = [f"dataset.root={folder / 'photos'}", f"dataset.metadata_file={tables['boxes']}"]
    assert (
        main(["validate", "--quick", *words, "dataset.make_split=closed_set", "--crops", str(file)])
        == 0
    )
    assert f"10 images as a run takes them: {file}" in capsys.readouterr().out
    sheet = np.asarray(Image.open(file).convert("RGB")).astype(int)
    photograph = np.asarray(Image.open(folder / "photos" / table["path"][0]).convert("RGB"))
    x, y, w, h = table["bbox"][0]
    pad = round(0.1 * max(w, h))
    crop = photograph[max(0, y - pad) : y + h + pad, max(0, x - pad) : x + w + pad]
    scale = 200 / max(crop.shape[:2])
    small = Image.fromarray(crop).resize(
        (round(crop.shape[1] * scale), round(crop.shape[0] * scale))
    )
    # The first tile begins below the title and its words: the crop is somewhere in it.
    tile, small = sheet[40:300, 16:216], np.asarray(small).astype(int)
    found = cv2.matchTemplate(
        tile.astype(np.uint8), small[10:-10, 10:-10].astype(np.uint8), cv2.TM_CCOEFF_NORMED
    )
    assert found.max() > 0.95
