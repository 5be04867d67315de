"""Matching pairs of images in batches: LightGlue's counts without its one-pair-at-a-time.

What depends on one image alone is computed once for each image of a tile. Pairs go through the
rest in batches of about equally many keypoints; padding is masked in every attention and in the
assignment, so that a pair's evidence does not depend on what else is in its batch.

Letters: P pairs of a tile, B of a batch, M and N keypoints of the two images, X matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from exreid.matching.geometry import Geometry, geometric_inliers
from exreid.matching.tiles import PairEvidence
from exreid.models.lightglue import LightGlue, Points
from exreid.models.lightglue_weights import LAYERS
from exreid.records import LocalFeatures

BF16_VERSION = 3
"""Raise it when the code changes what bf16 gives; fp32 is the published network."""
WIDTH_STEP = 32
"""Batches are padded to a multiple of so many keypoints."""


@dataclass(frozen=True)
class MatchSettings:
    """How pairs are matched; the defaults are the reference's, fp32 through all layers."""

    match_threshold: float = 0.5
    """A match counts from this confidence on."""
    filter_threshold: float = 0.1
    """A match exists from this confidence on; those are summed."""
    layers: int = LAYERS
    """Layers that pairs go through, 1 to 9: each has an assignment of its own."""
    keypoints: int | None = None
    """Only so many of each image's best keypoints; None: all."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the layers; the assignment's softmax is always fp32."""
    prune_after: int | None = None
    """After this layer (from 1) only the most matchable keypoints of each image go on."""
    prune_to: int = 128
    """With prune_after: how many."""
    geometry: Geometry = "none"
    """What inliers are counted for."""
    batch_pairs: int = 8
    """Pairs of one batch; changes speed and memory alone."""
    compile: bool = False
    """torch.compile the layers; changes speed alone."""

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= LAYERS:
            raise ValueError(f"LightGlue has layers 1 to {LAYERS}, not {self.layers}.")
        if self.keypoints is not None and self.keypoints < 1:
            raise ValueError(f"matching needs one keypoint at least, not {self.keypoints}.")
        if self.prune_after is not None and not 1 <= self.prune_after < self.layers:
            raise ValueError(
                f"prune_after must lie between 1 and layers - 1 = {self.layers - 1}, "
                f"not {self.prune_after}."
            )

    def describe(self) -> dict[str, Any]:
        """What the evidence depends on; speed settings are left out."""
        left_out = {"batch_pairs", "compile"}
        depends = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out
        }
        return depends | ({"bf16_version": BF16_VERSION} if self.dtype == "bf16" else {})


@dataclass(frozen=True)
class PairMatches:
    """The matches of one pair, by falling confidence."""

    query_X: np.ndarray
    """int32: keypoints of the query."""
    gallery_X: np.ndarray
    """int32: the gallery image's keypoint for each."""
    confidence_X: np.ndarray
    """float32."""
    inlier_X: np.ndarray
    """bool: whether it agrees with the others on one geometry; all False where none was asked."""


class LightGlueMatcher:
    """Scores the pairs of a tile; see `exreid.matching.tiles.PairMatcher`."""

    def __init__(
        self, network: LightGlue, settings: MatchSettings, device: str | torch.device = "cpu"
    ) -> None:
        self.settings, self.device = settings, torch.device(device)
        dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32
        self.network = network.to(self.device, dtype)
        if settings.compile:
            for layer in self.network.layers:
                layer.compile(dynamic=True)

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """The evidence of the pairs (row of ``queries``, row of ``gallery``)."""
        count_P = np.zeros(len(pair_P2), np.int32)
        sum_P = np.zeros(len(pair_P2))
        verified = self.settings.geometry != "none"
        inlier_P = np.full(len(pair_P2), 0 if verified else -1, np.int32)
        for place_B, row, column, confidence in self._matches(queries, gallery, pair_P2):
            number = row[:, 0]
            sum_P[place_B] = np.bincount(number, confidence, minlength=len(place_B))
            counted = confidence > self.settings.match_threshold
            count_P[place_B] = np.bincount(number[counted], minlength=len(place_B))
            if verified:
                for b, place in enumerate(place_B):
                    own = counted & (number == b)
                    inliers = self._inliers(
                        queries, gallery, pair_P2[place], row[own, 1], column[own]
                    )
                    inlier_P[place] = np.count_nonzero(inliers)
        return PairEvidence(count_P, sum_P, inlier_P)

    def details(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> list[PairMatches]:
        """All matches of each pair over the filter threshold, as figures need them."""
        empty = np.zeros(0, np.int32)
        found = [PairMatches(empty, empty, np.zeros(0, np.float32), empty > 0)] * len(pair_P2)
        for place_B, row, column, confidence in self._matches(queries, gallery, pair_P2):
            for b, place in enumerate(place_B):
                own = np.flatnonzero(row[:, 0] == b)
                own = own[np.argsort(-confidence[own], kind="stable")]
                query_X, gallery_X = row[own, 1].astype(np.int32), column[own].astype(np.int32)
                found[place] = PairMatches(
                    query_X,
                    gallery_X,
                    confidence[own].astype(np.float32),
                    self._inliers(queries, gallery, pair_P2[place], query_X, gallery_X),
                )
        return found

    def _inliers(
        self,
        queries: LocalFeatures,
        gallery: LocalFeatures,
        pair_2: np.ndarray,
        query_X: np.ndarray,
        gallery_X: np.ndarray,
    ) -> np.ndarray:
        return geometric_inliers(
            queries.keypoints_NK2[pair_2[0]][query_X],
            gallery.keypoints_NK2[pair_2[1]][gallery_X],
            self.settings.geometry,
        )

    @torch.inference_mode()
    def _matches(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """For each batch: the pairs' places, then of each match its pair within the batch and
        query keypoint (X, 2), its gallery keypoint and its confidence (float64)."""
        first, count_q = self._embed(queries)
        second, count_g = self._embed(gallery)
        count_P2 = np.stack([count_q[pair_P2[:, 0]], count_g[pair_P2[:, 1]]], axis=1)
        for place_B in self._batches(count_P2):
            width = count_P2[place_B].max(axis=0)
            pairs = torch.from_numpy(pair_P2[place_B].astype(np.int64)).to(self.device)
            log_BMN, kept0, kept1 = self._assign(
                first.take(pairs[:, 0], _rounded_up(width[0], first)),
                second.take(pairs[:, 1], _rounded_up(width[1], second)),
            )
            row_X2, column_X, confidence_X = mutual_matches(log_BMN, self.settings.filter_threshold)
            if kept0 is not None and kept1 is not None:
                batch = row_X2[:, 0]
                column_X = kept1[batch, column_X]
                row_X2 = torch.stack([batch, kept0[batch, row_X2[:, 1]]], dim=1)
            yield (
                place_B,
                row_X2.cpu().numpy(),
                column_X.cpu().numpy(),
                confidence_X.double().cpu().numpy(),
            )

    def _embed(self, features: LocalFeatures) -> tuple[Points, np.ndarray]:
        most = self.settings.keypoints or features.keypoints_NK2.shape[1]
        counts = np.minimum(features.count_N, most)
        points = self.network.embed(
            torch.from_numpy(features.keypoints_NK2[:, :most].copy()).to(self.device),
            torch.from_numpy(features.descriptors_NKL[:, :most].copy()).to(self.device),
            torch.from_numpy(counts.astype(np.int64)).to(self.device),
            torch.from_numpy(features.image_wh_px_N2.astype(np.int64)).to(self.device),
            torch.from_numpy(features.frame_NKF[:, :most].copy()).to(self.device),
        )
        return points, counts

    def _batches(self, count_P2: np.ndarray) -> Iterator[np.ndarray]:
        """Places of pairs with about equally many keypoints; pairs without any have no match."""
        some = np.flatnonzero(count_P2.min(axis=1) > 0)
        order = some[np.lexsort((count_P2[some, 1], count_P2[some].sum(axis=1)))]
        for start in range(0, len(order), self.settings.batch_pairs):
            yield order[start : start + self.settings.batch_pairs]

    def _assign(
        self, first: Points, second: Points
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The log assignment, and which keypoints are left of each image where some were cut."""
        kept0 = kept1 = None
        for number in range(self.settings.layers):
            first, second = self.network.layer(number, first, second)
            if number + 1 == self.settings.prune_after:
                head = self.network.assignments[number]
                first, kept0 = _most_matchable(first, head, self.settings.prune_to)
                second, kept1 = _most_matchable(second, head, self.settings.prune_to)
        return self.network.assignments[self.settings.layers - 1](first, second), kept0, kept1


def mutual_matches(
    log_BMN: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of keypoints that are each other's best with a confidence over the threshold.

    Returns the batch row and first keypoint (X, 2), the second keypoint (X,) and the confidence
    (X,); by batch row, then first keypoint.
    """
    best_BM, column_BM = log_BMN.max(dim=2)
    row_BN = log_BMN.max(dim=1).indices
    own_M = torch.arange(log_BMN.shape[1], device=log_BMN.device)
    mutual_BM = row_BN.gather(1, column_BM) == own_M
    confidence_BM = best_BM.exp()
    valid_BM = mutual_BM & (confidence_BM > threshold)
    return valid_BM.nonzero(), column_BM[valid_BM], confidence_BM[valid_BM]


def _rounded_up(width: int, points: Points) -> int:
    step = -(-int(width) // WIDTH_STEP) * WIDTH_STEP
    return min(step, points.state_BKC.shape[1])


def _most_matchable(points: Points, head: Any, most: int) -> tuple[Points, torch.Tensor]:
    """The keypoints (B, most) most sure of a partner, in their old order."""
    score_BK = head.log_matchability(points)
    if points.real_BK is not None:
        score_BK = score_BK.masked_fill(~points.real_BK, -torch.inf)
    most = min(most, score_BK.shape[1])
    kept_BK = score_BK.topk(most, dim=1).indices.sort(dim=1).values
    state = points.state_BKC.gather(1, kept_BK[..., None].expand(-1, -1, points.state_BKC.shape[2]))
    places = kept_BK[None, ..., None].expand(2, -1, -1, points.rotation_2BKR.shape[3])
    rotation = points.rotation_2BKR.gather(2, places)
    real = None if points.real_BK is None else points.real_BK.gather(1, kept_BK)
    return Points(state, rotation, real), kept_BK
