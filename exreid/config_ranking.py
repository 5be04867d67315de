"""The config of what stands around the matching: re-ranking before it, a budget during it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from exreid.config_base import StrictModel, UnitInterval


class RerankConfig(StrictModel):
    """A second ranking by global features, before anything is matched locally. It uses the gallery
    images that may answer a query, and no other query."""

    method: Literal["none", "k_reciprocal", "query_expansion"] = "none"
    """k_reciprocal: images are alike that have the same neighbours (Zhong et al. 2017).
    query_expansion: the query asks again as the mean of itself and its best candidates."""
    depth: PositiveInt = 100
    """k_reciprocal: so many best candidates of each query are re-ranked, and never fewer than
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
