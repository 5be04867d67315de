"""The nearest rising steps to the answers of pairs, and how many pairs support each step.

Letters: P pairs, M knots, B steps, N numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WINDOW_PAIRS = 10
"""An unseen pair of an answer has the mean weight of this many nearest pairs of that answer."""


def isotonic_means(mean_M: np.ndarray, weight_M: np.ndarray) -> np.ndarray:
    """The nearest numbers that never fall, by weighted squared error: pool adjacent violators
    (Ayer et al. 1955).

    >>> isotonic_means(np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4)).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    means: list[float] = []
    weights: list[float] = []
    lengths: list[int] = []
    for mean, weight in zip(mean_M.tolist(), weight_M.tolist(), strict=True):
        means.append(mean)
        weights.append(weight)
        lengths.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            last, last_weight = means.pop(), weights.pop()
            pooled = means[-1] * weights[-1] + last * last_weight
            weights[-1] += last_weight
            means[-1] = pooled / weights[-1]
            lengths[-2:] = [sum(lengths[-2:])]
    return np.repeat(np.maximum.accumulate(np.clip(means, 0.0, 1.0)), lengths)


@dataclass(frozen=True)
class Support:
    """Pairs of known answers, by rising score, as the support of a curve's probabilities."""

    score_P: np.ndarray
    same_P: np.ndarray
    weight_P: np.ndarray

    def smoothed(self, curve_M: np.ndarray, score_M: np.ndarray, total_M: np.ndarray) -> np.ndarray:
        """The steps of a rising curve, each with one pair more of either answer, rising again."""
        level_B, start_B = np.unique(curve_M, return_index=True)
        end_B = np.append(start_B[1:], len(curve_M))
        weight_B = np.add.reduceat(total_M, start_B)
        same_B, different_B = self.one_more(score_M[start_B], score_M[end_B - 1])
        level_B = (level_B * weight_B + same_B) / (weight_B + same_B + different_B)
        return np.repeat(isotonic_means(level_B, weight_B), end_B - start_B)

    def one_more(
        self, lowest_B: np.ndarray, highest_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights of an unseen pair of one animal and of one of two animals, with a score from
        ``lowest_B`` to ``highest_B``: the mean weight of the next pairs of one animal from the
        lowest upwards, and of the next pairs of two animals from the highest downwards."""
        same, different = self.same_P, ~self.same_P
        above_B = np.searchsorted(self.score_P[same], lowest_B, side="left")
        below_B = np.searchsorted(self.score_P[different], highest_B, side="right")
        return (
            _mean_of_window(self.weight_P[same], above_B),
            _mean_of_window(self.weight_P[different], below_B - WINDOW_PAIRS),
        )


def _mean_of_window(value_N: np.ndarray, start_B: np.ndarray) -> np.ndarray:
    """The means of `WINDOW_PAIRS` numbers from each start, which moves to where as many follow."""
    start_B = np.clip(start_B, 0, max(len(value_N) - WINDOW_PAIRS, 0))
    end_B = np.minimum(start_B + WINDOW_PAIRS, len(value_N))
    sum_N1 = np.concatenate([[0.0], np.cumsum(value_N)])
    return np.asarray((sum_N1[end_B] - sum_N1[start_B]) / (end_B - start_B))
