"""Pairs of visits for `exreid discover`: from each image's nearest, scored by the run's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.openset.fit_grouping import NamedPairs
from exreid.openset.group import without_shared_visits
from exreid.openset.group_visits import VisitPairs, best_pairs, visits_of
from exreid.pipeline.calibrate import FittedFusion
from exreid.pipeline.fit_and_retrieve import photograph_codes
from exreid.pipeline.inputs import methods_of
from exreid.pipeline.methods import GallerySearch, side_of_all
from exreid.pipeline.prepare_scoring import Scoring
from exreid.pipeline.rank import first_ranking, pair_scorer, search_of
from exreid.records import Json, RetrievalSide

OF_KEYPOINTS = ("local_features", "local_top_k", "local_size", "local_square", "local_masks")


@dataclass(frozen=True)
class ScoredVisits:
    """The visits of some images of a table, and scores of their pairs."""

    side: RetrievalSide
    """The images, each as if of an identity of its own."""
    fusion: FittedFusion | None
    visit_N: np.ndarray
    """int64: each image's visit."""
    photo_V: np.ndarray
    """int64: equal codes for the visits of one photograph, which show two animals."""
    pairs: VisitPairs

    @property
    def images_V(self) -> np.ndarray:  # noqa: N802
        """int64: the number of each visit's images."""
        return np.bincount(self.visit_N)


def nearest_scored(config: ProbeConfig) -> int:
    """The number of each image's nearest that it is scored with."""
    benchmark = config.benchmark
    return benchmark.shortlist_k or max(benchmark.open_set.group_nearest, 1)


def scored_by(config: ProbeConfig) -> dict[str, Json]:
    """The settings that scores of pairs depend on, so that probabilities fit them alone."""
    benchmark = config.benchmark
    names: tuple[str, ...] = ("method",)
    if methods_of(config)[1]:
        names += OF_KEYPOINTS
    if benchmark.has_index:
        names += ("index_neighbours",)
    if benchmark.matches_pairs:
        names += ("local_score", "match_threshold")
    settings: dict[str, Json] = {name: getattr(benchmark, name) for name in names}
    if benchmark.method in ("cosine", "wildfusion"):
        settings["model.type"] = config.model.type
    return settings


def score_visits(
    scoring: Scoring,
    position_N: np.ndarray,
    fusion_of: Callable[[GallerySearch], FittedFusion | None] = lambda search: None,
) -> ScoredVisits:
    """The visits of the images at these positions, scored by the benchmark's method; ``fusion_of``
    gives the fusion of wildfusion. Each image is scored with its nearest of other visits alone."""
    table, config = scoring.features.table, scoring.config
    chosen = side_of_all(table).take(position_N)
    apart = replace(chosen, identity_N=np.arange(len(chosen), dtype=np.int32))
    photo_N = photograph_codes(table)
    side = without_shared_visits(apart, photo_N)
    if config.benchmark.open_set.link_visits == "off":
        side = replace(side, encounter_N=np.full(len(side), -1, np.int32))
    visit_N = visits_of(side)
    own_photo_N = np.arange(len(side)) if photo_N is None else photo_N[position_N]
    search = search_of(scoring, side)
    fusion = fusion_of(search)
    with scoring.log.timed("ranking"):
        ranking = first_ranking(
            scoring, search, side, side, exclude="encounter", keep=nearest_scored(config)
        )
    row_M, place_M = np.nonzero(ranking.candidate_index_QK >= 0)
    other_M = ranking.candidate_index_QK[row_M, place_M].astype(np.int64)
    pair_M2 = np.unique(np.sort(np.stack([row_M, other_M], axis=1), axis=1), axis=0)
    pair_M2 = pair_M2[np.diff(own_photo_N[pair_M2], axis=1)[:, 0] != 0]
    with scoring.log.timed("matching"):
        score_M = np.zeros(0)
        if len(pair_M2):
            place_M2 = side.position_N[pair_M2]
            score_M = pair_scorer(scoring, search, fusion)(*place_M2.T)
    first_V = np.unique(visit_N, return_index=True)[1]
    # A visit of several photographs shows one animal: no photograph of it is another visit's too.
    return ScoredVisits(
        side, fusion, visit_N, own_photo_N[first_V], best_pairs(pair_M2, score_M, visit_N)
    )


def named_pairs(scored: ScoredVisits, identity_N: np.ndarray, name: str) -> NamedPairs:
    """The scored pairs between visits whose animal is known; ``identity_N``: a code for each image,
    -1 where it is not."""
    visits = len(scored.photo_V)
    lowest_V, highest_V = np.full(visits, np.iinfo(np.int64).max), np.full(visits, -1)
    np.minimum.at(lowest_V, scored.visit_N, identity_N)
    np.maximum.at(highest_V, scored.visit_N, identity_N)
    identity_V = np.where(lowest_V == highest_V, lowest_V, -1)  # two names in a visit: neither
    known = np.flatnonzero(identity_V >= 0)
    place_V = np.full(visits, -1, np.int64)
    place_V[known] = np.arange(len(known))
    pairs = scored.pairs
    place_P2 = place_V[pairs.visit_P2]
    kept = np.flatnonzero((place_P2 >= 0).all(axis=1))
    inside = VisitPairs(place_P2[kept], pairs.image_P2[kept], pairs.score_P[kept])
    return NamedPairs(
        name, inside, identity_V[known], scored.images_V[known], scored.photo_V[known]
    )
