"""MkDocs hooks: what the pages say of commands and config keys comes from the code itself.

A page asks for it by a comment of its own: ``<!-- commands -->``, ``<!-- config keys -->``,
``<!-- backbones -->``, ``<!-- data sets -->``, or ``<!-- file cluster/README.md -->``.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **unused: Any) -> str:
    """Fill in what a page asks for."""
    for name, make in MAKERS.items():
        mark = f"<!-- {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return re.sub(r"<!-- file (\S+) -->", lambda found: _file(found[1]), markdown)


def on_post_page(output: str, **unused: Any) -> str:
    """Name the theme's search dialog, for screen readers; let code in tables break, for phones."""
    output = output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
    return re.sub(r"<td[^>]*>.*?</td>", lambda cell: _breakable(cell[0]), output, flags=re.DOTALL)


def _breakable(cell: str) -> str:
    """A table's cell whose code may break after the parts of a name."""
    parts = re.compile(r"(?<=[._=/,|])(?=[^._=/,|\s])")
    return re.sub(r"(?<=<code>)[^<]+", lambda code: parts.sub("<wbr>", code[0]), cell)


def commands_text() -> str:
    """Each command of the command line, with its own help."""
    from exreid.cli import COMMANDS

    parts = []
    for name, command in COMMANDS.items():
        model = _parser(name).get_default("config_model")
        parts.append(f"## exreid {name}\n\n{command.text}\n\n```text\n{_help(name)}\n```\n")
        if model is not None:
            parts.append(f"Its keys: [{model.__name__}](config.md#{model.__name__.lower()}).\n")
    return "\n".join(parts)


def keys_text() -> str:
    """Each config that a command takes: its keys, types, defaults and meanings."""
    from exreid.cli import COMMANDS
    from exreid.config.io import describe_keys

    models: dict[Any, list[str]] = {}
    for name in COMMANDS:
        model = _parser(name).get_default("config_model")
        if model is not None:
            models.setdefault(model, []).append(name)
    parts = []
    for model, names in models.items():
        users = ", ".join(f"`exreid {name}`" for name in names)
        parts.append(f"\n## {model.__name__} {{: #{model.__name__.lower()} }}\n\nOf {users}.\n")
        block = ""
        for key, kind, default, meaning in describe_keys(model):
            head = key.rpartition(".")[0].split(".")[0]
            if head != block or not parts[-1].startswith("|"):
                block = head
                parts.append(f"\n### {model.__name__}: {block or 'the run'}\n")
                parts.append("| key | type, default | meaning |\n|---|---|---|")
            kinds = kind.replace("|", " | ")
            cells = (f"`{key}`", f"{_cell(kinds)}<br>`{_cell(default)}`", _cell(meaning))
            parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts)


def data_sets_text() -> str:
    """The table of public data sets."""
    from exreid.config.public import public_names, public_set

    head = "| `dataset.preset` | species | images | animals | licence | split |"
    lines = [head, "|---|---|---:|---:|---|---|"]
    for name in public_names():
        one = public_set(name)
        counts = [f"{count:,}" if count else "" for count in (one.images, one.animals)]
        shown = f"[{one.title}]({one.url})" + (" *" if one.unreadable else f"<br>`{name}`")
        cells = (shown, one.species, *counts, one.licence, one.split.strip())
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def backbones_text() -> str:
    """The table of backbones."""
    from exreid.models.backbones import BACKBONES

    lines = ["| `model.type` | architecture | made square by | licence |", "|---|---|---|---|"]
    for name, entry in BACKBONES.items():
        licence = entry.licence or "see its model card"
        lines.append(f"| `{name}` | `{entry.architecture}` | {entry.resize} | {licence} |")
    return "\n".join(lines)


def _parser(name: str) -> argparse.ArgumentParser:
    from exreid.cli import COMMANDS

    parser = argparse.ArgumentParser(prog=f"exreid {name}", add_help=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--verbose", action="store_true", help="show every library's own messages")
    COMMANDS[name].add_arguments(parser)
    return parser


def _help(name: str) -> str:
    os.environ["COLUMNS"] = "76"
    return _parser(name).format_help().strip()


def _file(path: str) -> str:
    """A text of the repository, without its title."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.split("\n", 1)[1] if text.startswith("# ") else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


MAKERS: dict[str, Callable[[], str]] = {
    "commands": commands_text,
    "config keys": keys_text,
    "backbones": backbones_text,
    "data sets": data_sets_text,
}
