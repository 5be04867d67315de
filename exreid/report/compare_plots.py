"""Pictures of a comparison: CMC, groups, budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exreid.metrics.retrieval import QueryValues, average_values, hit
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.storage.files import temporary_beside

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind readers too (Okabe & Ito 2008)."""
DEPTH = 20


def draw_cmc(file: Path, ranks: Mapping[str, np.ndarray], identity_Q: np.ndarray) -> None:
    """``cmc.png``: top-k against k, with 95% bands."""
    figure, axes = _figure(6.5, 4.5)
    depth = np.arange(1, DEPTH + 1)
    for colour, (name, rank_Q) in zip(_colours(len(ranks)), ranks.items(), strict=True):
        every_Q = np.ones(len(rank_Q), bool)
        table = {str(k): QueryValues(hit(rank_Q, k), every_Q) for k in depth.tolist()}
        value = list(average_values(table, identity_Q).values())
        intervals = bootstrap_intervals(table, identity_Q, resamples=1000)
        axes.plot(depth, value, color=colour, linewidth=1.8, label=name)
        if intervals:
            low, high = zip(*intervals.values(), strict=True)
            axes.fill_between(depth, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="k", ylabel="top-k", title="Cumulative match", ylim=(0, 1.02), xlim=(1, DEPTH))
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, file)


def draw_groups(file: Path, group: str, rows: Sequence[dict[str, Any]]) -> None:
    """Top-1 of each run in each group, with 95% intervals where there are two animals."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = _figure(7.5, 1.4 + 0.28 * len(names) * len(runs) + 0.15 * len(names))
    step = len(runs) + 0.8
    for number, (colour, run) in enumerate(zip(_colours(len(runs)), runs, strict=True)):
        for row in (row for row in rows if row["run"] == run):
            y = names.index(row["name"]) * step + number
            label = run if row["name"] == names[0] else None
            axes.barh(y, row["top_1"], 0.85, color=colour, alpha=0.8, label=label)
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [y, y], color="0.2", linewidth=1.2)
    counts = {row["name"]: (row["queries"], row["identities"]) for row in rows}
    axes.set_yticks(
        [i * step + (len(runs) - 1) / 2 for i in range(len(names))],
        [f"{name}\n{counts[name][0]} queries, {counts[name][1]} animals" for name in names],
        fontsize=8,
    )
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="top-1", title=f"By {group}")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, file)


def draw_budget(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``budget.png``: top-1 against the candidates that are matched for each query."""
    figure, axes = _figure(6, 4.5)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for colour, method in zip(_colours(len(methods)), methods, strict=True):
        part = sorted((r for r in rows if r["method"] == method), key=lambda r: r["candidate_k"])
        x, y = [row["candidate_k"] for row in part], [row["top_1"] for row in part]
        axes.plot(x, y, color=colour, marker="o", linewidth=1.8, label=method)
        for row in part:
            if row["low"] is not None:
                axes.plot(
                    [row["candidate_k"]] * 2, [row["low"], row["high"]], color=colour, alpha=0.5
                )
    ceiling = sorted({(r["candidate_k"], r["ceiling"]) for r in rows if r["ceiling"] is not None})
    if ceiling:
        axes.plot(
            *zip(*ceiling, strict=True), color="0.5", linestyle="--", label="on the shortlist"
        )
    axes.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="candidates matched for each query",
        ylabel="top-1",
        title="Top-1 against the candidate budget",
    )
    ticks = sorted({row["candidate_k"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    _save(figure, file)


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, file: Path) -> None:
    temporary = temporary_beside(file, ending=".png")
    figure.savefig(temporary, dpi=140)
    temporary.replace(file)
