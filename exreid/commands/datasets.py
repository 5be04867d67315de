"""`exreid datasets`: public data sets, and how exreid reads them."""

from __future__ import annotations

import argparse
import json
import textwrap

from rich.table import Table
from rich.text import Text

from exreid.commands.common import Command, plain_arguments
from exreid.commands.terminal import OUT
from exreid.config.public import PublicSet, public_names, public_set

INDENT = 12
"""The column where the text behind a label begins."""
WIDEST = 110
NARROW, SPECIES = 100, 16
"""On a screen narrower than the first, the column of species is the second, so that the words of
licences stay whole."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("name", nargs="?", help="one of them; without it, all are listed")


def _datasets(options: argparse.Namespace) -> int:
    if options.name is not None:
        for line in _about(options.name.lower(), public_set(options.name)):
            OUT.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0
    OUT.print(_list([(name, public_set(name)) for name in public_names()]))
    OUT.print("* exreid cannot read its files as they are.", markup=False)
    told = "exreid datasets NAME tells more; dataset.preset=NAME takes columns and split."
    OUT.print(told, markup=False, soft_wrap=True)
    return 0


def _list(sets: list[tuple[str, PublicSet]]) -> Table:
    """A row for each set; on a narrow screen species and licences go on below."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column("name", no_wrap=True)
    table.add_column("species", max_width=SPECIES if OUT.width < NARROW else None)
    for count in ("images", "animals"):
        table.add_column(count, justify="right", no_wrap=True)
    table.add_column("licence")
    for name, entry in sets:
        shown = f"{name} *" if entry.unreadable else name
        counts = [f"{count:,}" if count else "" for count in (entry.images, entry.animals)]
        table.add_row(shown, entry.species, *counts, Text(entry.licence))
    return table


def _about(name: str, entry: PublicSet) -> list[str]:
    """What is known of a set, in lines of the screen's width, and the commands to read it."""
    counts = [
        f"{count:,} {word}"
        for count, word in ((entry.images, "images"), (entry.animals, "animals"))
        if count
    ]
    lines = [f"{entry.title}: {', '.join([entry.species, *counts])}"]
    lines += _labelled("licence", entry.licence) + _labelled("from", entry.url)
    lines += _labelled("split", entry.split) + _labelled("note", entry.note)
    keys = [
        f"dataset.{key}={json.dumps(value) if not isinstance(value, str) else value}"
        for key, value in entry.keys.items()
    ]
    lines += [line for key in keys for line in _labelled("keys" if key == keys[0] else "", key)]
    for source in entry.sources:
        lines += _labelled("source" if source == entry.sources[0] else "", source)
    return [*lines, *_commands(name, entry)]


def _commands(name: str, entry: PublicSet) -> list[str]:
    if entry.unreadable:
        reason = f"exreid cannot read its files as they are: {entry.unreadable}"
        code = f"datasets.{entry.title}('DIR').df.to_csv('DIR/metadata.csv', index=False)"
        return [
            *textwrap.wrap(reason, min(OUT.width, WIDEST)),
            "wildlife-datasets (a package with its own licence) makes a table that exreid reads:",
            f'  python -c "from wildlife_datasets import datasets; {code}"',
            "  exreid probe dataset.root=DIR dataset.metadata_file=metadata.csv",
        ]
    root = f"DIR/{entry.folder}" if entry.folder else "DIR"
    first = [f"  {entry.prepare.replace('ROOT', root)}"] if entry.prepare else []
    return [
        f"With the unpacked set in DIR{', once a table is made' if first else ''}:",
        *first,
        f"  exreid probe dataset.preset={name} dataset.root={root}",
    ]


def _labelled(label: str, text: str | None) -> list[str]:
    """A text behind its label, in lines; none for no text."""
    return textwrap.wrap(
        text or "",
        min(OUT.width, WIDEST),
        initial_indent=f"  {label:<{INDENT - 2}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


DATASETS = Command("Public data sets, and how exreid reads them.", _arguments, _datasets)
