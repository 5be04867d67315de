"""Plots of several runs beside each other: cumulative match, groups of queries, the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exreid.explain.plots import MARKERS, colour_of, literal, png_axes, png_figure, wrapped_title
from exreid.progress import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUDGET_METRICS = {
    "top_1": "first answer right (top-1), %",
    "balanced_top_1": "the same, each animal alike (balanced top-1), %",
}


@dataclass(frozen=True)
class Curve:
    """A line of a plot: shares (0 to 1) against something, with a band where it has one."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class GroupTop1:
    """Top-1 of a run in a group of queries; the interval is None where there is one identity."""

    group: str
    """The kind of group, such as viewpoint."""
    name: str
    """Of the group."""
    run: str
    top_1: float
    low: float | None
    high: float | None
    queries: int
    identities: int


@dataclass(frozen=True)
class BudgetPoint:
    """How often a run is right, and what it spends on each query."""

    method: str
    """Points of one method are joined."""
    pairs: float
    """Candidates of each query that are matched; 0 where the method matches none."""
    accuracy: Mapping[str, tuple[float, float | None, float | None]]
    """By the names of `BUDGET_METRICS`: the value and the ends of its 95% interval."""
    ceiling: float | None = None
    """The share of queries with a right candidate among those that are matched."""
    seconds: float | None = None
    """Wall time of matching a query's candidates; None where it was not measured."""


def draw_cumulative(file: Path, curves: Sequence[Curve]) -> None:
    """``cmc.png``: top-k against k, with 95% bands."""
    with png_axes(file, 6.5, 4.5, dpi=140) as axes:
        for number, curve in enumerate(curves):
            colour, label = colour_of(number), literal(curve.label)
            axes.plot(curve.x, 100 * curve.y, color=colour, linewidth=1.8, label=label)
            if curve.low is not None and curve.high is not None:
                band = 100 * curve.low, 100 * curve.high
                axes.fill_between(curve.x, *band, color=colour, alpha=0.15, linewidth=0)
        depth = int(curves[0].x[-1])
        axes.set(xlabel="matches looked at (k)", ylabel="right animal among them (top-k), %")
        axes.set(ylim=(0, 102), xlim=(1, depth), title="Cumulative match")
        axes.set_xticks([1, *range(5, depth + 1, 5)])
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def draw_groups(file: Path, rows: Sequence[GroupTop1]) -> None:
    """``groups_*.png``: top-1 of each run in each group, with 95% intervals."""
    names = list(dict.fromkeys(row.name for row in rows))
    runs = list(dict.fromkeys(row.run for row in rows))
    height = 1.4 + 0.28 * len(names) * len(runs) + 0.15 * len(names)
    step = len(runs) + 0.8
    with png_axes(file, 7.5, height, dpi=140) as axes:
        for row in sorted(rows, key=lambda row: runs.index(row.run)):
            number = runs.index(row.run)
            y = names.index(row.name) * step + number
            label = literal(row.run) if row.name == names[0] else None
            axes.barh(y, 100 * row.top_1, 0.85, color=colour_of(number), alpha=0.8, label=label)
            if row.low is not None and row.high is not None:
                ends = [100 * row.low, 100 * row.high]
                axes.plot(ends, [y, y], color="0.2", linewidth=1.2)
        counts = {
            row.name: f"{counted(row.queries, 'query', 'queries')}, "
            f"{counted(row.identities, 'animal')}"
            for row in rows
        }
        axes.set_yticks(
            [i * step + (len(runs) - 1) / 2 for i in range(len(names))],
            [f"{literal(name)}\n{counts[name]}" for name in names],
            fontsize=8,
        )
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="first answer right (top-1), %")
        axes.set_title(wrapped_title(f"By {literal(rows[0].group)}", 60))
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def draw_budget(file: Path, points: Sequence[BudgetPoint]) -> None:
    """``budget.png``: top-1 and balanced top-1 against the candidates that are matched for each
    query, and against the time that it took, where two points have one."""
    from matplotlib.ticker import LogLocator

    metrics = [name for name in BUDGET_METRICS if all(name in p.accuracy for p in points)]
    timed = sum(point.seconds is not None for point in points) > 1
    with png_figure(file, 6 * len(metrics), 8.5 if timed else 4.5, dpi=140) as figure:
        panels = figure.subplots(2 if timed else 1, len(metrics), squeeze=False)
        for column, metric in enumerate(metrics):
            _draw_accuracy(panels[0, column], points, metric)
            ticks = sorted({point.pairs for point in points if point.pairs})
            panels[0, column].set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
            panels[0, column].set_xlabel("candidates matched for each query")
            if timed:
                below = panels[1, column]
                _draw_accuracy(below, points, metric, by_time=True)
                below.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                below.xaxis.set_major_formatter("{x:g}")
                below.set_xlabel("seconds of matching for each query")
        panels[0, 0].legend(frameon=False, fontsize=8)


def _draw_accuracy(
    axes: Axes, points: Sequence[BudgetPoint], metric: str, *, by_time: bool = False
) -> None:
    """A line for each method that matches pairs, a level one for each that matches none."""
    for number, method in enumerate(dict.fromkeys(point.method for point in points)):
        own = sorted((p for p in points if p.method == method), key=lambda p: p.pairs)
        colour, label = colour_of(number), literal(method)
        if not own[0].pairs:
            axes.axhline(100 * own[0].accuracy[metric][0], color=colour, ls=":", label=label)
            continue
        shown = [
            (place, *point.accuracy[metric])
            for point in own
            if (place := point.seconds if by_time else point.pairs) is not None
        ]
        x, y = [point[0] for point in shown], [100 * point[1] for point in shown]
        mark = MARKERS[number % len(MARKERS)]
        axes.plot(x, y, color=colour, marker=mark, linewidth=1.8, label=label)
        for place, _, low, high in shown:
            if low is not None and high is not None:
                axes.plot([place] * 2, [100 * low, 100 * high], color=colour, alpha=0.5)
    ceiling = sorted({(p.pairs, 100 * p.ceiling) for p in points if p.ceiling is not None})
    if ceiling and metric == "top_1" and not by_time:
        places = list(zip(*ceiling, strict=True))
        axes.plot(*places, color="0.5", linestyle="--", label="on the shortlist")
    axes.set(xscale="log", ylim=(0, 102), ylabel=BUDGET_METRICS[metric])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
