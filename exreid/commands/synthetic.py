"""`exreid synth`."""

from __future__ import annotations

import argparse

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT, progress_shown
from exreid.progress import counted


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("--out", type=path, required=True, help="folder to write to")
    parser.add_argument("--identities", type=int, required=True)
    parser.add_argument("--images-per-identity", type=int, required=True)
    parser.add_argument("--animals-per-photo", type=int, default=1, metavar="N")
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
            animals_per_photo=options.animals_per_photo,
            workers=options.workers,
            on_progress=progress("Drawing images", total),
        )
    drawn = f"{counted(total, 'image')} of {counted(options.identities, 'animal')}"
    OUT.print(f"{drawn}: {file}", markup=False)
    return 0


SYNTH = Command("Generate a synthetic data set.", _synth_arguments, _synth)
