"""Visits of unknown animals grouped into animals.

A visit is the photographs of one encounter; a photograph without one is a visit. Two visits are as
alike as their most alike pair of photographs.

Letters: N images, V visits, P pairs of visits, M pairs of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exreid.metrics.grouping import clusters_at_cuts
from exreid.records import RetrievalSide


@dataclass(frozen=True)
class VisitPairs:
    """Pairs of visits with the pair of images that speaks most for each, by rising visits."""

    visit_P2: np.ndarray
    """int64, the smaller first."""
    image_P2: np.ndarray
    """int64: an image of the first visit and one of the second."""
    score_P: np.ndarray
    """float64."""


def visits_of(side: RetrievalSide) -> np.ndarray:
    """The visit of each image, int64 (N,) from 0 by first appearance: its encounter, or itself
    where that is unknown.

    >>> side = RetrievalSide(tuple("abcd"), np.arange(4), np.arange(4), np.array([7, -1, 7, -1]))
    >>> visits_of(side)
    array([0, 1, 0, 2])
    """
    alone_N = -1 - np.arange(len(side))
    key_N = np.where(side.encounter_N >= 0, side.encounter_N, alone_N)
    _, first_V, visit_N = np.unique(key_N, return_index=True, return_inverse=True)
    place_V = np.empty(len(first_V), np.int64)
    place_V[np.argsort(first_V)] = np.arange(len(first_V))
    return place_V[visit_N]


def best_pairs(pair_M2: np.ndarray, score_M: np.ndarray, visit_N: np.ndarray) -> VisitPairs:
    """The best of the scored pairs of images between each two visits; of equal ones the first
    images. Pairs within a visit are left out.

    >>> best_pairs(np.array([[0, 2], [1, 2]]), np.array([0.2, 0.5]), np.array([0, 0, 1]))
    VisitPairs(visit_P2=array([[0, 1]]), image_P2=array([[1, 2]]), score_P=array([0.5]))
    """
    visit_M2 = visit_N[pair_M2.reshape(-1, 2)]
    turned_M = visit_M2[:, 0] > visit_M2[:, 1]
    visit_M2 = np.where(turned_M[:, None], visit_M2[:, ::-1], visit_M2)
    image_M2 = np.where(turned_M[:, None], pair_M2[:, ::-1], pair_M2)
    between_M = np.flatnonzero(visit_M2[:, 0] != visit_M2[:, 1])
    visit_M2, image_M2, score_M = visit_M2[between_M], image_M2[between_M], score_M[between_M]
    keys = (image_M2[:, 1], image_M2[:, 0], -score_M, visit_M2[:, 1], visit_M2[:, 0])
    order_M = np.lexsort(keys)
    visit_M2 = visit_M2[order_M]
    is_first_M = np.any(np.diff(visit_M2, axis=0, prepend=-1) != 0, axis=1)
    best_P = order_M[is_first_M]
    return VisitPairs(visit_M2[is_first_M], image_M2[best_P], score_M[best_P])


def group_visits(
    pairs: VisitPairs, probability_P: np.ndarray, cut: float, photo_V: np.ndarray
) -> np.ndarray:
    """A group for each visit, int64 (V,) from 0 by first appearance. Visits with equal codes
    ``photo_V``, animals of one photograph, are never in one group."""
    places = np.arange(len(photo_V))
    ((_, group_V),) = clusters_at_cuts(places, pairs.visit_P2, probability_P, [cut], photo_V)
    return group_V


def belonging(pairs: VisitPairs, probability_P: np.ndarray, group_V: np.ndarray) -> np.ndarray:
    """The probability that each visit is in the right group, float64 (V,): the mean of its
    probabilities with the other visits there, 0 where a pair has none; of a visit alone, that its
    most probable partner is another animal.

    >>> pairs = VisitPairs(np.array([[0, 1], [1, 2]]), np.zeros((2, 2), int), np.zeros(2))
    >>> belonging(pairs, np.array([0.9, 0.3]), np.array([0, 0, 1]))
    array([0.9, 0.9, 0.7])
    """
    size_V = np.bincount(group_V)[group_V] if len(group_V) else np.zeros(0, int)
    together_P = group_V[pairs.visit_P2[:, 0]] == group_V[pairs.visit_P2[:, 1]]
    total_V, highest_V = np.zeros(len(group_V)), np.zeros(len(group_V))
    for side_P in pairs.visit_P2.T:
        np.add.at(total_V, side_P[together_P], probability_P[together_P])
        np.maximum.at(highest_V, side_P, probability_P)
    return np.where(size_V > 1, total_V / np.maximum(size_V - 1, 1), 1 - highest_V)
