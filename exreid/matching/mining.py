"""The pairs that a matcher is trained with, out of scored candidates.

Letters: N images, P candidate pairs, A anchors, c images of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

OWN, OTHER, RANDOM = "own", "other", "random"
MINE_STREAM = 4
"""Of random numbers, beside those of `exreid.training.sampling`."""


@dataclass(frozen=True)
class MinedPairs:
    """The images that each anchor is trained with, as indices of N images."""

    anchor_A: np.ndarray
    """int64, rising."""
    own_A: tuple[np.ndarray, ...]
    """int64 (c,): those of its animal, best first; one at least."""
    other_A: tuple[np.ndarray, ...]
    """int64 (c,): those of other animals, the best first, then the random ones; one at least."""
    table: pa.Table
    """A row a pair: ``anchor_id, image_id, kind, score``; a random one has no score."""

    def __len__(self) -> int:
        return len(self.anchor_A)


def unordered_pairs(pair_P2: np.ndarray, encounter_N: np.ndarray) -> np.ndarray:
    """The pairs, int64 (P, 2), each once with the smaller index first, rising; without those
    within an encounter (-1: unknown) and of an image with itself.

    >>> unordered_pairs(np.array([[2, 0], [0, 2], [1, 2], [1, 1]]),
    ...                 np.array([5, 6, 6])).tolist()
    [[0, 2]]
    """
    pair_P2 = np.sort(np.asarray(pair_P2, np.int64).reshape(-1, 2), axis=1)
    first_P, second_P = pair_P2.T
    together_P = (encounter_N[first_P] == encounter_N[second_P]) & (encounter_N[first_P] >= 0)
    return np.unique(pair_P2[~together_P & (first_P != second_P)], axis=0)


def mine_pairs(
    pair_P2: np.ndarray,
    score_P: np.ndarray,
    identity_N: np.ndarray,
    encounter_N: np.ndarray,
    image_ids: Sequence[str],
    *,
    positives: int,
    negatives: int,
    random: int,
    seed: int,
) -> MinedPairs:
    """For each image the best-scoring images of its animal, the best-scoring of other animals, and
    random others, of other encounters all.

    ``pair_P2`` are `unordered_pairs` with their scores; a pair speaks for both of its images. Of
    equal scores the smaller index comes first. Images without a pair of their animal, or without
    other animals, are no anchors.
    """
    anchor_R = np.concatenate([pair_P2[:, 0], pair_P2[:, 1]])
    image_R = np.concatenate([pair_P2[:, 1], pair_P2[:, 0]])
    score_R = np.concatenate([score_P, score_P]).astype(np.float64)
    order_R = np.lexsort((image_R, -score_R, anchor_R))
    anchor_R, image_R, score_R = anchor_R[order_R], image_R[order_R], score_R[order_R]
    start_N1 = np.searchsorted(anchor_R, np.arange(len(identity_N) + 1))
    anchors, owns, others = [], [], []
    rows: list[tuple[str, str, str, float | None]] = []
    for i in range(len(identity_N)):
        near = slice(start_N1[i], start_N1[i + 1])
        images, same = image_R[near], identity_N[image_R[near]] == identity_N[i]
        own, other = images[same][:positives], images[~same][:negatives]
        drawn = _random_others(i, other, identity_N, encounter_N, count=random, seed=seed)
        if not len(own) or not len(other) + len(drawn):
            continue
        anchors.append(i)
        owns.append(own)
        others.append(np.concatenate([other, drawn]))
        score_of = dict(zip(images.tolist(), score_R[near].tolist(), strict=True))
        for kind, part in ((OWN, own), (OTHER, other), (RANDOM, drawn)):
            for j in part.tolist():
                score = None if kind == RANDOM else score_of[j]
                rows.append((image_ids[i], image_ids[j], kind, score))
    names = ("anchor_id", "image_id", "kind", "score")
    types = (pa.string(), pa.string(), pa.string(), pa.float64())
    columns = list(zip(*rows, strict=True)) or [()] * 4
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    table = pa.table(dict(zip(names, arrays, strict=True)))
    return MinedPairs(np.array(anchors, np.int64), tuple(owns), tuple(others), table)


def _random_others(
    i: int,
    best: np.ndarray,
    identity_N: np.ndarray,
    encounter_N: np.ndarray,
    *,
    count: int,
    seed: int,
) -> np.ndarray:
    """``count`` images of other animals and encounters that are not among the best."""
    together_N = (encounter_N == encounter_N[i]) & (encounter_N[i] >= 0)
    free_N = (identity_N != identity_N[i]) & ~together_N
    free_N[best] = False
    free = np.flatnonzero(free_N)
    drawn = np.random.default_rng([seed, MINE_STREAM, i]).permutation(free)
    return drawn[:count]


def read_mined(table: pa.Table, image_ids: Sequence[str]) -> MinedPairs:
    """The pairs that a file has; KeyError for an image that is not there, ValueError where an
    anchor lacks images."""
    index_of = {name: i for i, name in enumerate(image_ids)}
    lists: dict[int, tuple[list[int], list[int]]] = {}
    columns = (table[name].to_pylist() for name in ("anchor_id", "image_id", "kind"))
    for anchor, image, kind in zip(*columns, strict=True):
        own, other = lists.setdefault(index_of[anchor], ([], []))
        (own if kind == OWN else other).append(index_of[image])
    anchors = sorted(lists)
    if not all(own and other for own, other in lists.values()):
        raise ValueError("an anchor without images")
    owns = tuple(np.array(lists[i][0], np.int64) for i in anchors)
    others = tuple(np.array(lists[i][1], np.int64) for i in anchors)
    return MinedPairs(np.array(anchors, np.int64), owns, others, table)


def draw_batch(mined: MinedPairs, item_b: np.ndarray, uniform_bU: np.ndarray) -> np.ndarray:
    """The pairs of a batch of anchors, int64 (b, U, 2): each with one image of its own and U - 1 of
    others, drawn by uniform numbers in [0, 1); none again before all others were drawn.

    >>> mined = MinedPairs(np.array([3]), (np.array([5, 6]),), (np.array([7, 8]),), None)
    >>> draw_batch(mined, np.array([0]), np.array([[0.6, 0.1, 0.9]])).tolist()
    [[[3, 6], [3, 7], [3, 8]]]
    """
    count = uniform_bU.shape[1]
    pair_bU2 = np.empty((len(item_b), count, 2), np.int64)
    for pairs_U2, item, uniform_U in zip(pair_bU2, item_b.tolist(), uniform_bU, strict=True):
        own, left = mined.own_A[item], list[int]()
        pairs_U2[:, 0] = mined.anchor_A[item]
        pairs_U2[0, 1] = own[int(uniform_U[0] * len(own))]
        for place in range(1, count):
            left = left or mined.other_A[item].tolist()
            pairs_U2[place, 1] = left.pop(int(uniform_U[place] * len(left)))
    return pair_bU2
