"""A sweep, told from top to bottom: the space, the trials, the best one, its test, the files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exreid.config.io import from_values
from exreid.config.probe import ProbeConfig
from exreid.config.space import value_of, with_values
from exreid.config.sweep import (
    AnySweepConfig,
    ProbeSweepConfig,
    SweepConfig,
    base_tree,
    metric_of,
    samples_of,
    space_of,
)
from exreid.config.training import FinetuneConfig
from exreid.errors import ExreidError, RunError, StorageError
from exreid.pipeline.ending import noted_in
from exreid.pipeline.inputs import output_root, read_images
from exreid.pipeline.sweep_study import SweepStudy, Trial
from exreid.pipeline.training_inputs import decode_images, first_backbone, hold_out
from exreid.progress import Progress, no_progress, timed
from exreid.records import Counts, Result
from exreid.report.sweep import write_report
from exreid.runs.probe import run_probe
from exreid.runs.trial import Ask, Outcome, ProbeTrial, TrainingTrial
from exreid.storage import mirror
from exreid.storage.disk import places_of, storage_error
from exreid.storage.run_folder import SWEEP_FILE, RunFolder, new_run_id, write_text
from exreid.storage.run_record import RESULT_FILE, RunRecord, read_record, record_of
from exreid.storage.urls import is_remote
from exreid.training.checkpoint import BEST

log = logging.getLogger(__name__)

RESULTS_TABLE = "sweep_results.csv"
TRIALS, TEST = "trials", "test"
BESIDE_A_TRAINING = {
    "dataset": {"decoded_cache"},
    "model": {"pretrained"},
    "ray": {"num_workers", "min_workers", "max_failures"},
}
"""Keys of a training's config that a probe does not have."""


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep."""

    folder: Path
    trials: list[Trial]
    best: Trial
    metric: str
    result: Result


def run_tune(
    config: AnySweepConfig, *, progress: Progress = no_progress, verbose: bool = False
) -> Sweep:
    """Run the trials and write the sweep's folder; run again, an interrupted sweep goes on."""
    run_id = config.output.run_id or new_run_id("tune", config.model.type)
    method = f"tune-{config.tune.run}"
    folder = RunFolder(
        output_root(config) / "sweeps", run_id, config, method, results_table=RESULTS_TABLE
    )
    with noted_in(folder):
        sweep = _Sweep(config, folder.path, progress, verbose).run()
        folder.finish(sweep.result)
    return sweep


class _Sweep:
    def __init__(
        self, config: AnySweepConfig, folder: Path, progress: Progress, verbose: bool
    ) -> None:
        self.config, self.folder = config, folder
        self.progress, self.verbose = progress, verbose
        self.metric = metric_of(config)
        self.tree = base_tree(config)
        if isinstance(config, SweepConfig):
            self.tree["output"]["best_metric"] = self.metric
        space = space_of(config)
        self.study = SweepStudy(
            space,
            config.tune,
            samples=samples_of(config),
            seed=config.seed,
            base_values={key: value_of(self.tree, key) for key in space},
            file=folder / SWEEP_FILE,
        )
        self.started_s: dict[int, float] = {}
        self.advance: Callable[[int], Any] = lambda count: None

    def run(self) -> Sweep:
        timings_s: dict[str, float] = {}
        with timed(timings_s, "inputs"):
            self._check_inputs()
        ended = [trial for trial in self.study.trials if trial.state != "running"]
        self.advance = self.progress("Trials", self.study.samples)
        self.advance(len(ended))
        with timed(timings_s, "trials"):
            self._run_trials()
        best = self.study.best
        if best is None:
            reasons = {str(trial.error) for trial in self.study.trials}
            raise RunError(f"no trial of the sweep was completed: {'; '.join(sorted(reasons))}")
        best_tree = with_values(self.tree, best.values)
        write_report(self.folder, self.study, self.metric, best, best_tree)
        test = None
        if self.config.tune.test:
            with timed(timings_s, "test"):
                test = self._test(best, best_tree)
        return Sweep(
            self.folder,
            self.study.trials,
            best,
            self.metric,
            self._result(best, test, timings_s),
        )

    def _check_inputs(self) -> None:
        """What all trials share is read, and decoded, before the first of them."""
        if isinstance(self.config, ProbeSweepConfig):
            read_images(self.config)
            return
        base = from_values(FinetuneConfig, self.tree, source="the sweep's config")
        table, _ = read_images(base)
        holdout = hold_out(table, base)
        if base.dataset.decoded_cache == "auto":
            count = len(holdout.all_positions)
            decode_images(
                table,
                holdout,
                base,
                first_backbone(base),
                verbose=self.verbose,
                on_progress=self.progress("Decoding images", count),
            )

    def _run_trials(self) -> None:
        if self._in_process:
            while given := self._next_trial():
                trial, run = given
                try:
                    value: Any = run(lambda *score, of=trial: self._judge(of, *score))
                except Exception as error:  # noqa: BLE001 - a failed trial costs itself alone
                    value = error
                self._done(trial, value)
            return
        from exreid.distributed.placement import place_trials
        from exreid.distributed.session import ray_session
        from exreid.distributed.sweep import TrialPool

        ray = self.config.ray
        with ray_session(ray, verbose=self.verbose):
            placement = place_trials(
                ray,
                workers=self._workers,
                max_concurrent=self.config.tune.max_concurrent,
                samples=self.study.samples,
            )
            failures = getattr(ray, "max_failures", 1)
            pool = TrialPool(placement, judge=self._judge, done=self._done, max_failures=failures)
            try:
                pool.run(self._next_trial)
            except BaseException:
                self._note_interrupted()
                raise

    @property
    def _in_process(self) -> bool:
        ray = self.config.ray
        return (ray.num_workers if isinstance(self.config, SweepConfig) else ray.num_actors) == 0

    @property
    def _workers(self) -> int:
        """Of each trial."""
        return (isinstance(self.config, SweepConfig) and self.config.ray.num_workers) or 1

    def _next_trial(self) -> tuple[Trial, Callable[[Ask], Outcome]] | None:
        trial = self.study.ask()
        if trial is None:
            return None
        self.started_s[trial.number] = time.monotonic()
        tree = with_values(self.tree, {**trial.values, **self._own_values(trial)})
        folder = self.folder / TRIALS
        if isinstance(self.config, SweepConfig):
            return trial, TrainingTrial(tree, folder, self.verbose)
        validation = self.config.validation
        return trial, ProbeTrial(tree, folder, self.metric, validation, self.verbose)

    def _own_values(self, trial: Trial) -> dict[str, Any]:
        """Where a trial writes, how W&B shows it, and where it runs: in its own process."""
        sweep, root = self.folder.name, self.config.dataset.root
        wandb = self.config.wandb
        values: dict[str, Any] = {
            "output.root": mirror.shown(output_root(self.config)),
            "output.run_id": trial.name,
            "dataset.root": root if is_remote(root) else str(Path(root).expanduser().absolute()),
            "wandb.group": wandb.group or sweep,
            "wandb.name": f"{wandb.name or sweep}-{trial.name}",
            "ray.address": None,
        }
        if isinstance(self.config, ProbeSweepConfig):
            return {**values, "ray.num_actors": 0}
        return values if self._workers > 1 else {**values, "ray.num_workers": 0}

    def _judge(self, trial: Trial, epoch: int, score: float, last: bool) -> bool:
        return self.study.report(trial, epoch, score, last=last)

    def _done(self, trial: Trial, value: Outcome | BaseException) -> None:
        """A trial's outcome, or what ended it; a full disk ends the sweep, which goes on later."""
        if isinstance(value, StorageError):
            raise value
        if isinstance(value, OSError) and (full := storage_error(value, places_of(self.config))):
            raise full from value
        seconds = time.monotonic() - self.started_s[trial.number]
        self.advance(1)
        if isinstance(value, BaseException):
            lines = str(value).strip().splitlines() or [type(value).__name__]
            error = lines[0] if isinstance(value, ExreidError) else lines[-1]
            log.warning("Trial %s failed: %s", trial.name, error)
            self.study.tell(trial, "failed", score=None, seconds=seconds, error=error)
            return
        for epoch, score in value.scores.items():
            if epoch not in trial.scores:
                self.study.report(trial, epoch, score, last=True)
        self.study.tell(trial, value.state, score=value.score, seconds=seconds, error=None)

    def _note_interrupted(self) -> None:
        """Trials that were cut off say so themselves: their processes were not asked."""
        for trial in self.study.trials:
            if trial.state != "running":
                continue
            file = self.folder / TRIALS / trial.name / RESULT_FILE
            with suppress(OSError, StorageError):
                mirror.fetch_folder(file.parent, file.name)
                written = record_of(file.parent)
                if written is not None and written.status == "running":
                    ended = written.model_copy(update={"status": "interrupted"})
                    write_text(file, ended.to_json())
                    mirror.publish(file)

    def _test(self, best: Trial, best_tree: dict[str, Any]) -> RunRecord:
        """The best trial on the query split, once: a sweep that goes on reads what was measured."""
        mirror.fetch_folder(self.folder / TEST)
        written = record_of(self.folder / TEST)
        if written is None or written.status != "completed":
            config = test_config(best_tree, self.config, self.folder, best)
            run_probe(config, progress=self.progress, verbose=self.verbose, parent=self.folder)
            written = read_record(self.folder / TEST)
        return written

    def _result(self, best: Trial, test: RunRecord | None, timings_s: dict[str, float]) -> Result:
        states = [trial.state for trial in self.study.trials]
        metrics = {f"validation_{self.metric}": best.score or 0.0}
        first = self.study.trials[0]
        if first.baseline and first.score is not None:
            metrics[f"validation_{self.metric}_baseline"] = first.score
        intervals: dict[str, tuple[float, float]] = {}
        if test is not None:
            metrics |= {f"test_{name}": value for name, value in test.metrics.items()}
            intervals = {f"test_{name}": ends for name, ends in test.intervals.items()}
        counts: Counts = {
            "trials": len(states),
            **{f"trials_{state}": states.count(state) for state in ("completed", "stopped")},
            "trials_failed": states.count("failed"),
            "best_trial": best.name,
            "test_measured": "once, after the sweep" if test is not None else "not at all",
        }
        return Result(f"tune-{self.config.tune.run}", metrics, intervals, counts, timings_s)


def test_config(
    best_tree: dict[str, Any], config: AnySweepConfig, folder: Path, best: Trial
) -> ProbeConfig:
    """The probe that measures the best trial on the query split."""
    if isinstance(config, ProbeSweepConfig):
        tree = best_tree
    else:
        parts = ("dataset", "model", "ray")
        tree = {
            part: {
                key: value
                for key, value in best_tree[part].items()
                if key not in BESIDE_A_TRAINING[part]
            }
            for part in parts
        }
        tree["model"]["checkpoint"] = mirror.shown(folder / TRIALS / best.name / BEST)
        tree["benchmark"] = {"exclude": config.validation.exclude}
        if config.ray.num_workers == 0:
            tree["ray"]["num_actors"] = 0
        tree["seed"] = config.seed
    tree["output"] = {"root": mirror.shown(output_root(config)), "run_id": TEST}
    return from_values(ProbeConfig, tree, source="the sweep's test")
