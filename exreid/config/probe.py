"""What a probe is configured by: its own keys, those of Ray and of what runs write, and the whole.

The docstring under a key is its documentation: ``exreid probe --help-keys`` prints it. Reading
files, overrides and error messages are in `exreid.config.io`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from exreid.config.base import PathText, SafetyLevel, StrictModel, switch_as_text
from exreid.config.benchmark import BenchmarkConfig
from exreid.config.dataset import DatasetConfig
from exreid.config.io import load_config
from exreid.config.methods import ModelConfig


class OutputConfig(StrictModel):
    """Where a run writes."""

    root: PathText = "."
    """Folder for everything a run writes: benchmark_runs/, and the cache. Local, or an fsspec URL
    such as s3://bucket/runs: then machines need no shared disk."""
    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Name of the run's folder. None: made from the time, the method and the backbone."""


class VisualizationConfig(StrictModel):
    """Pictures of answers, for a first look at a run; a picture that fails never fails the run."""

    enabled: bool = False
    """Draw queries with their candidates, and contact sheets, into visualizations/RUN_ID."""
    num_queries: PositiveInt = 20
    """How many queries, evenly out of all; and how many failures, the surest first."""
    top_k: PositiveInt = 5
    """Candidates of each query."""


class WandbConfig(StrictModel):
    """Weights & Biases logging; a failure of it never fails the run."""

    enabled: bool = False
    """Log the run's config and metrics."""
    project: str | None = None
    """Project. None: as WANDB_PROJECT says, otherwise exreid."""
    entity: str | None = None
    """User or team. None: as WANDB_ENTITY says, otherwise your default."""
    group: str | None = None
    """Group of runs. None: as WANDB_RUN_GROUP says."""
    tags: tuple[str, ...] = ()
    """Tags. None given: as WANDB_TAGS says."""
    name: str | None = None
    """Name shown. None: as WANDB_NAME says, otherwise the run id."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """offline needs no key and no network; upload later with wandb sync. None: as WANDB_MODE says,
    otherwise online."""


class RayConfig(StrictModel):
    """Where the work runs, and how much of the machine each worker takes."""

    address: str | None = None
    """Ray cluster: HOST:PORT of its head, or auto; local: start Ray on this machine. None:
    the cluster that submitted this job (RAY_ADDRESS), otherwise local."""
    num_workers: PositiveInt | None = None
    """Training workers. None: one per GPU, otherwise one."""
    num_actors: NonNegativeInt | None = None
    """Actors that extract features and match. None: one per GPU, otherwise per CPU,
    and none for few images on CPUs. 0: in this process, without Ray."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs of each worker or actor, and its threads."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs of each worker or actor; below 1, a share of one. None: 1 where there are GPUs."""
    wait_s: NonNegativeFloat = 0.0
    """Longest wait in seconds for the machines that an autoscaling cluster adds. The work begins
    once there are enough and no more come. 0: no wait; too few machines are an error at once."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"ray.gpus_per_worker={gpus:g}: above 1, GPUs are given whole")
        return self


class ProbeConfig(StrictModel):
    """A probe: features, ranking and metrics of one backbone and method on one data set."""

    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    visualization: VisualizationConfig = VisualizationConfig()
    output: OutputConfig = OutputConfig()
    wandb: WandbConfig = WandbConfig()
    ray: RayConfig = RayConfig()
    seed: NonNegativeInt = 0
    """Seed of everything random: made splits and bootstraps."""
    safety: Annotated[SafetyLevel, BeforeValidator(switch_as_text)] = "warn"
    """Look for leaks before a model runs: photographs in the gallery that are copies of a query,
    encounters cut by the split, queries without a partner. strict: stop there. off: don't look."""
    deterministic: bool = False
    """Refuse operations that have no deterministic version (probes on CPU never use one)."""

    @model_validator(mode="after")
    def _encounters_need_columns(self) -> Self:
        if self.benchmark.exclude == "encounter" and not self.dataset.encounter_cols:
            raise ValueError(
                "benchmark.exclude=encounter needs dataset.encounter_cols, the columns that "
                "name an encounter"
            )
        same = self.dataset.query_split_value == self.dataset.database_split_value
        if self.benchmark.method == "classifier" and same:
            raise ValueError(
                "benchmark.method=classifier is fitted on the database, and "
                "dataset.query_split_value names the same images: give the queries another split, "
                "or set another method"
            )
        local = not self.benchmark.is_global
        if local and self.benchmark.local_masks == "blank" and self.dataset.mask_col is None:
            raise ValueError("benchmark.local_masks=blank needs dataset.mask_col")
        if local and self.benchmark.cache == "off":
            raise ValueError(
                "benchmark.cache=off: local features lie in the cache while they are matched. Set "
                "auto, or a folder"
            )
        return self


def gallery_config(
    file: str | Path | None = None, overrides: Sequence[str] = (), preset: str | None = None
) -> ProbeConfig:
    """The config of a gallery, by the arguments of `load_config`. Where nothing names a method or a
    backbone, the preset quick does; and it decides known or new, unless the user says otherwise."""
    named = any(word.startswith(("benchmark.method=", "model.", "model=")) for word in overrides)
    if file is None and preset is None and not named:
        preset = "quick"
    config = load_config(ProbeConfig, file, overrides, preset=preset)
    benchmark, open_set = config.benchmark, config.benchmark.open_set
    if "enabled" in open_set.model_fields_set or open_set.enabled:
        return config
    open_set = open_set.model_copy(update={"enabled": True})
    benchmark = benchmark.model_copy(update={"open_set": open_set})
    return config.model_copy(update={"benchmark": benchmark})
