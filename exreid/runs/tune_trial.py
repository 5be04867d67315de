"""One trial of a sweep: an ordinary training or probe in a folder below the sweep's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from exreid.config.base import Tree
from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.config.space import with_values
from exreid.config.sweep import AnySweepConfig, ProbeSweepConfig, SweepConfig
from exreid.config.training import FinetuneConfig
from exreid.data.holdout import cut_holdout
from exreid.errors import ConfigError, ExreidError, StorageError
from exreid.pipeline.inputs import output_root
from exreid.pipeline.sweep import Outcome, Trial
from exreid.records import ImageTable, Json
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.storage import mirror
from exreid.storage.disk import places_of, storage_error
from exreid.storage.run_record import record_of
from exreid.storage.urls import is_remote
from exreid.training.history import HistoryRow, read_history

TRIALS = "trials"
"""The folder of the trials' folders."""
ReportEpoch = Callable[[int, float], bool]
"""Told an epoch and the best score so far, says whether to stop."""


def run_trial(
    config: AnySweepConfig, folder: Path, verbose: bool, trial: Trial, report: ReportEpoch
) -> Outcome:
    """Train or probe, in a folder below the sweep's; a trial that has ended is only read.

    Its failure is an outcome, and costs itself alone; StorageError for a full disk, which ends the
    sweep: it goes on later.
    """
    tree = with_values(config.trial_tree(), {**trial.values, **_own_values(config, folder, trial)})
    try:
        if isinstance(config, SweepConfig):
            return _train(tree, folder / TRIALS, verbose, report)
        return _probe(tree, folder / TRIALS, verbose, config)
    except StorageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (full := storage_error(error, places_of(config))):
            raise full from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome("failed", error=lines[0] if isinstance(error, ExreidError) else lines[-1])


def workers_of(config: AnySweepConfig) -> int:
    """Of each trial; 0 where trials run in this process, without Ray."""
    if isinstance(config, SweepConfig):
        return 1 if config.ray.num_workers is None else config.ray.num_workers
    return 0 if config.ray.num_actors == 0 else 1


def _own_values(config: AnySweepConfig, folder: Path, trial: Trial) -> dict[str, Json]:
    """Where a trial writes, how W&B shows it, and where it runs: in its own process."""
    root, wandb = config.dataset.root, config.wandb
    values: dict[str, Json] = {
        "output.root": mirror.shown(output_root(config)),
        "output.run_id": trial.name,
        "dataset.root": root if is_remote(root) else str(Path(root).expanduser().absolute()),
        "wandb.group": wandb.group or folder.name,
        "wandb.name": f"{wandb.name or folder.name}-{trial.name}",
        "ray.address": None,
    }
    if isinstance(config, ProbeSweepConfig):
        return {**values, "ray.num_actors": 0}
    return values if workers_of(config) > 1 else {**values, "ray.num_workers": 0}


def _train(tree: Tree, parent: Path, verbose: bool, report: ReportEpoch) -> Outcome:
    config = from_values(FinetuneConfig, tree, source="a trial of the sweep")
    run, metric = parent / str(config.output.run_id), config.output.best_metric
    mirror.fetch_folder(run)
    written = record_of(run)
    if written is None or written.status not in ("completed", "stopped"):
        stop_early = partial(_stops, metric, report)
        run_finetune(config, verbose=verbose, parent=parent, stop_early=stop_early)
    history = read_history(run)
    scores = _best_so_far(metric, history)
    stopped = history[-1].epoch < config.train.epochs
    return Outcome("stopped" if stopped else "completed", max(scores.values()), scores)


def _stops(metric: str, report: ReportEpoch, history: list[HistoryRow]) -> bool:
    scores, epoch = _best_so_far(metric, history), history[-1].epoch
    return epoch in scores and report(epoch, scores[epoch])


def _best_so_far(metric: str, history: list[HistoryRow]) -> dict[int, float]:
    """By each epoch that was validated after training, the highest score until then."""
    rows = [row for row in history if row.epoch > 0 and metric in row.metrics]
    best = accumulate((row.metrics[metric] for row in rows), max)
    return dict(zip((row.epoch for row in rows), best, strict=True))


def _probe(tree: Tree, parent: Path, verbose: bool, sweep: ProbeSweepConfig) -> Outcome:
    config = from_values(ProbeConfig, tree, source="a trial of the sweep")
    run = parent / str(config.output.run_id)
    mirror.fetch_folder(run)
    written = record_of(run)
    if written is not None and written.status == "completed":
        metrics = written.metrics
    else:
        select = partial(_held_out, sweep)
        metrics = run_probe(config, verbose=verbose, parent=parent, select=select)[1].metrics
    if sweep.metric not in metrics:
        raise ConfigError(f"tune.metric={sweep.metric}: this probe measures {', '.join(metrics)}.")
    return Outcome("completed", metrics[sweep.metric])


def _held_out(config: ProbeSweepConfig, table: ImageTable) -> ImageTable:
    """The rows that a trial may see, with new splits: the queries of the test are gone, and
    held-out images of the database play queries in their stead."""
    dataset, validation = config.dataset, config.validation
    holdout = cut_holdout(
        table,
        source=validation.source,
        mode="query_gallery",
        fraction=validation.fraction,
        seed=config.seed,
        train_value=dataset.database_split_value,
        val_value=dataset.val_split_value,
        database_value=dataset.database_split_value,
    )
    kept = holdout.validation_positions
    part = table.take(kept)
    is_query = np.isin(kept, holdout.query_N)
    split = np.where(is_query, dataset.query_split_value, dataset.database_split_value)
    return replace(part, rows=part.rows.assign(split=split))
