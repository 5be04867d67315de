"""The keys of a matcher's training (``train.what=matcher``), and what they rule out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from exreid.config.base import StrictModel
from exreid.config.benchmark import BenchmarkConfig

if TYPE_CHECKING:
    from exreid.config.training import FinetuneConfig


class MineConfig(StrictModel):
    """train.what=matcher: the pairs that each image, the anchor, is trained with. They are found by
    matching exactly, among the images trained on, never within one encounter."""

    positives: PositiveInt = 2
    """Images of the anchor's animal: those that match best."""
    negatives: PositiveInt = 10
    """Images of other animals: those that match best."""
    random: NonNegativeInt = 5
    """Images of other animals drawn at random."""
    drawn: PositiveInt = 3
    """Images of other animals that the anchor meets in one epoch, drawn from those above, beside
    one of its own."""
    every: PositiveInt | None = None
    """Epochs after which the pairs are scored anew by the matcher as it then is; null: never."""


class MatcherConfig(StrictModel):
    """train.what=matcher: which part of LightGlue is trained."""

    layers: Annotated[int, Field(ge=0, le=9)] = 3
    """Its last layers, with the last assignment head; the layers before keep the published
    weights. 0: the head alone. Keypoints and descriptors are never trained."""
    rank: PositiveInt | None = None
    """Train low-rank adapters of this rank on the linear maps of those layers, for small data: with
    8, 4% as many numbers as the weights. They take a learning rate some 10 times higher. null: the
    weights themselves are trained. Checkpoints hold plain weights either way."""


def check_matcher(config: FinetuneConfig) -> None:
    """ValueError for keys that do not go with what is trained."""
    matcher, metric = config.train.what == "matcher", config.output.best_metric
    listed = matcher and config.benchmark.candidate_k is not None
    if listed and metric in ("mAP", "mINP"):
        raise ValueError(
            f"output.best_metric={metric} needs whole rankings, and benchmark.candidate_k makes "
            "shortlists: set mAP_at_k, top_1 or balanced_top_1"
        )
    if metric == "mAP_at_k" and not listed:
        raise ValueError("output.best_metric=mAP_at_k is for shortlists: set mAP")
    wrong = _wrong_for_a_matcher(config) if matcher else _wrong_for_a_backbone(config)
    if wrong:
        raise ValueError(f"train.what={config.train.what} {wrong}")


def _wrong_for_a_backbone(config: FinetuneConfig) -> str:
    if config.loss.type == "pairs":
        return "has no pairs: loss.type=pairs needs train.what=matcher"
    own = {"benchmark": BenchmarkConfig(), "matcher": MatcherConfig(), "mine": MineConfig()}
    used = [name for name, default in own.items() if getattr(config, name) != default]
    return f"has no use for {', '.join(used)}" if used else ""


def _wrong_for_a_matcher(config: FinetuneConfig) -> str:
    benchmark = config.benchmark
    if config.loss.type != "pairs":
        return "needs loss.type=pairs"
    if benchmark.method != "local_lightglue" or benchmark.precision != "exact":
        return "needs benchmark.method=local_lightglue and benchmark.precision=exact"
    if benchmark.gate.enabled:
        return "mines without benchmark.gate: leave it out"
    if not config.dataset.encounter_cols:
        return (
            "needs dataset.encounter_cols: photographs of one encounter are alike for other reasons"
        )
    if benchmark.cache == "off":
        return "reads local features from the cache: set benchmark.cache=auto, or a folder"
    if config.train.batch_norm != "local" or config.train.grad_checkpointing:
        return "has no use for train.batch_norm and train.grad_checkpointing"
    if config.optimizer.layer_decay is not None:
        return "has no use for optimizer.layer_decay: set matcher.layers"
    return ""
