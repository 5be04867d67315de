"""`exreid tune`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from exreid.commands.common import Command, config_arguments, data_overrides, show_result
from exreid.commands.terminal import OUT, progress_shown, show_in_parts
from exreid.config.sweep import SweepConfig, load_sweep

if TYPE_CHECKING:
    from exreid.runs.tune import Sweep


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser, SweepConfig)
    parser.set_defaults(load=load_sweep)


def _tune(options: argparse.Namespace) -> int:
    config = load_sweep(options.config, data_overrides(options.overrides))
    from exreid.runs.tune import run_tune

    with progress_shown() as progress:
        sweep = run_tune(config, progress=progress, verbose=options.verbose)
    _show_trials(sweep)
    show_result(sweep.result)
    _show_files(sweep, config.tune.run, test=config.tune.test)
    return 0


def _show_trials(sweep: Sweep) -> None:
    from exreid.report.sweep import ranked

    trials, keys = ranked(sweep.trials), list(sweep.best.values)
    columns: dict[str, list[str]] = {
        f"held out:\n{sweep.metric}": [
            "" if trial.score is None else f"{100 * trial.score:.2f} %" for trial in trials
        ],
        "epochs": [str(max(trial.scores)) if trial.scores else "" for trial in trials],
    }
    for key in keys:
        leaf = key.rsplit(".", 1)[-1]
        alone = sum(other.rsplit(".", 1)[-1] == leaf for other in keys) == 1
        heading = (leaf if alone else key.replace(".", ".\n")).replace("_", "_\n")
        columns[heading] = [_shown(trial.values[key]) for trial in trials]

    def part(headings: Sequence[str]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("trial", no_wrap=True)
        table.add_column("", no_wrap=True)
        for heading in headings:
            table.add_column(heading, justify="right")
        for i, trial in enumerate(trials):
            notes = [trial.state] * (trial.state != "completed") + ["baseline"] * trial.baseline
            cells = [columns[heading][i] for heading in headings]
            table.add_row(trial.name, " ".join(notes), *cells)
        return table

    show_in_parts(list(columns), part)
    for trial in sweep.trials:
        if trial.error is not None:
            failed = f"Trial {trial.name} failed: {trial.error}"
            OUT.print(failed, markup=False, soft_wrap=not OUT.is_terminal)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def _show_files(sweep: Sweep, command: str, *, test: bool) -> None:
    if test:
        OUT.print(
            f"The test split was looked at once, for trial {sweep.best.name}, after the sweep; "
            "all trials were chosen by held-out images of the training split."
        )
    OUT.print(f"Written to {sweep.folder}", markup=False, soft_wrap=True)
    OUT.print("The best config again:")
    best = sweep.folder / "best.yaml"
    OUT.print(f"  exreid {command} --config {best}", markup=False, soft_wrap=True)


TUNE = Command("Search a config's values by many trainings or probes.", _tune_arguments, _tune)
