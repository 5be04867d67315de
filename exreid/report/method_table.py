"""Finished probes as one table, a method a row, for a terminal, a page, a paper or a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from exreid.errors import ConfigError
from exreid.metrics.comparison import difference_intervals
from exreid.report.side_by_side import Comparison, FinishedRun

COMPARED_METRICS = ("top_1", "top_5", "mAP", "mAP_at_k", "balanced_top_1")
"""The metrics of a table by default, as far as a run has them."""
BOLD = "Bold: the best, and what differs from it by no more than chance."
LOWER_IS_BETTER = ("error", "brier", "false_match", "fpr")
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}"}


@dataclass(frozen=True)
class MethodTable:
    """For each run and metric: the value, the ends of its 95% interval, and whether it is among the
    best: none is better by more than chance."""

    metrics: tuple[str, ...]
    runs: tuple[str, ...]
    cells: Mapping[tuple[str, str], tuple[float, float | None, float | None, bool]]
    """By the names of run and metric; fractions. Metrics that a run lacks are left out."""


def method_table(comparison: Comparison, metrics: Sequence[str] = ()) -> MethodTable:
    """The table of these metrics, or of `COMPARED_METRICS`. ConfigError for an unknown one."""
    known = list(dict.fromkeys(metric for metric, _ in comparison.changes))
    for name in metrics:
        if name not in known:
            raise ConfigError(f"--metric {name}: the runs have {', '.join(known)}.")
    chosen = tuple(metrics) or tuple(name for name in COMPARED_METRICS if name in known)
    runs = tuple(run.name for run in comparison.runs)
    cells = {}
    for metric in chosen:
        of_runs = {run: change for run in runs if (change := comparison.changes.get((metric, run)))}
        values = [change.value for change in of_runs.values()]
        lower = any(word in metric for word in LOWER_IS_BETTER)
        best = min(values) if lower else max(values)
        ties = _ties(comparison.runs, metric)
        for run, change in of_runs.items():
            is_best = len(values) > 1 and (change.value == best or run in ties)
            cells[run, metric] = (change.value, change.low, change.high, is_best)
    return MethodTable(chosen, runs, cells)


def _ties(runs: Sequence[FinishedRun], metric: str) -> set[str]:
    """The runs whose paired difference from the best has an interval with 0 in it; none for a
    metric that is no mean of queries."""
    having = [run for run in runs if metric in run.values]
    if not having:
        return set()
    best = max(having, key=lambda run: run.metrics[metric])
    ties = set()
    for run in having:
        ours, theirs = {metric: best.values[metric]}, {metric: run.values[metric]}
        interval = difference_intervals(ours, theirs, best.identity_Q).get(metric)
        if interval is not None and interval[0] <= 0 <= interval[1]:
            ties.add(run.name)
    return ties


def cell_text(table: MethodTable, run: str, metric: str) -> tuple[str, bool]:
    """A value and its interval in percent, and whether it is among the best of its metric.

    >>> table = MethodTable(("top_1",), ("a",), {("a", "top_1"): (0.5, 0.25, 0.75, True)})
    >>> cell_text(table, "a", "top_1")
    ('50.0 [25.0, 75.0]', True)
    """
    if (run, metric) not in table.cells:
        return "", False
    value, low, high, is_best = table.cells[run, metric]
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{interval}", is_best


def as_markdown(table: MethodTable) -> str:
    """A table of GitHub's Markdown; the best of each metric are bold."""
    head = ["method", *table.metrics]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(['---', *['---:'] * len(table.metrics)])}|"]
    for run in table.runs:
        cells = [cell_text(table, run, metric) for metric in table.metrics]
        shown = [f"**{text}**" if best else text for text, best in cells]
        lines.append(f"| {' | '.join([run.replace('|', chr(92) + '|'), *shown])} |")
    return "\n".join(lines) + "\n"


def as_latex(table: MethodTable) -> str:
    """A tabular of LaTeX with the rules of booktabs, and a comment that says what is bold."""
    rows = []
    for run in table.runs:
        cells = [cell_text(table, run, metric) for metric in table.metrics]
        shown = [f"\\textbf{{{text}}}" if best else text for text, best in cells]
        rows.append([_latex(run), *shown])
    frame = pd.DataFrame(rows, columns=["method", *map(_latex, table.metrics)])
    form = "l" + "r" * len(table.metrics)
    text = str(frame.to_latex(index=False, escape=False, column_format=form))
    return f"% In percent, with 95% intervals. {BOLD} Needs the package booktabs.\n{text}"


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def as_csv(table: MethodTable) -> str:
    """A row a method; for each metric the fraction and the ends of its interval."""
    rows = []
    for run in table.runs:
        row: dict[str, str | float | None] = {"method": run}
        for metric in table.metrics:
            value, low, high, _ = table.cells.get((run, metric), (None, None, None, False))
            row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


FORMATS: dict[str, Callable[[MethodTable], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}
