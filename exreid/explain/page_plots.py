"""The plots of the report's pages: SVG that takes colours and letters from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from exreid.explain.comparison_plots import Curve, GroupTop1
from exreid.explain.plots import (
    COLOURS,
    MARKERS,
    colour_of,
    draw_reliability_bars,
    draw_reliability_lines,
)
from exreid.metrics.reliability import Reliability
from exreid.progress import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

INK, GRID = "#010203", "#040506"
"""Placeholders of the page's own colours."""
LINES = ("-", "--", "-.", ":")
STYLE: dict[RcKeyType, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def drawn(
    name: str, draw: Callable[[Axes], None], *, width: float = 6.4, height: float = 4.0, text: str
) -> str:
    """The SVG of what ``draw`` puts on the axes; ``text`` is its alternative in words."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        stream = io.StringIO()
        with warnings.catch_warnings():
            # The page's own fonts draw the letters; matplotlib's only measure them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(stream.getvalue(), name, text)


def curves(
    name: str,
    lines: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    text: str,
    x_limits: tuple[float, float] | None = None,
) -> str:
    """Shares (0 to 1) against something, a line each, with bands."""

    def draw(axes: Axes) -> None:
        for number, curve in enumerate(lines):
            colour, style = colour_of(number), LINES[number % len(LINES)]
            if curve.low is not None and curve.high is not None:
                band = 100 * curve.low, 100 * curve.high
                axes.fill_between(curve.x, *band, color=colour, alpha=0.14, linewidth=0)
            (line,) = axes.plot(curve.x, 100 * curve.y, color=colour, linestyle=style, linewidth=2)
            line.set_label(_plain(curve.label))
        axes.set(ylim=(0, 102), xlabel=x_label, ylabel=y_label)
        if x_limits:
            axes.set_xlim(*x_limits)
        axes.locator_params(axis="x", integer=True)
        if len(lines) > 1:
            axes.legend(loc="lower right")

    return drawn(name, draw, text=text)


def reliability_bars(name: str, diagram: Reliability, count_B: np.ndarray, *, text: str) -> str:
    """Stated probability against the share that is right: a bar for each bin of probabilities,
    a line across it where it should end, and ``count_B``, how many are in it."""
    return drawn(name, partial(draw_reliability_bars, diagram, count_B), text=text)


def reliability_lines(name: str, diagrams: Mapping[str, Reliability], *, text: str) -> str:
    """The same on logarithmic scales, a line for each; the diagonal is perfect."""
    draw = partial(draw_reliability_lines, diagrams, ink=INK)
    return drawn(name, draw, width=4.8, height=4.6, text=text)


def histograms(
    name: str, groups: Mapping[str, np.ndarray], *, x_label: str, text: str, bins: int = 24
) -> str:
    """How often each score occurs in each group, as shares of the group."""

    def draw(axes: Axes) -> None:
        every = np.concatenate(list(groups.values()))
        low, high = float(every.min()), float(every.max())
        edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
        for number, (label, values) in enumerate(groups.items()):
            share, _ = np.histogram(values, edges)
            height = np.r_[0.0, 100 * share / max(len(values), 1), 0.0]
            colour = colour_of(number)
            place = np.r_[edges[0], edges]
            axes.fill_between(place, height, step="post", color=colour, alpha=0.18, linewidth=0)
            axes.step(
                place,
                height,
                where="post",
                color=colour,
                linewidth=1.8,
                linestyle=LINES[number % len(LINES)],
                label=f"{label} ({len(values):,})",
            )
        axes.set(xlabel=x_label, ylabel="share of the group, %")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(groups))

    return drawn(name, draw, text=text)


def groups_plot(name: str, rows: Sequence[GroupTop1], *, text: str) -> str:
    """Top-1 of each run in each group, with intervals: a row per group, a dot per run."""
    names = list(dict.fromkeys(row.name for row in rows))
    runs = list(dict.fromkeys(row.run for row in rows))

    def draw(axes: Axes) -> None:
        for number, run in enumerate(runs):
            shift = (number - (len(runs) - 1) / 2) * 0.22
            part = [row for row in rows if row.run == run]
            y = np.array([names.index(row.name) + shift for row in part])
            x = np.array([100 * row.top_1 for row in part])
            colour = colour_of(number)
            for place, row in zip(y, part, strict=True):
                if row.low is not None and row.high is not None:
                    ends = [100 * row.low, 100 * row.high]
                    axes.plot(ends, [place, place], color=colour, linewidth=5, alpha=0.25)
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(x, y, marker, color=colour, markersize=7, label=_plain(run))
        counts = {row.name: (row.queries, row.identities) for row in rows}
        labels = [
            f"{_short(group)}\n{counted(counts[group][0], 'photograph')}, "
            f"{counted(counts[group][1], 'animal')}"
            for group in names
        ]
        axes.set_yticks(range(len(names)), labels)
        axes.set(xlim=(0, 100), xlabel="first answer right, %", ylim=(len(names) - 0.5, -0.5))
        axes.grid(visible=False, axis="y")
        if len(runs) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)

    return drawn(name, draw, height=1.3 + 0.52 * len(names) + 0.3 * (len(runs) > 1), text=text)


def _short(label: str, most: int = 28) -> str:
    one_line = " ".join(label.split()) or "(empty)"
    return one_line if len(one_line) <= most else f"{one_line[: most - 1]}…"


def _plain(label: str) -> str:
    """A label that begins with an underscore is left out of a legend by matplotlib."""
    text = _short(label, 40)
    return f" {text}" if text.startswith("_") else text


def _for_page(svg: str, name: str, text: str) -> str:
    """The SVG alone, with unique ids, the page's colours, and its text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px[^;\"]*", r"font-size: \1px", svg)
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--line)")
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--c{number + 1})")
    label = text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    svg = re.sub(r"<svg ([^>]*)>", rf'<svg role="img" aria-label="{label}" \1>', svg, count=1)
    for size in ("height", "width"):
        svg = re.sub(rf'(<svg [^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    return svg
