"""What is run, killed and run again; and what of it must be equal."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from exreid.training.history import read_history

KEYPOINTS = ["benchmark.local_top_k=64", "benchmark.local_size=128"]
INDEX = ["benchmark.method=local_index", *KEYPOINTS]
LOCAL = ["benchmark.method=local_lightglue", "benchmark.precision=exact", *KEYPOINTS]
LOCAL += ["benchmark.candidate_k=6", "benchmark.shortlist=both"]
OPEN = "benchmark.open_set.false_match_rate=0.3"
IN_PROCESS, OVER_RAY = "ray.num_actors=0", "ray.num_actors=1"


@dataclass(frozen=True)
class World:
    """A data set that no run writes to."""

    folder: Path

    def data(self, name):
        """``old`` or ``more``: animals in CzechLynx's layout, of the same names."""
        return self.folder / name

    def keys(self, out, data="old"):
        """Overrides of a quick probe."""
        return [
            f"dataset.root={self.data(data)}",
            "dataset.encounter_cols=[source,encounter]",
            "model.type=timm:test_vit",
            f"model.checkpoint={self.folder / 'weights.pth'}",
            "dataset.image_size=64",
            "benchmark.bootstrap_resamples=50",
            f"output.root={out}",
        ]


def make_world(folder):
    """60 photographs of 10 animals, and 20 more of them."""
    import timm
    import torch

    from exreid.data.synthetic import write_dataset

    world = World(Path(folder))
    for name, each, seed in (("old", 6, 1), ("more", 2, 2)):
        write_dataset(world.data(name), identities=10, images_per_identity=each, seed=seed)
    (file,) = world.data("more").glob("*.csv")
    file.write_text(file.read_text().replace("synthetic_", "second_"))
    for source in sorted(world.data("more").rglob("synthetic_*")):
        source.rename(source.with_name(source.name.replace("synthetic_", "second_")))
    torch.manual_seed(0)
    state = timm.create_model("test_vit", img_size=64).state_dict()
    torch.save(state, world.folder / "weights.pth")
    return world


@dataclass(frozen=True)
class Scene:
    """One thing to run in a folder of its own."""

    command: Callable
    """(world, folder) -> arguments of exreid."""
    result: Callable
    """folder -> what must be equal; raises where there is no result yet."""
    prepare: Callable = lambda world, folder: None
    """(world, folder): what must be there before."""
    check: Callable = lambda folder: []
    """folder -> what is wrong right after the kill."""
    ray: bool = False
    like: str = ""
    """The scene that does the same in one process: its quiet run's numbers are this one's too."""
    times: float = 1.0
    """How much longer than that one this takes, roughly."""
    share: int = 1
    """How often it is drawn."""


def _probe(*more):
    def command(world, folder):
        return ["probe", *world.keys(folder / "out"), *more, "output.run_id=r"]

    return command


def _finetune(*more):
    def command(world, folder):
        keys = [key for key in world.keys(folder / "out") if not key.startswith("benchmark.")]
        training = ["train.epochs=6", "train.batch_size=16", "train.deterministic=true"]
        training += ["validation.fraction=0.3", "output.save_every=1", "output.run_id=r"]
        return ["finetune", *keys, *training, *more]

    return command


def _probed(folder):
    run = folder / "out" / "benchmark_runs" / "r"
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "completed", result["status"]
    rows = list(_rows(folder / "out/benchmark_runs/benchmark_results.csv"))
    assert [row["run_id"] for row in rows] == ["r"], "one line in the table of all runs"
    # As text, since NaN (a positive that was not scored) is not NaN.
    ranked = [repr(row) for row in pq.read_table(run / "rankings.parquet").to_pylist()]
    return result["metrics"], result["intervals"], ranked


def _trained(folder):
    run = folder / "out" / "results" / "r"
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "completed", result["status"]
    timed = ("_s", "seconds", "data_wait_share")
    rows = [
        {name: value for name, value in row.cells().items() if not name.endswith(timed)}
        for row in read_history(run)
    ]
    return result["metrics"], rows


def _rows(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _extracted(folder):
    return pq.read_table(folder / "e.parquet").to_pylist()


def _gallery(folder):
    manifest = json.loads((folder / "g" / "gallery.json").read_text())
    vectors = hashlib.sha256((folder / "g" / "global-0.npy").read_bytes()).hexdigest()
    table = pq.read_table(folder / "g" / "images.parquet").to_pylist()
    return manifest["fingerprint"], manifest["open_set"], vectors, table


def _add(world, folder):
    words = ["gallery", "add", folder / "g", f"dataset.root={world.data('more')}"]
    return [*words, f"output.root={folder / 'out'}", IN_PROCESS]


def _old_gallery(world, folder):
    """The gallery that is added to; made once."""
    from tests.chaos.kills import quiet

    made = world.folder / "gallery"
    if not made.exists():
        words = ["gallery", "build", "--out", made, *world.keys(folder / "o"), OPEN, IN_PROCESS]
        quiet(words, folder)
    shutil.copytree(made, folder / "g")


def _opens(folder):
    from tests.chaos.kills import start

    process = start(["gallery", "info", folder / "g"], folder)
    _, said = process.communicate(timeout=120)
    return [] if process.returncode == 0 else [f"the gallery is gone after the kill: {said[-300:]}"]


def _identify(world, folder):
    photos = world.data("more") / "CzechLynx"
    words = ["identify", photos, "--gallery", world.folder / "gallery", "--csv", folder / "a.csv"]
    return [*words, f"output.root={folder / 'out'}", "output.run_id=r"]


def _identified(folder):
    result = json.loads((folder / "out/identifications/r/result.json").read_text())
    assert result["status"] == "completed", result["status"]
    return _rows(folder / "out/identifications/r/identifications.csv")


def _gallery_there(world, folder):
    _old_gallery(world, folder)
    shutil.rmtree(folder / "g")


def _files(name):
    """What lies in a folder, by name and content; pages and JSON, which hold times, by name."""

    def result(folder):
        files = sorted(file for file in (folder / name).rglob("*") if file.is_file())
        assert files, f"no {name}"
        shown = (".html", ".json", ".js")
        return [
            (str(f.relative_to(folder)), "" if f.suffix in shown else f.read_bytes()) for f in files
        ]

    return result


def _finished_run(world, folder):
    from tests.chaos.kills import quiet

    made = world.folder / "out"
    if not made.exists():
        keys = [*world.keys(made), IN_PROCESS, "output.run_id=r"]
        quiet(["probe", *keys], folder)
    shutil.copytree(made / "benchmark_runs" / "r", folder / "r")


SCENES = {
    "cosine": Scene(_probe(IN_PROCESS), _probed, share=2),
    "local": Scene(_probe(IN_PROCESS, *LOCAL), _probed, share=3),
    "index": Scene(_probe(IN_PROCESS, *INDEX), _probed, share=2),
    "finetune": Scene(_finetune("ray.num_workers=0"), _trained, share=3),
    "extract": Scene(
        lambda world, folder: [
            *("extract", "--out", folder / "e.parquet", *world.keys(folder / "out"), IN_PROCESS)
        ],
        _extracted,
    ),
    "build": Scene(
        lambda world, folder: [
            *("gallery", "build", "--out", folder / "g"),
            *(*world.keys(folder / "out"), OPEN, IN_PROCESS),
        ],
        _gallery,
        share=2,
    ),
    "add": Scene(_add, _gallery, prepare=_old_gallery, check=_opens, share=3),
    "identify": Scene(_identify, _identified, prepare=_gallery_there),
    "synth": Scene(
        lambda world, folder: [
            *("synth", "--out", folder / "d", "--identities", 4, "--images-per-identity", 4)
        ],
        _files("d"),
    ),
    "report": Scene(
        lambda world, folder: ["report", folder / "r", "--out", folder / "pages"],
        _files("pages"),
        prepare=_finished_run,
    ),
    "ray-cosine": Scene(_probe(OVER_RAY), _probed, ray=True, like="cosine", times=7, share=2),
    "ray-local": Scene(_probe(OVER_RAY, *LOCAL), _probed, ray=True, like="local", times=7, share=3),
    "ray-index": Scene(_probe(OVER_RAY, *INDEX), _probed, ray=True, like="index", times=7, share=2),
    "ray-finetune": Scene(_finetune("ray.num_workers=1"), _trained, ray=True),
}
