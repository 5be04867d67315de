"""The looks of a probe at its pairs: each sees more than the one before, at fewer pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.matching.pairs import best_of_each_query, standardised
from exreid.matching.tiles import PairMatcher
from exreid.models.lightglue import load_lightglue
from exreid.records import PairEvidence

NEAREST_LOOK, FIRST_LOOK = "Nearest neighbours", "First look"
FULL_LOOK, LAST_LOOK = "Matching pairs", "Matching the best"
LOOK_COUNTS = {
    "pairs_compared": NEAREST_LOOK,
    "pairs_looked_at": FIRST_LOOK,
    "pairs_matched": FULL_LOOK,
    "pairs_exact": LAST_LOOK,
}
"""What the numbers of pairs are called in a result."""


@dataclass(frozen=True)
class MakeMatcher:
    """Builds the matcher, in whatever process it is called."""

    features: str
    settings: MatchSettings | NearestSettings
    device: str

    def __call__(self) -> PairMatcher:
        """With the published weights, where there are any."""
        if isinstance(self.settings, NearestSettings):
            return NearestMatcher(self.settings, self.device)
        return LightGlueMatcher(load_lightglue(self.features), self.settings, self.device)


@dataclass(frozen=True)
class Look:
    """One look at pairs, at those that the look before left."""

    stage: str
    settings: MatchSettings | NearestSettings
    share: float = 1.0
    """Share of each query's candidates that go on to this look, the best of the look before."""
    least: int = 1
    """Pairs of each query that go on at least."""
    decided_sd: float | None = None
    """Pairs so far below their query's leader in the look before stay behind, whatever their place;
    see `exreid.matching.pairs.best_of_each_query`."""
    by_confidence: bool = False
    """Ordered by the summed confidence, whatever benchmark.local_score is: a look that sees little
    counts little."""

    adds_to_last: bool = False
    """Who goes on is decided by this look's score and that of the look before together."""

    @property
    def tile_factor(self) -> int:
        """Pairs of a tile, against the full look's: cheap looks take more at a time."""
        return 8 if self.by_confidence else 1


def looks_of(config: ProbeConfig) -> list[Look]:
    """The looks of a probe, each at fewer pairs than the one before."""
    benchmark, fast = config.benchmark, config.benchmark.fast
    exact = MatchSettings(match_threshold=benchmark.match_threshold, geometry=benchmark.geometry)
    if benchmark.precision == "exact":
        return [Look(FULL_LOOK, exact)]
    full = replace(
        exact,
        dtype=fast.dtype,
        prune_after=fast.prune_after,
        prune_to=fast.prune_to,
        compile=fast.compile,
    )
    looks = []
    if fast.nearest_share is not None:
        looks.append(Look(NEAREST_LOOK, NearestSettings(), by_confidence=True))
    if fast.look_layers is not None:
        first = MatchSettings(
            match_threshold=benchmark.match_threshold,
            dtype=fast.dtype,
            layers=fast.look_layers,
            keypoints=fast.look_keypoints,
            compile=fast.compile,
            batch_pairs=32,
        )
        looks.append(
            Look(
                FIRST_LOOK,
                first,
                fast.nearest_share or 1.0,
                fast.look_least,
                by_confidence=True,
                adds_to_last=bool(looks),
            )
        )
    if fast.look_layers is not None:
        share, decided_sd = fast.look_share, fast.look_decided_sd
    else:
        share, decided_sd = fast.nearest_share or 1.0, None
    looks.append(Look(FULL_LOOK, full, share, fast.look_least, decided_sd))
    if fast.exact_best:
        looks.append(Look(LAST_LOOK, exact, 1e-9, fast.exact_best, fast.full_decided_sd))
    return looks


EvidenceOf = Callable[[Look, np.ndarray, np.ndarray], PairEvidence]
"""Has a look at pairs: query and gallery indices."""


def go_through(
    looks: Sequence[Look],
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    evidence_of: EvidenceOf,
    local_score: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair, the number of the last look that it went on to, and its score there.

    ``local_score`` is benchmark.local_score, by which looks are ordered that say nothing else.
    """
    level_P, score_P = np.zeros(len(query_P)), np.zeros(len(query_P))
    order_P = np.zeros(len(query_P))
    chosen, count_Q = np.arange(len(query_P)), np.bincount(query_P, minlength=1)
    for level, look in enumerate(looks):
        if level > 0:
            best = best_of_each_query(
                query_P[chosen],
                order_P[chosen],
                gallery_P[chosen],
                share=look.share,
                least=look.least,
                count_Q=count_Q,
                decided_sd=look.decided_sd,
                decided_by_P=score_P[chosen],
            )
            chosen = chosen[best]
        evidence = evidence_of(look, query_P[chosen], gallery_P[chosen])
        score = score_of(evidence, "confidence" if look.by_confidence else local_score)
        if look.adds_to_last:
            before = standardised(query_P[chosen], order_P[chosen])
            order_P[chosen] = before + standardised(query_P[chosen], score)
        else:
            order_P[chosen] = score
        level_P[chosen], score_P[chosen] = level, score
    return level_P, score_P


def score_of(evidence: PairEvidence, name: str) -> np.ndarray:
    """The evidence that benchmark.local_score names, float64."""
    by_name = {
        "matches": evidence.match_count_P,
        "confidence": evidence.confidence_sum_P,
        "inliers": evidence.inlier_count_P,
    }
    return by_name[name].astype(np.float64)
