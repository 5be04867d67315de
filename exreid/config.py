"""The config tree: every key that a user can set, with its type, default and meaning.

The docstring under a key is its documentation: ``exreid probe --help`` prints it. Reading
files, overrides and error messages are in `exreid.config_io`.
"""

from __future__ import annotations

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

from exreid.config_base import (
    CellText,
    ColourByte,
    PathText,
    SafetyLevel,
    StrictModel,
    switch_as_text,
)
from exreid.config_benchmark import BenchmarkConfig, ModelConfig

MISSING_VALUES = (
    *("NA", "N/A", "#N/A", "<NA>", "n.a.", "NaN", "NaT", "None", "null", "nil"),
    *("-", "--", "?", "??", "."),
    *("unknown", "unk", "unidentified", "not identified", "undetermined", "not available"),
    *("missing", "no id", "not known", "unassigned"),
)


class DatasetConfig(StrictModel):
    """Which images, whose they are, and how they are read."""

    root: PathText = "."
    """Folder of the data set; a path in the metadata is relative to it. Local, or an fsspec URL."""
    metadata_file: PathText | None = None
    """CSV (comma, semicolon or tab; UTF-8 or UTF-16) or Parquet table with one row per image,
    relative to root. None: CzechLynx's own file name, then metadata.csv, then metadata.parquet."""
    path_col: str = "path"
    """Column with the image's path, relative to root."""
    label_col: str = "unique_name"
    """Column with the identity of the animal."""
    split_col: str = "split-time_closed"
    """Column that says which split a row belongs to."""
    make_split: Literal["closed_set", "identity_disjoint", "time_aware"] | None = None
    """For tables without a split: make one (train/test) instead of reading split_col. It never
    cuts through an encounter; the seed decides. The run keeps it as split.csv."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """With make_split: the share of images that go to test."""
    train_split_value: CellText = "train"
    """Value of split_col for training images."""
    val_split_value: CellText = "test"
    """Value of split_col for validation images."""
    query_split_value: CellText = "test"
    """Value of split_col for queries. The same as database_split_value: leave-one-out."""
    database_split_value: CellText = "train"
    """Value of split_col for the database, the gallery of known animals."""
    mask_col: str | None = "mask"
    """Column with the animal's mask: COCO RLE or polygons. May be absent while no mask is used."""
    encounter_cols: tuple[str, ...] = ()
    """Columns that together name an encounter (one visit, one burst), e.g. [source, encounter]."""
    viewpoint_col: str | None = None
    """Column with the side or pose of the animal."""
    date_col: str | None = "date"
    """Column with the date, with or without a time: 14.03.2016, 14/03/2016 (day first),
    2016-03-14, 2016:03:14 22:00:00, 14-Mar-2016, ... May be absent. A date that cannot be read is
    an error where dates are used (make_split=time_aware), and no date elsewhere."""
    missing_values: tuple[CellText, ...] = MISSING_VALUES
    """What a cell of these columns says, in any case, that means the same as an empty one. Name
    your own list where an animal is called so; [] takes every word as it stands."""
    unknown_identities: tuple[CellText, ...] = ()
    """More words, of label_col alone, that mean "not known"."""
    image_size: PositiveInt | None = None
    """Side in pixels of the square image that the backbone sees. None: the backbone's own."""
    resize: Literal["auto", "crop", "stretch", "pad"] = "auto"
    """How a photograph becomes square: centre crop, stretched, or padded. auto: as the backbone
    was published."""
    no_background: bool = False
    """Fill everything outside the mask."""
    crop_to_mask: bool = False
    """Crop to the mask's box before resizing."""
    no_mask: Literal["raise", "skip", "whole"] = "raise"
    """With crop_to_mask or no_background, a row without a mask: as a bad mask (see on_error), left
    out and listed in rejected.csv, or the whole photograph."""
    crop_margin: NonNegativeFloat = 0.1
    """With crop_to_mask: margin on each side, as a fraction of the box's longer side."""
    fill_rgb: tuple[ColourByte, ColourByte, ColourByte] | None = None
    """Colour of what is filled or padded. None: the mean colour of the backbone's training."""
    reduced_decode: bool = True
    """Decode large JPEGs at 1/2, 1/4 or 1/8 where the target size allows it. Faster, and moves an
    answer in fifty: publish false."""
    on_error: Literal["raise", "skip"] = "raise"
    """A bad row, image or mask: stop with an error, or leave it out and list it in rejected.csv."""

    @model_validator(mode="after")
    def _masks_need_a_column(self) -> Self:
        if self.mask_col is None and (self.no_background or self.crop_to_mask):
            raise ValueError("no_background and crop_to_mask need dataset.mask_col")
        return self


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
    """Ray cluster: HOST:PORT of its head, or auto; local: a Ray of its own on this machine. None:
    the cluster that submitted this job (RAY_ADDRESS), otherwise local."""
    num_workers: PositiveInt | None = None
    """Training workers. None: one per GPU, otherwise one."""
    num_actors: NonNegativeInt | None = None
    """Actors that extract features and match. None: as many as the GPUs, otherwise the CPUs, hold,
    and none for few images on CPUs. 0: in this process, without Ray."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs of each worker or actor, and its threads."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs of each worker or actor; below 1, a share of one. None: 1 where there are GPUs."""
    wait_s: NonNegativeFloat = 0.0
    """Seconds to wait at most for an autoscaling cluster to add the machines that are wanted; once
    enough to begin are there and no more come, the work begins. 0: what does not fit on those that
    are up is an error at once."""

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
        local = self.benchmark.method != "cosine"
        if local and self.benchmark.local_masks == "blank" and self.dataset.mask_col is None:
            raise ValueError("benchmark.local_masks=blank needs dataset.mask_col")
        if local and self.benchmark.cache == "off":
            raise ValueError(
                "benchmark.cache=off: local features lie in the cache while they are matched. Set "
                "auto, or a folder"
            )
        return self
