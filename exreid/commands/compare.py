"""`exreid compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from exreid.commands.common import Command, plain_arguments
from exreid.commands.terminal import ERR, OUT, show_in_parts
from exreid.errors import ConfigError
from exreid.storage import mirror

if TYPE_CHECKING:
    from exreid.report.method_table import MethodTable
    from exreid.report.side_by_side import Comparison, MetricChange


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    add = parser.add_argument
    add("runs", nargs="+", metavar="[NAME=]RUN", help="folders of probes, or their URLs; the "
        "first is what the others are compared with")  # fmt: skip
    add("--out", default="comparison", help="folder or URL to write to (default: comparison)")
    add("--overwrite", action="store_true", help="replace a comparison of other runs there")
    add("--group", action="append", default=[], help="a column of the metadata to group by")
    add("--format", choices=("table", "markdown", "latex", "csv"), default="table",
        help="of the table that is printed (default: table)")  # fmt: skip
    add("--metric", action="append", default=[], help="a metric of the table; may be repeated")
    add("--json", action="store_true", help="print every metric, change and p as JSON")


def _show(comparison: Comparison, table: MethodTable) -> None:
    """Print a row for each method, the best of each metric in bold; then the changes against the
    first."""
    from exreid.report.method_table import BOLD, cell_text

    def part(metrics: Sequence[str]) -> Table:
        shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        shown.add_column("method", overflow="fold")
        for metric in metrics:
            shown.add_column(metric.replace("_", " "), justify="right", no_wrap=True)
        for run in table.runs:
            cells = [cell_text(table, run, metric) for metric in metrics]
            texts = [  # the interval below the value, so that the table fits a terminal
                Text(text.replace(" [", "\n["), style="bold" if best else "")
                for text, best in cells
            ]
            shown.add_row(run, *texts)
        return shown

    show_in_parts(table.metrics, part)
    OUT.print(f"In percent, with 95% intervals. {BOLD}", markup=False)
    base = table.runs[0]
    lines = [
        _change_text(change, base)
        for run in table.runs[1:]
        if (change := comparison.changes.get((table.metrics[0], run))) is not None
        and change.difference is not None
    ]
    if lines:
        lines.append(f"p: sign-flip test over animals, adjusted (Holm) for {len(lines)}.")
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)


def _change_text(change: MetricChange, base: str) -> str:
    """The change of one metric against the first run, in percentage points."""
    assert change.difference is not None
    text = f"{change.run}: {change.metric} {100 * change.difference:+.1f} points against {base}"
    if change.difference_low is not None and change.difference_high is not None:
        text += f" [{100 * change.difference_low:+.1f}, {100 * change.difference_high:+.1f}]"
    return text if change.p_holm is None else f"{text}, p = {change.p_holm:.2g}"


def _named_runs(words: list[str]) -> tuple[list[str | None], list[Path]]:
    """The runs' names, None where none is given, and their folders."""
    names: list[str | None] = []
    folders = []
    for word in words:
        name, equals, rest = word.partition("=")
        if not equals or "/" in name or Path(word).exists():
            name, rest = "", word
        names.append(name or None)
        folders.append(mirror.local_folder(rest))
    return names, folders


def _compare(options: argparse.Namespace) -> int:
    from exreid.report.method_table import FORMATS, method_table
    from exreid.runs.compare import run_compare

    if len(options.runs) < 2:
        raise ConfigError("a comparison needs two runs at least: exreid compare RUN RUN ...")
    names, folders = _named_runs(options.runs)
    out = mirror.local_root(options.out, key="--out")
    comparison = run_compare(
        folders, out, groups=options.group, names=names, overwrite=options.overwrite
    )
    table = method_table(comparison, options.metric)
    if options.json:
        text = (out / "comparison.json").read_text(encoding="utf-8")
        OUT.print(text, end="", markup=False, soft_wrap=True)
        return 0
    if options.format != "table":
        OUT.print(FORMATS[options.format](table), end="", markup=False, soft_wrap=True)
        ERR.print(f"Written to {mirror.shown(out)}", markup=False, soft_wrap=True)
        return 0
    _show(comparison, table)
    OUT.print(f"Written to {mirror.shown(out)}", markup=False, soft_wrap=True)
    return 0


COMPARE = Command("Lay finished probes side by side.", _compare_arguments, _compare)
