"""`exreid population`: from answers to the population."""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT
from exreid.errors import ConfigError
from exreid.progress import counted

if TYPE_CHECKING:
    from exreid.metrics.uncertainty import Estimate
    from exreid.runs.population import Population


def _arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    add = parser.add_argument
    add("what", metavar="RUN|GALLERY", help="a discovery, an identification, a probe that decides "
        "(its folder or id), or a gallery's folder")  # fmt: skip
    add("--out", type=path, help="folder to write to (default: population in the run's folder)")
    add("--root", type=os.path.expanduser, help="folder of the photographs, where they have moved")
    add("--site", metavar="COLUMN", help="column of the metadata with the place")
    add("--deployments", type=os.path.expanduser, metavar="PACKAGE", help="a Camtrap DP, or its "
        "deployments.csv: when each camera was up, and where")  # fmt: skip
    add("--occasion-days", type=int, default=1, metavar="N",
        help="days of one occasion in secr's files (default 1)")  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of the table")


def _population(options: argparse.Namespace) -> int:
    if options.occasion_days < 1:
        raise ConfigError("--occasion-days: 1 or more.")
    from exreid.runs.population import run_population

    made = run_population(
        options.what,
        options.out,
        root=options.root,
        site=options.site,
        deployments=options.deployments,
        occasion_days=options.occasion_days,
    )
    if options.json:
        OUT.print(json.dumps(made.as_json(), indent=1), markup=False, soft_wrap=True)
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(justify="left", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in _rows(made):
        table.add_row(*map(Text, row))
    OUT.print(table)
    for line in [*made.basis.words, *made.notes]:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)
    if made.secr is not None:
        OUT.print(f"In R: {_read_by_secr(made)}", markup=False, soft_wrap=True)
    OUT.print(f"Written to {made.out}", markup=False, soft_wrap=True)
    return 0


def _rows(made: Population) -> list[tuple[str, str, str]]:
    low_high = made.basis.interval
    flanks, rates = made.flanks, made.basis.rates
    between = "" if low_high is None else f"{low_high[0]:.0f} to {low_high[1]:.0f}"
    if made.number is None:
        rows = [("animals", between, f"95% interval; {counted(len(made.names), 'group')}")]
    else:
        number = f"{made.number:.1f}".removesuffix(".0")
        rows = [("animals", number, between and f"95% interval {between}")]
    if flanks.left or flanks.right:
        alone = f"{flanks.left} known by the left flank alone, {flanks.right} by the right"
        rows.append(("by flanks", f"{flanks.low} to {flanks.high}", alone))
    if rates is not None:
        rows.append(("false negatives", *_share(rates.missed)))
        rows.append(("false positives", *_share(rates.wrong)))
        if rates.bias is not None:
            value, interval = _share(rates.bias, sign="+")
            rows.append(("bias of abundance", value, f"{interval}, between two visits"))
    sites = counted(len(made.sites), "site") if made.sites else "no known site"
    photographs = sum(capture.photographs for capture in made.captures)
    of = f"of {counted(len(made.names), 'animal')} at {sites}; {counted(photographs, 'photograph')}"
    return [*rows, ("captures", f"{len(made.captures):,}", of)]


def _share(estimate: Estimate, sign: str = "") -> tuple[str, str]:
    """A share and its interval in percent."""
    value, low, high = (
        f"{100 * number:{sign}.0f}%" if math.isfinite(number) else "any"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return value, f"95% interval {low} to {high}"


def _read_by_secr(made: Population) -> str:
    from exreid.runs.population import SECR_CAPTURES, SECR_TRAPS

    assert made.secr is not None
    files = f'"{SECR_CAPTURES}", "{SECR_TRAPS}"'
    more = "binary.usage = FALSE" if made.secr.effort else f"noccasions = {made.secr.occasions}"
    return f'secr::read.capthist({files}, detector = "count", {more})'


POPULATION = Command("Animals, captures and histories of answers.", _arguments, _population)
