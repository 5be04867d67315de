"""The cascade of local matching: each stage sees more than the one before, at fewer pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.matching.tiles import PairMatcher
from exreid.models.adapted import Adapted
from exreid.models.lightglue import load_lightglue
from exreid.records import LocalFeatures, PairEvidence, PairMatches

NEAREST_STAGE, FIRST_STAGE = "Nearest neighbours", "First look"
FULL_STAGE, EXACT_STAGE = "Matching pairs", "Matching the best"
SEARCH_STAGE = "Searching the index"
"""No stage of the cascade: see `exreid.pipeline.local_index`."""
STAGE_COUNTS = {
    "pairs_searched": SEARCH_STAGE,
    "pairs_compared": NEAREST_STAGE,
    "pairs_looked_at": FIRST_STAGE,
    "pairs_matched": FULL_STAGE,
    "pairs_exact": EXACT_STAGE,
}
"""The stages by the names of their numbers of pairs in a result."""


@dataclass(frozen=True)
class MakeMatcher:
    """Builds the matcher, in whatever process it is called."""

    lightglue: str
    """The name of its weights, where the settings are LightGlue's."""
    settings: MatchSettings | NearestSettings
    device: str
    adapted: Adapted | None = None
    """The weights that take the place of LightGlue's published ones."""

    def __call__(self) -> PairMatcher:
        """With its weights, where there are any."""
        if isinstance(self.settings, NearestSettings):
            return NearestMatcher(self.settings, self.device)
        network = self.adapted.network() if self.adapted else load_lightglue(self.lightglue)
        return LightGlueMatcher(network, self.settings, self.device)


def details_of(
    matcher: PairMatcher, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
) -> list[PairMatches]:
    """All matches of each pair."""
    assert isinstance(matcher, LightGlueMatcher | NearestMatcher)
    return matcher.details(queries, gallery, pair_P2)


@dataclass(frozen=True)
class Stage:
    """One stage of the cascade: how it matches, and which pairs of the stage before it matches."""

    name: str
    settings: MatchSettings | NearestSettings
    share: float = 1.0
    """Share of each query's candidates that this stage matches, the best of the stage before."""
    least: int = 1
    """Pairs of each query that it matches at least."""
    decided_sd: float | None = None
    """Pairs further than this below their query's best in the stage before are dropped, whatever
    their place; see `best_of_each_query`."""
    by_confidence: bool = False
    """Order by the summed confidence, whatever benchmark.local_score is: cheap stages have too few
    matches to count."""
    adds_to_last: bool = False
    """Add this stage's score to that of the stage before to choose the pairs that go on."""

    @property
    def tile_factor(self) -> int:
        """Pairs of a tile, against the full stage's: cheap stages take more at a time."""
        return 8 if self.by_confidence else 1


def cascade_of(config: ProbeConfig) -> list[Stage]:
    """The stages of a probe's local matching, in their order; one unless precision=fast."""
    benchmark, fast = config.benchmark, config.benchmark.fast
    if benchmark.precision == "nearest":
        return [Stage(NEAREST_STAGE, NearestSettings(), by_confidence=True)]
    exact = MatchSettings(match_threshold=benchmark.match_threshold, geometry=benchmark.geometry)
    if benchmark.precision == "exact":
        return [Stage(FULL_STAGE, exact)]
    full = replace(
        exact,
        dtype=fast.dtype,
        prune_after=fast.prune_after,
        prune_to=fast.prune_to,
        compile=fast.compile,
    )
    stages = []
    if fast.nearest_share is not None:
        stages.append(Stage(NEAREST_STAGE, NearestSettings(), by_confidence=True))
    if fast.look_layers is not None:
        first = MatchSettings(
            match_threshold=benchmark.match_threshold,
            dtype=fast.dtype,
            layers=fast.look_layers,
            keypoints=fast.look_keypoints,
            compile=fast.compile,
            batch_pairs=32,
        )
        stages.append(
            Stage(
                FIRST_STAGE,
                first,
                fast.nearest_share or 1.0,
                fast.look_least,
                by_confidence=True,
                adds_to_last=bool(stages),
            )
        )
    if fast.look_layers is not None:
        share, decided_sd = fast.look_share, fast.look_decided_sd
    else:
        share, decided_sd = fast.nearest_share or 1.0, None
    stages.append(Stage(FULL_STAGE, full, share, fast.look_least, decided_sd))
    if fast.exact_best:
        stages.append(Stage(EXACT_STAGE, exact, 1e-9, fast.exact_best, fast.full_decided_sd))
    return stages


def choosing_stages(config: ProbeConfig) -> list[Stage]:
    """The stages that choose which pairs have a full score, the full one last."""
    return [stage for stage in cascade_of(config) if stage.name != EXACT_STAGE]


def run_cascade(
    stages: Sequence[Stage],
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    evidence_of: Callable[[Stage, np.ndarray, np.ndarray], PairEvidence],
    local_score: str,
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair the number of the last stage that matched it, and its score in it, float64.

    ``evidence_of`` matches pairs (query and gallery indices) with a stage's settings.
    ``local_score`` is benchmark.local_score, the order of stages without ``by_confidence``.
    """
    stage_P, score_P = np.zeros(len(query_P), np.int64), np.zeros(len(query_P))
    order_P = np.zeros(len(query_P))
    chosen, count_Q = np.arange(len(query_P)), np.bincount(query_P, minlength=1)
    for number, stage in enumerate(stages):
        if number > 0:
            best = best_of_each_query(
                query_P[chosen],
                order_P[chosen],
                gallery_P[chosen],
                share=stage.share,
                least=stage.least,
                count_Q=count_Q,
                decided_sd=stage.decided_sd,
                decided_by_P=score_P[chosen],
            )
            chosen = chosen[best]
        evidence = evidence_of(stage, query_P[chosen], gallery_P[chosen])
        score = score_of(evidence, "confidence" if stage.by_confidence else local_score)
        if stage.adds_to_last:
            before = standardised(query_P[chosen], order_P[chosen])
            order_P[chosen] = before + standardised(query_P[chosen], score)
        else:
            order_P[chosen] = score
        stage_P[chosen], score_P[chosen] = number, score
    return stage_P, score_P


def score_of(evidence: PairEvidence, name: str) -> np.ndarray:
    """The evidence that benchmark.local_score names, float64."""
    by_name = {
        "matches": evidence.match_count_P,
        "confidence": evidence.confidence_sum_P,
        "inliers": evidence.inlier_count_P,
    }
    return by_name[name].astype(np.float64)


def best_of_each_query(
    query_P: np.ndarray,
    score_P: np.ndarray,
    position_P: np.ndarray,
    *,
    share: float,
    least: int,
    count_Q: np.ndarray | None = None,
    decided_sd: float | None = None,
    decided_by_P: np.ndarray | None = None,
) -> np.ndarray:
    """Which pairs are among the best of their query: bool (P,).

    Of a query with n pairs those are ``ceil(share * n)``, or ``least`` where that is more; of
    equal scores the smaller position comes first. ``count_Q`` gives n where a query had more pairs
    than are left. With ``decided_sd`` none of them may be further below the query's best score s
    than decided_sd * sqrt(s), as sqrt(s) is the standard deviation of a number of events with mean
    s: where the leader is decided, the others need no further stage. For this rule the scores are
    ``decided_by_P``, where given.

    >>> best_of_each_query(np.array([0, 0, 0, 1]), np.array([1.0, 3.0, 3.0, 0.0]),
    ...                    np.array([4, 5, 6, 4]), share=0.3, least=1)
    array([False,  True, False,  True])
    >>> best_of_each_query(np.zeros(3, int), np.array([25.0, 16.0, 14.0]), np.arange(3),
    ...                    share=1.0, least=3, decided_sd=2.0)
    array([ True,  True, False])
    """
    order_P = np.lexsort((position_P, -score_P, query_P))
    left_Q = np.bincount(query_P, minlength=1)
    start_Q = np.concatenate([[0], np.cumsum(left_Q)[:-1]])
    query_of = query_P[order_P]
    place_P = np.arange(len(order_P)) - start_Q[query_of]
    count_Q = left_Q if count_Q is None else count_Q
    wanted_Q = np.maximum(np.ceil(share * count_Q - 1e-9), least)
    go_on_P = place_P < wanted_Q[query_of]
    if decided_sd is not None:
        by_P = score_P if decided_by_P is None else decided_by_P
        leader_Q = np.zeros(len(left_Q))
        np.maximum.at(leader_Q, query_P, by_P)
        lag_P = (leader_Q[query_P] - by_P)[order_P]
        go_on_P &= lag_P <= decided_sd * np.sqrt(leader_Q[query_of])
    chosen = np.zeros(len(order_P), bool)
    chosen[order_P] = go_on_P
    return chosen


def standardised(query_P: np.ndarray, score_P: np.ndarray) -> np.ndarray:
    """Scores as standard deviations from the mean of their query's pairs; 0 where all are equal.

    >>> standardised(np.array([0, 0, 1, 1]), np.array([1.0, 3.0, 5.0, 5.0])).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    count_Q = np.maximum(np.bincount(query_P, minlength=1), 1)
    mean_Q = np.bincount(query_P, score_P, minlength=1) / count_Q
    off_P = score_P - mean_Q[query_P]
    spread_Q = np.sqrt(np.bincount(query_P, off_P**2, minlength=1) / count_Q)
    return off_P / np.where(spread_Q > 0, spread_Q, 1.0)[query_P]
