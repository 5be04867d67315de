"""A sweep, told from top to bottom: the inputs, the trials, the best one, its test, the files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exreid.config.io import from_values, leaf_keys
from exreid.config.probe import ProbeConfig
from exreid.config.space import value_of, with_values
from exreid.config.sweep import AnySweepConfig, ProbeSweepConfig, SweepConfig
from exreid.config.training import FinetuneConfig
from exreid.errors import ExreidError, RunError
from exreid.pipeline.ending import recording_failure
from exreid.pipeline.inputs import output_root, read_images, settled
from exreid.pipeline.sweep import Outcome, SweepPlan, SweepStudy, Trial
from exreid.pipeline.training_inputs import decode_images, first_backbone, hold_out
from exreid.progress import Progress, no_progress, tell, timed
from exreid.records import Counts, Result
from exreid.report.sweep import write_sweep_report
from exreid.runs.probe import run_probe
from exreid.runs.tune_trial import TRIALS, ReportEpoch, run_trial, workers_of
from exreid.storage import mirror
from exreid.storage.run_folder import SWEEP_FILE, RunFolder, new_run_id, write_text
from exreid.storage.run_record import RESULT_FILE, RunRecord, read_record, record_of
from exreid.training.checkpoint import BEST

log = logging.getLogger(__name__)

SWEEP_RESULTS = "sweep_results.csv"
TEST = "test"


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
    config = settled(config)
    run_id = config.output.run_id or new_run_id("tune", config.model.type)
    method = f"tune-{config.tune.run}"
    folder = RunFolder(
        output_root(config) / "sweeps", run_id, config, method, results_table=SWEEP_RESULTS
    )
    with recording_failure(folder):
        sweep = _sweep(config, folder.path, progress, verbose)
        folder.finish(sweep.result)
    return sweep


def _sweep(config: AnySweepConfig, folder: Path, progress: Progress, verbose: bool) -> Sweep:
    timings_s: dict[str, float] = {}
    with timed(timings_s, "inputs"):
        _read_inputs(config, progress, verbose)
    tree = config.trial_tree()
    base_values = {key: value_of(tree, key) for key in config.tune.distributions}
    plan = SweepPlan(config.tune, config.seed, base_values, folder / SWEEP_FILE)
    with timed(timings_s, "trials"):
        study = _run_trials(config, plan, progress, verbose)
    best = study.best
    if best is None:
        reasons = {str(trial.error) for trial in study.trials}
        raise RunError(f"no trial of the sweep was completed: {'; '.join(sorted(reasons))}")
    best_tree = with_values(tree, best.values)
    write_sweep_report(folder, study, config.metric, best, best_tree)
    test = None
    if config.tune.test:
        with timed(timings_s, "test"):
            test = _test(config, folder, best, progress, verbose=verbose)
    result = _result(config, study.trials, best, test, timings_s)
    return Sweep(folder, study.trials, best, config.metric, result)


def _read_inputs(config: AnySweepConfig, progress: Progress, verbose: bool) -> None:
    """What all trials share is read, and decoded, before the first of them."""
    if isinstance(config, ProbeSweepConfig):
        read_images(config)
        return
    base = from_values(FinetuneConfig, config.trial_tree(), source="the sweep's config")
    table, _ = read_images(base)
    holdout = hold_out(table, base)
    if base.train.what == "backbone" and base.dataset.decoded_cache == "auto":
        advance = progress("Decoding images", len(holdout.all_positions))
        backbone = first_backbone(base)
        decode_images(table, holdout, base, backbone, verbose=verbose, on_progress=advance)


def _run_trials(
    config: AnySweepConfig, plan: SweepPlan, progress: Progress, verbose: bool
) -> SweepStudy:
    """Run the trials that have not ended, in this process or over Ray; the study afterwards."""
    study = SweepStudy(plan)
    numbers = study.unfinished
    advance = progress("Trials", config.tune.trial_count)
    advance(config.tune.trial_count - len(numbers))

    def on_end(number: int, outcome: Outcome) -> None:
        advance(1)
        if outcome.error is not None:
            log.warning("Trial %03d failed: %s", number, outcome.error)
        elif outcome.score is not None:
            early = "" if outcome.state == "completed" else f", {outcome.state} early"
            tell(f"Trial {number:03d}: {config.metric} {outcome.score:.2%}{early}.")

    run = partial(run_trial, config, plan.file.parent, verbose)
    if numbers and workers_of(config):
        _place_and_run(config, plan, numbers, run, on_end, verbose=verbose)
        return SweepStudy(plan)
    for number in numbers:
        outcome = run(study.begin(number), partial(study.report, number))
        study.end(number, outcome)
        on_end(number, outcome)
    return study


def _place_and_run(
    config: AnySweepConfig,
    plan: SweepPlan,
    numbers: list[int],
    run: Callable[[Trial, ReportEpoch], Outcome],
    on_end: Callable[[int, Outcome], None],
    *,
    verbose: bool,
) -> None:
    from exreid.distributed.placement import place_trials
    from exreid.distributed.session import ray_session
    from exreid.distributed.sweep import run_trials_over_ray

    tune, failures = config.tune, getattr(config.ray, "max_failures", 1)
    died = f"the trial's process died {failures + 1} times: out of memory, or its machine is gone"
    with ray_session(config.ray, verbose=verbose):
        placement = place_trials(
            config.ray,
            workers=workers_of(config),
            max_concurrent=tune.max_concurrent,
            samples=tune.trial_count,
        )
        try:
            run_trials_over_ray(
                SweepStudy,
                plan,
                numbers,
                run,
                placement,
                lost=Outcome("failed", error=died),
                on_end=on_end,
                max_failures=failures,
            )
        except BaseException:
            _mark_interrupted(plan)
            raise


def _mark_interrupted(plan: SweepPlan) -> None:
    """Trials that were cut off say so themselves: their processes were not asked."""
    with suppress(OSError, ExreidError):
        for trial in SweepStudy(plan).trials:
            if trial.state != "running":
                continue
            folder = plan.file.parent / TRIALS / trial.name
            mirror.fetch_folder(folder, RESULT_FILE)
            written = record_of(folder)
            if written is not None and written.status == "running":
                ended = written.model_copy(update={"status": "interrupted"})
                write_text(folder / RESULT_FILE, ended.to_json())
                mirror.publish(folder / RESULT_FILE)


def _test(
    config: AnySweepConfig, folder: Path, best: Trial, progress: Progress, *, verbose: bool
) -> RunRecord:
    """The best trial on the query split, once: a sweep that goes on reads what was measured."""
    mirror.fetch_folder(folder / TEST)
    written = record_of(folder / TEST)
    if written is None or written.status != "completed":
        test = _test_config(config, folder, best)
        run_probe(test, progress=progress, verbose=verbose, parent=folder)
    return read_record(folder / TEST)


def _test_config(config: AnySweepConfig, folder: Path, best: Trial) -> ProbeConfig:
    """The probe that measures the best trial on the query split."""
    tree = with_values(config.trial_tree(), best.values)
    if isinstance(config, SweepConfig):
        known, benchmark = leaf_keys(ProbeConfig), tree["benchmark"]
        tree = {
            part: {key: value for key, value in tree[part].items() if f"{part}.{key}" in known}
            for part in ("dataset", "model", "ray")
        }
        trained = mirror.shown(folder / TRIALS / best.name / BEST)
        if config.train.what == "matcher":
            tree["benchmark"] = benchmark | {"matcher_checkpoint": trained}
        else:
            tree["model"]["checkpoint"], tree["benchmark"] = trained, {}
        tree["benchmark"]["exclude"] = config.validation.exclude
        tree["ray"]["num_workers"] = None
        if config.ray.num_workers == 0:
            tree["ray"]["num_actors"] = 0
        tree["seed"] = config.seed
    tree["output"] = {"root": mirror.shown(output_root(config)), "run_id": TEST}
    return from_values(ProbeConfig, tree, source="the sweep's test")


def _result(
    config: AnySweepConfig,
    trials: list[Trial],
    best: Trial,
    test: RunRecord | None,
    timings_s: dict[str, float],
) -> Result:
    metrics = {f"validation_{config.metric}": best.score or 0.0}
    if trials[0].baseline and trials[0].score is not None:
        metrics[f"validation_{config.metric}_baseline"] = trials[0].score
    intervals: dict[str, tuple[float, float]] = {}
    if test is not None:
        metrics |= {f"test_{name}": value for name, value in test.metrics.items()}
        intervals = {f"test_{name}": ends for name, ends in test.intervals.items()}
    states = [trial.state for trial in trials]
    counts: Counts = {
        "trials": len(states),
        **{f"trials_{state}": states.count(state) for state in ("completed", "stopped", "failed")},
        "best_trial": best.name,
        "test_measured": "once, after the sweep" if test is not None else "not at all",
    }
    return Result(f"tune-{config.tune.run}", metrics, intervals, counts, timings_s)
