"""Animals on small photographs, with names and files that programs stumble over."""

import json
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from exreid.data.boxes import Box
from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.data.masks import encode_mask

WH = (60, 40)


@pytest.fixture
def card(tmp_path):
    """The folder of six photographs of 60 x 40 pixels, no two alike."""
    folder = tmp_path / "the card"
    rng = np.random.default_rng(5)
    for name in ("cam 1/a.jpg", "cam 2/a.jpg", "cam 2/b,ü.jpg", "cam 1/d.png", "e.jpg", "f.jpg"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*WH[::-1], 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def mask():
    """A run length of the pixels from (10, 5) to before (30, 25)."""
    inside = np.zeros(WH[::-1], bool)
    inside[5:25, 10:30] = True
    return json.loads(encode_mask(inside))


@pytest.fixture
def answered(card, mask):
    """Two animals in one photograph, names of every kind, a new animal, and one not decided."""
    known = {"decision": "known", "probability": 0.9}
    at = datetime(2024, 5, 1, 22, 10, 5)
    night = {"moment": at, "encounter": "cam 1 2024-05-01", "site": "cam 1", "latitude": 49.5,
             "longitude": 16.25, "species": "Lynx lynx"}  # fmt: skip
    animals = [
        ("cam 1/a.jpg#1", Box(5, 5, 25, 25), {"animal": "Zoë Ärmel", **known, **night}),
        ("cam 1/a.jpg#2", Box(30.5, 5, 50.25, 35), {"animal": "007", **known, **night}),
        ("cam 2/a.jpg", None, {"animal": "=1+1", **known}),
        (
            "cam 2/b,ü.jpg",
            Box(10, 5, 30, 25),
            {"animal": "Müller, Ivo", "mask": mask, "drawn": True, "mask_px": 400, **known},
        ),
        (
            "cam 1/d.png",
            Box(0, 0, 60, 40),
            {"animal": "007", "viewpoint": "left", **known, **night},
        ),
        (
            "e.jpg",
            Box(1, 2, 41, 32),
            {
                "decision": "new",
                "new_animal": "new_01",
                "nearest": "007",
                "answer": "No known animal; nearest 007 (6%)",
                "probability": 0.06,
            },
        ),
        (
            "f.jpg",
            Box(1, 2, 31, 32),
            {
                "decision": "unsure",
                "nearest": "007",
                "probability": 0.6,
                "answer": "Perhaps 007 (60%)",
            },
        ),
    ]
    return Export(
        str(card),
        "card-1",
        [
            ExportedAnimal(image_id, image_id.partition("#")[0], WH, box, **more)
            for image_id, box, more in animals
        ],
        "exreid 0.1.0",
        "2024-05-02T08:00:00+00:00",
    )
