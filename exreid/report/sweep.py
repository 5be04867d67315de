"""The files of a finished sweep: trials.csv, best.yaml and a plot of all trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from exreid.config.base import Tree
from exreid.config.space import Distribution
from exreid.config.text import to_yaml_text
from exreid.explain.plots import COLOURS, png_figure
from exreid.pipeline.sweep import SweepStudy, Trial
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE_FILE, BEST_FILE, PICTURE_FILE = "trials.csv", "best.yaml", "parallel_coordinates.png"
TICKS = 5
BEST_COLOUR = COLOURS[1]


def write_sweep_report(
    folder: Path, study: SweepStudy, metric: str, best: Trial, best_tree: Tree
) -> None:
    """Write the three files."""
    write_text(folder / TABLE_FILE, trials_table(study.trials, metric))
    tree = {**best_tree, "output": {**best_tree["output"], "run_id": None}}
    percent = 100 * (best.score or 0.0)
    head = f"# Trial {best.name} of the sweep {folder.name}: validation {metric} {percent:.2f} %.\n"
    write_text(folder / BEST_FILE, head + to_yaml_text(tree))
    draw_trials(folder / PICTURE_FILE, study, metric, best)


def trials_table(trials: Sequence[Trial], metric: str) -> str:
    """``trials.csv``: a row per trial, best first, then by number."""
    rows = [
        {
            "trial": trial.name,
            "state": trial.state,
            f"validation_{metric}": trial.score,
            "epochs": max(trial.scores, default=None),
            **{
                key: json.dumps(value) if isinstance(value, (list, dict)) else value
                for key, value in trial.values.items()
            },
            "baseline": int(trial.baseline),
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in ranked(trials)
    ]
    return csv_text(pd.DataFrame(rows).astype({"epochs": "Int64"}))


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Completed trials by their score, then those that were stopped, then those that failed."""
    states = ("completed", "stopped", "running", "failed")
    return sorted(trials, key=lambda t: (states.index(t.state), -(t.score or 0.0), t.number))


def draw_trials(file: Path, study: SweepStudy, metric: str, best: Trial) -> None:
    """Parallel coordinates: an axis per searched key and one for the score, a line per trial.

    Trials that were stopped early are dashed, the best is thick, the config of the sweep is black;
    the darker a line, the higher its score.
    """
    from matplotlib import colormaps

    shown = [trial for trial in ranked(study.trials) if trial.score is not None][::-1]
    percents = [100 * (trial.score or 0.0) for trial in shown]
    low, high = min(percents), max(percents)
    low, high = (low, high) if high > low else (low - 1, high + 1)
    space = study.space
    names = [*(key.replace(".", ".\n", 1) for key in space), f"validation\n{metric}, %"]
    ticks = [_ticks(distribution) for distribution in space.values()]
    ticks.append([(x, f"{low + x * (high - low):.1f}") for x in np.linspace(0, 1, TICKS)])
    with png_figure(file, max(6.5, 1.9 * len(names)), 4.8, dpi=130) as figure:
        axes = figure.add_subplot()
        for trial, percent in zip(shown, percents, strict=True):
            height = (percent - low) / (high - low)
            heights = [*(_height(space[key], trial.values[key]) for key in space), height]
            by_score = colormaps["viridis_r"](0.1 + 0.75 * height)
            axes.plot(
                heights,
                color=BEST_COLOUR if trial is best else "black" if trial.baseline else by_score,
                linewidth=3.5 if trial is best else 1.4,
                linestyle="--" if trial.state == "stopped" else "-",
                marker="o",
                markersize=4,
                clip_on=False,
            )
        _draw_axes(axes, names, ticks)
        _draw_legend(axes, shown)


def _height(distribution: Distribution, value: Any) -> float:
    """The place of a key's value on its axis, from 0 to 1."""
    if distribution.choices:
        texts = [json.dumps(choice) for choice in distribution.choices]
        return texts.index(json.dumps(value)) / (len(texts) - 1) if len(texts) > 1 else 0.5
    low, high = distribution.numbers[:2]
    if distribution.logarithmic:
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float((value - low) / (high - low))


def _ticks(distribution: Distribution) -> list[tuple[float, str]]:
    """The height of each tick of an axis, and its label."""
    if distribution.choices:
        return [(_height(distribution, value), str(value)) for value in distribution.choices]
    spread = np.geomspace if distribution.logarithmic else np.linspace
    low, high = distribution.numbers[:2]
    values = spread(low, high, TICKS)
    if distribution.whole:
        values = np.unique(np.round(values))
    return [(_height(distribution, value), f"{value:.2g}") for value in values]


def _draw_axes(
    axes: Axes, names: Sequence[str], ticks: Sequence[Sequence[tuple[float, str]]]
) -> None:
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    for place, of_axis in enumerate(ticks):
        axes.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for height, text in of_axis:
            axes.annotate(
                text, (place, height), (5, 0), textcoords="offset points", va="center",
                fontsize=8, bbox=halo,
            )  # fmt: skip
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set(ylim=(-0.07, 1.07), xlim=(-0.1, len(names) - 0.6), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _draw_legend(axes: Axes, shown: Sequence[Trial]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=BEST_COLOUR, linewidth=3.5, label="best")]
    if any(trial.baseline for trial in shown):
        handles.append(Line2D([], [], color="black", label="the config of the sweep"))
    if any(trial.state == "stopped" for trial in shown):
        handles.append(Line2D([], [], color="0.5", linestyle="--", label="stopped early"))
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False
    )
