"""The learning curve of a training as a picture."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exreid.training.history import HIGH, LOW

CURVE_FILE = "learning_curve.png"
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
    temporary = file.with_name(f".{uuid.uuid4().hex[:8]}.tmp.png")
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
