"""`exreid import`: the table of a detector's, a tool's or a database's files."""

from __future__ import annotations

import argparse
import difflib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT
from exreid.errors import ConfigError

if TYPE_CHECKING:
    from exreid.data.imports.finish import Imported


def _arguments(parser: argparse.ArgumentParser) -> None:
    from exreid.data.imports.content import WHAT

    plain_arguments(parser)
    kinds = "\n".join(f"  {name:<18} {text}" for name, text in WHAT.items())
    parser.usage = "exreid import [WHAT] FILE --out TABLE [options]"
    parser.epilog = f"WHAT is one of these, or left out where the file's content says it:\n{kinds}"
    parser.add_argument("words", nargs="+", metavar="[WHAT] FILE", help="a file, a folder or a URL")
    parser.add_argument("--out", type=path, required=True, help="a .parquet or .csv to write")
    parser.add_argument("--root", help="folder of the photographs; default: that of FILE")
    parser.add_argument("--table", help="a table with the names of the animals, by photograph")
    parser.add_argument(
        "--only-named", action="store_true", help="leave out animals without a name"
    )
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what cannot be used: stop (default), or leave it out and count it",
    )
    parser.add_argument(
        "--min-confidence", type=float, help="of detections; default: the file's typical threshold"
    )
    parser.add_argument("--category", help="take this category alone (megadetector, coco)")
    parser.add_argument("--identity", help="COCO's key that names animals, or: category")
    parser.add_argument(
        "--column", action="append", default=[], metavar="ROLE=NAME", help="of tables"
    )
    parser.add_argument("--bbox-format", choices=("xywh_px", "xyxy_px", "xywh_norm"))
    parser.add_argument("--sheet", help="of a workbook")
    parser.add_argument(
        "--template",
        help="folders: what each part of a path means, such as '{site}/{unique_name}/*'",
    )
    parser.add_argument(
        "--encounter-minutes",
        type=float,
        default=10.0,
        help="folders: longest gap between two photographs of one encounter (default 10)",
    )


def _import(options: argparse.Namespace) -> int:
    from exreid.data.imports.read import Choices, import_source, write_metadata

    what, source = _what_and_file(options.words)
    out: Path = options.out
    if out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"--out {out}: name a .parquet or a .csv file.")
    if not 0 <= (options.min_confidence or 0) <= 1:
        raise ConfigError(
            f"--min-confidence {options.min_confidence}: is not a number from 0 to 1."
        )
    pairs = [word.partition("=") for word in options.column]
    if not all(role and name for role, _, name in pairs):
        raise ConfigError("--column takes ROLE=NAME, such as --column path=Foto.")
    imported = import_source(
        source,
        options.root,
        what=what,
        choices=Choices(
            min_confidence=options.min_confidence,
            category=options.category,
            identity=options.identity,
            columns={role: name for role, _, name in pairs},
            box_format=options.bbox_format,
            sheet=options.sheet,
            template=options.template,
            encounter_minutes=options.encounter_minutes,
        ),
        table=options.table,
        skip=options.on_error == "skip",
        only_named=options.only_named,
    )
    write_metadata(imported.cells, out)
    for line in imported.report():
        OUT.print(line, markup=False, soft_wrap=True)
    OUT.print(f"Written to {out}", markup=False, soft_wrap=True)
    OUT.print(f"  {_next_command(imported, out)}", markup=False, soft_wrap=True)
    return 0


def _what_and_file(words: list[str]) -> tuple[str | None, str]:
    from exreid.data.imports.content import WHAT

    if len(words) == 1:
        return None, words[0]
    if len(words) == 2 and words[0] in WHAT:
        return words[0], words[1]
    near = difflib.get_close_matches(words[0], WHAT, n=1)
    raise ConfigError(
        f"exreid import {' '.join(words)}: takes [WHAT] FILE; WHAT is one of {', '.join(WHAT)}."
        + (f" Did you mean {near[0]}?" if near else "")
    )


def _next_command(imported: Imported, out: Path) -> str:
    """The command that checks the written table."""
    keys = [f"dataset.root={imported.root}", f"dataset.metadata_file={out.absolute()}"]
    if "encounter" in imported.cells:
        keys.append("dataset.encounter_cols=[encounter]")
    if "viewpoint" in imported.cells:
        keys.append("dataset.viewpoint_col=viewpoint")
    if "split-time_closed" not in imported.cells:
        keys.append("dataset.make_split=closed_set")
    return shlex.join(["exreid", "validate", *keys])


IMPORT = Command("Make a table of what another program has written.", _arguments, _import)
