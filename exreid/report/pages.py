"""The pages themselves: templates filled with a report's content, and the files beside them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from exreid.report.content import Overview
from exreid.report.data_files import write_whole

HERE = Path(__file__).parent
STATIC = ("report.css", "theme.js", "queries.js", "detail.js")
PAGES = (
    ("index.html", "Summary"),
    ("queries.html", "Photographs"),
    ("trust.html", "Trust"),
    ("run.html", "How it was made"),
)
TITLES = dict(PAGES)
MARKS = {"right": "✓", "wrong": "✕", "new": "✦", "open": "?", "known": "="}


@dataclass(frozen=True)
class Tile:
    """A photograph on the first page, which leads to its own page."""

    id: str
    title: str
    note: str
    outcome: str
    thumb: str
    """Path in the report; empty without a picture."""
    width: int
    height: int
    probability: str | None


@dataclass(frozen=True)
class Examples:
    """A row of them."""

    title: str
    note: str
    tiles: Sequence[Tile]
    link: str
    """The filter that shows all of them."""


@dataclass(frozen=True)
class Part:
    """A part of the bar of outcomes."""

    kind: str
    label: str
    count: int
    link: str


def write_pages(
    out: Path,
    run: Overview,
    *,
    examples: Sequence[Examples],
    headline: Sequence[Any],
    again: str,
) -> None:
    """The four pages, the styles and the scripts; data and photographs come from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [(one.title, one.note, one.tiles, one.link) for one in examples]
    for file, title in PAGES:
        text = environment.get_template(file).render(
            run=run,
            page=file.removesuffix(".html"),
            pages=PAGES,
            title=title,
            marks=MARKS,
            parts=_parts(run),
            examples=rows,
            headline=headline,
            again=again,
        )
        write_whole(out / file, text)
    (out / "static").mkdir(exist_ok=True)
    for name in STATIC:
        shutil.copyfile(HERE / "static" / name, out / "static" / name)


def pages_version() -> str:
    """Changes with any template, style or script."""
    digest = hashlib.sha256()
    for file in sorted([*(HERE / "templates").iterdir(), *(HERE / "static").iterdir()]):
        digest.update(file.read_bytes())
    for file in sorted(HERE.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _parts(run: Overview) -> list[Part]:
    labels = {
        "right": "right animal first",
        "wrong": "another animal first",
        "new": "animal not in the gallery",
        "open": "animal not known",
    }
    found = [
        Part(kind, label, run.outcomes[kind], f"outcome={kind}")
        for kind, label in labels.items()
        if run.outcomes.get(kind)
    ]
    if len(found) == 1 and found[0].kind == "open" and run.decisions:
        names = {"known": "called known", "new": "probably new"}
        return [
            Part(kind, label, run.decisions[kind], f"decision={kind}")
            for kind, label in names.items()
            if run.decisions.get(kind)
        ]
    return found
