"""The config of a benchmark: the method, its matching, its statistics, and what is measured."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from exreid.config.base import PathText, StrictModel, switch_as_text
from exreid.config.methods import (
    UNMATCHED,
    AdaptiveConfig,
    CalibrationConfig,
    FastConfig,
    FusionConfig,
    GateConfig,
    OpenSetConfig,
    RerankConfig,
)
from exreid.config.names import LocalName, MetricName


class BenchmarkConfig(StrictModel):
    """How queries are matched with the gallery, and what is measured."""

    method: Literal["cosine", "classifier", "local_index", "local_lightglue", "wildfusion"] = (
        "cosine"
    )
    """cosine: global features. classifier: a linear classifier of the database's animals on them, a
    baseline that knows no new animal. local_index: the images with the nearest descriptors of
    keypoints, among all of the gallery's. local_lightglue: keypoints of each pair, matched by
    LightGlue (benchmark.precision). wildfusion: global features and LightGlue, calibrated and
    added up."""
    candidate_k: PositiveInt | None = None
    """Methods that match pairs: the number of each query's best candidates that are matched, the
    shortlist. null: all pairs."""
    shortlist: Literal["global", "local", "both"] = "global"
    """With candidate_k: whose best candidates. global: the backbone's. local: the index's, as
    method=local_index ranks them. both: in turn one of each."""
    index_neighbours: PositiveInt = 3
    """The index: the number of nearest images that a keypoint speaks for; the next one is the
    background that their distances are compared with."""
    index_search: Literal["auto", "exact"] = "auto"
    """The index: exact compares a query with every image. auto does so up to 512 images, and on a
    GPU; beyond, FAISS finds candidates, and the best are compared."""
    local_features: LocalName = "aliked-n16"
    """Keypoints and descriptors that are matched; or those of an installed package (entry point
    exreid.extractors)."""
    local_top_k: PositiveInt = 512
    """Keypoints of each image; the field's reference takes 256."""
    local_size: Annotated[int, Field(ge=64)] = 512
    """Longer side in pixels of the image in which keypoints are found."""
    local_square: bool = False
    """Stretch that image to a square, as the field's reference does; false keeps its aspect."""
    local_masks: Literal["filter", "blank", "none"] = "filter"
    """filter: only keypoints in the mask, or else in the box. blank: fill the background
    before, which makes the silhouette a feature. none: keypoints anywhere."""
    matcher_checkpoint: PathText | None = None
    """A checkpoint of exreid finetune with train.what=matcher, whose LightGlue is used in place of
    the published one for the local features that it was trained for."""
    match_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Confidence from which a match counts."""
    local_score: Literal["matches", "confidence", "inliers"] = "matches"
    """What ranks candidates: the number of matches, the sum of their confidences, or the number
    that agrees on one geometry."""
    geometry: Literal["none", "fundamental", "homography"] = "none"
    """Also count the matches that agree on one geometry (MAGSAC)."""
    precision: Literal["exact", "fast", "nearest"] = "exact"
    """exact: the published LightGlue in fp32, all layers. fast: benchmark.fast. nearest: no
    LightGlue, but the nearest descriptors of each pair by Lowe's ratio, for any local features;
    benchmark.local_score says nothing then."""
    fast: FastConfig = FastConfig()
    """What precision=fast leaves out."""
    rerank: RerankConfig = RerankConfig()
    """A second ranking by global features."""
    gate: GateConfig = GateConfig()
    """Implausible candidates."""
    adaptive: AdaptiveConfig = AdaptiveConfig()
    """Local matching that stops when a query is decided."""
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
    metrics: tuple[MetricName, ...] = ()
    """Further metrics, of installed packages (entry point exreid.metrics)."""
    exclude: Literal["image", "encounter"] = "image"
    """What a query may not be answered with: itself, or any image of its encounter."""
    keep_candidates: PositiveInt = 100
    """Best candidates of each query that rankings.parquet keeps; positives are always kept."""
    keep_matches: NonNegativeInt = 0
    """Local methods: best candidates of each query whose matched keypoints are written to
    matches.parquet, for figures."""
    bootstrap_resamples: NonNegativeInt = 2000
    """Resamples of the identities behind each 95% interval; 0: no intervals."""
    cache: Annotated[PathText, BeforeValidator(switch_as_text)] = "auto"
    """Where features are kept between runs: auto (.exreid_cache under output.root), off, or a
    folder."""

    @property
    def shortlist_k(self) -> int | None:
        """Candidates of each query that are matched as pairs; None: all, or the method matches
        none."""
        return self.candidate_k if self.matches_pairs else None

    @property
    def counted_from(self) -> float:
        """Confidence over which a match counts: all do by the index and by nearest descriptors."""
        return self.match_threshold if self.uses_lightglue else 0.0

    @property
    def has_index(self) -> bool:
        """Whether the gallery's descriptors are searched as one index."""
        fused = self.method == "wildfusion" and self.fusion.local_index
        listed = self.matches_pairs and self.shortlist != "global"
        return self.method == "local_index" or listed or fused

    @property
    def is_global(self) -> bool:
        """Whether the method uses global features alone."""
        return self.method in ("cosine", "classifier")

    @property
    def matches_pairs(self) -> bool:
        """Whether the method matches pairs of images."""
        return self.method in ("local_lightglue", "wildfusion")

    @property
    def uses_lightglue(self) -> bool:
        """Whether LightGlue matches pairs."""
        return self.matches_pairs and self.precision != "nearest"

    @model_validator(mode="after")
    def _features_need_a_matcher(self) -> Self:
        fused = self.fusion.local_features if self.method == "wildfusion" else None
        names = {self.local_features} if fused is None else set(fused)
        if self.uses_lightglue and names & UNMATCHED:
            raise ValueError(
                f"no LightGlue is trained for {', '.join(sorted(names & UNMATCHED))}: set "
                "benchmark.precision=nearest, which needs none, or "
                "benchmark.local_features=aliked-n16 (or aliked-n32, disk)"
            )
        return self

    @model_validator(mode="after")
    def _checkpoints_need_pairs(self) -> Self:
        if self.matcher_checkpoint is not None and not self.matches_pairs:
            raise ValueError(
                f"benchmark.matcher_checkpoint matches pairs, and method={self.method} matches "
                "none: set benchmark.method=local_lightglue or wildfusion"
            )
        return self

    @model_validator(mode="after")
    def _nearest_descriptors_are_no_lightglue(self) -> Self:
        wrong = {
            "benchmark.matcher_checkpoint": self.matcher_checkpoint is not None,
            f"benchmark.geometry={self.geometry}": self.geometry != "none",
        }
        for key, there in wrong.items():
            if there and self.matches_pairs and self.precision == "nearest":
                raise ValueError(
                    "benchmark.precision=nearest uses no LightGlue, so it does not go together "
                    f"with {key}: leave that out, or set benchmark.precision=exact or fast"
                )
        return self

    @model_validator(mode="after")
    def _classifier_is_of_a_closed_set(self) -> Self:
        wrong = {
            "benchmark.open_set.enabled=true": self.open_set.enabled,
            "benchmark.rerank": self.rerank.method != "none",
            "benchmark.gate": self.gate.enabled,
            "benchmark.exclude=encounter": self.exclude == "encounter",
        }
        for key, there in wrong.items():
            if self.method == "classifier" and there:
                raise ValueError(
                    "benchmark.method=classifier knows the database's animals alone and is fitted "
                    f"on all their images, so it does not go together with {key}: leave that out, "
                    "or set another method"
                )
        return self

    @model_validator(mode="after")
    def _inliers_need_a_geometry(self) -> Self:
        if self.local_score == "inliers" and self.geometry == "none":
            raise ValueError(
                "benchmark.local_score=inliers needs benchmark.geometry=fundamental or homography"
            )
        return self

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> Self:
        by_model = self.candidate_k is not None and self.shortlist != "local"
        only_local = self.method == "local_lightglue" and not by_model
        if self.rerank.method != "none" and (only_local or self.method == "local_index"):
            raise ValueError(
                f"benchmark.rerank re-ranks by global features, and method={self.method} has none "
                "here: set benchmark.candidate_k, with benchmark.shortlist=global or both, or "
                "benchmark.rerank.method=none"
            )
        if self.rerank.method != "none" and self.gate.enabled:
            raise ValueError(
                "benchmark.gate and benchmark.rerank do not go together: set "
                "benchmark.rerank.method=none, or leave benchmark.gate out"
            )
        if self.fusion.local_index and self.fusion.local_features == ():
            raise ValueError(
                "benchmark.fusion.local_index needs keypoints: name them in "
                "benchmark.fusion.local_features"
            )
        if self.shortlist != "global" and (
            self.candidate_k is None or self.fusion.local_features == ()
        ):
            raise ValueError(
                f"benchmark.shortlist={self.shortlist} chooses the pairs that LightGlue matches: "
                "set benchmark.candidate_k, with local features, or benchmark.shortlist=global"
            )
        if not self.adaptive.enabled:
            return self
        if self.method != "wildfusion" or self.fusion.local_features == ():
            raise ValueError(
                "benchmark.adaptive stops by calibrated local scores, which "
                "benchmark.method=wildfusion alone has, with a local method"
            )
        if self.candidate_k is None:
            raise ValueError(
                "benchmark.adaptive decides over the pairs of a shortlist: set "
                "benchmark.candidate_k"
            )
        return self
