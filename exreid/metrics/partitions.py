"""Two partitions of images compared: by the animals, and as they were grouped.

Letters: N images, I animals, G groups, C pairs of an animal and a group that share images.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma

import numpy as np

from exreid.metrics.grouping import adjusted_rand_index


@dataclass(frozen=True)
class _Table:
    """The contingency table of two partitions, without its empty cells."""

    animal_C: np.ndarray
    group_C: np.ndarray
    count_C: np.ndarray
    size_I: np.ndarray
    size_G: np.ndarray

    @classmethod
    def of(cls, truth_N: np.ndarray, group_N: np.ndarray) -> _Table:
        if truth_N.shape != group_N.shape or truth_N.ndim != 1 or not len(truth_N):
            raise ValueError(
                f"one label per image on both sides: {truth_N.shape}, {group_N.shape}."
            )
        _, truth_N, size_I = np.unique(truth_N, return_inverse=True, return_counts=True)
        _, group_N, size_G = np.unique(group_N, return_inverse=True, return_counts=True)
        cell_C, count_C = np.unique(truth_N * len(size_G) + group_N, return_counts=True)
        return cls(cell_C // len(size_G), cell_C % len(size_G), count_C, size_I, size_G)


def grouping_metrics(truth_N: np.ndarray, group_N: np.ndarray) -> dict[str, float]:
    """All figures of a grouping: ``ari``, ``ami``, ``pair_precision``, ``pair_recall``,
    ``bcubed_precision``, ``bcubed_recall`` and ``count_error``, how many more groups there are than
    animals, as a fraction of these."""
    table = _Table.of(truth_N, group_N)
    pair_precision, pair_recall = _pairwise(table)
    bcubed_precision, bcubed_recall = _bcubed(table)
    return {
        "ari": adjusted_rand_index(truth_N, group_N),
        "ami": _adjusted_mutual_information(table),
        "pair_precision": pair_precision,
        "pair_recall": pair_recall,
        "bcubed_precision": bcubed_precision,
        "bcubed_recall": bcubed_recall,
        "count_error": len(table.size_G) / len(table.size_I) - 1,
    }


def pairwise(truth_N: np.ndarray, group_N: np.ndarray) -> tuple[float, float]:
    """Precision and recall over pairs of images: of the pairs in one group the share that shows one
    animal, and of the pairs of one animal the share in one group; 1.0 where there is no such pair.

    >>> pairwise(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    (0.3333333333333333, 0.5)
    """
    return _pairwise(_Table.of(truth_N, group_N))


def _pairwise(table: _Table) -> tuple[float, float]:
    both, in_group, of_animal = (
        float((sizes * (sizes - 1) / 2).sum())
        for sizes in (table.count_C, table.size_G, table.size_I)
    )
    return both / in_group if in_group else 1.0, both / of_animal if of_animal else 1.0


def bcubed(truth_N: np.ndarray, group_N: np.ndarray) -> tuple[float, float]:
    """BCubed precision and recall (Bagga & Baldwin 1998): for each image the share of its group
    that shows its animal, and the share of its animal's images that are in its group, both with
    the image itself; the means over all images.

    >>> bcubed(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    (0.6666666666666666, 0.75)
    """
    return _bcubed(_Table.of(truth_N, group_N))


def _bcubed(table: _Table) -> tuple[float, float]:
    squared_C, images = table.count_C.astype(np.float64) ** 2, float(table.count_C.sum())
    return (
        float((squared_C / table.size_G[table.group_C]).sum() / images),
        float((squared_C / table.size_I[table.animal_C]).sum() / images),
    )


def adjusted_mutual_information(truth_N: np.ndarray, group_N: np.ndarray) -> float:
    r"""The mutual information of two partitions, adjusted for chance (Vinh, Epps & Bailey 2010):
    :math:`(I - E[I]) / ((H_1 + H_2) / 2 - E[I])`, with the expectation over all partitions with
    groups of these sizes. 1.0 for equal partitions, 0.0 expected by chance.

    >>> adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    """
    return _adjusted_mutual_information(_Table.of(truth_N, group_N))


def _adjusted_mutual_information(table: _Table) -> float:
    if len(table.size_I) == len(table.size_G) == len(table.count_C):
        return 1.0
    images = int(table.count_C.sum())
    expected_C = table.size_I[table.animal_C] * (table.size_G[table.group_C] / images)
    mutual = float((table.count_C * np.log(table.count_C / expected_C)).sum()) / images
    expected = _expected_mutual_information(table, images)
    entropy = (_entropy(table.size_I, images) + _entropy(table.size_G, images)) / 2
    below = entropy - expected
    if abs(below) < np.finfo(np.float64).eps:
        return 0.0
    return (mutual - expected) / below


def _entropy(sizes: np.ndarray, images: int) -> float:
    share = sizes / images
    return -float((share * np.log(share)).sum())


def _expected_mutual_information(table: _Table, images: int) -> float:
    """Over the hypergeometric chance of each count of shared images; groups of one size alike."""
    log_factorial = np.array([lgamma(n + 1) for n in range(images + 1)])
    total = 0.0
    for a, animals in zip(*np.unique(table.size_I, return_counts=True), strict=True):
        for b, groups in zip(*np.unique(table.size_G, return_counts=True), strict=True):
            n = np.arange(max(1, a + b - images), min(a, b) + 1)
            log_chance = (
                log_factorial[a]
                + log_factorial[b]
                + log_factorial[images - a]
                + log_factorial[images - b]
                - log_factorial[images]
                - log_factorial[n]
                - log_factorial[a - n]
                - log_factorial[b - n]
                - log_factorial[images - a - b + n]
            )
            information = n / images * np.log(n * (images / (int(a) * int(b))))
            total += int(animals) * int(groups) * float((information * np.exp(log_chance)).sum())
    return total
