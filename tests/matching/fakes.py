"""Local features and a matcher that cost nothing, for tests of what surrounds the matching."""

import numpy as np

from exreid.records import LocalFeatures, PairEvidence


def random_features(count, *, seed=0, keypoints=6, length=3):
    random = np.random.default_rng(seed)
    counts = random.integers(0, keypoints + 1, count).astype(np.int32)
    descriptors = random.integers(0, 4, (count, keypoints, length)).astype(np.float16)
    points = random.random((count, keypoints, 2)).astype(np.float32)
    for row, real in enumerate(counts):
        descriptors[row, real:] = 0
        points[row, real:] = 0
    sizes = np.full((count, 2), 64, np.int32)
    return LocalFeatures(points, descriptors, counts, sizes)


class EqualDescriptors:
    """Counts pairs of equal descriptors."""

    def score(self, queries, gallery, pair_P2):
        counts, sums = [], []
        for q, g in pair_P2:
            ours = queries.descriptors_NKL[q, : queries.count_N[q]]
            theirs = gallery.descriptors_NKL[g, : gallery.count_N[g]]
            same = (ours[:, None] == theirs[None]).all(axis=2)
            counts.append(int(same.sum()))
            sums.append(float(ours.astype(np.float64).sum() / 7 - theirs.sum()))
        return PairEvidence(
            np.array(counts, np.int32), np.array(sums), np.full(len(counts), -1, np.int32)
        )
