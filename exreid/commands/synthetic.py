"""`exreid synth` and `exreid demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.finetune import train_and_show
from exreid.commands.probe import run_and_show
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig

DEMO_IDENTITIES = 20
DEMO_IMAGES_PER_IDENTITY = 10
DEMO_EPOCHS = 10


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("--out", type=path, default=Path("exreid_demo"), help="folder to write to")


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("--out", type=path, required=True, help="folder to write to")
    parser.add_argument("--identities", type=int, required=True)
    parser.add_argument("--images-per-identity", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")


def _synth(options: argparse.Namespace) -> int:
    from exreid.data.synthetic import write_dataset

    total = options.identities * options.images_per_identity
    with progress_shown() as progress:
        file = write_dataset(
            options.out,
            identities=options.identities,
            images_per_identity=options.images_per_identity,
            seed=options.seed,
            workers=options.workers,
            on_progress=progress("Drawing images", total),
        )
    OUT.print(f"{total} images of {options.identities} animals: {file}", markup=False)
    return 0


def _demo(options: argparse.Namespace) -> int:
    data = options.out / "dataset"
    _demo_dataset(data)
    overrides = [
        f"dataset.root={data.absolute()}",
        "dataset.encounter_cols=[source,encounter]",
        f"output.root={options.out.absolute()}",
    ]
    OUT.print("2. A probe: ImageNet features of EfficientNet-Lite0, cosine similarity.")
    run_and_show(load_config(ProbeConfig, None, overrides), verbose=options.verbose)
    OUT.print(f"3. A short training with ArcFace: {DEMO_EPOCHS} epochs.")
    training = [*overrides, f"train.epochs={DEMO_EPOCHS}", "ray.num_workers=0"]
    folder = train_and_show(load_config(FinetuneConfig, None, training), verbose=options.verbose)
    OUT.print("4. The same probe with the trained features.")
    overrides.append(f"model.checkpoint={folder / 'checkpoint-final.pth'}")
    return run_and_show(load_config(ProbeConfig, None, overrides), verbose=options.verbose)


def _demo_dataset(folder: Path) -> None:
    from exreid.data.synthetic import write_dataset

    total = DEMO_IDENTITIES * DEMO_IMAGES_PER_IDENTITY
    OUT.print(f"1. A synthetic data set: {DEMO_IDENTITIES} animals, {total} photographs.")
    with progress_shown() as progress:
        write_dataset(
            folder,
            identities=DEMO_IDENTITIES,
            images_per_identity=DEMO_IMAGES_PER_IDENTITY,
            seed=0,
            workers=2,
            on_progress=progress("Drawing images", total),
        )
    OUT.print(f"   {folder}", markup=False)


DEMO = Command(
    "Generate a small data set, probe it, train on it, probe again.", _demo_arguments, _demo
)
SYNTH = Command("Generate a synthetic data set.", _synth_arguments, _synth)
