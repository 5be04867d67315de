"""What a sweep leaves: trials.csv, best.yaml and a picture of all trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exreid.config.space import Distribution
from exreid.config.text import to_yaml_text
from exreid.pipeline.sweep import SweepStudy, Trial
from exreid.storage.files import temporary_beside
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text

TABLE_FILE, BEST_FILE, PICTURE_FILE = "trials.csv", "best.yaml", "parallel_coordinates.png"
MOST_TICKS = 6
BEST_COLOUR = "#d55e00"


def write_report(
    folder: Path, study: SweepStudy, metric: str, best: Trial, best_tree: Mapping[str, Any]
) -> None:
    """Write the three files."""
    write_text(folder / TABLE_FILE, trials_table(study.trials, metric, study.plan.base_values))
    tree = {**best_tree, "output": {**best_tree["output"], "run_id": None}}
    text = to_yaml_text(tree)
    percent = 100 * (best.score or 0.0)
    head = f"# Trial {best.name} of the sweep {folder.name}: validation {metric} {percent:.2f} %.\n"
    write_text(folder / BEST_FILE, head + text)
    draw_trials(folder / PICTURE_FILE, study, metric, best)


def trials_table(trials: Sequence[Trial], metric: str, base_values: Mapping[str, Any]) -> str:
    """``trials.csv``: a row per trial, best first, then by number."""
    rows = [
        {
            "trial": trial.name,
            "state": trial.state,
            f"validation_{metric}": trial.score,
            "epochs": max(trial.scores, default=None),
            **{key: _cell(value) for key, value in values_of(trial, base_values).items()},
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


def values_of(trial: Trial, base_values: Mapping[str, Any]) -> dict[str, Any]:
    """The searched keys' values in a trial."""
    return {key: trial.values.get(key, value) for key, value in base_values.items()}


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def draw_trials(file: Path, study: SweepStudy, metric: str, best: Trial) -> None:
    """Parallel coordinates: an axis per searched key and one for the score, a line per trial.

    Trials that were stopped early are dashed, the best is thick, the config as it stood is black;
    the darker a line, the higher its score.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    shown = [trial for trial in ranked(study.trials) if trial.score is not None][::-1]
    scores = np.array([100 * (trial.score or 0.0) for trial in shown])
    low, high = scores.min(), scores.max()
    ends = (low, high) if high > low else (low - 1, high + 1)
    axes_of = [_Axis(key, one) for key, one in study.space.items()]
    figure = Figure(figsize=(max(6.5, 1.9 * (len(axes_of) + 1)), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours, norm = colormaps["viridis_r"], Normalize(ends[0], ends[1])
    for trial, score in zip(shown, scores, strict=True):
        values = values_of(trial, study.plan.base_values)
        heights = [axis.height(values[axis.key]) for axis in axes_of]
        heights.append((score - ends[0]) / (ends[1] - ends[0]))
        colour = "black" if trial.baseline else colours(0.1 + 0.75 * float(norm(score)))
        style: dict[str, Any] = {"color": colour, "linewidth": 1.4}
        if trial is best:
            style = {"color": BEST_COLOUR, "linewidth": 3.5}
        style["linestyle"] = "--" if trial.state == "stopped" else "-"
        axes.plot(range(len(heights)), heights, marker="o", markersize=4, clip_on=False, **style)
    _draw_axes(axes, axes_of, ends, metric)
    _draw_legend(axes, shown)
    temporary = temporary_beside(file, ending=".png")
    figure.savefig(temporary, dpi=130)
    temporary.replace(file)


class _Axis:
    """The place of a key's values on its axis, from 0 to 1."""

    def __init__(self, key: str, one: Distribution) -> None:
        self.key, self.one = key, one

    def height(self, value: Any) -> float:
        if self.one.choices:
            texts = [json.dumps(choice) for choice in self.one.choices]
            place = texts.index(json.dumps(value)) if json.dumps(value) in texts else 0
            return place / max(1, len(texts) - 1) if len(texts) > 1 else 0.5
        low, high = self.one.numbers[:2]
        if self.one.logarithmic:
            low, high, value = np.log(low), np.log(high), np.log(max(value, 1e-300))
        # The config as it stands may lie outside.
        return float(np.clip((value - low) / (high - low), -0.05, 1.05))

    def ticks(self) -> list[tuple[float, str]]:
        if self.one.choices:
            return [(self.height(choice), str(choice)) for choice in self.one.choices]
        low, high = self.one.numbers[:2]
        spread = np.geomspace if self.one.logarithmic else np.linspace
        values = spread(low, high, MOST_TICKS - 1)
        if self.one.whole:
            values = np.unique(np.round(values))
        return [(self.height(value), f"{value:.2g}") for value in values]


def _draw_axes(axes: Any, axes_of: Sequence[_Axis], ends: tuple[float, float], metric: str) -> None:
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    score_ticks = [
        ((value - ends[0]) / (ends[1] - ends[0]), f"{value:.1f}")
        for value in np.linspace(*ends, MOST_TICKS - 1)
    ]
    for place, ticks in enumerate([*(axis.ticks() for axis in axes_of), score_ticks]):
        axes.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for height, text in ticks:
            axes.annotate(
                text, (place, height), (5, 0), textcoords="offset points", va="center",
                fontsize=8, bbox=halo,
            )  # fmt: skip
    names = [axis.key.replace(".", ".\n", 1) for axis in axes_of]
    axes.set_xticks(range(len(names) + 1), [*names, f"validation\n{metric}, %"], fontsize=9)
    axes.set(ylim=(-0.07, 1.07), xlim=(-0.1, len(names) + 0.4), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _draw_legend(axes: Any, shown: Sequence[Trial]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=BEST_COLOUR, linewidth=3.5, label="best")]
    if any(trial.baseline for trial in shown):
        handles.append(Line2D([], [], color="black", label="the config as it stood"))
    if any(trial.state == "stopped" for trial in shown):
        handles.append(Line2D([], [], color="0.5", linestyle="--", label="stopped early"))
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False
    )
