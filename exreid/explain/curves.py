"""Pictures of a run: the learning curve of a training, the reliability of probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from exreid.metrics.reliability import Reliability
from exreid.storage.files import temporary_beside
from exreid.training.history import HIGH, LOW

CURVE_FILE = "learning_curve.png"
SHOWN_FROM = 1e-3
SHOWN = {"val_top_1": "top-1", "val_top_5": "top-5", "val_mAP": "mAP"}


def draw_learning_curve(
    file: Path, rows: Sequence[dict[str, Any]], *, best_epoch: int | None, title: str
) -> None:
    """Loss and learning rate on the left, validation metrics with their 95% bands on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _draw_loss(left, rows)
    _draw_validation(right, rows, best_epoch)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    temporary = temporary_beside(file, ending=".png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(file)


def _draw_loss(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    trained = [row for row in rows if "loss" in row]
    epochs = [row["epoch"] for row in trained]
    (loss,) = axes.plot(epochs, [row["loss"] for row in trained], "o-", ms=3, label="loss")
    axes.set_ylabel("training loss")
    axes.set_ylim(bottom=0)
    rate_axes = axes.twinx()
    (rate,) = rate_axes.plot(
        epochs,
        [row["learning_rate"] for row in trained],
        ":",
        color="tab:gray",
        label="learning rate",
    )
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_ylim(bottom=0)
    axes.legend(handles=[loss, rate], loc="upper right")


def _draw_validation(axes: Any, rows: Sequence[dict[str, Any]], best_epoch: int | None) -> None:
    validated = [row for row in rows if "val_mAP" in row]
    epochs = [row["epoch"] for row in validated]
    for name, label in SHOWN.items():
        (line,) = axes.plot(epochs, [100 * row[name] for row in validated], "o-", ms=3, label=label)
        if all(name + LOW in row for row in validated):
            low, high = ([100 * row[name + end] for row in validated] for end in (LOW, HIGH))
            axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, lw=0)
    if best_epoch is not None:
        axes.axvline(best_epoch, color="tab:gray", ls="--", lw=1, label="best epoch")
    axes.set_ylabel("held-out images, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="best")


def draw_reliability(file: Path, diagrams: Mapping[str, Reliability]) -> None:
    """``reliability.png``: what was stated against what was there, a line per method,
    a dot for a tenth of the pairs. What is below a thousandth stands at the edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([SHOWN_FROM, 1], [SHOWN_FROM, 1], color="0.6", linewidth=1, linestyle="--")
    for (name, diagram), marker in zip(diagrams.items(), cycle("osD^v"), strict=False):
        full_B = diagram.weight_B > 0
        points = [
            np.maximum(value_B[full_B], SHOWN_FROM)
            for value_B in (diagram.stated_B, diagram.observed_B)
        ]
        axes.plot(*points, marker=marker, markersize=6, linewidth=1.5, label=name, clip_on=False)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(SHOWN_FROM, 1),
        ylim=(SHOWN_FROM, 1),
        xlabel="stated probability of the same animal",
        ylabel="share that shows the same animal",
        title="Reliability on held-out database pairs",
    )
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    temporary = temporary_beside(file, ending=".png")
    figure.savefig(temporary, dpi=150)
    temporary.replace(file)


def draw_open_set(file: Path, false_match: np.ndarray, identified: np.ndarray) -> None:
    """``open_set.png``: known animals found and named against new ones that pass for known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.step(false_match, identified, where="post", linewidth=1.8, color="#0072b2")
    axes.set(
        xlim=(-0.02, 1.02),
        ylim=(0, 1.02),
        xlabel="new animals that pass for known (false-match rate)",
        ylabel="known animals accepted and named rightly",
        title="Open set: every bar for the stated probability",
    )
    axes.grid(alpha=0.3)
    temporary = temporary_beside(file, ending=".png")
    figure.savefig(temporary, dpi=150)
    temporary.replace(file)
