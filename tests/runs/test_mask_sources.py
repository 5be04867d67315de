"""Masks of each annotation tool go straight to a probe, with the numbers of a table's own masks."""

import json
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.masks import decode_mask
from exreid.runs.probe import run_probe
from tests.data.imports.test_annotation_tools import _pack

WH = (512, 384)
SMALL = ["dataset.image_size=96", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"]


@pytest.fixture(scope="module")
def table(few):
    """The photographs of four animals, whose they are, and their masks."""
    rows = pd.read_csv(next(few.glob("*Real.csv")), dtype=str)
    return rows[["path", "unique_name", "mask"]]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


def _probed(few, out, file):
    keys = [f"dataset.root={few}", f"output.root={out}", f"dataset.metadata_file={file}", *SMALL]
    keys += ["dataset.crop=mask", "dataset.make_split=closed_set"]
    folder, _ = run_probe(load_config(ProbeConfig, None, keys))
    return pd.read_parquet(folder / "rankings.parquet")


@pytest.fixture(scope="module")
def expected(few, table, out):
    table.to_csv(out / "masks.csv", index=False)
    table.drop(columns="mask").to_csv(out / "names.csv", index=False)
    return _probed(few, out, out / "masks.csv")


def _cvat(table, folder):
    images = []
    for row in table.itertuples():
        mask = decode_mask(row.mask, WH)
        ys, xs = np.nonzero(mask)
        part = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        # Runs along the rows, of what is off first.
        ends = np.flatnonzero(np.diff(np.concatenate([[0], part.reshape(-1), [2]])))
        runs = np.diff(np.concatenate([[0], ends]))
        images.append(
            f"<image id='0' name={quoteattr(row.path)} width='{WH[0]}' height='{WH[1]}'>"
            f"<mask label='lynx' rle='{', '.join(map(str, runs))}' left='{xs.min()}' "
            f"top='{ys.min()}' width='{part.shape[1]}' height='{part.shape[0]}'>"
            f"<attribute name='identity'>{row.unique_name}</attribute></mask></image>"
        )
    (folder / "cvat.xml").write_text(f"<annotations>{''.join(images)}</annotations>")
    return folder / "cvat.xml"


def _brush(mask):
    painted = decode_mask(mask, WH).reshape(-1) * 255
    return {"format": "rle", "rle": _pack(np.repeat(painted, 4).tolist()), "brushlabels": ["lynx"]}


SIZE = {"original_width": WH[0], "original_height": WH[1], "image_rotation": 0}


def _label_studio(table, folder):
    tasks = []
    for row in table.itertuples():
        region = {**SIZE, "id": "a", "type": "brushlabels", "value": _brush(row.mask)}
        name = {"id": "b", "type": "choices", "from_name": "identity",
                "value": {"choices": [row.unique_name]}}  # fmt: skip
        data = {"image": f"/data/local-files/?d={row.path}"}
        tasks.append({"data": data, "annotations": [{"result": [region, name]}]})
    (folder / "ls.json").write_text(json.dumps(tasks))
    return folder / "ls.json"


def _label_studio_min(table, folder):
    tasks = [
        {
            "image": f"/data/local-files/?d={row.path}",
            "id": i,
            "identity": row.unique_name,
            "brush": [{**_brush(row.mask), **SIZE}],
            "annotator": 1,
            "annotation_id": i,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "lead_time": 3.5,
        }
        for i, row in enumerate(table.itertuples())
    ]
    (folder / "min.json").write_text(json.dumps(tasks))
    return folder / "min.json"


@pytest.mark.parametrize("tool", [_cvat, _label_studio, _label_studio_min])
def test_masks_with_names_are_probed_as_they_are(few, table, out, expected, tool):
    pd.testing.assert_frame_equal(_probed(few, out, tool(table, out)), expected)


def _pngs(table, folder):
    for row in table.itertuples():
        file = (folder / "pngs" / row.path).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(decode_mask(row.mask, WH)).save(file)
    return folder / "pngs"


def _sam(table, folder):
    """SA-1B's layout: a JSON file for each image."""
    (folder / "sam").mkdir()
    for i, row in enumerate(table.itertuples()):
        image = {"file_name": row.path, "width": WH[0], "height": WH[1]}
        found = {"segmentation": json.loads(row.mask), "predicted_iou": 0.9, "stability_score": 0.9}
        (folder / "sam" / f"{i}.json").write_text(
            json.dumps({"image": image, "annotations": [found]})
        )
    return folder / "sam"


@pytest.mark.parametrize("tool", [_pngs, _sam])
def test_masks_without_names_take_them_from_a_table(few, table, out, expected, tool):
    masked = out / f"{tool.__name__}.parquet"
    words = ["import", "masks", str(tool(table, out)), "--root", str(few), "--out", str(masked)]
    assert main([*words, "--table", str(out / "names.csv")]) == 0
    pd.testing.assert_frame_equal(_probed(few, out, masked), expected)
