"""The first, networkless look at pairs: against a naive twin, and what padding does to it."""

import numpy as np
import pytest

from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.records import LocalFeatures


def _features(counts, keypoints=40, seed=0):
    random = np.random.default_rng(seed)
    descriptors = random.normal(size=(len(counts), keypoints, 32)).astype(np.float16)
    for row, count in enumerate(counts):
        descriptors[row, count:] = 0
    zeros = np.zeros((len(counts), keypoints, 2), np.float32)
    sizes = np.full((len(counts), 2), 512, np.int32)
    return LocalFeatures(zeros, descriptors, np.array(counts, np.int32), sizes)


def _naive(first, second):
    """The number of mutual neighbours and the sum of their gaps, keypoint by keypoint."""
    count, total = 0, 0.0
    for m in range(len(first)):
        cosines = [float(first[m] @ other) for other in second]
        n = int(np.argmax(cosines))
        back = [float(second[n] @ other) for other in first]
        if int(np.argmax(back)) == m:
            count += 1
            rest = sorted(cosines)[:-1]
            total += max(0.0, cosines[n] - (rest[-1] if rest else 0.0))
    return count, total


def test_counts_and_gaps_are_those_of_a_naive_twin():
    queries, gallery = _features([40, 23, 2]), _features([40, 31, 40, 1], seed=1)
    pairs = np.array([(q, g) for q in range(3) for g in range(4)], np.int32)
    evidence = NearestMatcher(NearestSettings()).score(queries, gallery, pairs)
    for place, (q, g) in enumerate(pairs.tolist()):
        count, total = _naive(
            queries.descriptors_NKL[q, : queries.count_N[q]].astype(np.float64),
            gallery.descriptors_NKL[g, : gallery.count_N[g]].astype(np.float64),
        )
        assert evidence.match_count_P[place] == count
        assert evidence.confidence_sum_P[place] == pytest.approx(total, rel=1e-4)
    assert (evidence.inlier_count_P == -1).all()


def test_an_image_finds_itself_and_padding_finds_nothing():
    features = _features([40, 17, 0])
    unit = features.descriptors_NKL.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=2, keepdims=True), 1e-9)
    features.descriptors_NKL[:] = unit
    pairs = np.array([(0, 0), (1, 1), (2, 2), (0, 2), (2, 0), (0, 1)], np.int32)
    evidence = NearestMatcher(NearestSettings()).score(features, features, pairs)
    assert evidence.match_count_P[:5].tolist() == [40, 17, 0, 0, 0]
    assert (evidence.confidence_sum_P[2:5] == 0).all()
    assert evidence.confidence_sum_P[1] > evidence.confidence_sum_P[5]
    few = NearestMatcher(NearestSettings(keypoints=10)).score(features, features, pairs)
    assert few.match_count_P[:2].tolist() == [10, 10]
    assert NearestSettings(10).describe() != NearestSettings().describe()
