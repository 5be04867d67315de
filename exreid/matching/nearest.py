"""Matching pairs by nearest neighbours of raw descriptors: no network, a hundredth of its time.

Two keypoints match where each is the other's nearest. What such a match is worth follows from
Lowe's ratio (2004): its distance over that to the second nearest keypoint of the same image. In a
pair of one animal some keypoints have one clear partner, in others all are about equally near.

Letters: P pairs of a tile, B of a batch, M and N keypoints of the two images, L descriptor length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

from exreid.models.device import on_device, whole_fp32
from exreid.records import Json, LocalFeatures, PairEvidence, PairMatches

BATCH_PAIRS = {"cpu": 16, "cuda": 256}
"""Pairs of one batch, if they have no more than `BATCH_COSINES` pairs of keypoints."""
BATCH_COSINES = 2**26
"""256 pairs of 512 keypoints: 256 MiB, and some copies of it."""
PADDING = -2.0
"""Below every cosine."""
SELECTIVITY = 3
"""The power of a match's confidence in the sum: a few clear matches outweigh many doubtful ones."""


@dataclass(frozen=True)
class NearestSettings:
    """How pairs are matched."""

    keypoints: int | None = None
    """At most this many of each image's best keypoints; None: all."""

    def describe(self) -> dict[str, Json]:
        """What the evidence depends on."""
        return {"matcher": "nearest", "version": 2, **asdict(self)}


class Nearest(NamedTuple):
    """For each first keypoint of B pairs its nearest of the second image."""

    column_BM: torch.Tensor
    similarity_BM: torch.Tensor
    """Their cosine."""
    confidence_BM: torch.Tensor
    """1 - r^2, with Lowe's ratio r: 0 where the second nearest is as near, 1 where the nearest is
    the same descriptor."""
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
    # Without a second keypoint the ratio is taken to one at right angles.
    second_BM = similarity_BMN.amax(dim=2)
    second_BM = torch.where(second_BM > PADDING, second_BM, 0.0)
    # Squared distances of descriptors of length 1 are 2 - 2 cosines.
    confidence_BM = ((best_BM - second_BM) / (1 - second_BM).clamp_min(1e-6)).clamp(0.0, 1.0)
    return Nearest(column_BM, best_BM, confidence_BM, mutual_BM)


class NearestMatcher:
    """Scores the pairs of a tile; see `exreid.matching.tiles.PairMatcher`.

    The match count is the number of mutual neighbours; the confidence sum is that of their
    confidences to the power of `SELECTIVITY`.
    """

    def __init__(self, settings: NearestSettings, device: str | torch.device = "cpu") -> None:
        self.keypoints, self.device = settings.keypoints, torch.device(device)

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """The evidence of the pairs (row of ``queries``, row of ``gallery``)."""
        parts = [
            (
                nearest.mutual_BM.sum(dim=1),
                (nearest.confidence_BM**SELECTIVITY * nearest.mutual_BM).sum(dim=1),
            )
            for nearest in self._batches(queries, gallery, pair_P2)
        ]
        unknown_P = np.full(len(pair_P2), -1, np.int32)
        if not parts:
            return PairEvidence(unknown_P, np.zeros(0), unknown_P)
        # The device is waited for once, at the end of the tile.
        count_P, sum_P = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return PairEvidence(count_P.astype(np.int32), sum_P.astype(np.float64), unknown_P)

    def details(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> list[PairMatches]:
        """All mutual neighbours of each pair, with their confidences."""
        matches = []
        for nearest in self._batches(queries, gallery, pair_P2):
            column_BM, confidence_BM, mutual_BM = (
                values.cpu().numpy()
                for values in (nearest.column_BM, nearest.confidence_BM, nearest.mutual_BM)
            )
            for column_M, confidence_M, mutual_M in zip(
                column_BM, confidence_BM, mutual_BM, strict=True
            ):
                row_X = np.flatnonzero(mutual_M)
                row_X = row_X[np.argsort(-confidence_M[row_X], kind="stable")]
                matches.append(
                    PairMatches(
                        row_X.astype(np.int32),
                        column_M[row_X].astype(np.int32),
                        confidence_M[row_X].astype(np.float32),
                        np.zeros(len(row_X), bool),
                    )
                )
        return matches

    @torch.inference_mode()
    def _batches(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> Iterator[Nearest]:
        first, second = (self._descriptors(side) for side in (queries, gallery))
        count_q, count_g = (self._counts(side) for side in (queries, gallery))
        padded = bool((count_q < first.shape[1]).any()), bool((count_g < second.shape[1]).any())
        count_P2 = np.stack([count_q[pair_P2[:, 0]], count_g[pair_P2[:, 1]]], axis=1)
        pairs, counts = (on_device(values, self.device) for values in (pair_P2, count_P2))
        most = BATCH_COSINES // max(1, first.shape[1] * second.shape[1])
        step = max(1, min(BATCH_PAIRS[self.device.type], most))
        for start in range(0, len(pair_P2), step):
            rows = slice(start, start + step)
            query_B, gallery_B = pairs[rows].long().unbind(1)
            sides = first[query_B], second[gallery_B]
            with whole_fp32():
                nearest = nearest_neighbours(*sides, counts[rows], padded=padded)
            yield nearest

    def _counts(self, features: LocalFeatures) -> np.ndarray:
        most = self.keypoints or features.keypoints_NK2.shape[1]
        return np.minimum(features.count_N, most).astype(np.int64)

    def _descriptors(self, features: LocalFeatures) -> torch.Tensor:
        most = self.keypoints or features.keypoints_NK2.shape[1]
        return on_device(features.descriptors_NKL[:, :most], self.device).float()
