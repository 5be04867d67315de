"""One trial of a sweep: an ordinary training or probe in a folder below the sweep's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.config.sweep import ProbeValidationConfig
from exreid.config.training import FinetuneConfig
from exreid.data.holdout import cut_holdout
from exreid.errors import ConfigError
from exreid.records import ImageTable
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.storage import mirror
from exreid.storage.run_record import record_of
from exreid.training.history import HistoryRow, best_row, read_history

Ask = Callable[[int, float, bool], bool]
"""Told an epoch, the best score so far and whether it was the last, says whether to stop."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial that did not fail."""

    state: Literal["completed", "stopped"]
    score: float
    scores: dict[int, float] = field(default_factory=dict)
    """By epoch, the best so far."""


@dataclass(frozen=True)
class StopByMetric:
    """Asks after each validated epoch; can be sent to whoever trains."""

    metric: str
    epochs: int
    ask: Ask

    def __call__(self, history: list[HistoryRow]) -> bool:
        """Whether the training stops here."""
        last, best = history[-1], best_row(history, self.metric)
        if best is None or self.metric not in last.metrics:
            return False
        return self.ask(last.epoch, best.metrics[self.metric], last.epoch >= self.epochs)


@dataclass(frozen=True)
class TrainingTrial:
    """A training as a trial."""

    tree: dict[str, Any]
    """Of its config."""
    folder: Path
    """That its run's folder stands in."""
    verbose: bool = False

    def __call__(self, ask: Ask) -> Outcome:
        """Train, or go on; a trial that has ended already is only read."""
        config = from_values(FinetuneConfig, self.tree, source="a trial of the sweep")
        run = self.folder / str(config.output.run_id)
        metric = config.output.best_metric
        mirror.fetch_folder(run)
        written = record_of(run)
        if written is None or written.status not in ("completed", "stopped"):
            stop_early = StopByMetric(metric, config.train.epochs, ask)
            run_finetune(config, verbose=self.verbose, parent=self.folder, stop_early=stop_early)
        history = read_history(run)
        scores = {}
        for count, row in enumerate(history):
            best = best_row(history[: count + 1], metric)
            if best is not None and metric in row.metrics:
                scores[row.epoch] = best.metrics[metric]
        written = record_of(run)
        stopped = written is not None and written.status == "stopped"
        return Outcome("stopped" if stopped else "completed", max(scores.values()), scores)


@dataclass(frozen=True)
class ProbeTrial:
    """A probe as a trial."""

    tree: dict[str, Any]
    folder: Path
    metric: str
    validation: ProbeValidationConfig
    verbose: bool = False

    def __call__(self, ask: Ask) -> Outcome:
        """Probe; a trial that has ended already is only read."""
        config = from_values(ProbeConfig, self.tree, source="a trial of the sweep")
        run = self.folder / str(config.output.run_id)
        mirror.fetch_folder(run)
        written = record_of(run)
        if written is not None and written.status == "completed":
            metrics = written.metrics
        else:
            select = SelectHeldOut(config, self.validation)
            _, result = run_probe(config, verbose=self.verbose, parent=self.folder, select=select)
            metrics = result.metrics
        if self.metric not in metrics:
            raise ConfigError(
                f"tune.metric={self.metric}: this probe measures {', '.join(metrics)}."
            )
        return Outcome("completed", metrics[self.metric])


@dataclass(frozen=True)
class SelectHeldOut:
    """Of a data set's table, the rows that a trial may see: the queries of the test are gone, and
    held-out ones of the database play queries in their stead."""

    config: ProbeConfig
    validation: ProbeValidationConfig

    def __call__(self, table: ImageTable) -> ImageTable:
        """The table with new splits."""
        dataset = self.config.dataset
        holdout = cut_holdout(
            table,
            source=self.validation.source,
            mode="query_gallery",
            fraction=self.validation.fraction,
            seed=self.config.seed,
            train_value=dataset.database_split_value,
            val_value=dataset.val_split_value,
            database_value=dataset.database_split_value,
        )
        kept = holdout.validation_positions
        part = table.take(kept)
        split = np.where(
            np.isin(kept, holdout.query_N),
            dataset.query_split_value,
            dataset.database_split_value,
        )
        return ImageTable(part.rows.assign(split=split), part.original, part.root, part.source)
