"""`exreid export`: answers and known animals, in the files of other programs and for people."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from datetime import timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT, progress_shown
from exreid.errors import ConfigError

OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


def _arguments(parser: argparse.ArgumentParser) -> None:
    from exreid.runs.export import TO

    plain_arguments(parser)
    kinds = "\n".join(f"  {name:<12} {text}" for name, text in TO.items())
    parser.epilog = (
        f"--to is one of these:\n{kinds}\n\nOnly what was decided as a known animal is exported as "
        "one.\nNew animals are new_01, new_02, ...; what was not decided is unmatched."
    )
    add = parser.add_argument
    add("what", metavar="RUN|GALLERY", help="an identification or probe (its folder, URL or id), "
        "or a gallery's folder")  # fmt: skip
    add("--to", required=True, choices=TO, help="what to write")
    add("--out", type=path, required=True, help="a new folder, or a file (table, coco)")
    add("--root", type=os.path.expanduser, help="folder of the photographs: of a gallery's, or "
        "where a run's have moved")  # fmt: skip
    add("--links", action="store_true", help="folders, wildbook: symbolic links instead of copies")
    add("--site", metavar="COLUMN", help="column of the metadata with the place")
    add("--timezone", type=_zone, metavar="ZONE", help="camtrap-dp: of the cameras' clocks, such "
        "as +02:00 or Europe/Prague")  # fmt: skip


def _export(options: argparse.Namespace) -> int:
    from exreid.runs.export import read_again_command, run_export

    if options.links and options.to not in ("folders", "wildbook"):
        raise ConfigError(f"--links: --to {options.to} copies no photographs.")
    if options.timezone is not None and options.to != "camtrap-dp":
        raise ConfigError(f"--timezone: --to {options.to} writes times as the cameras' clocks had.")
    out: Path = options.out
    with progress_shown() as progress:
        made = run_export(
            options.what,
            options.to,
            out,
            root=options.root,
            site=options.site,
            zone=options.timezone,
            links=options.links,
            progress=progress,
        )
    for line in made.told():
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)
    OUT.print(f"Written to {out}", markup=False, soft_wrap=True)
    OUT.print(f"  {shlex.join(read_again_command(made, options.to))}", markup=False, soft_wrap=True)
    return 0


def _zone(text: str) -> tzinfo:
    """A zone by its offset or its name; ArgumentTypeError for another word."""
    if match := OFFSET.fullmatch(text):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo(text)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time zone: write +02:00, or a name such as Europe/Prague."
        ) from error


EXPORT = Command("Write answers and animals for other programs.", _arguments, _export)
