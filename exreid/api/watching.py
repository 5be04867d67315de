"""Runs in a notebook: a line for each stage while they run, and their results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any, Protocol

from exreid.progress import Progress, duration, no_progress
from exreid.records import Result

EVERY_S = 0.5
SHOWN = ("top_1", "mAP", "mAP_at_k", "BAKS", "BAUS")


class _Line(Protocol):
    def update(self, content: dict[str, str], *, raw: bool) -> None:
        """Show this instead of the line's current content."""


def in_notebook() -> bool:
    """Whether this process runs in a notebook."""
    shell: Any = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


def progress_here() -> Progress:
    """In a notebook, a line for each stage that is rewritten in place; nothing elsewhere."""
    return notebook_progress if in_notebook() else no_progress


def notebook_progress(stage: str, total: int) -> Callable[[int], object]:
    """As `exreid.progress.Progress`; the notebook has one line for each stage."""
    from IPython.display import display

    done, start, shown = 0, time.monotonic(), 0.0
    line: _Line | None = None

    def count(more: int) -> None:
        nonlocal done, shown, line
        done += more
        now = time.monotonic()
        if done < total and now - shown < EVERY_S:
            return
        shown = now
        content = {"text/plain": f"{stage}: {done:,} of {total:,}, {duration(now - start)}"}
        if line is None:
            line = display(content, raw=True, display_id=True)
        else:
            line.update(content, raw=True)

    return count


def result_text(kind: str, result: Result) -> str:
    """A result in a line: its method and first metrics.

    >>> result_text("Probe", Result("cosine", {"top_1": 0.5, "mAP": 0.25}, {}, {}))
    'Probe(cosine: top_1 50.0%, mAP 25.0%)'
    """
    shown = [
        f"{name} {100 * result.metrics[name]:.1f}%" for name in SHOWN if name in result.metrics
    ]
    return f"{kind}({result.method}: {', '.join(shown)})"


def result_html(result: Result) -> str:
    """A result as a small table: each metric and its 95% interval in per cent."""
    rows = []
    for name, value in result.metrics.items():
        base = name.removesuffix("_with_positive")
        if base != name and result.metrics.get(base) == value:
            continue  # every query has a positive: both are the same
        low, high = result.intervals.get(name, (None, None))
        interval = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
        cells = (escape(name), f"{100 * value:.1f}%", interval)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>metric</th><th>value</th><th>95% interval</th></tr>"
    caption = f"<caption>{escape(result.method)}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
