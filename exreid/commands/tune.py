"""`exreid tune`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rich.table import Table

from exreid.commands.common import Command, config_arguments, data_overrides, show_result
from exreid.commands.terminal import OUT, progress_shown
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

    keys = list(sweep.best.values)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("trial", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in (f"held out:\n{sweep.metric}", "epochs"):
        table.add_column(name, justify="right")
    for key in keys:
        leaf = key.rsplit(".", 1)[-1]
        alone = sum(other.rsplit(".", 1)[-1] == leaf for other in keys) == 1
        heading = (leaf if alone else key.replace(".", ".\n")).replace("_", "_\n")
        table.add_column(heading, justify="right")
    for trial in ranked(sweep.trials):
        score = "" if trial.score is None else f"{100 * trial.score:.2f} %"
        notes = [trial.state] * (trial.state != "completed") + ["baseline"] * trial.baseline
        epochs = str(max(trial.scores)) if trial.scores else ""
        values = [_shown(trial.values[key]) for key in keys]
        table.add_row(trial.name, " ".join(notes), score, epochs, *values)
    OUT.print(table)
    for trial in sweep.trials:
        if trial.error is not None:
            OUT.print(f"Trial {trial.name} failed: {trial.error}", markup=False, soft_wrap=True)


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
    OUT.print(f"Written to {sweep.folder}; the best config again:", markup=False, soft_wrap=True)
    best = sweep.folder / "best.yaml"
    OUT.print(f"  exreid {command} --config {best}", markup=False, soft_wrap=True)


TUNE = Command("Search a config's values by many trainings or probes.", _tune_arguments, _tune)
