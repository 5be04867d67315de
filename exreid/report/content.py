"""What a report shows, as plain values: the pages are made of these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OUTCOMES = ("right", "wrong", "new", "open")
"""right: the leading animal is the query's own. wrong: another animal leads. new: the gallery does
not have the query's animal. open: whose the query is, is not known."""


@dataclass(frozen=True)
class Missing:
    """Something that the run did not write."""

    what: str
    why: str
    command: str
    """Makes it; empty where no command does."""


@dataclass(frozen=True)
class Compared:
    """A run's metric beside the first run's."""

    value: float | None
    interval: tuple[float, float] | None
    change: float | None
    change_interval: tuple[float, float] | None
    p: float | None
    """Adjusted for all runs that are compared."""


@dataclass(frozen=True)
class MetricRow:
    """A line of the summary table."""

    name: str
    label: str
    meaning: str
    value: float
    interval: tuple[float, float] | None
    others: tuple[Compared, ...] = ()

    @property
    def is_headline(self) -> bool:
        """Whether it stands above the fold."""
        return self.name in HEADLINES


HEADLINES = ("top_1", "top_5", "BAKS", "BAUS", "encounter_top_1")


@dataclass(frozen=True)
class Plot:
    """A picture of numbers, as inline SVG, and what it says."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """One number with its meaning, for the trust page."""

    label: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A plain table with a heading."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    left_out: int = 0
    """Rows that are not shown."""


@dataclass(frozen=True)
class Overview:
    """Everything on the pages but the queries themselves."""

    run_id: str
    kind: str
    """``probe`` or ``identify``."""
    method: str
    written: str
    lead: Sequence[str]
    """What came out, in sentences."""
    outcomes: dict[str, int]
    decisions: dict[str, int]
    metrics: Sequence[MetricRow]
    compared_with: Sequence[str]
    plots: Sequence[Plot]
    trust_plots: Sequence[Plot]
    trust: Sequence[Figure]
    counts: Sequence[Figure]
    tables: Sequence[Table]
    """Of the summary page."""
    trust_tables: Sequence[Table]
    settings: Sequence[tuple[str, str, str, str]]
    """Config keys: dotted name, value, default, meaning."""
    versions: Sequence[tuple[str, str]]
    timings_s: Sequence[tuple[str, float]]
    missing: Sequence[Missing]
    notes: Sequence[str]
    """What could not be shown, such as unreadable photographs."""
    probability_of: str
    """What the probability of an answer means; empty without one."""
    bar: float | None
    """Probability over which an animal is called known."""
    no_rate: str
    """Why no false-match rate is promised; empty where one is, or nothing is decided."""


@dataclass(frozen=True)
class IndexColumns:
    """The list of queries, a column per thing, an entry per query."""

    columns: dict[str, list[Any]]
    texts: dict[str, list[str]]
    """Of a column of numbers that stand for texts, the texts."""
