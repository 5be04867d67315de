"""The config of `exreid finetune`: what a training has beside the keys that it shares."""

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

from exreid.config.base import PathText, SafetyLevel, StrictModel, UnitInterval, switch_as_text
from exreid.config.benchmark import BenchmarkConfig
from exreid.config.dataset import DatasetConfig
from exreid.config.matcher import MatcherConfig, MineConfig, check_matcher
from exreid.config.methods import ModelConfig
from exreid.config.names import LossName
from exreid.config.probe import OutputConfig, RayConfig, WandbConfig

OpenUnitInterval = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(gt=0, le=1)]


class FinetuneDatasetConfig(DatasetConfig):
    """Which images, of which animals, and how they are read and kept."""

    decoded_cache: Annotated[Literal["auto", "off"], BeforeValidator(switch_as_text)] = "auto"
    """auto: decoded and resized images are kept in .exreid_cache/decoded under output.root, by
    content, and memory-mapped: memory while they fit, disk otherwise. off: decoded again in
    every epoch, on the CPUs of the cluster that no worker uses."""


class FinetuneModelConfig(ModelConfig):
    """The backbone that is finetuned."""

    pretrained: bool = True
    """Start from the published weights (or model.checkpoint); false: from random ones."""


class ValidationConfig(StrictModel):
    """What a training is judged by. The best epoch is chosen on it, so it is cut out of the
    training split unless source says otherwise."""

    source: Literal["encounters", "identities", "split"] = "encounters"
    """encounters: whole encounters of training animals are left out. identities: whole animals.
    split: dataset.val_split_value as it is; the best epoch is then chosen on that split, and the
    result says so."""
    fraction: OpenUnitInterval = 0.2
    """Share of the training split's images that is left out for validation."""
    mode: Literal["auto", "query_gallery", "leave_one_out"] = "auto"
    """query_gallery: validation images against the images trained on (with source=split, against
    dataset.database_split_value). leave_one_out: each against the other validation images.
    auto: leave_one_out for identities, query_gallery otherwise."""
    exclude: Literal["image", "encounter"] = "image"
    """What a query may not be answered with: itself, or any image of its encounter."""
    every: PositiveInt = 1
    """Epochs between validations; the last epoch is always validated."""


class TrainConfig(StrictModel):
    """What is trained, how long, and in which arithmetic."""

    what: Literal["backbone", "matcher"] = "backbone"
    """backbone: global features, by the animals' names. matcher: LightGlue, by pairs of images of
    one animal and of two (matcher, mine and benchmark say how)."""
    epochs: PositiveInt = 20
    """Epochs in all, those before a resume included."""
    batch_size: PositiveInt = 32
    """Images of one batch over all workers together: more workers take smaller shares of it."""
    accumulation_steps: PositiveInt = 1
    """Batches whose gradients are added up before one step of the optimiser: the effective batch
    size is batch_size * accumulation_steps, however many workers there are."""
    sampler: Literal["plain", "identity_balanced"] = "plain"
    """plain: each image once an epoch. identity_balanced: as many images an epoch, each animal
    equally often."""
    frozen_epochs: NonNegativeInt = 0
    """First epochs that train only the head."""
    batch_norm: Literal["local", "frozen", "sync"] = "local"
    """local: each worker normalises with its own share of the batch, and the running averages are
    averaged over the workers after each epoch. frozen: the pretrained statistics stay. sync: over
    all workers' shares (GPU only)."""
    amp: Annotated[Literal["off", "bf16", "fp16"], BeforeValidator(switch_as_text)] = "off"
    """Mixed precision; fp16 scales the loss and needs a GPU. The loss itself is always fp32."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    ema_decay: OpenUnitInterval | None = None
    """Also keep a moving average of the weights; it is what is validated and published."""
    deterministic: bool = False
    """Same bits on the same machine: no operation without a deterministic version."""
    resume_checkpoint: PathText | None = None
    """A checkpoint-*-full.pth to go on from, with the same images and classes."""

    @property
    def untrained_counts(self) -> bool:
        """Whether epoch 0 can be the best: a published matcher is used as it is, a backbone's head
        begins from nothing."""
        return self.what == "matcher"


class LossConfig(StrictModel):
    """What is minimised."""

    type: LossName = "arcface"
    """arcface: additive angular margin. softmax: a plain linear classifier, the baseline. Or one of
    an installed package (entry point exreid.losses). pairs: of a matcher, triplets and log-loss."""
    margin_rad: Annotated[float, Field(ge=0, lt=3.14159)] = 0.5
    """Margin in radians added to the angle between an image and its own class."""
    scale: PositiveFloat = 64.0
    """Factor on the cosines before the softmax."""
    sub_centers: PositiveInt = 1
    """Centres of each class; the nearest counts. 3 suits noisy labels or two different flanks."""
    margin_warmup_epochs: NonNegativeFloat = 0.0
    """Epochs over which the margin grows from 0 to its full size."""
    margin: PositiveFloat = 1.0
    """pairs: how far an image of the anchor's animal shall score above one of another, in
    log(1 + number of matches)."""
    log_loss_weight: NonNegativeFloat = 1.0
    """pairs: the weight of the log-loss, beside the triplets' 1."""


class OptimizerConfig(StrictModel):
    """Steps along the gradient; made by timm's factory."""

    type: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with Nesterov momentum."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate of the backbone's last layers, reached after the warm-up."""
    head_lr_factor: PositiveFloat = 10.0
    """The head's learning rate as a multiple of lr: it starts from nothing."""
    weight_decay: NonNegativeFloat = 0.05
    """Decay of matrices and kernels; biases, norms and what the model names itself have none."""
    momentum: UnitInterval = 0.9
    """sgd only."""
    layer_decay: Decay | None = None
    """Factor on the learning rate from each layer to the one before it, e.g. 0.75."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the whole gradient; null: not clipped."""


class SchedulerConfig(StrictModel):
    """The learning rate over the steps: linear warm-up, then a cosine."""

    warmup_epochs: NonNegativeFloat = 1.0
    """Epochs of linear warm-up."""
    final_lr_factor: UnitInterval = 0.01
    """Learning rate at the end, as a fraction of the peak."""
    epochs: PositiveInt | None = None
    """Length of the schedule if it is not train.epochs, as for a training in parts."""


class AugmentConfig(StrictModel):
    """Random changes of the training images, on the training device."""

    crop_area: tuple[PositiveFloat, PositiveFloat] = (0.6, 1.0)
    """Random resized crop: smallest and largest share of the image. [1, 1]: none."""
    crop_aspect: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.25)
    """Random resized crop: range of width / height."""
    horizontal_flip: UnitInterval = 0.0
    """Chance of a mirror image. 0, since the flanks of an animal differ."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Brightness times 1 - b to 1 + b."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Contrast times 1 - c to 1 + c."""
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Saturation times 1 - s to 1 + s."""
    blur: UnitInterval = 0.1
    """Chance of a Gaussian blur."""
    blur_sigma_px: tuple[PositiveFloat, PositiveFloat] = (0.3, 1.5)
    """Range of the blur's sigma in pixels."""
    erase: UnitInterval = 0.2
    """Chance of an erased rectangle."""
    erase_area: tuple[PositiveFloat, PositiveFloat] = (0.02, 0.2)
    """Range of the erased share of the image."""
    background: UnitInterval = 0.0
    """Chance that everything outside the mask, or else the box, becomes random colours."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for name in ("crop_area", "crop_aspect", "blur_sigma_px", "erase_area"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"augment.{name}: {low} is above {high}")
        if self.crop_area[1] > 1 or self.erase_area[1] >= 1:
            raise ValueError("augment.crop_area ends at 1 at most, augment.erase_area below 1")
        return self


class FinetuneOutputConfig(OutputConfig):
    """Where a training writes, and what it keeps."""

    save_every: PositiveInt | None = None
    """Keep checkpoint-epoch-<n>.pth every save_every epochs."""
    best_metric: Literal["mAP", "mAP_at_k", "top_1", "top_5", "mINP", "balanced_top_1"] = "mAP"
    """Validation metric that chooses checkpoint-best.pth. A matcher's validation with
    benchmark.candidate_k has mAP_at_k in place of mAP and mINP."""


class FinetuneRayConfig(RayConfig):
    """Where the work runs, and how it survives a failure."""

    num_workers: NonNegativeInt | None = None
    """Training workers. None: one per GPU, otherwise one. 0: in this process, without Ray."""
    min_workers: PositiveInt | None = None
    """Elastic: go on with as few workers as this while the cluster has no room for num_workers."""
    max_failures: NonNegativeInt = 3
    """Times that lost workers are replaced, from the last finished epoch, before giving up."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.min_workers is not None and self.min_workers > (self.num_workers or 1):
            raise ValueError("ray.min_workers is above ray.num_workers")
        return self


class FinetuneConfig(StrictModel):
    """A training of one backbone or matcher on one data set, and its validation."""

    dataset: FinetuneDatasetConfig = FinetuneDatasetConfig()
    model: FinetuneModelConfig = FinetuneModelConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    """train.what=matcher: the local features, and which pairs are matched, as in a probe."""
    matcher: MatcherConfig = MatcherConfig()
    mine: MineConfig = MineConfig()
    validation: ValidationConfig = ValidationConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    augment: AugmentConfig = AugmentConfig()
    output: FinetuneOutputConfig = FinetuneOutputConfig()
    wandb: WandbConfig = WandbConfig()
    ray: FinetuneRayConfig = FinetuneRayConfig()
    seed: NonNegativeInt = 0
    """Seed of everything random: held-out images, shuffles, augmentation, first weights."""
    safety: Annotated[SafetyLevel, BeforeValidator(switch_as_text)] = "warn"
    """Look for held-out images that are trained on: copies of a photograph, encounters cut by the
    split. strict: stop at them. off: don't look."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.validation.exclude == "encounter" and not self.dataset.encounter_cols:
            raise ValueError("validation.exclude=encounter needs dataset.encounter_cols")
        if self.validation.source == "identities" and self.validation.mode == "query_gallery":
            raise ValueError(
                "validation.source=identities leaves no image of those animals to train on: "
                "set validation.mode=leave_one_out"
            )
        located = self.dataset.mask_col is not None or self.dataset.bbox_cols
        if self.augment.background and not located:
            raise ValueError("augment.background needs dataset.mask_col or dataset.bbox_cols")
        if self.augment.background and self.dataset.no_background:
            raise ValueError("augment.background has no effect with dataset.no_background")
        if self.model.checkpoint is not None and not self.model.pretrained:
            raise ValueError("model.pretrained=false and model.checkpoint exclude each other")
        if self.model.flip_augmentation:
            raise ValueError(
                "model.flip_augmentation is for probes: a training is validated without mirror "
                "images"
            )
        if self.model.dtype != "fp32":
            raise ValueError("weights are trained in fp32: leave model.dtype and set train.amp")
        if self.scheduler.epochs is not None and self.scheduler.epochs < self.train.epochs:
            raise ValueError("scheduler.epochs is below train.epochs")
        check_matcher(self)
        return self
