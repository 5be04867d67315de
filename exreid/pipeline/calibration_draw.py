"""The pairs that a fusion is fitted on: drawn from all of them, or chosen as a query's are.

Letters: P pairs, M methods, A and B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from exreid.calibration.pairs import CalibrationPairs, calibration_pairs, candidate_pairs
from exreid.config.probe import ProbeConfig
from exreid.matching.cascade import choosing_stages
from exreid.metrics.ranking import Exclude
from exreid.pipeline.methods import Method, score_all_methods
from exreid.records import Ranking, RetrievalSide

NEAR_DEPTH = 10
"""Pairs of two identities count as near up to this many best candidates by the global score, or to
the end of the shortlist. A person is shown such candidates, and hardly any others."""
LIST_DEPTH = 50
"""Most candidates in a list of which all are matched: more queries tell more than longer lists."""


class RankGallery(Protocol):
    """Ranks a gallery for queries as the ranking does that shortlists are cut from."""

    def __call__(
        self, queries: RetrievalSide, gallery: RetrievalSide, /, *, exclude: Exclude, keep: int
    ) -> Ranking:
        """With ``keep`` candidates kept."""


@dataclass(frozen=True)
class DrawnPairs:
    """Pairs of gallery images with a score by each method."""

    gallery: RetrievalSide
    """The pairs are indices of it."""
    pairs: CalibrationPairs
    score_PM: np.ndarray
    shown_P: np.ndarray
    """bool: the second is among the first's best candidates, as a person is shown them."""
    listed_P: np.ndarray
    """bool: the second is on the first's shortlist: other pairs are never answers."""


def draw_pairs(
    config: ProbeConfig,
    gallery: RetrievalSide,
    rank: RankGallery,
    methods: Sequence[Method],
    *,
    left_out: np.ndarray | None,
    whole_lists: bool,
) -> DrawnPairs:
    """The pairs, none of an identity that is ``left_out``; ``rank`` decides which are near.
    With ``whole_lists`` they are all pairs that are matched in full when gallery images are
    answered as queries: where a cascade chooses these, the same score means more among them."""
    draw = _chosen if whole_lists else _drawn
    gallery, pairs, score_PM = draw(config, gallery, rank, methods, left_out)
    exclude = config.benchmark.calibration.exclude
    first_A, row_P = np.unique(pairs.first_P, return_inverse=True)
    depth = _near_depth(config)
    near_AK = _nearest(gallery, rank, first_A, keep=depth, exclude=exclude)
    same_PK = near_AK[row_P] == pairs.second_P[:, None]
    shown_P, listed_P = same_PK[:, :NEAR_DEPTH].any(axis=1), np.ones(len(pairs), bool)
    if config.benchmark.candidate_k is not None and not whole_lists:
        listed_P = same_PK[:, : config.benchmark.candidate_k].any(axis=1)
    return DrawnPairs(gallery, pairs, score_PM, shown_P, listed_P)


def _near_depth(config: ProbeConfig) -> int:
    """Near pairs include the whole shortlist, so that each of its pairs may be drawn."""
    return max(NEAR_DEPTH, config.benchmark.candidate_k or 0)


def _drawn(
    config: ProbeConfig,
    gallery: RetrievalSide,
    rank: RankGallery,
    methods: Sequence[Method],
    left_out: np.ndarray | None,
) -> tuple[RetrievalSide, CalibrationPairs, np.ndarray]:
    options = config.benchmark.calibration
    pairs = calibration_pairs(
        gallery,
        partial(_nearest, gallery, rank, keep=_near_depth(config), exclude=options.exclude),
        pairs=options.pairs,
        mode=options.mode,
        exclude=options.exclude,
        seed=config.seed,
    )
    if left_out is not None:
        either_P = np.isin(gallery.identity_N[pairs.first_P], left_out)
        either_P |= np.isin(gallery.identity_N[pairs.second_P], left_out)
        pairs = pairs.take(np.flatnonzero(~either_P))
    score_PM = _scores(methods, gallery, pairs, all_pairs=True, exclude=options.exclude)
    return gallery, pairs, score_PM


def _chosen(
    config: ProbeConfig,
    gallery: RetrievalSide,
    rank: RankGallery,
    methods: Sequence[Method],
    left_out: np.ndarray | None,
) -> tuple[RetrievalSide, CalibrationPairs, np.ndarray]:
    """About ``calibration.pairs`` of the drawn pairs are matched in full."""
    options = config.benchmark.calibration
    if left_out is not None:
        gallery = gallery.take(np.flatnonzero(~np.isin(gallery.identity_N, left_out)))
    full = choosing_stages(config)[-1]
    depth = config.benchmark.candidate_k or len(gallery)
    if len(choosing_stages(config)) == 1:
        depth = min(depth, LIST_DEPTH)
    pairs = candidate_pairs(
        gallery,
        partial(_nearest, gallery, rank, keep=depth, exclude=options.exclude),
        queries=-(-options.pairs // max(full.least, int(full.share * depth))),
        seed=config.seed,
    )
    score_PM = _scores(methods, gallery, pairs, all_pairs=False, exclude=options.exclude)
    through = np.flatnonzero(~np.isnan(score_PM).any(axis=1))
    return gallery, pairs.take(through), score_PM[through]


def _scores(
    methods: Sequence[Method],
    gallery: RetrievalSide,
    pairs: CalibrationPairs,
    *,
    all_pairs: bool,
    exclude: Exclude,
) -> np.ndarray:
    first_P, second_P = gallery.position_N[pairs.first_P], gallery.position_N[pairs.second_P]
    return score_all_methods(methods, first_P, second_P, all_pairs=all_pairs, exclude=exclude)


def _nearest(
    gallery: RetrievalSide,
    rank: RankGallery,
    first_A: np.ndarray,
    second_B: np.ndarray | None = None,
    *,
    keep: int,
    exclude: Exclude = "image",
) -> np.ndarray:
    """The best candidates, among some gallery images or all, of gallery images (both rising); -1
    where there are fewer."""
    second_B = np.arange(len(gallery)) if second_B is None else second_B
    first, second = gallery.take(first_A), gallery.take(second_B)
    near_AK = rank(first, second, exclude=exclude, keep=keep).candidate_index_QK
    return np.where(near_AK >= 0, second_B[np.maximum(near_AK, 0)], -1)
