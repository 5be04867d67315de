"""`exreid demo`: from photographs to answers, by the commands that a user would type."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import webbrowser
from pathlib import Path

import pandas as pd

from exreid.commands import compare, finetune, gallery, identify, probe, report, terminal
from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT, progress_shown
from exreid.data.synthetic import METADATA_FILE, write_dataset

IDENTITIES, IMAGES_PER_IDENTITY, EPOCHS = 20, 10, 10
STRANGER_SEED = 7
DEMO_MATCHING = [
    "benchmark.precision=fast",
    "benchmark.local_top_k=256",
    "benchmark.fast.exact_best=1",
]
FUSED = [
    *("benchmark.method=wildfusion", *DEMO_MATCHING, f"benchmark.candidate_k={IDENTITIES * 10}"),
    *("benchmark.calibration.pairs=300", "benchmark.open_set.queries=40"),
]
"""The demo fits on few pairs and queries to save time; `exreid probe` fits on more."""


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("--out", type=path, default=Path("exreid_demo"), help="folder to write to")
    parser.add_argument("--train", action="store_true", help="also train a backbone, and probe it")


def _demo(options: argparse.Namespace) -> int:
    out = options.out.absolute()
    data = out / "dataset"
    _say(f"{IDENTITIES} animals are drawn, {IDENTITIES * IMAGES_PER_IDENTITY} photographs.")
    _draw(data)
    on = [f"dataset.root={data}", "dataset.encounter_cols=[source,encounter]", f"output.root={out}"]
    runs = out / "benchmark_runs"
    for name in ("cosine", "local", "fused", "trained"):
        shutil.rmtree(runs / name, ignore_errors=True)

    _say("Global features: one vector for each photograph, compared by cosine.")
    _run("probe", probe.PROBE, [*on, "output.run_id=cosine"])
    _say("Local features: the keypoints of two photographs are matched.")
    local = ["benchmark.method=local_lightglue", *DEMO_MATCHING, "output.run_id=local"]
    _run("probe", probe.PROBE, [*on, *local])
    _say("Both, as probabilities, with the decision whether the gallery knows the animal.")
    decide = ["benchmark.open_set.enabled=true", "benchmark.keep_matches=3", "output.run_id=fused"]
    _run("probe", probe.PROBE, [*on, *FUSED, *decide])
    names = ["cosine", "local", "fused"]
    if options.train:
        _say(f"A backbone is trained with ArcFace for {EPOCHS} epochs, and measured.")
        best = _train(on, out)
        _run("probe", probe.PROBE, [*on, f"model.checkpoint={best}", "output.run_id=trained"])
        names.insert(1, "trained")
    _say("Compared: who is right how often, and is the difference more than chance?")
    compared = [*(str(runs / name) for name in names), "--out", str(out / "comparison")]
    compared.append("--overwrite")
    _run("compare", compare.COMPARE, compared)

    _say("A gallery of the known animals, and three photographs of tonight.")
    known = out / "known.gallery"
    shutil.rmtree(known, ignore_errors=True)
    build = ["build", "--out", str(known), "--split", "train", *on, *FUSED]
    _run("gallery", gallery.GALLERY, build)
    asked = [*_tonight(data, out), "--gallery", str(known), f"output.root={out}"]
    _run("identify", identify.IDENTIFY, asked)

    _say("The report of the fused probe: every answer, and why.")
    _run("report", report.REPORT, [str(runs / "fused"), "--compare", str(runs / "cosine")])
    page = runs / "fused" / "report" / "index.html"
    if OUT.is_terminal and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
        webbrowser.open(page.as_uri())
    return 0


def _say(text: str) -> None:
    OUT.print(f"\n{text}", style="bold", markup=False)


def _run(name: str, command: Command, words: list[str]) -> None:
    """Print a command line, and run it."""
    OUT.print(f"$ exreid {name} {shlex.join(words)}", style="dim", markup=False, soft_wrap=True)
    parser = argparse.ArgumentParser(prog=f"exreid {name}", add_help=False)
    terminal.add_arguments(parser)
    command.add_arguments(parser)
    parser.set_defaults(again=["exreid", name, *words])
    command.run(parser.parse_intermixed_args(words))


def _draw(data: Path) -> None:
    total = IDENTITIES * IMAGES_PER_IDENTITY
    with progress_shown() as progress:
        write_dataset(
            data,
            identities=IDENTITIES,
            images_per_identity=IMAGES_PER_IDENTITY,
            seed=0,
            workers=2,
            on_progress=progress("Drawing images", total),
        )


def _train(on: list[str], out: Path) -> Path:
    """Train a backbone; the weights of its best epoch."""
    shutil.rmtree(out / "results" / "demo", ignore_errors=True)
    words = [*on, f"train.epochs={EPOCHS}", "ray.num_workers=0", "output.run_id=demo"]
    _run("finetune", finetune.FINETUNE, words)
    return out / "results" / "demo" / "checkpoint-best.pth"


def _tonight(data: Path, out: Path) -> list[str]:
    """Photographs of two animals that the gallery knows, and of one that it does not know."""
    card = out / "tonight"
    shutil.rmtree(card, ignore_errors=True)
    card.mkdir(parents=True)
    stranger = out / "stranger"
    shutil.rmtree(stranger, ignore_errors=True)
    write_dataset(stranger, identities=1, images_per_identity=2, seed=STRANGER_SEED)
    table = pd.read_csv(data / METADATA_FILE)
    known = table[table["split-time_closed"] == "test"].drop_duplicates("unique_name")
    sources = [data / known["path"].iloc[place] for place in (0, 1)]
    sources.append(stranger / pd.read_csv(stranger / METADATA_FILE)["path"].iloc[0])
    photos = []
    for number, source in enumerate(sources, start=1):
        photos.append(str(shutil.copy(source, card / f"IMG_{number:04}.jpg")))
    return photos


DEMO = Command("Draw animals, find them again, and show why.", _demo_arguments, _demo)
