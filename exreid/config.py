"""The config tree: every key that a user can set, with its type, default and meaning.

The docstring under a key is its documentation: ``exreid probe --help`` prints it. Reading
files, overrides and error messages are in `exreid.config_io`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)


class StrictModel(BaseModel):
    """A part of the config: unknown keys and wrong types are errors, and nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )


def _number_as_text(value: Any) -> Any:
    # YAML reads `query_split_value: 1` as a number; the cells of a table are text.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _switch_as_text(value: Any) -> Any:
    # YAML 1.1 reads the words off and on as booleans.
    return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value


CellText = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1)]
ColourByte = Annotated[int, Field(ge=0, le=255)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]


class DatasetConfig(StrictModel):
    """Which images, whose they are, and how they are read."""

    root: str = "."
    """Folder of the data set; a path in the metadata is relative to it. Local, or an fsspec URL."""
    metadata_file: str | None = None
    """CSV or Parquet table with one row per image, relative to root. None: CzechLynx's own file
    name, then metadata.csv, then metadata.parquet."""
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
    """Column with the date: 14.03.2016, 14/03/2016 or 2016-03-14. May be absent."""
    unknown_identities: tuple[CellText, ...] = ("unknown",)
    """Values of label_col that mean "not known", besides an empty cell."""
    image_size: PositiveInt | None = None
    """Side in pixels of the square image that the backbone sees. None: the backbone's own."""
    resize: Literal["auto", "crop", "stretch", "pad"] = "auto"
    """How a photograph becomes square: centre crop, stretched, or padded. auto: as the backbone
    was published."""
    no_background: bool = False
    """Fill everything outside the mask."""
    crop_to_mask: bool = False
    """Crop to the mask's box before resizing."""
    crop_margin: NonNegativeFloat = 0.1
    """With crop_to_mask: margin on each side, as a fraction of the box's longer side."""
    fill_rgb: tuple[ColourByte, ColourByte, ColourByte] | None = None
    """Colour of what is filled or padded. None: the mean colour of the backbone's training."""
    reduced_decode: bool = True
    """Decode large JPEGs at 1/2, 1/4 or 1/8 where the target size allows it."""
    on_error: Literal["raise", "skip"] = "raise"
    """A bad row, image or mask: stop with an error, or leave it out and list it in rejected.csv."""

    @model_validator(mode="after")
    def _masks_need_a_column(self) -> Self:
        if self.mask_col is None and (self.no_background or self.crop_to_mask):
            raise ValueError("no_background and crop_to_mask need dataset.mask_col")
        return self


class ModelConfig(StrictModel):
    """The backbone that turns an image into a vector."""

    type: str = "efficientnet-lite0"
    """A name of the table (exreid probe --help lists it), timm:NAME, or hf-hub:OWNER/NAME."""
    checkpoint: str | None = None
    """Local .pth or .safetensors whose weights replace the published ones."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the backbone. bf16 is faster and moves the numbers a little: publish fp32."""
    batch_size: PositiveInt = 16
    """Images in one forward pass."""


class FastConfig(StrictModel):
    """What benchmark.precision=fast leaves out; each saving is an option of its own."""

    dtype: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the matcher's layers."""
    prune_after: Annotated[int, Field(ge=1, le=8)] | None = 3
    """Layer after which only the most matchable keypoints of each image go on; null: all do."""
    prune_to: PositiveInt = 128
    """With prune_after: how many keypoints go on."""
    look_layers: Annotated[int, Field(ge=1, le=9)] | None = 3
    """A cheap first look at all pairs goes through so many layers; null: no first look."""
    look_keypoints: PositiveInt = 128
    """Keypoints of each image in the first look."""
    look_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of each query's candidates that go through all layers after the first look; the others
    stay below them, in the order of the first look."""
    look_least: PositiveInt = 10
    """Candidates of each query that go through all layers at least."""
    exact_best: NonNegativeInt = 5
    """The best so many candidates of each query are matched exactly at last; 0: none."""
    compile: bool = False
    """Compile the layers with torch.compile: worth its start on a GPU."""


LocalName = Literal["aliked-n16", "aliked-n16rot", "aliked-n32", "disk"]


class CalibrationConfig(StrictModel):
    """How method=wildfusion turns raw scores into probabilities."""

    kind: Literal["isotonic", "logistic", "beta"] = "isotonic"
    """The curve; each is strictly increasing."""
    pairs: Annotated[int, Field(ge=20)] = 2000
    """Pairs of database images that it is fitted on; up to half of them show one animal."""
    mode: Literal["disjoint_sets", "same_set"] = "disjoint_sets"
    """disjoint_sets: the animals' encounters are dealt to two sets, and pairs stand between them.
    same_set: all images against all, as the field's reference does it."""
    exclude: Literal["image", "encounter"] = "encounter"
    """Pairs that are left out: an image with itself, or also two of one encounter."""
    load: str | None = None
    """fusion.json of another run, instead of fitting; it must be of the same methods."""


class FusionConfig(StrictModel):
    """What method=wildfusion adds up."""

    weights: Literal["equal", "learned"] = "equal"
    """equal: the mean of calibrated scores. learned: by logistic regression on the database."""
    local_features: tuple[LocalName, ...] | None = None
    """Local methods; null: benchmark.local_features. []: global ones alone."""
    models: tuple[ModelConfig, ...] = ()
    """Further backbones besides model, which makes the shortlist."""


class OpenSetConfig(StrictModel):
    """Known or new: decisions, and how good they are."""

    enabled: bool = False
    """Decide for each query whether the gallery knows its animal, and measure the decisions."""
    queries: Annotated[int, Field(ge=10)] = 200
    """Database images that are answered as queries (never from their own encounter), once as they
    are and once as if the gallery lacked their animal: the decision is fitted on them."""
    rule: Literal["false_match_rate", "balanced"] = "false_match_rate"
    """false_match_rate: new animals pass for known ones at a stated rate. balanced: the best
    balanced accuracy on known and new animals."""
    false_match_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """With rule=false_match_rate: the stated rate."""
    new_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of new animals that the stated probability assumes; no ranking depends on it."""


class BenchmarkConfig(StrictModel):
    """How queries are matched with the gallery, and what is measured."""

    method: Literal["cosine", "local_lightglue", "wildfusion"] = "cosine"
    """cosine: global features. local_lightglue: keypoints matched by LightGlue. wildfusion: both,
    calibrated and added up."""
    candidate_k: PositiveInt | None = None
    """Local methods: match only the best so many candidates of each query by the global score.
    null: all pairs, without global features."""
    local_features: LocalName = "aliked-n16"
    """Keypoints and descriptors that are matched."""
    local_top_k: PositiveInt = 512
    """Keypoints of each image; the field's reference takes 256."""
    local_size: Annotated[int, Field(ge=64)] = 512
    """Longer side in pixels of the image that keypoints are looked for in."""
    local_square: bool = False
    """Stretch that image to a square, as the field's reference does; false keeps its aspect."""
    local_masks: Literal["filter", "blank", "none"] = "filter"
    """filter: keypoints on the animal alone, where there is a mask. blank: fill the background
    before, which makes the silhouette a feature. none: keypoints anywhere."""
    match_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Confidence from which a match counts."""
    local_score: Literal["matches", "confidence", "inliers"] = "matches"
    """What ranks candidates: the number of matches, the sum of their confidences, or the number
    that agrees on one geometry."""
    geometry: Literal["none", "fundamental", "homography"] = "none"
    """Also count the matches that agree on one geometry (MAGSAC)."""
    precision: Literal["exact", "fast"] = "exact"
    """exact: the published network in fp32, all layers. fast: benchmark.fast."""
    fast: FastConfig = FastConfig()
    """What precision=fast leaves out."""
    calibration: CalibrationConfig = CalibrationConfig()
    """How raw scores become probabilities."""
    fusion: FusionConfig = FusionConfig()
    """What wildfusion adds up."""
    open_set: OpenSetConfig = OpenSetConfig()
    """Known or new."""
    identity_score: Literal["max", "mean_top"] = "max"
    """How an animal scores in answers.parquet: by its best image, or by the mean of the best."""
    identity_top_n: PositiveInt = 3
    """With identity_score=mean_top: of how many images."""
    top_k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10)
    """The k of each top-k metric."""
    mAP: bool = True
    """Also report mean average precision and mINP."""
    exclude: Literal["image", "encounter"] = "image"
    """What a query may not be answered with: itself, or any image of its own encounter."""
    keep_candidates: PositiveInt = 100
    """Best candidates of each query that rankings.parquet keeps; positives are always kept."""
    keep_matches: NonNegativeInt = 0
    """Local methods: so many of each query's best candidates have their matched keypoints written
    to matches.parquet, for figures."""
    bootstrap_resamples: NonNegativeInt = 2000
    """Resamples of the identities behind each 95% interval; 0: no intervals."""
    cache: Annotated[str, BeforeValidator(_switch_as_text), Field(min_length=1)] = "auto"
    """Where features are kept between runs: auto (.exreid_cache under output.root), off, or a
    folder."""

    @model_validator(mode="after")
    def _inliers_need_a_geometry(self) -> Self:
        if self.local_score == "inliers" and self.geometry == "none":
            raise ValueError(
                "benchmark.local_score=inliers needs benchmark.geometry=fundamental or homography"
            )
        return self


class OutputConfig(StrictModel):
    """Where a run writes."""

    root: str = "."
    """Folder for everything a run writes: benchmark_runs/, and the cache."""
    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Name of the run's folder. None: made from the time, the method and the backbone."""


class WandbConfig(StrictModel):
    """Weights & Biases logging; a failure of it never fails the run."""

    enabled: bool = False
    """Log the run's config and metrics."""
    project: str = "exreid"
    """Project."""
    entity: str | None = None
    """User or team; None: your default."""
    group: str | None = None
    """Group of runs."""
    tags: tuple[str, ...] = ()
    """Tags."""
    name: str | None = None
    """Name shown; None: the run id."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """offline needs no key and no network; upload later with wandb sync."""


class RayConfig(StrictModel):
    """Where the work runs, and how much of the machine each worker takes."""

    address: str | None = None
    """Ray cluster: auto, or an address. None: the cluster that submitted this job (RAY_ADDRESS),
    otherwise a Ray of its own on this machine."""
    num_workers: PositiveInt | None = None
    """Training workers. None: one per GPU, otherwise one."""
    num_actors: NonNegativeInt | None = None
    """Actors that extract features. None: as many as the GPUs, otherwise the CPUs, hold.
    0: in this process, without Ray."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs of each worker or actor, and its threads."""
    gpus_per_worker: NonNegativeFloat | None = None
    """GPUs of each worker or actor, fractions allowed. None: 1 where there are GPUs."""


class ProbeConfig(StrictModel):
    """A probe: features, ranking and metrics of one backbone and method on one data set."""

    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    output: OutputConfig = OutputConfig()
    wandb: WandbConfig = WandbConfig()
    ray: RayConfig = RayConfig()
    seed: NonNegativeInt = 0
    """Seed of everything random: made splits and bootstraps."""
    deterministic: bool = False
    """Refuse operations that have no deterministic version (probes on CPU never use one)."""

    @model_validator(mode="after")
    def _encounters_need_columns(self) -> Self:
        if self.benchmark.exclude == "encounter" and not self.dataset.encounter_cols:
            raise ValueError(
                "benchmark.exclude=encounter needs dataset.encounter_cols, the columns that "
                "name an encounter"
            )
        benchmark, dataset = self.benchmark, self.dataset
        fits = benchmark.method == "wildfusion" and benchmark.calibration.load is None
        same = dataset.query_split_value == dataset.database_split_value
        if same and (fits or benchmark.open_set.enabled):
            raise ValueError(
                "with query_split_value the same as database_split_value the queries are the "
                "database, and nothing may be fitted on queries. Use two splits (dataset."
                "make_split makes them); wildfusion can also load a benchmark.calibration"
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
