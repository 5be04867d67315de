"""Finished probes side by side, as tables and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from exreid.errors import ConfigError
from exreid.explain.comparison_plots import draw_budget, draw_cumulative, draw_groups
from exreid.report.breakdown import cumulative_match
from exreid.report.side_by_side import (
    Comparison,
    budget_points,
    compare,
    flips,
    top_1_by_groups,
    top_1_by_identity,
)
from exreid.storage import mirror
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text

RUNS_FILE = "runs.json"
"""In the folder of a comparison: the folder of each run, by name."""


def run_compare(
    folders: Sequence[Path],
    out: Path,
    *,
    groups: Sequence[str] = (),
    names: Sequence[str | None] = (),
    overwrite: bool = False,
) -> Comparison:
    """Compare runs with the first of them, and write what came out.

    A comparison of other runs that is in ``out`` already is replaced with ``overwrite`` alone;
    ConfigError otherwise. ``out`` gets runs.json, comparison.json, comparison.csv, identities.csv,
    groups.csv, flips.csv and the plots. ``groups``: columns of the metadata to group queries by.
    RunError where a folder is no completed probe, or the runs are not on one split.
    """
    comparison = compare(folders, names=names)
    runs = comparison.runs
    of_names = {run.name: str(folder.resolve()) for run, folder in zip(runs, folders, strict=True)}
    if not overwrite and (out / "comparison.json").exists() and _runs_in(out) != of_names:
        raise ConfigError(
            f"--out: {mirror.shown(out)} has a comparison of other runs. Name another folder, or "
            "give --overwrite."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RUNS_FILE, json.dumps(of_names, indent=1) + "\n")
    rows = [asdict(row) for row in comparison.changes.values()]
    write_text(out / "comparison.json", json.dumps(rows, indent=1) + "\n")
    _write_csv(out / "comparison.csv", pd.DataFrame(rows))
    _write_csv(out / "identities.csv", top_1_by_identity(runs))
    _write_csv(out / "flips.csv", pd.DataFrame(flips(runs)))
    grouped = top_1_by_groups(runs, groups)
    _write_csv(out / "groups.csv", pd.DataFrame(grouped))
    curves = [cumulative_match(run.name, run.first_rank_Q, runs[0].identity_Q) for run in runs]
    draw_cumulative(out / "cmc.png", curves)
    for group in dict.fromkeys(row.group for row in grouped):
        name = "".join(c if c.isalnum() else "_" for c in group)
        draw_groups(out / f"groups_{name}.png", [row for row in grouped if row.group == group])
    points = budget_points(runs)
    if len({point.pairs for point in points if point.pairs}) > 1:
        draw_budget(out / "budget.png", points)
    mirror.publish_folder(out)
    return comparison


def _runs_in(out: Path) -> object:
    """The runs of the comparison that is in a folder; None where it does not say."""
    try:
        return json.loads((out / RUNS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_csv(file: Path, frame: pd.DataFrame) -> None:
    write_text(file, csv_text(frame) if len(frame) else "")
