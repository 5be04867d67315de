"""The trials of a sweep: which comes next, which is stopped early, and the file that remembers.

Optuna draws the values and decides on early stops; `SweepStudy` keeps what it was told in
``sweep.json``, so that an interrupted sweep goes on as if nothing had happened. Each trial's values
are drawn from a seed of its own, so that they depend on the trials before it alone.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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

from exreid.config.space import Distribution, combinations
from exreid.config.sweep import TuneConfig
from exreid.errors import RunError
from exreid.storage import mirror
from exreid.storage.run_folder import write_text

STARTUP_SHARE, LEAST_STARTUP, MOST_STARTUP = 4, 4, 10
"""The optuna search draws a fourth of its trials at random before it learns, within these."""

State = Literal["running", "completed", "stopped", "failed"]
OPTUNA_STATES = {
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass
class Trial:
    """One trial, as ``sweep.json`` keeps it."""

    number: int
    values: dict[str, Any]
    """Of each dotted key that is searched; empty for the config as it stands."""
    baseline: bool = False
    state: State = "running"
    score: float | None = None
    """The metric at its best so far."""
    scores: dict[int, float] = field(default_factory=dict)
    """By epoch, the best so far."""
    rungs: dict[str, float] = field(default_factory=dict)
    """What the early stopping noted of it."""
    error: str | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:03d}"


class SweepStudy:
    """Trials are asked for, report their scores, and are told to go on or to stop."""

    def __init__(
        self,
        space: Mapping[str, Distribution],
        config: TuneConfig,
        *,
        samples: int,
        seed: int,
        base_values: Mapping[str, Any],
        file: Path,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.config = dict(space), config
        self.samples, self.seed, self.file = samples, seed, file
        self.base_values = dict(base_values)
        self.distributions = {key: _to_optuna(one) for key, one in space.items()}
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if config.scheduler == "asha" and config.run == "finetune":
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=config.grace_epochs, reduction_factor=config.reduction_factor
            )
        self.study = optuna.create_study(direction="maximize", pruner=pruner)
        self.trials = _read(file)
        self._running: dict[int, optuna.Trial] = {}
        self._resumed = [trial for trial in self.trials if trial.state == "running"]
        for trial in self.trials:
            self._remember(trial)

    def ask(self) -> Trial | None:
        """The next trial: first those that were interrupted; None when there are no more."""
        if self._resumed:
            return self._go_on(self._resumed.pop(0))
        number = len(self.trials)
        if number >= self.samples:
            return None
        fixed = self._fixed_values(number)
        if fixed is not None:
            self.study.enqueue_trial(self._encoded(fixed))
        self.study.sampler = self._sampler(number)
        with _quietly():
            asked = self.study.ask(self.distributions)
        trial = Trial(number, self._decoded(asked.params), baseline=self._is_baseline(number))
        assert asked.number == number, "optuna counts as sweep.json does"
        self._running[number] = asked
        self.trials.append(trial)
        self.save()
        return trial

    def report(self, trial: Trial, epoch: int, score: float, *, last: bool) -> bool:
        """Note a trial's best score so far; True when it should stop here."""
        asked = self._running[trial.number]
        if epoch not in trial.scores:
            trial.scores[epoch], trial.score = score, score
            asked.report(score, epoch)
        free = last or trial.baseline
        stop = asked.should_prune() and not free
        trial.rungs = _rungs(self.study.trials[trial.number].system_attrs)
        self.save()
        return stop

    def tell(
        self, trial: Trial, state: State, *, score: float | None, seconds: float, error: str | None
    ) -> None:
        """A trial has ended."""
        trial.state, trial.score, trial.error = state, score, error
        trial.seconds = round(trial.seconds + seconds, 3)
        asked = self._running.pop(trial.number)
        told = score if state == "completed" else None
        self.study.tell(asked, told, state=OPTUNA_STATES[state])
        self.save()

    @property
    def best(self) -> Trial | None:
        """The completed trial with the highest score, the earliest of equals."""
        done = [trial for trial in self.trials if trial.state == "completed"]
        return max(done, key=lambda trial: trial.score or 0.0, default=None)

    def save(self) -> None:
        """Write ``sweep.json``, whole, to its URL too: another machine may have to go on."""
        content = {"trials": [asdict(trial) for trial in self.trials]}
        write_text(self.file, json.dumps(content, indent=1) + "\n")
        mirror.publish(self.file)

    def _go_on(self, trial: Trial) -> Trial:
        with _quietly():
            asked = self.study.ask(self.distributions)
        assert asked.number == trial.number, "interrupted trials wait in their order"
        self._running[trial.number] = asked
        for epoch, score in trial.scores.items():
            asked.report(score, epoch)
            asked.should_prune()  # notes the score of each look again; it was decided before
        return trial

    def _remember(self, trial: Trial) -> None:
        """Tell optuna of a trial of an earlier start; one that was interrupted waits."""
        if trial.state == "running":
            self.study.enqueue_trial(self._encoded(trial.values))
            return
        params = self._encoded(trial.values)
        self.study.add_trial(
            create_trial(
                state=OPTUNA_STATES[trial.state],
                value=trial.score if trial.state != "failed" else None,
                params=params,
                distributions=self.distributions,
                intermediate_values=trial.scores,
                system_attrs=dict(trial.rungs),
            )
        )

    def _is_baseline(self, number: int) -> bool:
        """Whether this trial is the config as it stands."""
        inside = all(_contains(self.space[key], v) for key, v in self.base_values.items())
        return number == 0 and self.config.baseline and self.config.search != "grid" and inside

    def _fixed_values(self, number: int) -> dict[str, Any] | None:
        if self.config.search == "grid":
            return next(itertools.islice(combinations(self.space), number, None))
        return self.base_values if self._is_baseline(number) else None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.config.search != "optuna":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = min(max(self.samples // STARTUP_SHARE, LEAST_STARTUP), MOST_STARTUP)
        return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)

    def _encoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Listed values as JSON: optuna's categories are plain cells."""
        encoded = {}
        for key, value in values.items():
            choices = self.space[key].choices
            # The config's own 64.0 is the 64 of a list.
            encoded[key] = json.dumps(choices[choices.index(value)]) if choices else value
        return encoded

    def _decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: json.loads(params[key]) if one.choices else params[key]
            for key, one in self.space.items()
        }


def _rungs(attrs: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in attrs.items() if name.startswith("completed_rung_")}


def _to_optuna(one: Distribution) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution([json.dumps(value) for value in one.choices])
    low, high = one.numbers[:2]
    if one.whole:
        step = int(one.step) if one.step else 1
        return IntDistribution(int(low), int(high), log=one.logarithmic, step=step)
    return FloatDistribution(low, high, log=one.logarithmic, step=one.step)


def _contains(one: Distribution, value: Any) -> bool:
    """Whether a distribution can give this value."""
    if one.choices:
        return value in one.choices
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    with _quietly():
        return bool(_to_optuna(one)._contains(value))


def _read(file: Path) -> list[Trial]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise RunError(
            f"{file}: cannot be read: {error}. Set another output.run_id to begin anew."
        ) from error
    trials = [Trial(**entry) for entry in content["trials"]]
    for trial in trials:
        trial.scores = {int(epoch): score for epoch, score in trial.scores.items()}
    return trials


def _quietly() -> Any:
    """Optuna announces what it may change one day."""
    return warnings.catch_warnings(action="ignore")
