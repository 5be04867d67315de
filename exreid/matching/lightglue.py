"""Matching pairs of images in batches, with the same counts as LightGlue one pair at a time.

The part that depends on one image alone is computed once for each image of a tile. Pairs go through
the rest in batches of about equally many keypoints; padding is masked in every attention and in the
assignment, so that a pair's evidence does not depend on the rest of its batch.

Letters: P pairs of a tile, B of a batch, M and N keypoints of the two images, X matches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from exreid.matching.geometry import Geometry, geometric_inliers
from exreid.models.device import Fetched, on_device, whole_fp32
from exreid.models.lightglue import Assignment, LightGlue, Points
from exreid.models.lightglue_weights import LAYERS
from exreid.records import Json, LocalFeatures, PairEvidence, PairMatches

BF16_VERSION = 3
"""Raise it when the code changes what bf16 gives; fp32 is the published network."""
WIDTH_STEP = 32
"""Batches are padded to a multiple of this many keypoints."""
GPU_BATCH_KEYPOINTS = 2**19
"""Keypoints of one batch on a GPU, both images of its pairs together (512 pairs of 512 keypoints, 3
GiB): twice as many gain an H200 1 to 2%, half as many cost it 4%."""
GPU_AHEAD = 2
"""Batches that a GPU is given before the first one's matches are waited for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MatchSettings:
    """How pairs are matched; the defaults are the reference's, fp32 through all layers."""

    match_threshold: float = 0.5
    """A match counts from this confidence on."""
    filter_threshold: float = 0.1
    """A match exists from this confidence on; those are summed."""
    layers: int = LAYERS
    """Layers that pairs go through, 1 to 9; after each an assignment can be read."""
    keypoints: int | None = None
    """At most this many of each image's best keypoints; None: all."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the layers; the assignment's softmax is always fp32."""
    prune_after: int | None = None
    """After this layer (from 1) only the most matchable keypoints of each image go on."""
    prune_to: int = 128
    """With prune_after: how many."""
    geometry: Geometry = "none"
    """What inliers are counted for."""
    batch_pairs: int = 8
    """Pairs of one batch on a CPU; changes speed and memory alone. On a GPU it is the number of
    keypoints that is fixed (`GPU_BATCH_KEYPOINTS`)."""
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

    def describe(self) -> dict[str, Json]:
        """What the evidence depends on; speed settings are left out."""
        left_out = {"batch_pairs", "compile"}
        depends = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out
        }
        return depends | ({"bf16_version": BF16_VERSION} if self.dtype == "bf16" else {})


class _Batch(NamedTuple):
    """A batch of pairs whose result is being copied to the host."""

    place_B: np.ndarray
    """Places of the pairs in the tile."""
    found: Fetched
    """See `mutual_matches`; the partners as int32."""

    def matches(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See `LightGlueMatcher._matches`; waits for the device."""
        partner_BM, confidence_BM = (values.numpy() for values in self.found.wait())
        row_X2 = np.argwhere(partner_BM >= 0)
        places = row_X2[:, 0], row_X2[:, 1]
        confidence_X = confidence_BM[places].astype(np.float64)
        return self.place_B, row_X2, partner_BM[places], confidence_X


class LightGlueMatcher:
    """Scores the pairs of a tile; see `exreid.matching.tiles.PairMatcher`."""

    def __init__(
        self, network: LightGlue, settings: MatchSettings, device: str | torch.device = "cpu"
    ) -> None:
        self.settings, self.device = settings, torch.device(device)
        dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32
        self.network = network.to(self.device, dtype)
        self.gpu_batch_keypoints = GPU_BATCH_KEYPOINTS
        self.halved = 0
        """Times that batches were halved, since they did not fit the memory."""
        if settings.compile:
            self.network.compile_layers()

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """The evidence of the pairs (row of ``queries``, row of ``gallery``);
        torch.OutOfMemoryError where their features leave no room for one of them."""
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
        matches = [PairMatches(empty, empty, np.zeros(0, np.float32), empty > 0)] * len(pair_P2)
        for place_B, row, column, confidence in self._matches(queries, gallery, pair_P2):
            for b, place in enumerate(place_B):
                own = np.flatnonzero(row[:, 0] == b)
                own = own[np.argsort(-confidence[own], kind="stable")]
                query_X, gallery_X = row[own, 1].astype(np.int32), column[own].astype(np.int32)
                matches[place] = PairMatches(
                    query_X,
                    gallery_X,
                    confidence[own].astype(np.float32),
                    self._inliers(queries, gallery, pair_P2[place], query_X, gallery_X),
                )
        return matches

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
        query keypoint (X, 2), its gallery keypoint and its confidence (float64).

        A GPU works on the next batches while the matches of the first are counted on the CPU.
        """
        first, count_q = self._embed(queries)
        second, count_g = self._embed(gallery)
        count_P2 = np.stack([count_q[pair_P2[:, 0]], count_g[pair_P2[:, 1]]], axis=1)
        order = _by_keypoints(count_P2)
        pairs_P2 = on_device(pair_P2[order].astype(np.int64), self.device)
        ahead = GPU_AHEAD if self.device.type == "cuda" else 0
        under_way: deque[_Batch] = deque()
        start = 0
        while start < len(order):
            place_B = order[start : start + self._batch_pairs(count_P2[order[-1]])]
            rows = slice(start, start + len(place_B))
            batch: _Batch | None = None
            try:
                batch = self._launch(first, second, pairs_P2[rows], place_B, count_P2[place_B])
            except torch.OutOfMemoryError:
                if len(place_B) == 1:
                    # The features of fewer pairs may leave room for batches as large as before.
                    self.halved = 0
                    raise
            if batch is None:  # The error is gone by now, and the tensors that it held.
                self._halve_batches(len(place_B))
                continue
            start = rows.stop
            under_way.append(batch)
            while len(under_way) > ahead:
                yield under_way.popleft().matches()
        while under_way:
            yield under_way.popleft().matches()

    def _batch_pairs(self, widest_2: np.ndarray) -> int:
        pairs = self.settings.batch_pairs
        if self.device.type == "cuda":
            pairs = self.gpu_batch_keypoints // max(1, int(widest_2.sum()))
        return max(1, pairs >> self.halved)

    def _halve_batches(self, pairs: int) -> None:
        self.halved += 1
        torch.cuda.empty_cache()
        log.warning("%d pairs do not fit the GPU's memory: batches are halved.", pairs)

    def _launch(
        self,
        first: Points,
        second: Points,
        pairs_B2: torch.Tensor,
        place_B: np.ndarray,
        count_B2: np.ndarray,
    ) -> _Batch:
        width_2 = [
            _rounded_up(width, points.state_BKC.shape[1])
            for width, points in zip(count_B2.max(axis=0), (first, second), strict=True)
        ]
        first = first.take(pairs_B2[:, 0], width_2[0], padded=count_B2[:, 0].min() < width_2[0])
        second = second.take(pairs_B2[:, 1], width_2[1], padded=count_B2[:, 1].min() < width_2[1])
        with whole_fp32():
            partner_BM, confidence_BM = self._assign(first, second)
        return _Batch(place_B, Fetched(partner_BM.int(), confidence_BM))

    def _embed(self, features: LocalFeatures) -> tuple[Points, np.ndarray]:
        most = self.settings.keypoints or features.keypoints_NK2.shape[1]
        count_N = np.minimum(features.count_N, most)
        padded = bool((count_N < min(most, features.keypoints_NK2.shape[1])).any())
        arguments = (
            on_device(features.keypoints_NK2[:, :most], self.device),
            on_device(features.descriptors_NKL[:, :most], self.device),
            on_device(count_N.astype(np.int64), self.device) if padded else None,
            on_device(features.image_wh_px_N2.astype(np.int64), self.device),
            on_device(features.frame_NKF[:, :most], self.device),
        )
        with whole_fp32():
            return self.network.embed(*arguments), count_N

    def _assign(self, first: Points, second: Points) -> tuple[torch.Tensor, torch.Tensor]:
        """See `mutual_matches`; keypoints that were pruned have no partner."""
        kept0 = kept1 = None
        width = first.state_BKC.shape[1]
        for number in range(self.settings.layers):
            first, second = self.network.layer(number, first, second)
            if number + 1 == self.settings.prune_after:
                head = self.network.assignments[number]
                first, kept0 = _most_matchable(first, head, self.settings.prune_to)
                second, kept1 = _most_matchable(second, head, self.settings.prune_to)
        log_BMN = self.network.assignments[self.settings.layers - 1](first, second)
        partner_BM, confidence_BM = mutual_matches(log_BMN, self.settings.filter_threshold)
        if kept0 is None or kept1 is None:
            return partner_BM, confidence_BM
        place_BM = kept1.gather(1, partner_BM.clamp(min=0))
        partner_BM = torch.where(partner_BM >= 0, place_BM, -1)
        whole = (len(partner_BM), width)
        return (
            partner_BM.new_full(whole, -1).scatter(1, kept0, partner_BM),
            confidence_BM.new_zeros(whole).scatter(1, kept0, confidence_BM),
        )


def mutual_matches(log_BMN: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The partner of each first keypoint, and the confidence.

    Two keypoints are partners where each is the other's best, with a confidence over the threshold.
    Returns the second keypoint (B, M), -1 where there is none, and the confidence (B, M) of the
    best, partner or not.
    """
    best_BM, column_BM = log_BMN.max(dim=2)
    row_BN = log_BMN.max(dim=1).indices
    own_M = torch.arange(log_BMN.shape[1], device=log_BMN.device)
    mutual_BM = row_BN.gather(1, column_BM) == own_M
    confidence_BM = best_BM.exp()
    return torch.where(mutual_BM & (confidence_BM > threshold), column_BM, -1), confidence_BM


def _by_keypoints(count_P2: np.ndarray) -> np.ndarray:
    """Indices of the pairs, by rising number of keypoints; without pairs that lack any."""
    some = np.flatnonzero(count_P2.min(axis=1) > 0)
    return some[np.lexsort((count_P2[some, 1], count_P2[some].sum(axis=1)))]


def _rounded_up(width: int, most: int) -> int:
    return min(-(-int(width) // WIDTH_STEP) * WIDTH_STEP, most)


def _most_matchable(points: Points, head: Assignment, most: int) -> tuple[Points, torch.Tensor]:
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
