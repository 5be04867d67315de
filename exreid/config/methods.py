"""The config of a benchmark's parts: the backbone, fast matching, fusion, decisions, re-ranking."""

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

from exreid.config.base import PathText, StrictModel, UnitInterval, switch_as_word
from exreid.config.names import LocalName


class ModelConfig(StrictModel):
    """The backbone that turns an image into a vector."""

    type: str = "efficientnet-lite0"
    """A name of the table (exreid probe --help-keys lists it), timm:NAME, hf-hub:OWNER/NAME, or one
    of an installed package (entry point exreid.backbones)."""
    checkpoint: PathText | None = None
    """Local .pth or .safetensors whose weights replace the published ones."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the backbone. bf16 is faster and moves the numbers a little: publish fp32."""
    batch_size: PositiveInt = 16
    """Images in one forward pass."""
    flip_augmentation: bool = False
    """Embed the mirror image too, and take the mean of both vectors, each of length 1. An animal's
    flanks differ, and a mirrored left flank is no right flank: measure before you use it."""


class FastConfig(StrictModel):
    """What benchmark.precision=fast leaves out; each saving is a separate option."""

    dtype: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the matcher's layers."""
    prune_after: Annotated[int, Field(ge=1, le=8)] | None = None
    """Layer after which only the most matchable keypoints of each image go on; null: all do."""
    prune_to: PositiveInt = 128
    """With prune_after: how many keypoints go on."""
    nearest_share: Annotated[float, Field(gt=0, le=1)] | None = 0.3
    """Share of each query's candidates that go on to the first look (or to full matching without
    one), by the nearest neighbours of their raw descriptors; null: all do."""
    look_layers: Annotated[int, Field(ge=1, le=9)] | None = 3
    """Layers of the first look; null: no first look."""
    look_keypoints: PositiveInt = 128
    """Keypoints of each image in the first look."""
    look_share: Annotated[float, Field(gt=0, le=1)] = 0.16
    """Share of each query's candidates that go through all layers after the first look; the others
    are ranked below them, in the order of the first look."""
    look_least: PositiveInt = 8
    """Smallest number of candidates of each query that go on from look to look."""
    look_decided_sd: PositiveFloat | None = 3.0
    """After the first look: a candidate goes no further if its score is below that of its query's
    best, s, by more than this number times sqrt(s); null: only the number of candidates counts."""
    exact_best: NonNegativeInt = 3
    """Best candidates of each query that are matched exactly at last; 0: none."""
    full_decided_sd: PositiveFloat | None = 1.5
    """The same as look_decided_sd, before the exact matching."""
    compile: bool = False
    """Compile the layers with torch.compile: worth its start on a GPU."""


UNMATCHED: frozenset[str] = frozenset({"aliked-t16"})
"""Features that no LightGlue is trained for."""


class CalibrationConfig(StrictModel):
    """How method=wildfusion turns raw scores into probabilities."""

    kind: Literal["isotonic", "logistic", "beta"] = "isotonic"
    """The curve; each is strictly increasing."""
    pairs: Annotated[int, Field(ge=20)] = 2000
    """Pairs of database images that it is fitted on; up to half of them show one animal."""
    mode: Literal["disjoint_sets", "same_set"] = "disjoint_sets"
    """disjoint_sets: each animal's encounters are divided between two sets, and each pair has one
    image of each set. same_set: all images against all, as the field's reference does it."""
    exclude: Literal["image", "encounter"] = "encounter"
    """Pairs that are left out: an image with itself, or also two of one encounter."""
    load: PathText | None = None
    """fusion.json of another run, instead of fitting; it must be of the same methods."""


class FusionConfig(StrictModel):
    """What method=wildfusion adds up."""

    weights: Literal["equal", "learned", "listwise"] = "equal"
    """equal: the mean of calibrated scores. learned: by logistic regression on the database.
    listwise: raw scores, with weights that bring the right animal to the top of lists of database
    candidates."""
    local_features: tuple[LocalName, ...] | None = None
    """Local methods; null: benchmark.local_features. []: only global ones."""
    models: tuple[ModelConfig, ...] = ()
    """Further backbones besides model, which makes the shortlist."""
    local_index: bool = False
    """Also add the score of method=local_index, of the first local method's keypoints."""


class OpenSetConfig(StrictModel):
    """Known or new: decisions, and how good they are."""

    enabled: bool = False
    """Decide for each query whether its animal is in the gallery, and measure the decisions."""
    queries: Annotated[int, Field(ge=10)] = 200
    """Database images that are used as queries (never answered from their encounter), once as they
    are and once as if their animal were missing: the decision is fitted on them."""
    rule: Literal["false_match_rate", "balanced"] = "false_match_rate"
    """false_match_rate: new animals pass for known ones at a stated rate. balanced: the best
    balanced accuracy on known and new animals."""
    false_match_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """With rule=false_match_rate: the stated rate."""
    promise: Literal["animals", "photos"] = "animals"
    """What the rate is promised for. animals: a photograph of a new animal, the mean over new
    animals, which needs 1 / rate - 1 database animals. photos: as if each showed another animal."""
    new_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of new animals that the stated probability assumes; no ranking depends on it."""
    group_nearest: NonNegativeInt = 20
    """New queries are grouped into animals by the scores of each one with this number of its
    nearest. 0: they are not grouped, which saves up to half of a run."""
    link_visits: Annotated[Literal["auto", "on", "off"], BeforeValidator(switch_as_word)] = "auto"
    """Whether photographs of one encounter count as one animal's when new animals are grouped.
    auto: unless more than 1% of the database's encounters show two animals."""


class RerankConfig(StrictModel):
    """A second ranking by global features, before anything is matched locally. It uses the gallery
    images that may answer a query, and no other query."""

    method: Literal["none", "k_reciprocal", "query_expansion"] = "none"
    """k_reciprocal: images with the same neighbours are similar (Zhong et al. 2017).
    query_expansion: search again with the mean of the query and its best candidates."""
    depth: PositiveInt = 100
    """k_reciprocal: best candidates of each query that are re-ranked, and never fewer than
    benchmark.keep_candidates and the shortlist; the others stay below in their order."""
    k1: PositiveInt = 20
    """k_reciprocal: neighbours among which two images must name each other."""
    k2: PositiveInt = 6
    """k_reciprocal: images, the image itself included, whose encodings are averaged."""
    cosine_share: UnitInterval = 0.3
    """k_reciprocal: the cosine's share in the new score."""
    best: PositiveInt = 3
    """query_expansion: candidates that are added to the query."""
    power: NonNegativeFloat = 0.0
    """query_expansion: each counts with its cosine to this power. 0: all alike (average); 3 is the
    usual alpha query expansion."""


class AdaptiveConfig(StrictModel):
    """method=wildfusion with candidate_k: local matching, best first, that stops for each query
    once its leading animal is decided."""

    enabled: bool = False
    """Stop early. Off: all pairs of the shortlist are matched."""
    risk: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """A query is decided once the chance that a candidate not yet matched shows its animal, would
    overtake the leader, and the leader is another animal, is at most this: the top-1 that may be
    lost against matching the whole shortlist."""
    batch: PositiveInt = 5
    """Pairs of each open query that are matched before the next look at what they say."""
    least: PositiveInt = 5
    """Pairs of each query that are matched at least."""
    most: PositiveInt | None = None
    """Pairs of each query that are matched at most, decided or not; null: its shortlist."""

    @model_validator(mode="after")
    def _least_is_below_most(self) -> Self:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"benchmark.adaptive.least={self.least} is more than most={self.most}")
        return self


class GateConfig(StrictModel):
    """Which candidates are implausible, whatever they look like. They are not matched, rank below
    all others, and are listed with the reason; what is unknown is plausible."""

    flank: bool = False
    """The other flank is implausible (dataset.viewpoint_col: left, right)."""
    sex: bool = False
    """The other sex is implausible (column sex: female, male)."""
    max_km_per_day: PositiveFloat | None = None
    """A candidate further away than this for each day between is implausible (columns latitude and
    longitude, or cell_code); null: distance does not matter."""

    @property
    def enabled(self) -> bool:
        """Whether anything is checked."""
        return self.flank or self.sex or self.max_km_per_day is not None
