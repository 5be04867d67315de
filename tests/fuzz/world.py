"""What every case starts from, made once: small data sets, weights, runs, caches, galleries."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.outcome import call

LOCAL = ["benchmark.method=local_lightglue", "benchmark.candidate_k=2", "benchmark.local_top_k=32"]
LOCAL += ["benchmark.local_size=64", "benchmark.keep_matches=1"]


@dataclass(frozen=True)
class World:
    """Folders that no case writes to."""

    folder: Path

    @property
    def data(self):
        """16 photographs of 4 animals, with a metadata table in CzechLynx's layout."""
        return self.folder / "data"

    @property
    def new(self):
        """3 photographs that the galleries do not hold."""
        return self.folder / "new"

    @property
    def weights(self):
        """The stub backbone's."""
        return self.folder / "weights.pth"

    def keys(self, out, root=None):
        """Overrides of a quick probe."""
        return [
            f"dataset.root={root or self.data}",
            "model.type=timm:test_vit",
            f"model.checkpoint={self.weights}",
            "dataset.image_size=64",
            "ray.num_actors=0",
            "benchmark.bootstrap_resamples=20",
            "benchmark.top_k=[1]",
            "safety=off",
            f"output.root={out}",
        ]

    def rows(self):
        """The metadata table, header first."""
        with self.table.open(encoding="utf-8", newline="") as stream:
            return list(csv.reader(stream))

    @property
    def table(self):
        """The file of the metadata table."""
        return self.data / "metadata.csv"

    def run(self, name):
        """A finished run: ``cosine``, ``local``, ``open`` or ``identify``."""
        kind = "identifications" if name == "identify" else "benchmark_runs"
        return self.folder / "out" / kind / name

    @property
    def cache(self):
        """The cache of those runs."""
        return self.folder / "out" / ".exreid_cache"


def make_world(folder):
    """Fill a folder; returns the world in it."""
    import numpy as np
    import timm
    import torch
    from PIL import Image

    from exreid.data.synthetic import write_dataset

    world, out = World(Path(folder)), Path(folder) / "out"
    write_dataset(world.data, identities=4, images_per_identity=4, seed=1)
    next(world.data.glob("*.csv")).rename(world.table)
    write_dataset(world.folder / "more", identities=3, images_per_identity=2, seed=9)
    world.new.mkdir()
    for i, file in enumerate(sorted((world.folder / "more").rglob("*.jpg"))[:3]):
        shutil.copy(file, world.new / f"new_{i}.jpg")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=64).state_dict(), world.weights)
    keys = world.keys(out)
    _done("probe", *keys, "output.run_id=cosine")
    _done("probe", *keys, *LOCAL, "output.run_id=local")
    open_set = ["benchmark.open_set.enabled=true", "benchmark.open_set.false_match_rate=0.4"]
    _done("probe", *keys, *open_set, "output.run_id=open")
    _done("gallery", "build", "--out", world.folder / "gallery", *keys, open_set[1])
    _done("gallery", "build", "--out", world.folder / "gallery-local", *keys, *LOCAL, open_set[1])
    _done(
        *("identify", world.new, "--gallery", world.folder / "gallery"),
        *(f"output.root={out}", "output.run_id=identify"),
    )
    pictures = world.folder / "pictures"
    pictures.mkdir()
    small = Image.open(world.new / "new_0.jpg").resize((96, 72))
    for ending, options in {
        "jpg": {"quality": 80},
        "png": {},
        "webp": {},
        "gif": {},
        "bmp": {},
        "tif": {"compression": "tiff_lzw"},
    }.items():
        small.save(pictures / f"a.{ending}", **options)
    turned = Image.Exif()
    turned[0x0112], turned[0x0132] = 6, "2023:05:01 10:00:00"
    small.save(pictures / "turned.jpg", exif=turned, progressive=True)
    grey = (np.asarray(small.convert("L")).astype(np.uint16)) * 16
    Image.fromarray(grey).save(pictures / "grey16.png")
    (world.folder / "ready.json").write_text(json.dumps({"rows": len(world.rows())}))
    return world


def _done(*arguments):
    ended = call(*arguments)
    assert ended.code == 0, (arguments, ended)
