"""Matching pairs by nearest neighbours of raw descriptors: no network, a hundredth of its time.

Two keypoints match where each is the other's nearest. What such a match is worth is how much
nearer it is than the next best (the idea of Lowe's ratio test): in a pair of one animal some
keypoints have one clear partner, in others all are about equally near.

Letters: P pairs of a tile, B of a batch, M and N keypoints of the two images, L descriptor length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

from exreid.models.device import on_device
from exreid.records import Json, LocalFeatures, PairEvidence

BATCH_PAIRS = {"cpu": 16, "cuda": 256}
"""Pairs of one batch."""
PADDING = -2.0
"""Below every cosine."""


@dataclass(frozen=True)
class NearestSettings:
    """How pairs are matched."""

    keypoints: int | None = None
    """At most this many of each image's best keypoints; None: all."""

    def describe(self) -> dict[str, Json]:
        """What the evidence depends on."""
        return {"matcher": "nearest", "version": 1, **asdict(self)}


class Nearest(NamedTuple):
    """For each first keypoint of B pairs its nearest of the second image."""

    column_BM: torch.Tensor
    similarity_BM: torch.Tensor
    """Their cosine."""
    gap_BM: torch.Tensor
    """That cosine less the second nearest's."""
    mutual_BM: torch.Tensor
    """bool: whether the two are each other's nearest; False for padding."""


def nearest_neighbours(
    first_BML: torch.Tensor,
    second_BNL: torch.Tensor,
    count_B2: torch.Tensor,
    *,
    padded: tuple[bool, bool],
) -> Nearest:
    """Compare all descriptors (of length 1) of B pairs of images. ``count_B2``: real keypoints of
    each image; ``padded``: which sides have padding, which the caller knows without the device."""
    similarity_BMN = first_BML @ second_BNL.transpose(1, 2)
    place_M = torch.arange(first_BML.shape[1], device=first_BML.device)
    place_N = torch.arange(second_BNL.shape[1], device=first_BML.device)
    real_BM = place_M < count_B2[:, :1]
    real_BN = place_N < count_B2[:, 1:]
    if padded[0]:
        similarity_BMN = similarity_BMN.masked_fill(~real_BM[:, :, None], PADDING)
    if padded[1]:
        similarity_BMN = similarity_BMN.masked_fill(~real_BN[:, None, :], PADDING)
    best_BM, column_BM = similarity_BMN.max(dim=2)
    row_BN = similarity_BMN.argmax(dim=1)
    mutual_BM = (row_BN.gather(1, column_BM) == place_M) & real_BM & (best_BM > PADDING)
    similarity_BMN.scatter_(2, column_BM[:, :, None], PADDING)
    # Without a second keypoint the gap is taken to one at right angles.
    second_BM = similarity_BMN.amax(dim=2)
    second_BM = torch.where(second_BM > PADDING, second_BM, 0.0)
    return Nearest(column_BM, best_BM, (best_BM - second_BM).clamp_min(0.0), mutual_BM)


class NearestMatcher:
    """Scores the pairs of a tile; see `exreid.matching.tiles.PairMatcher`.

    The match count is the number of mutual neighbours, the confidence sum the sum of their gaps.
    """

    def __init__(self, settings: NearestSettings, device: str | torch.device = "cpu") -> None:
        self.keypoints, self.device = settings.keypoints, torch.device(device)

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """The evidence of the pairs (row of ``queries``, row of ``gallery``)."""
        parts = [
            (nearest.mutual_BM.sum(dim=1), (nearest.gap_BM * nearest.mutual_BM).sum(dim=1))
            for nearest in self._batches(queries, gallery, pair_P2)
        ]
        unknown_P = np.full(len(pair_P2), -1, np.int32)
        if not parts:
            return PairEvidence(unknown_P, np.zeros(0), unknown_P)
        # The device is waited for once, at the end of the tile.
        count_P, sum_P = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return PairEvidence(count_P.astype(np.int32), sum_P.astype(np.float64), unknown_P)

    @torch.inference_mode()
    def _batches(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> Iterator[Nearest]:
        sides = queries, gallery
        first, second = (self._descriptors(side) for side in sides)
        count_q, count_g = (self._counts(side) for side in sides)
        padded = bool((count_q < first.shape[1]).any()), bool((count_g < second.shape[1]).any())
        count_P2 = np.stack([count_q[pair_P2[:, 0]], count_g[pair_P2[:, 1]]], axis=1)
        pairs, counts = (on_device(values, self.device) for values in (pair_P2, count_P2))
        step = BATCH_PAIRS[self.device.type]
        for start in range(0, len(pair_P2), step):
            rows = slice(start, start + step)
            query_B, gallery_B = pairs[rows].long().unbind(1)
            yield nearest_neighbours(first[query_B], second[gallery_B], counts[rows], padded=padded)

    def _counts(self, features: LocalFeatures) -> np.ndarray:
        most = self.keypoints or features.keypoints_NK2.shape[1]
        return np.minimum(features.count_N, most).astype(np.int64)

    def _descriptors(self, features: LocalFeatures) -> torch.Tensor:
        most = self.keypoints or features.keypoints_NK2.shape[1]
        return on_device(features.descriptors_NKL[:, :most], self.device).float()
