"""Published figures of a public data set, and the probes of exreid that they are laid beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from exreid.api.settings import overrides_of
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.public import PublishedFigures, public_names, public_set
from exreid.errors import ConfigError
from exreid.runs.probe import run_probe


@dataclass(frozen=True)
class Row:
    """A published figure, and ours on the same split; fractions."""

    method: str
    metric: str
    published: float
    ours: float
    interval: tuple[float, float] | None

    @property
    def place(self) -> str:
        """Where the published figure lies by our interval."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return "below" if self.published < low else "above" if self.published > high else "inside"


def anchors(
    preset: str, root: str, out: str, *, methods: Sequence[str] = (), overrides: Sequence[str] = ()
) -> list[Row]:
    """Probe by each published method that exreid has; ``methods``: only these benchmark.method.

    ConfigError if no such figure of the set is known.
    """
    wanted = [line for line in public_set(preset).published if line.keys is not None]
    words = [f"dataset.preset={preset}", f"dataset.root={root}", f"output.root={out}"]
    configs = [
        load_config(ProbeConfig, None, [*words, *overrides_of(line.keys), *overrides])
        for line in wanted
    ]
    rows = []
    for line, config in zip(wanted, configs, strict=True):
        if methods and config.benchmark.method not in methods:
            continue
        _, result = run_probe(config)
        for metric, published in line.metrics.items():
            ours, interval = result.metrics[metric], result.intervals.get(metric)
            rows.append(Row(line.method, metric, published, ours, interval and (*interval,)))
    if not rows:
        known = [
            name
            for name in public_names()
            if any(line.keys is not None for line in public_set(name).published)
        ]
        raise ConfigError(
            f"{preset}: no published figure of it is known for a method of exreid"
            f"{f' among {list(methods)}' if methods else ''}. There are some for "
            f"{', '.join(known)}."
        )
    return rows


def show(
    rows: Sequence[Row], published: Sequence[PublishedFigures], *, changed: Sequence[str]
) -> None:
    """The table, what differs, the figures without a run, and the sources."""
    console = Console()
    for method in dict.fromkeys(row.method for row in rows):
        table = Table(title=method, title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("metric")
        for name in ("published", "exreid", "95% interval"):
            table.add_column(name, justify="right")
        table.add_column("published is")
        for row in rows:
            ends = "" if row.interval is None else f"{_percent(row.interval)} %"
            cells = (f"{_percent([row.published])} %", f"{_percent([row.ours])} %", ends)
            if row.method == method:
                table.add_row(row.metric, *cells, row.place)
        console.print(table)
        console.print()
    run = {row.method for row in rows}
    lines = [
        f"{one.method}: {one.differs}" for one in published if one.method in run and one.differs
    ]
    for one in published:
        if one.method not in run:
            figures = ", ".join(f"{name} {100 * x:.1f} %" for name, x in one.metrics.items())
            lines.append(f"Published, not run here: {one.method}: {figures}.")
    lines += [f"Source: {source}." for source in dict.fromkeys(one.source for one in published)]
    if changed:
        lines.append(f"Not as published: {' '.join(changed)}.")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _percent(fractions: Sequence[float]) -> str:
    return " to ".join(f"{100 * fraction:.1f}" for fraction in fractions)
