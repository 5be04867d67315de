"""`exreid compare`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.table import Table

from exreid.commands.common import Command, plain_arguments
from exreid.commands.terminal import OUT
from exreid.errors import ConfigError
from exreid.storage import mirror

if TYPE_CHECKING:
    from exreid.report.side_by_side import Comparison, MetricChange


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of probes, or their URLs")
    parser.add_argument("--out", default="comparison", help="folder or URL to write to")
    parser.add_argument("--group", action="append", default=[], help="a column of the metadata")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _show(comparison: Comparison) -> None:
    """A line per metric and run; runs are letters, so that the table fits a terminal."""
    letters = [chr(ord("A") + i) if i < 26 else str(i) for i in range(len(comparison.runs))]
    for letter, run in zip(letters, comparison.runs, strict=True):
        OUT.print(f"{letter}  {run.name}", markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("metric", "", "value", "95%", "change", "95%", "p"):
        left = heading in ("metric", "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for name in comparison.runs[0].values:
        if not any(name in run.metrics for run in comparison.runs):
            continue  # shortlists have no mAP over the whole gallery
        for number, run in enumerate(comparison.runs):
            change = comparison.changes.get((name, run.name))
            cells = [""] * 5 if change is None else _cells(change)
            table.add_row("" if number else name, letters[number], *cells)
    OUT.print(table)
    OUT.print(
        "In percent, with 95% intervals; changes against A. p: sign-flip test over animals, "
        f"adjusted (Holm) for {len(comparison.runs) - 1} comparisons.",
        markup=False,
        soft_wrap=True,
    )


def _cells(change: MetricChange) -> list[str]:
    """Value, interval, difference, its interval, adjusted p, in percent."""

    def percent(form: str, *values: float | None) -> str:
        return " ".join(format(100 * value, form) for value in values if value is not None)

    return [
        percent(".2f", change.value),
        percent(".1f", change.low, change.high),
        percent("+.2f", change.difference),
        percent("+.1f", change.difference_low, change.difference_high),
        "" if change.p_holm is None else f"{change.p_holm:.2g}",
    ]


def _compare(options: argparse.Namespace) -> int:
    from exreid.runs.compare import run_compare

    if len(options.runs) < 2:
        raise ConfigError("a comparison needs two runs at least: exreid compare RUN RUN ...")
    folders = [mirror.local_folder(run) for run in options.runs]
    out = mirror.local_root(options.out, key="--out")
    comparison = run_compare(folders, out, groups=options.group)
    if options.json:
        text = (out / "comparison.json").read_text(encoding="utf-8")
        OUT.print(text, end="", markup=False, soft_wrap=True)
        return 0
    _show(comparison)
    OUT.print(f"Written to {mirror.shown(out)}", markup=False, soft_wrap=True)
    return 0


COMPARE = Command("Lay finished probes side by side.", _compare_arguments, _compare)
