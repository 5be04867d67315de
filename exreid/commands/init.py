"""`exreid init`: a config for the data set in a folder."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT
from exreid.errors import ConfigError


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("folder", type=path, help="photographs with a table, or a folder an animal")
    parser.add_argument("--out", type=path, help="the YAML to write; default: FOLDER's name.yaml")


def _init(options: argparse.Namespace) -> int:
    from exreid.data.guess import guess_dataset

    folder: Path = options.folder
    guess = guess_dataset(folder)
    name = folder.resolve().name or "dataset"
    out: Path = options.out or Path(f"{name}.yaml")
    if out.exists():
        raise ConfigError(f"{out}: exists already. Name another file: --out FILE.")
    lines = [
        f"# What exreid init found in {folder.resolve()}. Correct what is wrong: keys and their",
        "# meanings are listed by exreid probe --help-keys 'dataset.*'.",
        "dataset:",
    ]
    for key, value in guess.keys.items():
        lines += [f"  # {guess.why[key]}", f"  {key}: {json.dumps(value, ensure_ascii=False)}"]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for key, value in guess.keys.items():
        OUT.print(f"  {key}: {value} - {guess.why[key]}", markup=False, soft_wrap=True)
    for note in guess.notes:
        OUT.print(f"  {note}", markup=False, soft_wrap=True)
    OUT.print(f"Written to {out}. Next:", markup=False, soft_wrap=True)
    config = ["--config", str(out)]
    for words in (
        ["validate", *config],
        ["probe", *config, "--preset", "quick"],
        ["gallery", "build", *config, "--preset", "quick", "--out", f"{name}.gallery"],
    ):
        OUT.print(f"  exreid {shlex.join(words)}", markup=False, soft_wrap=True)
    return 0


INIT = Command("Write a config of what is in a folder.", _init_arguments, _init)
