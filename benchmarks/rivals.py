"""exreid beside other tools' own public code: the same photographs, split, weights and scorer.

Each tool runs in an environment of its own below --venv, which is made with pip where it is missing
(gigabytes, as PyTorch comes with it). All get the same pictures: each photograph cut to the box of
the animal's mask or box, where the table has one. exreid runs with the nearest equal settings on
those, and once more on the photographs with their masks, as a user has them. What cannot be
installed or fails is left out, with the reason. --root names a data set with its columns as exreid
takes them; by default it is the demo's animals.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
from _report import Report, data_parser
from _rivals import (
    Answers,
    Score,
    environment,
    read_probe,
    read_rival,
    reason_of,
    run,
    score,
    tools,
)
from rich.console import Console
from rich.table import Table

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.image_files import load_image
from exreid.data.images import used_part
from exreid.data.metadata import select_split
from exreid.data.synthetic import write_dataset
from exreid.models.lite0 import lite0_state_dict
from exreid.pipeline.inputs import read_images

WITH_MASKS = ", whole photographs with masks"
COLUMNS = ("top-1", "95% interval", "top-5", "mAP", "ms a photo", "pairs/s", "ratio")


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    name: str
    beside: str | None
    """The way whose speed its ratio compares with."""
    answers: Answers
    right: Score


def ours(keypoints: int, shortlist: int) -> dict[str, tuple[str, list[str]]]:
    """By name: the way of another tool that it is set up like, and its keys. The last ones are not
    set up like a tool: they get the photographs and their masks, as a user has them."""
    pairs = ["benchmark.method=local_lightglue", f"benchmark.candidate_k={shortlist}"]
    nearest = ["benchmark.method=local_lightglue", "benchmark.precision=nearest"]
    index = "benchmark.method=local_index"
    sift = "benchmark.local_features=sift"
    matched = {
        "local_lightglue, exact": ("LightGlue, shortlist", pairs),
        "local_lightglue, fast": ("LightGlue, shortlist", [*pairs, "benchmark.precision=fast"]),
    }
    ways = {
        "cosine": ("wildlife-tools, cosine", ["benchmark.method=cosine"]),
        **(matched if shortlist else {}),
        "nearest, SIFT": ("wildlife-tools, SIFT", [*nearest, sift]),
        "nearest": ("wildlife-tools, SIFT", nearest),
        "local_index, SIFT": ("HotSpotter", [index, sift]),
        "local_index": ("HotSpotter", [index]),
        f"nearest{WITH_MASKS}": ("wildlife-tools, SIFT", nearest),
        f"local_index{WITH_MASKS}": ("HotSpotter", [index]),
    }
    same = [f"benchmark.local_top_k={keypoints}", "dataset.reduced_decode=false"]
    return {name: (beside, [*keys, *same]) for name, (beside, keys) in ways.items()}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="folder of the environments")
    parser.add_argument(
        "--shortlist", type=int, default=20, help="pairs a query for LightGlue; 0: without it"
    )
    return parser.parse_args()


def write_task(folder: Path, overrides: list[str], *, keypoints: int, shortlist: int) -> None:
    """The pictures that all tools get, their table, the network's weights and the settings."""
    config = load_config(ProbeConfig, None, overrides)
    table, _ = read_images(config)
    dataset = config.dataset
    splits = {"test": dataset.query_split_value, "train": dataset.database_split_value}
    rows = []
    for answers in folder.glob("*.npz"):  # of an earlier run
        answers.unlink()
    for split, value in splits.items():
        for n, position in enumerate(select_split(table, value)):
            row = table.rows.iloc[position]
            data = (Path(dataset.root) / row["path"]).read_bytes()
            part = used_part(data, row.get("mask"), "mask", 0.0).around
            name = f"{split}_{n:05}.png"
            corners = round(part.left), round(part.top), round(part.right), round(part.bottom)
            load_image(data).image.crop(corners).save(folder / name)
            taken_from = row["image_id"]
            rows.append((name, row["identity"], split, taken_from))
    columns = ["path", "unique_name", "split", "taken_from"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)
    torch.save(lite0_state_dict(), folder / "lite0.pth")
    settings = {"keypoints": keypoints, "shortlist": shortlist}
    (folder / "task.json").write_text(json.dumps(settings))


def run_tools(folder: Path, venv: Path, *, shortlist: int) -> dict[str, str]:
    """All scripts, one after the other; the reasons of those that failed."""
    left_out = {}
    for tool in tools(torch.__version__.partition("+")[0], matched=shortlist > 0):
        print(f"{tool.script} ...", file=sys.stderr)
        try:
            python = environment(venv, tool)
            run([str(python), str(Path(__file__).with_name(tool.script)), str(folder)])
        except subprocess.CalledProcessError as error:
            left_out[", ".join(tool.packages)] = reason_of(error)
    return left_out


def probe(out: Path, name: str, keys: list[str]) -> Path:
    """One run of ``exreid probe``, in a process of its own as the tools have one."""
    print(f"exreid probe, {name} ...", file=sys.stderr)
    run_id = "".join(letter if letter.isalnum() else "_" for letter in name)
    told = [f"output.root={out}", f"output.run_id={run_id}", "ray.num_actors=0", "safety=off"]
    told += ["benchmark.keep_candidates=100000"]
    run([sys.executable, "-m", "exreid.cli", "probe", "--quiet", *keys, *told])
    return out / "benchmark_runs" / run_id


def shown(ways: list[Way]) -> Table:
    """The table for the screen."""
    seconds = {way.name: way.answers.answers_s / way.answers.pairs for way in ways}
    title = "Per cent; ratio: how many times as fast as the tool's way that it is set up like"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("way", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for way in ways:
        right, answers = way.right, way.answers
        photographs = sum(answers.scores_QG.shape)
        each = answers.features_s and 1000 * answers.features_s / photographs
        ratio = seconds.get(way.beside or "", 0.0) / seconds[way.name]
        table.add_row(
            way.name,
            f"{100 * right.top_1:.1f}",
            f"{100 * right.low:.0f} to {100 * right.high:.0f}",
            f"{100 * right.top_5:.1f}",
            *("" if n is None else f"{n:,.1f}" for n in (_per_cent(right), each)),
            f"{1 / seconds[way.name]:,.1f}",
            f"{ratio:,.3g}" if ratio else "",
        )
    return table


def _per_cent(right: Score) -> float | None:
    average = right.mean_average_precision
    return None if average is None else 100 * average


def reported(ways: list[Way]) -> Report:
    """The same as rows for the file."""
    report = Report("exreid beside other tools")
    speeds = {way.name: way.answers.pairs / way.answers.answers_s for way in ways}
    for way in ways:
        right, speed = way.right, speeds[way.name]
        interval = (100 * right.low, 100 * right.high)
        report.add(f"{way.name}: top-1", 100 * right.top_1, "%", interval=interval)
        report.add("  top-5", 100 * right.top_5, "%")
        average = _per_cent(right)
        if average is not None:
            report.add("  mAP", average, "%")
        if way.answers.features_s is not None:
            report.add("  features of all photographs", way.answers.features_s, "s")
        against = way.beside if way.beside in speeds else ""
        ratio = speed / speeds[against] if against else None
        report.add("  speed", speed, "pairs/s", against or "", ratio)
    return report


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    out = (options.out or Path(tempfile.mkdtemp())).absolute()
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    root, overrides = options.root, list(options.overrides)
    keypoints = 64 if options.quick else options.keypoints
    shortlist = 5 if options.quick else options.shortlist
    if root is None:
        root = out / "data"
        write_dataset(root, identities=6 if options.quick else 20, images_per_identity=10, seed=0)
    overrides.append(f"dataset.root={Path(root).absolute()}")
    write_task(folder, overrides, keypoints=keypoints, shortlist=shortlist)
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    asked = (table["split"] == "test").to_numpy()
    names = table["unique_name"].to_numpy()

    left_out = run_tools(folder, options.venv.absolute(), shortlist=shortlist)
    ways = []
    for file in sorted(folder.glob("*.npz")):
        answers = read_rival(file)
        ways.append(Way(file.stem, None, answers, score(answers, names[asked], names[~asked])))
    pictures = [f"dataset.root={folder}", "dataset.split_col=split"]
    for name, (beside, keys) in ours(keypoints, shortlist).items():
        whole = name.endswith(WITH_MASKS)
        ids = table["taken_from" if whole else "path"].to_numpy()
        run_folder = probe(out, name, [*(overrides if whole else pictures), *keys])
        answers = read_probe(run_folder, ids[asked].tolist(), ids[~asked].tolist())
        right = score(answers, names[asked], names[~asked])
        ways.append(Way(f"exreid, {name}", beside, answers, right))
    report = reported(ways)
    if options.json is not None:
        report.write(options.json)
    console = Console()
    console.print(shown(ways))
    for packages, reason in left_out.items():
        console.print(f"Left out: {packages}: {reason}", markup=False)


if __name__ == "__main__":
    main()
