"""The first, networkless look at pairs: against a naive twin, and what padding does to it."""

import numpy as np
import pytest

from exreid.matching import local_index, nearest
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.records import LocalFeatures


def _features(counts, keypoints=40, seed=0):
    random = np.random.default_rng(seed)
    descriptors = random.normal(size=(len(counts), keypoints, 32))
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    descriptors = descriptors.astype(np.float16)
    for row, count in enumerate(counts):
        descriptors[row, count:] = 0
    zeros = np.zeros((len(counts), keypoints, 2), np.float32)
    sizes = np.full((len(counts), 2), 512, np.int32)
    return LocalFeatures(zeros, descriptors, np.array(counts, np.int32), sizes)


def _naive(first, second):
    """The mutual neighbours keypoint by keypoint, with 1 - r^2 of Lowe's ratio r of distances."""
    matches = []
    for m in range(len(first)):
        distances = [float(np.linalg.norm(first[m] - other)) for other in second]
        n = int(np.argmin(distances))
        back = [float(np.linalg.norm(second[n] - other)) for other in first]
        if int(np.argmin(back)) == m:
            rest = sorted(distances)[1:]
            ratio = distances[n] / (rest[0] if rest else np.sqrt(2))
            matches.append((m, n, max(0.0, 1 - ratio**2)))
    return matches


def test_matches_and_their_sum_are_those_of_a_naive_twin():
    queries, gallery = _features([40, 23, 2]), _features([40, 31, 40, 1], seed=1)
    pairs = np.array([(q, g) for q in range(3) for g in range(4)], np.int32)
    matcher = NearestMatcher(NearestSettings())
    evidence = matcher.score(queries, gallery, pairs)
    details = matcher.details(queries, gallery, pairs)
    for place, (q, g) in enumerate(pairs.tolist()):
        matches = _naive(
            queries.descriptors_NKL[q, : queries.count_N[q]].astype(np.float64),
            gallery.descriptors_NKL[g, : gallery.count_N[g]].astype(np.float64),
        )
        total = sum(confidence**3 for _, _, confidence in matches)
        assert evidence.match_count_P[place] == len(matches)
        assert evidence.confidence_sum_P[place] == pytest.approx(total, rel=1e-2, abs=1e-5)
        found = details[place]
        assert (np.diff(found.confidence_X) <= 0).all()
        assert not found.inlier_X.any()
        by_query = sorted(zip(found.query_X, found.gallery_X, found.confidence_X, strict=True))
        assert [match[:2] for match in by_query] == [match[:2] for match in matches]
        assert [match[2] for match in by_query] == pytest.approx(
            [match[2] for match in matches], abs=2e-3
        )
    assert (evidence.inlier_count_P == -1).all()


def test_an_image_finds_itself_and_padding_finds_nothing():
    features = _features([40, 17, 0])
    pairs = np.array([(0, 0), (1, 1), (2, 2), (0, 2), (2, 0), (0, 1)], np.int32)
    evidence = NearestMatcher(NearestSettings()).score(features, features, pairs)
    assert evidence.match_count_P[:5].tolist() == [40, 17, 0, 0, 0]
    assert (evidence.confidence_sum_P[2:5] == 0).all()
    assert evidence.confidence_sum_P[1] > evidence.confidence_sum_P[5]
    few = NearestMatcher(NearestSettings(keypoints=10)).score(features, features, pairs)
    assert few.match_count_P[:2].tolist() == [10, 10]
    assert NearestSettings(10).describe() != NearestSettings().describe()


def test_batches_are_as_small_as_their_keypoints_are_many(monkeypatch):
    features = _features([40, 23, 38, 31, 40, 7])
    pairs = np.stack(np.mgrid[:6, :6], -1).reshape(-1, 2).astype(np.int32)
    matcher = NearestMatcher(NearestSettings())
    whole = matcher.score(features, features, pairs)
    images = local_index.nearest_images(matcher, features, features, pairs, keep=3)
    cosines = []
    compare = nearest.nearest_neighbours

    def counted(first_BML, second_BNL, *arguments, **more):
        cosines.append(len(first_BML) * first_BML.shape[1] * second_BNL.shape[1])
        return compare(first_BML, second_BNL, *arguments, **more)

    monkeypatch.setattr(nearest, "nearest_neighbours", counted)
    monkeypatch.setattr(nearest, "BATCH_COSINES", 5 * 40 * 40)
    parts = matcher.score(features, features, pairs)
    assert cosines == [5 * 40 * 40] * 7 + [40 * 40]
    assert np.array_equal(parts.match_count_P, whole.match_count_P)
    np.testing.assert_allclose(parts.confidence_sum_P, whole.confidence_sum_P, rtol=1e-5)
    chosen, sizes = local_index._chosen, []

    def sized(query_KL, gallery_GKL, *arguments):
        sizes.append(len(gallery_GKL))
        return chosen(query_KL, gallery_GKL, *arguments)

    monkeypatch.setattr(local_index, "_chosen", sized)
    monkeypatch.setattr(local_index, "COSINES", 2 * 40 * 40)
    again = local_index.nearest_images(matcher, features, features, pairs, keep=3)
    assert set(sizes) == {2}
    assert np.array_equal(again.image_QKC, images.image_QKC)
