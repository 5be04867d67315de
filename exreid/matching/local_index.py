"""One index of all local descriptors of a gallery: the images whose descriptors are nearest.

A query's keypoint speaks for the k gallery images that have the nearest descriptors, each by how
much nearer its own is than the one of the next image, the background: local naive Bayes nearest
neighbour (McCann and Lowe, CVPR 2012), as HotSpotter ranks animals by it (Crall et al., WACV 2013).
A spot that every animal has is as near in many images, and speaks for none of them.

An image's score is a power mean over the query's keypoints: each piece of evidence counts by its
third power, so that a few clear spots outweigh many faint ones, as the selective match kernel
weights them (Tolias, Avrithis and Jegou, ICCV 2013).

Letters: Q queries, G gallery images, K keypoints, C nearest images of a keypoint (k + 1), P pairs,
L descriptor length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from exreid.matching.nearest import PADDING, NearestMatcher
from exreid.matching.tiles import PairMatcher
from exreid.models.device import on_device, whole_fp32
from exreid.records import LocalFeatures, PairMatches

RIGHT_ANGLE = 2.0
"""The squared distance of unrelated descriptors, which a missing one counts as."""
SELECTIVITY = 3
"""The exponent of the power mean; Tolias et al. take the same. On database photographs of nyala as
queries it was right more often than 1, as plain sums have it, for each number of neighbours."""
SPARE = 3
"""Images beyond the wanted ones that are chosen in float32: exact distances then decide."""
IMAGES_AT_A_TIME = {"cpu": 64, "cuda": 1024}
"""Gallery images that a query is compared with at a time, if there are no more than `COSINES` pairs
of keypoints."""
COSINES = 2**28
"""1,024 images of 512 keypoints for a query of as many: 1 GiB."""
FEW = 0.5
"""Where fewer of these are paired with the query, the others are left out of the product."""


@dataclass(frozen=True)
class NearestImages:
    """For each keypoint of Q queries the C gallery images with the nearest descriptors, the nearest
    first, each image once; of equally near ones the smaller index."""

    squared_QKC: np.ndarray
    """float64, squared distance of the descriptors at length 1, the same on every machine;
    `RIGHT_ANGLE` where there is no such image, or no such keypoint."""
    image_QKC: np.ndarray
    """int32 index of the gallery image; -1 where there is none."""
    keypoint_QKC: np.ndarray
    """int16: the image's keypoint."""

    @classmethod
    def none(cls, queries: int, keypoints: int) -> NearestImages:
        """No image at all."""
        shape = (queries, keypoints, 0)
        return cls(np.zeros(shape), np.zeros(shape, np.int32), np.zeros(shape, np.int16))

    @classmethod
    def joined(cls, parts: Sequence[NearestImages]) -> NearestImages:
        """Queries one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))

    def take(self, index_M: np.ndarray) -> NearestImages:
        """Those of the queries at these indices."""
        return NearestImages(*(getattr(self, name)[index_M] for name in _FIELDS))


_FIELDS = tuple(NearestImages.__dataclass_fields__)


@whole_fp32()
@torch.inference_mode()
def nearest_images(
    matcher: PairMatcher,
    queries: LocalFeatures,
    gallery: LocalFeatures,
    pair_P2: np.ndarray,
    *,
    keep: int,
) -> NearestImages:
    """The ``keep`` nearest gallery images of each query's keypoints, among those that are paired
    with the query (int32 (P, 2), rows of both)."""
    assert isinstance(matcher, NearestMatcher)
    count_Q, count_G = queries.count_N, gallery.count_N
    paired_QG = np.zeros((len(queries), len(gallery)), bool)
    paired_QG[pair_P2[:, 0], pair_P2[:, 1]] = True
    query_QKL = _of_length_1(queries, matcher.device)
    chosen = [_Chosen.none(count, matcher.device) for count in count_Q.tolist()]
    step = _images_at_a_time(matcher, queries, gallery)
    for start in range(0, len(gallery), step):
        rows = np.arange(start, min(start + step, len(gallery)))
        gallery_GKL = _of_length_1(gallery.take(rows), matcher.device)
        for q, count in enumerate(count_Q.tolist()):
            place_R, images_RKL = rows, gallery_GKL
            if not paired_QG[q, rows].any():
                continue
            if paired_QG[q, rows].mean() < FEW:
                place_R = rows[paired_QG[q, rows]]
                images_RKL = gallery_GKL[on_device(place_R - start, matcher.device)]
            count_R = np.where(paired_QG[q, place_R], count_G[place_R], 0)
            places = on_device(place_R, matcher.device), on_device(count_R, matcher.device)
            more = _chosen(query_QKL[q, :count], images_RKL, *places)
            chosen[q] = chosen[q].or_nearer(more, keep + SPARE)
    shape = queries.keypoints_NK2.shape[1], keep + SPARE
    lists = [_padded(_exact(queries, q, gallery, near), *shape) for q, near in enumerate(chosen)]
    return nearest_of([NearestImages.joined(lists)], keep)


def nearest_of_some(
    matcher: PairMatcher,
    queries: LocalFeatures,
    gallery: LocalFeatures,
    pair_P2: np.ndarray,
    *,
    keep: int,
    every: int,
) -> NearestImages:
    """As `nearest_images`, of every so many of a query's keypoints."""
    some = LocalFeatures(
        queries.keypoints_NK2[:, ::every],
        queries.descriptors_NKL[:, ::every],
        -(-queries.count_N // every),
        queries.image_wh_px_N2,
    )
    return nearest_images(matcher, some, gallery, pair_P2, keep=keep)


def nearest_of(parts: Sequence[NearestImages], keep: int) -> NearestImages:
    """The nearest images of several lists for the same queries, of different images."""
    both = NearestImages(
        *(np.concatenate([getattr(part, name) for part in parts], axis=2) for name in _FIELDS)
    )
    both = _padded(both, both.squared_QKC.shape[1], keep)
    image_QKC = both.image_QKC
    order = np.lexsort((image_QKC, both.squared_QKC, image_QKC < 0), axis=2)[:, :, :keep]
    return NearestImages(
        *(np.take_along_axis(getattr(both, name), order, axis=2) for name in _FIELDS)
    )


def without(nearest: NearestImages, out_QKC: np.ndarray) -> NearestImages:
    """The lists with nothing at the places that are True."""
    return NearestImages(
        np.where(out_QKC, RIGHT_ANGLE, nearest.squared_QKC),
        np.where(out_QKC, np.int32(-1), nearest.image_QKC),
        nearest.keypoint_QKC,
    )


def deciding_keypoints(
    nearest: NearestImages, count: int, *, alike: float, most: int
) -> np.ndarray:
    """The keypoints, rising, that say most for the images of one query which score within the share
    ``alike`` of the first; none where that is one image.

    >>> nearest = NearestImages(np.array([[[0.25, 1.0], [1.0, 1.44], [0.25, 1.0]]]),
    ...                         np.array([[[4, 0], [2, 0], [1, 0]]]), np.zeros((1, 3, 2), np.int16))
    >>> deciding_keypoints(nearest, 3, alike=0.05, most=64).tolist()
    [0, 2]
    """
    image_KC = nearest.image_QKC[0, :, :-1]
    named, place = np.unique(image_KC, return_inverse=True)
    image_KC = np.where(image_KC < 0, -1, place.reshape(image_KC.shape))
    few = NearestImages(nearest.squared_QKC, np.pad(image_KC, ((0, 0), (0, 1)))[None], image_KC)
    score_N = image_scores(few, np.array([count]), len(named))[0]
    leaders = np.flatnonzero(score_N >= (1 - alike) * score_N.max(initial=0))
    if len(leaders) < 2:
        return np.zeros(0, np.int64)
    said_KC = np.where(np.isin(image_KC, leaders), evidence_of(nearest)[0], 0.0) ** SELECTIVITY
    said_K = said_KC.sum(axis=1)
    best = np.argsort(-said_K, kind="stable")[:most]
    return np.sort(best[said_K[best] > 0])


def evidence_of(nearest: NearestImages) -> np.ndarray:
    """How much nearer the descriptor of each image is than the last one's, the background: float64
    (Q, K, C - 1), in [0, sqrt(2)]."""
    distance_QKC = np.sqrt(nearest.squared_QKC)
    background_QK1 = np.minimum(distance_QKC[:, :, -1:], np.sqrt(RIGHT_ANGLE))
    return np.maximum(background_QK1 - distance_QKC[:, :, :-1], 0.0)


def image_scores(nearest: NearestImages, count_Q: np.ndarray, gallery: int) -> np.ndarray:
    """The evidence for each of ``gallery`` images, its power mean over the query's ``count_Q``
    keypoints: float64 (Q, G), in [0, sqrt(2)].

    >>> nearest = NearestImages(np.array([[[0.25, 1, 1.96]]]), np.array([[[4, 0, 1]]]),
    ...                         np.zeros((1, 1, 3), np.int16))
    >>> image_scores(nearest, np.array([1]), 5).round(3).tolist()
    [[0.4, 0.0, 0.0, 0.0, 0.9]]
    >>> image_scores(nearest, np.array([8]), 5).round(3).tolist()
    [[0.2, 0.0, 0.0, 0.0, 0.45]]
    """
    image_QKC = nearest.image_QKC[:, :, :-1]
    evidence_QKC = np.where(image_QKC >= 0, evidence_of(nearest), 0.0)
    query, keypoint, place = np.nonzero(evidence_QKC)
    cell = query * gallery + image_QKC[query, keypoint, place]
    power_E = evidence_QKC[query, keypoint, place] ** SELECTIVITY
    summed = np.bincount(cell, power_E, len(image_QKC) * gallery).reshape(-1, gallery)
    return np.asarray((summed / np.maximum(count_Q, 1)[:, None]) ** (1 / SELECTIVITY))


@whole_fp32()
@torch.inference_mode()
def keypoint_distances(
    matcher: PairMatcher, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
) -> np.ndarray:
    """The squared distance of each query keypoint's nearest descriptor in the gallery image of each
    pair, float64 (P, K); `RIGHT_ANGLE` for padding."""
    assert isinstance(matcher, NearestMatcher)
    squared_PK = np.full((len(pair_P2), queries.keypoints_NK2.shape[1]), RIGHT_ANGLE)
    query_QKL = _of_length_1(queries, matcher.device)
    step = _images_at_a_time(matcher, queries, gallery)
    for q in np.unique(pair_P2[:, 0]).tolist():
        count, mine_P = queries.count_N[q], np.flatnonzero(pair_P2[:, 0] == q)
        for start in range(0, len(mine_P), step):
            part_P = mine_P[start : start + step]
            others = gallery.take(pair_P2[part_P, 1])
            other_GKL = _of_length_1(others, matcher.device)
            index_G = on_device(np.arange(len(others)), matcher.device)
            count_G = on_device(others.count_N, matcher.device)
            chosen = _chosen(query_QKL[q, :count], other_GKL, index_G, count_G)
            nearest = _exact(queries, q, others, chosen)
            squared_PK[part_P, :count] = nearest.squared_QKC[0].T
    return squared_PK


def scores_against(
    squared_PK: np.ndarray, background_PK: np.ndarray, count_P: np.ndarray
) -> np.ndarray:
    """The evidence of images whose nearest descriptors are that far, against the squared distance
    of the background; its power mean over ``count_P`` keypoints: float64 (P,)."""
    background_PK = np.sqrt(np.minimum(background_PK, RIGHT_ANGLE))
    evidence_PK = np.maximum(background_PK - np.sqrt(squared_PK), 0.0)
    summed_P = (evidence_PK**SELECTIVITY).sum(axis=1)
    return np.asarray((summed_P / np.maximum(count_P, 1)) ** (1 / SELECTIVITY))


def image_matches(nearest: NearestImages, image: int) -> PairMatches:
    """The keypoints of one query that speak for an image; the confidence is the share of the
    background's distance that they are nearer by."""
    evidence_KC = evidence_of(nearest)[0]
    background_K = np.sqrt(nearest.squared_QKC[0, :, -1])
    keypoint, place = np.nonzero(nearest.image_QKC[0, :, :-1] == image)
    share = evidence_KC[keypoint, place] / np.maximum(background_K[keypoint], 1e-12)
    order = np.lexsort((keypoint, -share))
    order = order[share[order] > 0]
    keypoint, place = keypoint[order], place[order]
    return PairMatches(
        keypoint.astype(np.int32),
        nearest.keypoint_QKC[0, keypoint, place].astype(np.int32),
        share[order].astype(np.float32),
        np.zeros(len(order), bool),
    )


def _images_at_a_time(
    matcher: NearestMatcher, queries: LocalFeatures, gallery: LocalFeatures
) -> int:
    keypoints = queries.keypoints_NK2.shape[1] * gallery.keypoints_NK2.shape[1]
    return max(1, min(IMAGES_AT_A_TIME[matcher.device.type], COSINES // max(1, keypoints)))


def _of_length_1(features: LocalFeatures, device: torch.device) -> torch.Tensor:
    """The descriptors, float32 (N, K, L). Padding is the image's first descriptor once more, which
    is no nearer to anything than that is."""
    padding_NK = np.arange(features.descriptors_NKL.shape[1]) >= features.count_N[:, None]
    descriptors = on_device(features.descriptors_NKL, device).float()
    descriptors = torch.where(
        on_device(padding_NK, device)[:, :, None], descriptors[:, :1], descriptors
    )
    return torch.nn.functional.normalize(descriptors, dim=2)


class _Chosen(NamedTuple):
    """Gallery images for each keypoint of one query, in float32."""

    similarity_KC: torch.Tensor
    """`PADDING` where there is no image."""
    image_KC: torch.Tensor
    keypoint_KC: torch.Tensor

    @classmethod
    def none(cls, keypoints: int, device: torch.device) -> _Chosen:
        empty = torch.zeros((keypoints, 0), device=device)
        return cls(empty, empty.long(), empty.long())

    def or_nearer(self, more: _Chosen, keep: int) -> _Chosen:
        """The nearest of both."""
        similarity, *others = (torch.cat(both, dim=1) for both in zip(self, more, strict=True))
        best_KC, place_KC = similarity.topk(min(keep, similarity.shape[1]), dim=1)
        image_KC, keypoint_KC = (values.gather(1, place_KC) for values in others)
        return _Chosen(best_KC, image_KC, keypoint_KC)


def _chosen(
    query_KL: torch.Tensor,
    gallery_GKL: torch.Tensor,
    index_G: torch.Tensor,
    count_G: torch.Tensor,
) -> _Chosen:
    """All these gallery images, which have these indices. ``count_G``: their keypoints, 0 for an
    image that does not answer."""
    images, keypoints, length = gallery_GKL.shape
    similarity_KGK = (query_KL @ gallery_GKL.reshape(-1, length).T).view(-1, images, keypoints)
    best_KG, keypoint_KG = similarity_KGK.max(dim=2)
    index_KG = index_G.expand_as(best_KG)
    # Of equally near ones any may have been taken: padding stands for the first.
    keypoint_KG = torch.where(keypoint_KG < count_G, keypoint_KG, 0)
    return _Chosen(best_KG.masked_fill(count_G == 0, PADDING), index_KG, keypoint_KG)


def _exact(
    queries: LocalFeatures, q: int, gallery: LocalFeatures, chosen: _Chosen
) -> NearestImages:
    """With distances from the stored numbers."""
    similarity_KC, image_KC, keypoint_KC = (values.cpu().numpy() for values in chosen)
    other_KCL = gallery.descriptors_NKL[image_KC, keypoint_KC]
    squared_KC = squared_of(queries.descriptors_NKL[q, : len(image_KC)], other_KCL)
    missing_KC = similarity_KC <= PADDING
    return NearestImages(
        np.where(missing_KC, RIGHT_ANGLE, squared_KC)[None],
        np.where(missing_KC, -1, image_KC).astype(np.int32)[None],
        np.where(missing_KC, -1, keypoint_KC).astype(np.int16)[None],
    )


def squared_of(own_KL: np.ndarray, other_KCL: np.ndarray) -> np.ndarray:
    """The squared distances of float16 descriptors at length 1, float64 (K, C), of (K, L) and
    (K, C, L): the products and their sums are exact in float64, so that neither the device nor the
    order of the sum changes them."""
    own_KL, other_KCL = own_KL.astype(np.float64), other_KCL.astype(np.float64)
    product_KC = np.einsum("kl,kcl->kc", own_KL, other_KCL)
    lengths_KC = np.einsum("kl,kl->k", own_KL, own_KL)[:, None]
    lengths_KC = np.sqrt(lengths_KC * np.einsum("kcl,kcl->kc", other_KCL, other_KCL))
    squared_KC: np.ndarray = 2.0 - 2.0 * product_KC / np.maximum(lengths_KC, 1e-12)
    return np.maximum(squared_KC, 0.0)


def _padded(nearest: NearestImages, keypoints: int, images: int) -> NearestImages:
    """With as many keypoints, and for each at least as many images; the last ones are none."""
    missing = max(images - nearest.squared_QKC.shape[2], 0)
    wide = ((0, 0), (0, keypoints - nearest.squared_QKC.shape[1]), (0, missing))
    values = zip(_FIELDS, (RIGHT_ANGLE, -1, -1), strict=True)
    return NearestImages(
        *(np.pad(getattr(nearest, name), wide, constant_values=fill) for name, fill in values)
    )
