"""What several tests of runs share: photographs of two animals."""

import json

import pandas as pd
import pytest
from PIL import Image

from exreid.data.synthetic import METADATA_FILE, write_dataset


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
