"""The pages: their content as plain values, and the templates that show it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from exreid.explain.words import DECISIONS, MARKS, OUTCOMES
from exreid.report.side_by_side import MetricChange
from exreid.storage.files import written_whole

TEMPLATES = Path(__file__).parent
STATIC = ("report.css", "theme.js", "queries.js", "detail.js")
PAGES = (
    ("index.html", "Summary"),
    ("queries.html", "Photographs"),
    ("trust.html", "Trust"),
    ("run.html", "How it was made"),
)
SHOWN_ROWS = 200
"""The most rows of a shown table."""
HEADLINE_METRICS = ("top_1", "top_5", "BAKS", "BAUS", "encounter_top_1")


@dataclass(frozen=True)
class MissingPart:
    """Something that the run did not write."""

    what: str
    why: str
    command: str
    """The command that makes it; empty where there is none."""


@dataclass(frozen=True)
class MetricRow:
    """A line of the summary table."""

    name: str
    label: str
    meaning: str
    value: float
    interval: tuple[float, float] | None
    others: Sequence[MetricChange | None]
    """The changes of the runs beside it; None for a run without this metric."""


@dataclass(frozen=True)
class Plot:
    """A plot as inline SVG, and its meaning."""

    name: str
    title: str
    caption: str
    svg: str
    more: str = ""
    """A more detailed plot, behind a click; empty without one."""


@dataclass(frozen=True)
class NumberWithMeaning:
    """One number in words."""

    label: str
    value: str
    meaning: str


@dataclass(frozen=True)
class PageTable:
    """A plain table with a heading."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    left_out: int = 0
    """Rows that are not shown."""


@dataclass(frozen=True)
class Example:
    """A query on the first page, which leads to its own page."""

    id: str
    title: str
    note: str
    outcome: str
    thumb: str
    """Path in the report; empty without a picture."""
    width: int
    height: int


@dataclass(frozen=True)
class ExampleRow:
    """Some queries of a kind."""

    title: str
    note: str
    examples: Sequence[Example]
    link: str
    """The filter that shows all of the kind."""


@dataclass(frozen=True)
class AnimalCard:
    """An animal that an identification found."""

    name: str
    note: str
    count: int
    """Its photographs; ``examples`` are the surest of them."""
    examples: Sequence[Example]
    link: str
    """The filter that shows all of them."""


@dataclass(frozen=True)
class AnimalSection:
    """Animals of a kind, the most photographed first."""

    title: str
    note: str
    animals: Sequence[AnimalCard]


@dataclass(frozen=True)
class GalleryVerdict:
    """The verdict on the gallery at the top of the report."""

    level: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class OutcomeShare:
    """A part of the bar of outcomes."""

    kind: str
    label: str
    count: int
    link: str


@dataclass(frozen=True)
class Overview:
    """Everything on the pages but the queries themselves."""

    run_id: str
    title: str
    """What was photographed, or asked, in words."""
    kind: str
    """``probe`` or ``identify``."""
    verdict: GalleryVerdict | None
    """None where the run has none."""
    written: str
    lead: Sequence[str]
    """The result in sentences."""
    outcomes: dict[str, int]
    decisions: dict[str, int]
    metrics: Sequence[MetricRow]
    compared_with: Sequence[str]
    plots: Sequence[Plot]
    trust_plots: Sequence[Plot]
    trust: Sequence[NumberWithMeaning]
    counts: Sequence[NumberWithMeaning]
    tables: Sequence[PageTable]
    """Of the summary page."""
    trust_tables: Sequence[PageTable]
    animals: Sequence[AnimalSection]
    examples: Sequence[ExampleRow]
    settings: Sequence[tuple[str, str, str, str]]
    """Config keys: dotted name, value, default, meaning."""
    again: str
    """The command that runs it again."""
    versions: Sequence[tuple[str, str]]
    timings_s: Sequence[tuple[str, float]]
    missing: Sequence[MissingPart]
    notes: Sequence[str]
    """What could not be shown, such as images that cannot be read."""
    probability_of: str
    """The meaning of an answer's probability; empty without one."""
    threshold: float | None
    """Probability over which an animal is called known."""
    no_rate: str
    """Why no false-match rate is promised; empty where one is, or nothing is decided."""


def page_table(title: str, caption: str, frame: pd.DataFrame) -> PageTable:
    """The first `SHOWN_ROWS` rows of a frame, as texts."""
    rows = [[_cell(cell) for cell in row] for row in frame.head(SHOWN_ROWS).to_numpy(dtype=object)]
    columns = tuple(str(name).replace("_", " ") for name in frame.columns)
    return PageTable(title, caption, columns, rows, max(0, len(frame) - SHOWN_ROWS))


def _cell(cell: object) -> str:
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def write_pages(out: Path, run: Overview) -> None:
    """The four pages, the styles and the scripts; data and pictures come from elsewhere."""
    rows = {row.name: row for row in run.metrics}
    for file, title in PAGES:
        write_page(
            out / file,
            file,
            run=run,
            page=file.removesuffix(".html"),
            pages=PAGES,
            title=title,
            marks=MARKS,
            parts=_outcome_shares(run),
            headline=[rows[name] for name in HEADLINE_METRICS if name in rows],
        )
    copy_static(out)


def write_page(file: Path, template: str, **values: object) -> None:
    """A page by its template."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_whole(file, environment.get_template(template).render(**values))


def copy_static(out: Path) -> None:
    """The styles and the scripts."""
    (out / "static").mkdir(exist_ok=True)
    for name in STATIC:
        shutil.copyfile(TEMPLATES / "static" / name, out / "static" / name)


def write_whole(file: Path, text: str) -> None:
    """Write under a temporary name, then rename; characters outside UTF-8 are escaped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def pages_version() -> str:
    """Changes with any template, style or script."""
    digest = hashlib.sha256()
    for file in sorted([*(TEMPLATES / "templates").iterdir(), *(TEMPLATES / "static").iterdir()]):
        digest.update(file.read_bytes())
    for file in sorted([*TEMPLATES.glob("*.py"), *(TEMPLATES.parent / "explain").glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _outcome_shares(run: Overview) -> list[OutcomeShare]:
    """The parts of the bar: outcomes or, where the truth is unknown, decisions."""
    shares = [
        OutcomeShare(kind, label, run.outcomes[kind], f"outcome={kind}")
        for kind, label in OUTCOMES.items()
        if run.outcomes.get(kind)
    ]
    if len(shares) == 1 and shares[0].kind == "open" and run.decisions:
        return [
            OutcomeShare(kind, label, run.decisions[kind], f"decision={kind}")
            for kind, label in DECISIONS.items()
            if run.decisions.get(kind)
        ]
    return shares
