"""Grouping images of new animals by pairwise probabilities, and the quality of a grouping.

Letters: N images, P pairs of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

PROBABILITY_STEPS = 2**40
"""Probabilities are summed as whole numbers of this many steps: no sum depends on its order."""


def adjusted_rand_index(truth_N: np.ndarray, group_N: np.ndarray) -> float:
    r"""How far two partitions agree: 1.0 for equal ones, 0.0 expected by chance (Hubert & Arabie
    1985, "Comparing partitions").

    With the pairs of images counted by whether each partition puts them together (a: both, b and
    c: one alone, d: neither), it is :math:`2 (ad - bc) / ((a + b)(b + d) + (a + c)(c + d))`. Equal
    partitions give 1.0 also where that is 0 / 0; fewer than two images do so too.

    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    >>> round(adjusted_rand_index(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])), 4)
    0.5714
    """
    if truth_N.shape != group_N.shape or truth_N.ndim != 1:
        raise ValueError(f"one label per image on both sides: {truth_N.shape}, {group_N.shape}.")
    _, truth_N = np.unique(truth_N, return_inverse=True)
    _, group_N = np.unique(group_N, return_inverse=True)
    both = _pairs_within(truth_N * (int(group_N.max(initial=0)) + 1) + group_N)
    truth_only = _pairs_within(truth_N) - both
    group_only = _pairs_within(group_N) - both
    neither = len(truth_N) * (len(truth_N) - 1) // 2 - both - truth_only - group_only
    if truth_only == 0 and group_only == 0:
        return 1.0
    below = (both + truth_only) * (truth_only + neither)
    below += (both + group_only) * (group_only + neither)
    return 2 * (both * neither - truth_only * group_only) / below


def drawn_rand_index(truth_N: np.ndarray, group_N: np.ndarray) -> Callable[[np.ndarray], float]:
    r"""The adjusted Rand index of a resample of animals: takes how often each image was drawn, with
    its animal, float64 (N,), and is `adjusted_rand_index` where that is once.

    A copy of an animal is another animal: with :math:`w_i` copies of animal i and
    :math:`c_{ig}` of its images in group g, the pairs of one animal are
    :math:`\sum_i w_i \binom{n_i}{2}`, those of them in one group
    :math:`\sum_i w_i \sum_g \binom{c_{ig}}{2}`, and the pairs of two animals in one group
    :math:`\sum_{i<j} w_i w_j \sum_g c_{ig} c_{jg}`; pairs of an animal with its own copies are
    left out. NaN where no two images are left.
    """
    _, first_I, truth_N = np.unique(truth_N, return_index=True, return_inverse=True)
    _, group_N = np.unique(group_N, return_inverse=True)
    groups = int(group_N.max(initial=0)) + 1
    cell_C, count_C = np.unique(truth_N * groups + group_N, return_counts=True)
    animal_C, group_C = cell_C // groups, cell_C % groups
    size_I = np.bincount(truth_N).astype(np.float64)

    def statistic(weight_N: np.ndarray) -> float:
        weight_I = weight_N[first_I]
        weighed_C = weight_I[animal_C] * count_C
        both = float((weight_I[animal_C] * count_C * (count_C - 1)).sum() / 2)
        truth = float((weight_I * size_I * (size_I - 1)).sum() / 2)
        per_group = np.bincount(group_C, weighed_C, minlength=groups)
        group = both + float((per_group**2).sum() - (weighed_C**2).sum()) / 2
        weighed_I = weight_I * size_I
        every = truth + float(weighed_I.sum() ** 2 - (weighed_I**2).sum()) / 2
        if every == 0:
            return float("nan")
        if truth == both == group:
            return 1.0
        chance = truth * group / every
        return (both - chance) / ((truth + group) / 2 - chance)

    return statistic


def _pairs_within(label_N: np.ndarray) -> int:
    """The pairs of equal labels, as a Python integer: their products pass 2**63."""
    count = np.unique(label_N, return_counts=True)[1].astype(np.int64)
    return int((count * (count - 1) // 2).sum())


def cluster_new(
    position_N: np.ndarray, pair_P2: np.ndarray, probability_P: np.ndarray, *, threshold: float
) -> np.ndarray:
    """Group images by the probabilities that pairs of them show one animal; int64 labels from 0,
    by first appearance.

    ``pair_P2`` has indices of the N images, each pair once in either order; other pairs have the
    probability 0. The two groups with the highest mean probability over all pairs
    between them are joined, again and again, while that mean is at or above the threshold (UPGMA;
    Sokal & Michener 1958). Of equally high means the groups whose first images have the smaller
    ``position_N`` (the place in the table, each once) are joined first. So no order of the images
    or of the pairs changes the partition. The memory goes by the number of pairs, never by N x N.

    >>> pairs = np.array([[0, 1], [1, 2]])
    >>> cluster_new(np.arange(4), pairs, np.array([0.9, 0.8]), threshold=0.5)
    array([0, 0, 1, 2])
    """
    ((_, group_N),) = clusters_at_cuts(position_N, pair_P2, probability_P, [threshold])
    return group_N


def _check_pairs(
    position_N: np.ndarray,
    pair_P2: np.ndarray,
    probability_P: np.ndarray,
    threshold: float,
) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(
            f"the threshold ({threshold}) must be above 0, or all images without evidence would be "
            "one animal, and 1 at most."
        )
    if len(np.unique(position_N)) != len(position_N):
        raise ValueError("each image needs a position of its own: it decides ties.")
    if pair_P2.shape != (len(probability_P), 2):
        raise ValueError(f"{len(probability_P)} probabilities for pairs of shape {pair_P2.shape}.")
    if not np.all((probability_P >= 0) & (probability_P <= 1)):
        raise ValueError("each pair needs a probability from 0 to 1.")
    if len(pair_P2) == 0:
        return
    if pair_P2.min() < 0 or pair_P2.max() >= len(position_N):
        raise ValueError(f"pairs hold places from 0 up to {len(position_N) - 1}.")
    if np.any(pair_P2[:, 0] == pair_P2[:, 1]):
        raise ValueError("an image cannot be paired with itself.")
    if len(np.unique(np.sort(pair_P2, axis=1), axis=0)) != len(pair_P2):
        raise ValueError("a pair stands twice, perhaps once in each order: give each pair once.")


def clusters_at_cuts(
    position_N: np.ndarray,
    pair_P2: np.ndarray,
    probability_P: np.ndarray,
    cuts: Sequence[float],
    photo_N: np.ndarray | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """(cut, labels) of `cluster_new` with average linkage at each of several thresholds, from the
    highest to the lowest, for the price of the lowest: the mean of the next best two groups never
    rises, so a higher threshold only stops earlier. Images with equal codes ``photo_N`` are never
    in one group: two animals of one photograph.

    >>> pairs = np.array([[0, 1], [1, 2]])
    >>> for cut, group_N in clusters_at_cuts(np.arange(3), pairs, np.array([0.9, 0.8]), [0.4, 0.5]):
    ...     print(cut, group_N)
    0.5 [0 0 1]
    0.4 [0 0 0]
    """
    _check_pairs(position_N, pair_P2, probability_P, min(cuts))
    order_N = np.argsort(position_N)
    place_N = np.empty_like(order_N)
    place_N[order_N] = np.arange(len(order_N))
    placed_P2 = np.sort(place_N[pair_P2.reshape(-1, 2)], axis=1)
    shown_N = None if photo_N is None else photo_N[order_N]
    merges = _average_linkage(len(position_N), placed_P2, probability_P, min(cuts), shown_N)
    owner_N, done = np.arange(len(position_N)), 0
    for cut in sorted(cuts, reverse=True):
        threshold = round(cut * PROBABILITY_STEPS)
        last = done
        while last < len(merges) and merges[last][0] >= threshold:
            last += 1
        owner_N, done = _joined(owner_N, merges[done:last]), last
        yield cut, _by_first_appearance(owner_N[place_N])


def _joined(owner_N: np.ndarray, merges: Sequence[tuple[Fraction, int, int]]) -> np.ndarray:
    owner_N = owner_N.copy()
    for _, first, second in merges:
        owner_N[owner_N == second] = first
    return owner_N


def _average_linkage(
    count: int,
    pair_P2: np.ndarray,
    probability_P: np.ndarray,
    threshold: float,
    photo_N: np.ndarray | None,
) -> list[tuple[Fraction, int, int]]:
    """The merges in order: (mean, in steps; the group; the group that joins it), each group named
    by its smallest place."""
    steps_P = np.rint(probability_P * PROBABILITY_STEPS).astype(np.int64)
    threshold_steps = round(threshold * PROBABILITY_STEPS)
    total: list[dict[int, int]] = [{} for _ in range(count)]
    for (left, right), steps in zip(pair_P2.tolist(), steps_P.tolist(), strict=True):
        total[left][right] = total[right][left] = steps
    size = [1] * count
    shows = [{photo} for photo in (range(count) if photo_N is None else photo_N.tolist())]
    merges: list[tuple[Fraction, int, int]] = []
    heap: list[tuple[Fraction, int, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        first, second = min(left, right), max(left, right)
        mean = Fraction(total[first][second], size[first] * size[second])
        if mean >= threshold_steps:
            heapq.heappush(heap, (-mean, first, second, size[first], size[second]))

    for left, right in pair_P2.tolist():
        offer(left, right)
    while heap:
        falling, first, second, first_size, second_size = heapq.heappop(heap)
        if (size[first], size[second]) != (first_size, second_size):
            continue
        if not shows[first].isdisjoint(shows[second]):
            continue
        shows[first] |= shows[second]
        for other, steps in total[second].items():
            del total[other][second]
            if other != first:
                joined = total[first].get(other, 0) + steps
                total[first][other] = total[other][first] = joined
        total[second] = {}
        size[first], size[second] = first_size + second_size, 0
        merges.append((-falling, first, second))
        for other in total[first]:
            offer(first, other)
    return merges


def _by_first_appearance(owner_N: np.ndarray) -> np.ndarray:
    _, first_G, group_N = np.unique(owner_N, return_index=True, return_inverse=True)
    label_G = np.empty(len(first_G), np.int64)
    label_G[np.argsort(first_G)] = np.arange(len(first_G))
    return label_G[group_N]
