"""The plots that runs write as PNG files, and the parts that all plots share.

Their twins in the report's pages are in `exreid.explain.page_plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exreid.metrics.reliability import Reliability
from exreid.storage.files import written_whole
from exreid.training.history import HIGH, LOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a6a6a")
"""Told apart by colour-blind readers too (Okabe & Ito 2008)."""
MARKERS = "osD^vPX"
CURVE_FILE = "learning_curve.png"
SHOWN_FROM = 1e-3
RIGHT_SHARE = "turned out right, %"
SHOWN_METRICS = {
    "val_top_1": "top-1",
    "val_top_5": "top-5",
    "val_mAP": "mAP",
    "val_mAP_at_k": "mAP of the shortlist",
}


@dataclass(frozen=True)
class DiscoveryCurve:
    """How many animals were found by how many captures."""

    animals_C: np.ndarray
    """After each dated capture, in the order of their times."""
    moment_C: np.ndarray
    """datetime64[s]: of each of these captures."""
    mean_C: np.ndarray
    """After each capture, dated or not, the mean over all orders."""


@contextmanager
def png_figure(file: Path, width: float, height: float, *, dpi: int) -> Iterator[Figure]:
    """A figure of this size in inches, written at the end of the block under a temporary name, then
    renamed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with written_whole(file, ending=".png") as temporary:
        figure.savefig(temporary, dpi=dpi)


@contextmanager
def png_axes(file: Path, width: float, height: float, *, dpi: int) -> Iterator[Axes]:
    """As `png_figure`: its one plot, with a grid."""
    with png_figure(file, width, height, dpi=dpi) as figure:
        axes = figure.add_subplot()
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        yield axes


def colour_of(number: int) -> str:
    """The colour of the plot's line of that number, from 0."""
    return COLOURS[number % len(COLOURS)]


def literal(text: str) -> str:
    """A user's text as matplotlib shows it: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def wrapped_title(text: str, most: int) -> str:
    """A title in short lines: a longer line would be cut at the edges."""
    return "\n".join(textwrap.wrap(text, most, break_on_hyphens=True)) or text


def draw_learning_curve(
    file: Path, rows: Sequence[Mapping[str, float]], *, best_epoch: int | None, title: str
) -> None:
    """Loss and learning rate on the left, validation metrics with their 95% bands on the right."""
    with png_figure(file, 10, 4, dpi=120) as figure:
        figure.suptitle(wrapped_title(literal(title), 100))
        left, right = figure.subplots(1, 2)
        _draw_loss(left, [row for row in rows if "loss" in row])
        _draw_validation(right, [row for row in rows if "val_top_1" in row], best_epoch)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", integer=True)
            axes.grid(alpha=0.3)


def _draw_loss(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    epochs, rates = [row["epoch"] for row in rows], [row["learning_rate"] for row in rows]
    losses = [row["loss"] for row in rows]
    (loss,) = axes.plot(epochs, losses, "o-", ms=3, color=COLOURS[0], label="loss")
    axes.set_ylabel("training loss")
    axes.set_ylim(bottom=0)
    rate_axes = axes.twinx()
    (rate,) = rate_axes.plot(epochs, rates, ":", color=COLOURS[6], label="learning rate")
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_ylim(bottom=0)
    axes.legend(handles=[loss, rate], loc="upper right")


def _draw_validation(
    axes: Axes, rows: Sequence[Mapping[str, float]], best_epoch: int | None
) -> None:
    epochs = [row["epoch"] for row in rows]
    for number, (name, label) in enumerate(SHOWN_METRICS.items()):
        if not all(name in row for row in rows):
            continue  # of a shortlist there is no mAP, of whole rankings no other
        value, colour = [100 * row[name] for row in rows], colour_of(number)
        axes.plot(epochs, value, "o-", ms=3, color=colour, label=label)
        if all(name + LOW in row for row in rows):
            low, high = ([100 * row[name + end] for row in rows] for end in (LOW, HIGH))
            axes.fill_between(epochs, low, high, color=colour, alpha=0.12, lw=0)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=COLOURS[6], ls="--", lw=1, label="best epoch")
    axes.set_ylabel("held-out images, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="best")


def draw_reliability(file: Path, bars: Reliability, diagrams: Mapping[str, Reliability]) -> None:
    """``reliability.png``: stated probability against the share that is right, of all methods
    together as bars, of each on logarithmic scales as a line."""
    with png_figure(file, 10, 5, dpi=130) as figure:
        figure.suptitle(
            "Are pairs the same animal as often as stated? (database pairs that were not fitted on)"
        )
        left, right = figure.subplots(1, 2)
        draw_reliability_bars(bars, None, left)
        draw_reliability_lines(diagrams, right, ink="0.3")
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)


def draw_reliability_bars(bars: Reliability, count_B: np.ndarray | None, axes: Axes) -> None:
    """A bar for each bin of stated probabilities, as high as the share that turned out right, with
    a line where it should end, and over it ``count_B``, how many are in the bin."""
    low_B, width_B = 100 * bars.edge_B1[:-1], 100 * np.diff(bars.edge_B1)
    full_B = bars.weight_B > 0
    place = low_B[full_B] + width_B[full_B] / 2
    axes.bar(
        place,
        100 * bars.observed_B[full_B],
        0.86 * width_B[full_B],
        color=COLOURS[0],
        alpha=0.75,
        label="turned out right",
    )
    axes.hlines(
        100 * bars.stated_B[full_B],
        place - 0.46 * width_B[full_B],
        place + 0.46 * width_B[full_B],
        colors=COLOURS[1],
        linewidth=3,
        label="as stated",
    )
    if count_B is not None:
        top_B = 100 * np.maximum(bars.observed_B, bars.stated_B)
        for x, y, n in zip(place, top_B[full_B], count_B[full_B].tolist(), strict=True):
            axes.text(x, y + 2, f"{n:,}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(100 * bars.edge_B1)
    axes.set(xlim=(0, 100), ylim=(0, 110), xlabel="stated probability, %", ylabel=RIGHT_SHARE)
    axes.legend(frameon=False, loc="upper left")


def draw_reliability_lines(diagrams: Mapping[str, Reliability], axes: Axes, *, ink: str) -> None:
    """A line for each, with a dot for about a tenth of the pairs, on logarithmic scales; what is
    below a thousandth is at the edge."""
    low = 100 * SHOWN_FROM
    axes.plot([low, 100], [low, 100], color=ink, alpha=0.6, linewidth=1, linestyle="--")
    for number, (name, diagram) in enumerate(diagrams.items()):
        full_B = diagram.weight_B > 0
        points = [
            np.maximum(100 * value_B[full_B], low)
            for value_B in (diagram.stated_B, diagram.observed_B)
        ]
        axes.plot(
            *points,
            color=colour_of(number),
            marker=MARKERS[number % len(MARKERS)],
            markersize=6,
            linewidth=1.6,
            label=literal(name),
            clip_on=False,
        )
    axes.set(xscale="log", yscale="log", xlim=(low, 100), ylim=(low, 100))
    ticks = [0.1, 1, 10, 100]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="stated probability, %", ylabel=RIGHT_SHARE)
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")


def draw_open_set(file: Path, false_match: np.ndarray, identified: np.ndarray) -> None:
    """``open_set.png``: known animals found and named against new ones that pass for known."""
    with png_axes(file, 5.5, 4.5, dpi=150) as axes:
        x, y = 100 * false_match, 100 * identified
        axes.step(x, y, where="post", linewidth=1.8, color=COLOURS[0])
        axes.set(
            xlim=(-2, 102),
            ylim=(0, 102),
            xlabel="new animals that pass for known ones, %",
            ylabel="known animals recognised and named rightly, %",
            title="Known against new, at every threshold",
        )


def draw_discovery(file: Path, curve: DiscoveryCurve) -> None:
    """``discovery_curve.png``: animals found so far, by captures and by time."""
    with png_figure(file, 10, 4, dpi=140) as figure:
        figure.suptitle("Animals found so far")
        timed = len(curve.animals_C) > 0
        panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
        whole = np.arange(1, len(curve.mean_C) + 1)
        panels[0].plot(whole, curve.mean_C, "--", color=COLOURS[6], label="mean over all orders")
        panels[0].set(xlabel="captures", ylabel="animals")
        if timed:
            place = np.arange(1, len(curve.animals_C) + 1)
            panels[0].plot(
                place,
                curve.animals_C,
                color=COLOURS[0],
                linewidth=1.8,
                label="in the order of time",
            )
            panels[1].step(
                curve.moment_C, curve.animals_C, where="post", color=COLOURS[0], linewidth=1.8
            )
            panels[1].set(xlabel="time")
            panels[1].tick_params(axis="x", rotation=25)
        panels[0].legend(frameon=False, loc="lower right")
        for axes in panels:
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)
