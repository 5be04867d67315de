"""The decisions of a sweep: the values of each trial and early stops, kept in a file.

Optuna draws values and stops trials. It gets the trials so far from ``sweep.json`` each time, so
that an interrupted sweep continues unchanged. Each trial's values are drawn with the trial's seed,
so that they depend only on the trials before it.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial
from pydantic import TypeAdapter

from exreid.config.space import Distribution
from exreid.config.sweep import TuneConfig
from exreid.errors import RunError
from exreid.records import Json
from exreid.storage import mirror
from exreid.storage.run_folder import write_text

STARTUP_SHARE, LEAST_STARTUP, MOST_STARTUP = 4, 4, 10
"""The optuna search draws a fourth of its trials at random before it learns, within these."""
OPTUNA_STATES = {
    "running": TrialState.RUNNING,
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Trial:
    """One trial, as ``sweep.json`` keeps it."""

    number: int
    values: dict[str, Any]
    """The value of each searched dotted key."""
    baseline: bool = False
    """Whether it is the unchanged config, which is never stopped early."""
    state: Literal["running", "completed", "stopped", "failed"] = "running"
    score: float | None = None
    """The best metric so far."""
    scores: dict[int, float] = field(default_factory=dict)
    """By epoch, the best so far."""
    rungs: dict[str, float] = field(default_factory=dict)
    """The scores that early stopping has compared, by Optuna's name of each rung."""
    error: str | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number:03d}"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Literal["completed", "stopped", "failed"]
    score: float | None = None
    scores: dict[int, float] = field(default_factory=dict)
    """By epoch, the best so far."""
    error: str | None = None


@dataclass(frozen=True)
class SweepPlan:
    """The search space of a sweep, and the file of its trials."""

    tune: TuneConfig
    seed: int
    base_values: Mapping[str, Json]
    """The config's values of the searched keys."""
    file: Path


class SweepStudy:
    """The trials of a sweep: each begins, reports its epochs, and ends; each change is saved at
    once."""

    def __init__(self, plan: SweepPlan) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.space = plan, plan.tune.distributions
        self.optuna_space = {key: _to_optuna(self.space[key]) for key in self.space}
        self.pruner: optuna.pruners.BasePruner | None = None
        if plan.tune.scheduler == "asha" and plan.tune.run == "finetune":
            self.pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=plan.tune.grace_epochs, reduction_factor=plan.tune.reduction_factor
            )
        plan.file.parent.mkdir(parents=True, exist_ok=True)
        mirror.fetch_folder(plan.file.parent, plan.file.name)
        self.trials = _read(plan.file)
        self.begun_s: dict[int, float] = {}

    @property
    def unfinished(self) -> list[int]:
        """Numbers of the trials that have not ended, those that were interrupted first."""
        running = [trial.number for trial in self.trials if trial.state == "running"]
        return [*running, *range(len(self.trials), self.plan.tune.trial_count)]

    @property
    def best(self) -> Trial | None:
        """The completed trial with the highest score, the earliest of equals."""
        done = [trial for trial in self.trials if trial.state == "completed"]
        return max(done, key=lambda trial: trial.score or 0.0, default=None)

    def begin(self, number: int) -> Trial:
        """The trial of this number; draws its values, and those of all before it, where missing."""
        while len(self.trials) <= number:
            self.trials.append(self._drawn(len(self.trials)))
        self.begun_s.setdefault(number, time.monotonic())
        self._save()
        return self.trials[number]

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Note a trial's best score so far; True when it should stop after this epoch."""
        stop = self._note(number, epoch, score)
        self._save()
        return stop

    def end(self, number: int, outcome: Outcome) -> None:
        """Note how a trial ended, and the epochs that were not reported."""
        self.begin(number)  # its process may have been lost before it could
        for epoch, score in outcome.scores.items():
            self._note(number, epoch, score)
        seconds = self.trials[number].seconds + time.monotonic() - self.begun_s.pop(number)
        self.trials[number] = replace(
            self.trials[number],
            state=outcome.state,
            score=outcome.score,
            error=outcome.error,
            seconds=round(seconds, 3),
        )
        self._save()

    def _note(self, number: int, epoch: int, score: float) -> bool:
        trial = self.trials[number]
        if epoch in trial.scores:
            return False
        self.trials[number] = replace(trial, score=score, scores={**trial.scores, epoch: score})
        if self.pruner is None:
            return False
        study = self._optuna_study()
        stop = self.pruner.prune(study, study.trials[number])
        rungs = study.trials[number].system_attrs
        self.trials[number] = replace(self.trials[number], rungs=rungs)
        return stop and not trial.baseline

    def _drawn(self, number: int) -> Trial:
        search = self.plan.tune.search
        if search == "grid":
            grid = itertools.product(*(listed.choices for listed in self.space.values()))
            values = next(itertools.islice(grid, number, None))
            return Trial(number, dict(zip(self.space, values, strict=True)))
        base = self.plan.base_values
        if number == 0 and self.plan.tune.baseline and self._contains(base):
            return Trial(number, self._decoded(self._encoded(base)), baseline=True)
        seed = int(np.random.SeedSequence([self.plan.seed, number]).generate_state(1)[0])
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        if search == "optuna":
            share = self.plan.tune.trial_count // STARTUP_SHARE
            startup = min(max(share, LEAST_STARTUP), MOST_STARTUP)
            sampler = optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)
        with warnings.catch_warnings(action="ignore"):  # of what Optuna may change one day
            asked = self._optuna_study(sampler).ask(self.optuna_space)
        return Trial(number, self._decoded(asked.params))

    def _optuna_study(self, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
        """The trials so far as a study of Optuna's."""
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in self.trials:
            study.add_trial(
                create_trial(
                    state=OPTUNA_STATES[trial.state],
                    value=trial.score if trial.state in ("completed", "stopped") else None,
                    params=self._encoded(trial.values),
                    distributions=self.optuna_space,
                    intermediate_values=trial.scores,
                    system_attrs=dict(trial.rungs),
                )
            )
        return study

    def _contains(self, values: Mapping[str, Json]) -> bool:
        """Whether these values can be drawn."""
        return all(
            value in self.space[key].choices
            if self.space[key].choices
            else isinstance(value, int | float)
            and not isinstance(value, bool)
            and self.optuna_space[key]._contains(value)
            for key, value in values.items()
        )

    def _encoded(self, values: Mapping[str, Json]) -> dict[str, Json]:
        """Listed values as JSON: Optuna's categories are plain cells."""
        encoded: dict[str, Json] = {}
        for key, value in values.items():
            choices = self.space[key].choices
            # The config's own 64.0 is the 64 of a list.
            encoded[key] = json.dumps(choices[choices.index(value)]) if choices else value
        return encoded

    def _decoded(self, params: Mapping[str, Any]) -> dict[str, Json]:
        return {
            key: json.loads(params[key]) if distribution.choices else params[key]
            for key, distribution in self.space.items()
        }

    def _save(self) -> None:
        """Write ``sweep.json``, whole, to its URL too: another machine may have to go on."""
        content = {"trials": [asdict(trial) for trial in self.trials]}
        write_text(self.plan.file, json.dumps(content, indent=1) + "\n")
        mirror.publish(self.plan.file)


def _to_optuna(distribution: Distribution) -> BaseDistribution:
    if distribution.choices:
        return CategoricalDistribution([json.dumps(value) for value in distribution.choices])
    low, high = distribution.numbers[:2]
    log, step = distribution.logarithmic, distribution.step
    if distribution.whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _read(file: Path) -> list[Trial]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return TypeAdapter(list[Trial]).validate_python(content["trials"])
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{file}: cannot be read: {error}. Set another output.run_id to begin anew."
        ) from error
