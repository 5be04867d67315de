"""The index of all descriptors against a naive twin: loops over keypoints and images, in
float64."""

from itertools import pairwise

import numpy as np
import pytest

from exreid.matching.local_index import (
    RIGHT_ANGLE,
    evidence_of,
    image_matches,
    image_scores,
    keypoint_distances,
    nearest_images,
    nearest_of,
    scores_against,
)
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.records import LocalFeatures

KEYPOINTS, LENGTH = 7, 16
MATCHER = NearestMatcher(NearestSettings())


def _features(images, seed, *, counts=None):
    """Images with spots of a few kinds, each a little different wherever it is seen."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).normal(size=(12, LENGTH))
    shape = (images, KEYPOINTS)
    descriptors = kinds[rng.integers(0, 12, shape)] + 0.3 * rng.normal(size=(*shape, LENGTH))
    count_N = rng.integers(0, KEYPOINTS + 1, images) if counts is None else np.array(counts)
    padding = np.arange(KEYPOINTS) >= count_N[:, None]
    descriptors[padding] = 0
    return LocalFeatures(
        np.zeros((*shape, 2), np.float32),
        descriptors.astype(np.float16),
        count_N.astype(np.int32),
        np.full((images, 2), 100, np.int32),
    )


def _squared(queries, q, i, gallery, g):
    """The squared distance of a query's keypoint to the nearest of an image, and which it is."""
    own = queries.descriptors_NKL[q, i].astype(float)
    own /= np.sqrt(own @ own)
    best = np.inf, -1
    for j in range(gallery.count_N[g]):
        other = gallery.descriptors_NKL[g, j].astype(float)
        other /= np.sqrt(other @ other)
        best = min(best, (float(((own - other) ** 2).sum()), j))
    return best


def _naive(queries, gallery, allowed_QG, keep):
    """For each keypoint of each query a list of (squared distance, image, keypoint)."""
    lists = []
    for q in range(len(queries)):
        for i in range(queries.count_N[q]):
            near = [
                (
                    *_squared(queries, q, i, gallery, g)[:1],
                    g,
                    _squared(queries, q, i, gallery, g)[1],
                )
                for g in np.flatnonzero(allowed_QG[q])
                if gallery.count_N[g]
            ]
            lists.append((q, i, sorted(near)[:keep]))
    return lists


@pytest.mark.parametrize("keep", [1, 3, 40])
def test_the_nearest_images_are_those_of_loops_over_all_keypoints(keep):
    queries, gallery = _features(4, 0), _features(30, 1)
    allowed_QG = np.random.default_rng(2).random((4, 30)) < 0.7
    pair_P2 = np.argwhere(allowed_QG).astype(np.int32)
    nearest = nearest_images(MATCHER, queries, gallery, pair_P2, keep=keep)
    assert nearest.squared_QKC.shape == (4, KEYPOINTS, keep)
    real = np.zeros((4, KEYPOINTS), bool)
    for q, i, expected in _naive(queries, gallery, allowed_QG, keep):
        real[q, i] = True
        row = slice(len(expected))
        assert nearest.image_QKC[q, i, row].tolist() == [image for _, image, _ in expected]
        assert nearest.keypoint_QKC[q, i, row].tolist() == [key for _, _, key in expected]
        assert nearest.squared_QKC[q, i, row] == pytest.approx([d for d, _, _ in expected])
        assert (nearest.image_QKC[q, i, len(expected) :] == -1).all()
    assert (nearest.image_QKC[~real] == -1).all()
    assert (nearest.squared_QKC[~real] == RIGHT_ANGLE).all()


def test_a_query_may_have_no_pair_among_many_images():
    queries, gallery = _features(2, 14, counts=[3, 4]), _features(70, 15)
    pairs = np.array([[0, 69], *([1, g] for g in range(70))], np.int32)
    nearest = nearest_images(MATCHER, queries, gallery, pairs, keep=2)
    assert set(nearest.image_QKC[0].ravel().tolist()) <= {-1, 69}


@pytest.mark.parametrize("cuts", [[], [13], [1, 20], [64, 70, 150]])
def test_shards_give_the_answer_of_one_index_to_the_last_bit(cuts):
    queries, gallery = _features(3, 3), _features(200, 4)
    ends = [0, *cuts, 200]
    parts = []
    for start, stop in pairwise(ends):
        rows = np.arange(start, stop)
        pairs = np.stack(np.meshgrid(np.arange(3), rows - start, indexing="ij"), -1).reshape(-1, 2)
        part = nearest_images(MATCHER, queries, gallery.take(rows), pairs, keep=3)
        image = np.where(part.image_QKC >= 0, part.image_QKC + start, -1)
        parts.append(type(part)(part.squared_QKC, image, part.keypoint_QKC))
    merged = nearest_of(parts[::-1], 3)
    pairs = np.stack(np.meshgrid(np.arange(3), np.arange(200), indexing="ij"), -1).reshape(-1, 2)
    whole = nearest_images(MATCHER, queries, gallery, pairs, keep=3)
    for name in ("squared_QKC", "image_QKC", "keypoint_QKC"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name)), name


def test_the_background_is_never_an_image_that_may_not_answer():
    queries, gallery = _features(1, 5, counts=[1]), _features(4, 6, counts=[1, 1, 1, 1])
    gallery.descriptors_NKL[1] = queries.descriptors_NKL[0]  # its own photograph once more
    every = np.array([[0, g] for g in range(4)], np.int32)
    others = every[[0, 2, 3]]
    squared = [_squared(queries, 0, 0, gallery, g)[0] for g in (0, 2, 3)]
    nearest = nearest_images(MATCHER, queries, gallery, others, keep=3)
    near, _, far = np.sqrt(sorted(squared))
    assert evidence_of(nearest)[0, 0, 0] == pytest.approx(max(min(far, 2**0.5) - near, 0.0))
    own = nearest_images(MATCHER, queries, gallery, every, keep=3)
    assert own.squared_QKC[0, 0, 0] == 0.0


@pytest.mark.parametrize("neighbours", [1, 2, 5])
def test_scores_are_the_power_means_of_the_differences_to_the_background(neighbours):
    queries, gallery = _features(5, 7), _features(12, 8)
    allowed_QG = np.random.default_rng(9).random((5, 12)) < 0.8
    pairs = np.argwhere(allowed_QG).astype(np.int32)
    nearest = nearest_images(MATCHER, queries, gallery, pairs, keep=neighbours + 1)
    expected_QG = np.zeros((5, 12))
    for q, _, near in _naive(queries, gallery, allowed_QG, neighbours + 1):
        # Where too few images may answer, unrelated descriptors are the background.
        far = near[neighbours][0] if len(near) > neighbours else RIGHT_ANGLE
        for squared, image, _ in near[:neighbours]:
            gain = np.sqrt(min(far, RIGHT_ANGLE)) - np.sqrt(squared)
            expected_QG[q, image] += max(gain, 0.0) ** 3 / queries.count_N[q]
    expected_QG = np.cbrt(expected_QG)
    scores_QG = image_scores(nearest, queries.count_N, 12)
    assert scores_QG == pytest.approx(expected_QG)
    assert (scores_QG > 0).any()
    # The same of single pairs, against the background alone.
    asked = np.argwhere(allowed_QG & (gallery.count_N > 0)).astype(np.int32)
    squared_PK = keypoint_distances(MATCHER, queries, gallery, asked)
    background_PK = nearest.squared_QKC[asked[:, 0], :, -1]
    score_P = scores_against(squared_PK, background_PK, queries.count_N[asked[:, 0]])
    assert score_P == pytest.approx(scores_QG[asked[:, 0], asked[:, 1]], abs=1e-12)


def test_matches_of_an_image_are_the_keypoints_that_speak_for_it():
    queries, gallery = _features(1, 10, counts=[KEYPOINTS]), _features(9, 11)
    pairs = np.array([[0, g] for g in range(9)], np.int32)
    nearest = nearest_images(MATCHER, queries, gallery, pairs, keep=3)
    scores_G = image_scores(nearest, queries.count_N, 9)[0]
    for image in range(9):
        matches = image_matches(nearest, image)
        assert (np.diff(matches.confidence_X) <= 0).all()
        gains = 0.0
        for own, other, share in zip(
            matches.query_X, matches.gallery_X, matches.confidence_X, strict=True
        ):
            squared, key = _squared(queries, 0, own, gallery, image)
            assert key == other
            background = min(np.sqrt(nearest.squared_QKC[0, own, -1]), 2**0.5)
            assert share == pytest.approx((background - np.sqrt(squared)) / background, rel=1e-5)
            gains += (background - np.sqrt(squared)) ** 3
        assert scores_G[image] == pytest.approx(np.cbrt(gains / KEYPOINTS))


def test_without_keypoints_there_is_no_evidence():
    queries, gallery = _features(2, 12, counts=[0, 3]), _features(3, 13, counts=[0, 0, 0])
    pairs = np.array([[q, g] for q in range(2) for g in range(3)], np.int32)
    nearest = nearest_images(MATCHER, queries, gallery, pairs, keep=2)
    assert (image_scores(nearest, queries.count_N, 3) == 0).all()
    assert len(image_matches(nearest.take(np.array([1])), 0).query_X) == 0
