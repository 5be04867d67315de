"""The config of `exreid tune`: that of a training or a probe, and what is searched in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from exreid.config.base import StrictModel, Tree
from exreid.config.io import from_values, read_tree
from exreid.config.probe import ProbeConfig
from exreid.config.space import Distribution, check_space, flatten_space, parse_space
from exreid.config.training import FinetuneConfig, OpenUnitInterval
from exreid.errors import ConfigError

SAMPLES = 10
"""Trials of a search that does not say how many."""


def _none_as_text(value: object) -> object:
    words = ("null", "false", "off", "no")
    return "none" if value in (None, False) or str(value).lower() in words else value


class TuneConfig(StrictModel):
    """What is searched, how, and by which number."""

    run: Literal["finetune", "probe"] = "finetune"
    """What a trial is; the other keys of the config are those of exreid finetune, or of exreid
    probe."""
    space: dict[str, object] = Field(default_factory=dict)
    """A distribution for each dotted key that is searched, e.g. optimizer.lr: {loguniform: [1e-5,
    1e-2]}. uniform, loguniform, randint, lograndint: [low, high], both included. quniform,
    qrandint: [low, high, step]. choice and grid: a list of values."""
    num_samples: PositiveInt | None = None
    """Trials in all. null: 10, and with search=grid every combination once."""
    max_concurrent: PositiveInt | None = None
    """Trials at a time. null: as many as fit on the CPUs or GPUs, each with ray.cpus_per_worker and
    ray.gpus_per_worker for each of its ray.num_workers."""
    search: Literal["optuna", "random", "grid"] = "optuna"
    """optuna: each trial learns from those before it (TPE). random: drawn from the distributions.
    grid: every combination of grid lists."""
    scheduler: Annotated[Literal["asha", "none"], BeforeValidator(_none_as_text)] = "asha"
    """asha: a training that is not among the best at the same epoch is stopped early. Probes have
    no epochs and are never stopped."""
    grace_epochs: PositiveInt = 1
    """asha: epochs of every training before the first look; each further look is at
    reduction_factor times as many."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """asha: at each look the best 1 / reduction_factor of the trainings go on."""
    metric: str | None = None
    """What is maximised, on validation images cut out of the training split. null:
    output.best_metric for trainings, whose best epoch counts; top_1 for probes."""
    baseline: bool = True
    """The first trial is the unchanged config, never stopped early, so that the sweep shows what
    it gained. Not with search=grid, nor if the config's values are outside the space."""
    test: bool = True
    """Once, after the sweep, measure the best trial on the query split, which no trial has seen."""

    @property
    def distributions(self) -> dict[str, Distribution]:
        """Of each dotted key that is searched."""
        return parse_space(self.space)

    @property
    def trial_count(self) -> int:
        """Trials in all."""
        if self.search == "grid":
            return math.prod(len(grid.choices) for grid in self.distributions.values())
        return self.num_samples or SAMPLES


class SweepConfig(FinetuneConfig):
    """A sweep of trainings: the config of each, and what is searched."""

    tune: TuneConfig = TuneConfig()

    @property
    def metric(self) -> str:
        """What is maximised, which chooses the best epoch too."""
        return self.tune.metric or self.output.best_metric

    def trial_tree(self) -> Tree:
        """The config of each trial as a tree, before anything is searched in it."""
        tree = self.model_dump(mode="json", exclude={"tune"})
        tree["output"]["best_metric"] = self.metric
        return tree


class ProbeValidationConfig(StrictModel):
    """What the probes of a sweep are judged by: part of the database, so that the queries stay
    unseen."""

    source: Literal["encounters", "split"] = "encounters"
    """encounters: whole encounters of the database's animals are held out and play the queries.
    split: dataset.val_split_value does."""
    fraction: OpenUnitInterval = 0.3
    """Share of the database's images that is held out."""


class ProbeSweepConfig(ProbeConfig):
    """A sweep of probes: the config of each, and what is searched."""

    validation: ProbeValidationConfig = ProbeValidationConfig()
    tune: TuneConfig = TuneConfig(run="probe")

    @property
    def metric(self) -> str:
        """What is maximised."""
        return self.tune.metric or "top_1"

    def trial_tree(self) -> Tree:
        """The config of each trial as a tree, before anything is searched in it."""
        return self.model_dump(mode="json", exclude={"tune", "validation"})


AnySweepConfig = SweepConfig | ProbeSweepConfig


def load_sweep(file: str | Path | None, overrides: Sequence[str] = ()) -> AnySweepConfig:
    """The config of a sweep, its space checked; see `exreid.config.io.load_config`."""
    run = _block(read_tree(SweepConfig, file, overrides), "tune").get("run")
    model: type[SweepConfig] | type[ProbeSweepConfig]
    model = ProbeSweepConfig if run == "probe" else SweepConfig
    tree = read_tree(model, file, overrides)
    if isinstance(_block(tree, "tune").get("space"), dict):
        # An override takes another distribution's place, instead of standing beside it.
        parts = [read_tree(model, file), read_tree(model, None, overrides)]
        spaces = [flatten_space(_block(_block(part, "tune"), "space")) for part in parts]
        tree["tune"]["space"] = spaces[0] | spaces[1]
    config = from_values(model, tree, source=str(file) if file else "the overrides")
    _check(config)
    return config


def _block(tree: Tree, name: str) -> Tree:
    block = tree.get(name)
    return block if isinstance(block, dict) else {}


def _check(config: AnySweepConfig) -> None:
    """What the sweep asks of its parts together."""
    tune, space = config.tune, config.tune.distributions
    training = isinstance(config, SweepConfig)
    if training:  # the metric is one that a training can choose its best epoch by
        from_values(FinetuneConfig, config.trial_tree(), source="tune.metric")
    check_space(FinetuneConfig if training else ProbeConfig, config.trial_tree(), space)
    for key, distribution in space.items():
        if (tune.search == "grid") != (distribution.kind == "grid"):
            raise ConfigError(
                f"tune.space.{key}: {distribution.kind} and tune.search={tune.search} do not go "
                "together: a grid search takes grid lists alone, the others take anything else "
                "(choice for a list)."
            )
    if tune.search == "grid" and tune.num_samples not in (None, tune.trial_count):
        raise ConfigError(
            f"tune.num_samples={tune.num_samples}: the grid has {tune.trial_count} combinations. "
            "Leave it unset, or set tune.search=random."
        )
    same = config.dataset.val_split_value == config.dataset.query_split_value
    if config.validation.source == "split" and same and tune.test:
        raise ConfigError(
            f"validation.source=split judges trials on the split "
            f"{config.dataset.query_split_value!r}, which is then no longer an independent "
            "test of the best one. Judge on a part held out of the training split "
            "(validation.source=encounters), on another dataset.val_split_value, or set "
            "tune.test=false."
        )
