"""What several tests of runs share: photographs of two animals."""

import json
import math
import shutil

import pandas as pd
import pytest
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import METADATA_FILE, write_dataset
from exreid.runs.gallery_build import build_gallery

STRANGER = "lynx_0003"
CONFIG = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]", "ray.num_actors=0"),
    *("benchmark.open_set.enabled=true", "benchmark.open_set.queries=12"),
]


@pytest.fixture(scope="session")
def side_by_side(tmp_path_factory):
    """``both``: photographs of two animals each, side by side, made of one-animal photographs by
    PIL; ``cut``: the same rows, each cut out of them by PIL as a file of its own."""
    folder = tmp_path_factory.mktemp("two")
    write_dataset(folder / "one", identities=6, images_per_identity=4, image_wh_px=(160, 120))
    one = pd.read_csv(folder / "one" / METADATA_FILE, dtype=str)
    animals = [rows.to_dict("records") for _, rows in one.groupby("unique_name")]
    rows = []
    for left, right in zip(animals[::2], animals[1::2], strict=True):
        for number, pair in enumerate(zip(left, right, strict=True)):
            both = Image.new("RGB", (320, 120))
            name = f"{left[0]['unique_name']}-{number}.png"
            for place, row in enumerate(pair):
                both.paste(Image.open(folder / "one" / row["path"]), (160 * place, 0))
                rows.append({
                    "path": name, "unique_name": row["unique_name"], "encounter": f"v{name}",
                    "bbox": json.dumps([160 * place, 0, 160, 120]),
                    "image_id": f"{name}#{place + 1}",
                    "split-time_closed": "test" if number == 3 else "train",
                })  # fmt: skip
            (folder / "both").mkdir(exist_ok=True)
            both.save(folder / "both" / name)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "both" / "metadata.csv", index=False)
    (folder / "cut").mkdir()
    for row in rows:
        x, y, w, h = json.loads(row["bbox"])
        part = Image.open(folder / "both" / row["path"]).crop((x, y, x + w, y + h))
        part.save(folder / "cut" / f"{row['image_id']}.png")
    cut = table.assign(path=table["image_id"] + ".png").drop(columns="bbox")
    cut.to_csv(folder / "cut" / "metadata.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def turned(side_by_side):
    """The animals of ``cut`` on their sides, two in a photograph: the left one turned clockwise,
    the right one back, by PIL."""
    cut = pd.read_csv(side_by_side / "cut" / "metadata.csv", dtype=str)
    folder = side_by_side / "turned"
    folder.mkdir()
    rows = []
    for left, right in zip(*(cut[place::2].to_dict("records") for place in (0, 1)), strict=True):
        photo = Image.new("RGB", (260, 170), (90, 90, 90))
        name = left["image_id"].partition("#")[0]
        for x, row, degrees in ((5, left, -90), (135, right, 90)):  # PIL turns anticlockwise
            upright = Image.open(side_by_side / "cut" / row["path"])
            photo.paste(upright.rotate(degrees, expand=True), (x, 5))
            # Of the upright 160 x 120 pixels around the same centre, before they are turned.
            box = [x + 60 - 80, 5 + 80 - 60, 160, 120]
            theta = -math.radians(degrees)
            rows.append(row | {"path": name, "bbox": json.dumps(box), "theta": theta})
        photo.save(folder / name)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def identified(few, tmp_path_factory):
    """A gallery of three animals without one encounter of each; an identification of these
    encounters, and of a stranger's photographs. Each card's folder has its animal's name."""
    folder = tmp_path_factory.mktemp("apply")
    cells = pd.read_csv(next(few.glob("*Real.csv")), dtype=str)
    last = cells.groupby("unique_name")["encounter"].transform("last")
    asked = (cells["encounter"] == last) | (cells["unique_name"] == STRANGER)
    cells[~asked].to_csv(folder / "known.csv", index=False)
    for row in cells[asked].to_dict("records"):
        visit = folder / "card" / f"visit_{row['encounter']}_{row['unique_name']}"
        visit.mkdir(parents=True, exist_ok=True)
        shutil.copy(few / row["path"], visit)
    keys = [f"dataset.root={few}", f"dataset.metadata_file={folder / 'known.csv'}", *CONFIG]
    config = load_config(ProbeConfig, None, [*keys, f"output.root={folder}"])
    build_gallery(config, folder / "g")
    words = [str(folder / "card"), "--gallery", str(folder / "g"), f"output.root={folder}"]
    assert main(["identify", *words, "output.run_id=i"]) == 0
    return folder
