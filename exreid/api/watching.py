"""Progress of runs that are started from Python: one line a stage in a notebook, else none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from exreid.progress import Progress, duration, no_progress

EVERY_S = 0.5


class _Line(Protocol):
    def update(self, content: dict[str, str], *, raw: bool) -> None:
        """Show this in place of what the line shows."""


def progress_here() -> Progress:
    """In a notebook, a line for each stage that is rewritten in place; nothing elsewhere."""
    shell: Any = sys.modules.get("IPython")
    kernel = shell is not None and hasattr(shell.get_ipython(), "kernel")
    return notebook_progress if kernel else no_progress


def notebook_progress(stage: str, total: int) -> Callable[[int], object]:
    """As `exreid.progress.Progress`: however much is counted, the notebook keeps one line."""
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
