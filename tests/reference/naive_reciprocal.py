"""k-reciprocal re-ranking as its paper tells it: all images against all, sets and loops.

Slow and N x N on purpose; the package must agree. One query at a time, with the gallery images that
may answer it.
"""

from __future__ import annotations

import math

import numpy as np


def naive_scores(query_D, gallery_ND, place, places, allowed, k1, k2, cosine_share):
    """The score of each allowed gallery image, as a dictionary by its index."""
    members = [("q", place, query_D)] + [(g, places[g], gallery_ND[g]) for g in allowed]
    vectors = np.array([vector for _, _, vector in members], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    cosine = vectors @ vectors.T
    size = len(members)
    ranks = []
    for i in range(size):
        others = [j for j in range(size) if j != i]
        others.sort(key=lambda j: (-cosine[i, j], members[j][1]))
        ranks.append([i, *others])

    def reciprocal(i, k):
        return {j for j in ranks[i][: k + 1] if i in ranks[j][: k + 1]}

    encoded = np.zeros((size, size))
    for i in range(size):
        own = reciprocal(i, k1)
        expanded = set(own)
        for j in own:
            theirs = reciprocal(j, round(k1 / 2))
            if len(theirs & own) > 2 / 3 * len(theirs):
                expanded |= theirs
        for j in expanded:
            encoded[i, j] = math.exp(cosine[i, j] - 1)
        encoded[i] /= encoded[i].sum()
    averaged = np.array([encoded[ranks[i][:k2]].mean(axis=0) for i in range(size)])
    scores = {}
    for i in range(1, size):
        shared = sum(min(a, b) for a, b in zip(averaged[0], averaged[i], strict=True))
        union = sum(max(a, b) for a, b in zip(averaged[0], averaged[i], strict=True))
        scores[members[i][0]] = (1 - cosine_share) * shared / union + cosine_share * cosine[0, i]
    return scores
