"""A training, told from top to bottom: table, held-out part, decoding, epochs, files."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from exreid.config.training import FinetuneConfig
from exreid.data.holdout import Holdout
from exreid.distributed.session import one_ray
from exreid.errors import ConfigError, StorageError
from exreid.explain.plots import CURVE_FILE, draw_learning_curve
from exreid.pipeline.check_leaks import LeakCheck, check_leaks
from exreid.pipeline.ending import recording_failure
from exreid.pipeline.inputs import cache_folder, output_root, read_images, settled
from exreid.pipeline.matcher_inputs import plan_matcher
from exreid.pipeline.tracking import Tracker
from exreid.pipeline.training_inputs import (
    PlannedTraining,
    decode_images,
    first_backbone,
    hold_out,
    plan_training,
    validation_mode,
)
from exreid.progress import Progress, RunLog, counted, no_progress, tell, timed
from exreid.records import Counts, ImageTable, Rejected, Result
from exreid.storage import mirror
from exreid.storage.run_folder import RunFolder, new_run_id, write_rejected, write_text
from exreid.training.history import (
    HISTORY_FILE,
    HistoryRow,
    ProgressFile,
    best_row,
    epoch_text,
    read_history,
)
from exreid.training.loop import train
from exreid.training.state import Training
from exreid.training.world import World

log = logging.getLogger(__name__)

StopEarly = Callable[[list[HistoryRow]], bool]
TRAINING_RESULTS = "train_metrics.csv"
WATCH_EVERY_S = 0.5
WATCH_URL_EVERY_S = 15.0
CHOSEN_ON = {
    "encounters": "encounters held out of the training split",
    "identities": "identities held out of the training split",
    "split": "the split {value!r}, on which it is reported too",
}


def trained_name(config: FinetuneConfig) -> str:
    """The backbone, or the local features whose matcher is trained."""
    matcher = config.train.what == "matcher"
    return config.benchmark.local_features if matcher else config.model.type


def run_finetune(
    config: FinetuneConfig,
    *,
    progress: Progress = no_progress,
    verbose: bool = False,
    parent: Path | None = None,
    stop_early: StopEarly | None = None,
) -> tuple[Path, Result]:
    """Train, and write the run's folder; a failed run keeps it, and goes on when run again.

    A trial of a sweep stands in a folder of its own, ``parent``, and after each epoch
    ``stop_early`` is asked, with the history, whether to stop there.
    """
    config = settled(config)
    resume = config.train.resume_checkpoint
    if resume and not mirror.local_copy(resume, key="train.resume_checkpoint").is_file():
        raise ConfigError(f"train.resume_checkpoint: no file {resume}.")
    run_id = config.output.run_id or new_run_id(config.loss.type, trained_name(config))
    folder = RunFolder(
        parent or output_root(config) / "results",
        run_id,
        config,
        config.loss.type,
        results_table=TRAINING_RESULTS,
    )
    tracker = Tracker(
        config.wandb, run_id=run_id, folder=folder.path, tree=config.model_dump(mode="json")
    )
    # A training in this process needs no Ray beside it.
    kept = one_ray() if config.ray.num_workers else nullcontext()
    with recording_failure(folder, tracker), kept:
        result = _finetune(
            config, folder.path, tracker, progress, verbose=verbose, stop_early=stop_early
        )
        stopped = cast(int, result.counts["epochs"]) < config.train.epochs
        folder.finish(result, status="stopped" if stopped else "completed")
    tracker.finish({**result.metrics, **result.timings_s})
    return folder.path, result


def _finetune(
    config: FinetuneConfig,
    folder: Path,
    tracker: Tracker,
    progress: Progress,
    *,
    verbose: bool,
    stop_early: StopEarly | None,
) -> Result:
    timings_s: dict[str, float] = {}
    with timed(timings_s, "metadata"):
        table, rejected = read_images(config)
        holdout = hold_out(table, config)
    with timed(timings_s, "leaks"):
        leaks = check_leaks(
            # Whatever a query may be answered with, what was trained on is known by heart.
            LeakCheck(
                table,
                np.setdiff1d(holdout.validation_positions, holdout.train_N),
                holdout.train_N,
                partners=False,
                asked="held-out images",
                answering="images trained on",
                cut_remedy="validation.source=encounters",
            ),
            config.safety,
            folder=folder,
            cache=cache_folder(config) if config.dataset.decoded_cache == "auto" else None,
            ray=config.ray,
            on_error=config.dataset.on_error,
            progress=progress,
            verbose=verbose,
        )
    plan = plan_matcher if config.train.what == "matcher" else _plan_backbone
    log = RunLog(progress, verbose, timings_s)
    planned = plan(table, holdout, config, folder, log, stop_early=stop_early)
    training = planned.training
    rejected = [*rejected, *planned.rejected]
    write_rejected(folder / "rejected.csv", rejected)
    _write_split(folder / "split.csv", planned)
    with timed(timings_s, "training"), _watched(training, tracker, progress):
        if config.ray.num_workers == 0:
            gpu = torch.cuda.is_available() and config.ray.gpus_per_worker != 0
            train(training, World(torch.device("cuda" if gpu else "cpu")))
        else:
            _train_over_ray(training, verbose=verbose, share=stop_early is not None)
    return _result(planned, rejected, timings_s, leaks)


def _plan_backbone(
    table: ImageTable,
    holdout: Holdout,
    config: FinetuneConfig,
    folder: Path,
    log: RunLog,
    *,
    stop_early: StopEarly | None,
) -> PlannedTraining:
    with log.timed("model"):
        backbone = first_backbone(config)
    with log.timed("decoding"):
        advance = log.progress("Decoding images", len(holdout.all_positions))
        images = decode_images(
            table, holdout, config, backbone, verbose=log.verbose, on_progress=advance
        )
    training = plan_training(images, config, backbone, folder, stop_early=stop_early)
    report = images.report
    counts = {"images_decoded": report.extracted, "images_cached": report.cached}
    return PlannedTraining(training, images.table, images.holdout, report.rejected, counts)


def _train_over_ray(training: Training, *, verbose: bool, share: bool) -> None:
    from exreid.distributed.session import ray_session
    from exreid.distributed.train import place_workers, train_over_workers

    ray = training.config.ray
    with ray_session(ray, verbose=verbose):
        placement = place_workers(ray, share=share)
        train_over_workers(training, placement, max_failures=ray.max_failures)


@contextmanager
def _watched(training: Training, tracker: Tracker, progress: Progress) -> Iterator[None]:
    """Show and log what the workers write while they train."""
    folder, images = training.folder, len(training.label_N)
    advance = progress("Training", training.config.train.epochs * images)
    shown, ended = 0, threading.Event()
    told = len(_written(folder))

    def look() -> None:
        nonlocal shown, told
        history = _written(folder)
        tracker.log_rows([row.cells() for row in history])
        for row in history[told:]:
            tell(epoch_text(row, training.config.train.epochs), **row.cells())
        told = max(told, len(history))
        epochs = history[-1].epoch if history else 0
        done = max(epochs * images, ProgressFile.read(folder), shown)
        advance(done - shown)
        shown = done

    def looked() -> bool:
        try:
            look()
        except Exception as error:  # noqa: BLE001 - the training goes on whatever this one reads
            log.warning(
                "The progress is no longer shown or logged (%s: %s); the training itself "
                "is not touched by that.",
                type(error).__name__,
                error,
            )
            return False
        return True

    def watch() -> None:
        while not ended.wait(WATCH_EVERY_S) and looked():
            pass

    watcher = threading.Thread(target=watch, daemon=True, name="watch-training")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        looked()
        (folder / ProgressFile.NAME).unlink(missing_ok=True)


def _written(folder: Path) -> list[HistoryRow]:
    """The history so far, also where a worker on another machine writes it."""
    beside = folder / ".elsewhere" / HISTORY_FILE
    if mirror.url_of(folder) is None:
        return read_history(folder)
    if not beside.exists() or time.time() - beside.stat().st_mtime > WATCH_URL_EVERY_S:
        beside.parent.mkdir(exist_ok=True)
        with suppress(StorageError):
            mirror.bring(folder / HISTORY_FILE, beside)
    return max(read_history(folder), read_history(beside.parent), key=len)


def _result(
    planned: PlannedTraining,
    rejected: Sequence[Rejected],
    timings_s: dict[str, float],
    leaks: dict[str, int | str],
) -> Result:
    """What came of it: the metrics of the best epoch, beside those from before the first."""
    training = planned.training
    config, folder = training.config, training.folder
    mirror.fetch_folder(folder, HISTORY_FILE)
    history = read_history(folder)
    best = best_row(history, config.output.best_metric, untrained=config.train.untrained_counts)
    assert best is not None, "the last epoch is always validated"
    draw_learning_curve(
        folder / CURVE_FILE,
        [row.cells() for row in history],
        best_epoch=best.epoch,
        title=f"{training.task.name}, {config.loss.type}: "
        f"{counted(len(training.labels), 'identity', 'identities')}, "
        f"{counted(len(training.label_N), 'image')}",
    )
    before, last = history[0], history[-1]
    images_of = Counter(training.label_N.tolist())
    chosen_on = CHOSEN_ON[config.validation.source].format(value=config.dataset.val_split_value)
    counts: Counts = {
        "epochs": last.epoch,
        "best_epoch": best.epoch,
        "best_epoch_chosen_on": chosen_on,
        "validation_mode": validation_mode(config),
        "effective_batch_size": config.train.batch_size * config.train.accumulation_steps,
        "train_images": len(planned.holdout.train_N),
        "train_identities": len(training.labels),
        "train_identities_with_one_image": sum(count == 1 for count in images_of.values()),
        "validation_queries": len(planned.holdout.query_N),
        "validation_gallery_images": len(planned.holdout.gallery_N),
        "images_left_out": len(rejected),
        **planned.counts,
        "images_per_s": round(last.training.images_per_s if last.training else 0.0, 2),
    }
    return Result(
        config.loss.type,
        best.metrics | {f"{name}_before": value for name, value in before.metrics.items()},
        best.intervals | {f"{name}_before": ends for name, ends in before.intervals.items()},
        counts,
        timings_s,
        leaks,
    )


def _write_split(file: Path, planned: PlannedTraining) -> None:
    """What each image was for; one may be trained on and stand in the gallery."""
    holdout, places = planned.holdout, np.arange(len(planned.table))
    frame = pd.DataFrame({"image_id": planned.table.rows["image_id"]})
    parts = {"trained_on": holdout.train_N, "query": holdout.query_N, "gallery": holdout.gallery_N}
    for name, part_N in parts.items():
        frame[name] = np.isin(places, part_N).astype(int)
    write_text(file, frame.to_csv(index=False))
