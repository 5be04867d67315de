"""A tiny slope that keeps a flat curve strictly increasing in float64.

A calibration curve is flat where it saturates, and a fused score must not tie there. A slope in
the score itself drowns in rounding: next to 1.0 a float64 is too coarse for the step between two
float32 scores near 0. So the slope runs over the *ordinal* of the score, which counts float32
numbers: there are about 2^32 of them, and float64 has room for 2^53 numbers from 0 to 1.

Letters: M knots, N scores.
"""

from __future__ import annotations

import numpy as np

STEP = 2.0**-50
"""The least rise between two neighbouring float32 scores: eight times the spacing of float64
below 1, so that the rounding errors of the curve it is added to cannot take it away."""
FLOAT32_MAX = float(np.finfo(np.float32).max)
TINY_EXPONENT = -126
MANTISSA = 2.0**23


def float32_ordinal(score_N: np.ndarray) -> np.ndarray:
    """The place of each score among all float32 numbers, 0.0 being at 0; float64.

    Whole for a float32 number; between two of them linear. Neighbouring float32 numbers differ
    by exactly 1.

    >>> next_above_1 = np.nextafter(np.float32(1), np.float32(2))
    >>> float32_ordinal(np.array([0, 1, next_above_1, -1])).tolist()
    [0.0, 1065353216.0, 1065353217.0, -1065353216.0]
    """
    size_N = np.abs(np.asarray(score_N, np.float64))
    mantissa_N, exponent_N = np.frexp(size_N)
    exponent_N = exponent_N - 1
    normal_N = (exponent_N - TINY_EXPONENT + 1 + (2 * mantissa_N - 1)) * MANTISSA
    subnormal_N = size_N * 2.0 ** (-TINY_EXPONENT) * MANTISSA
    ordinal_N = np.where(size_N >= 2.0**TINY_EXPONENT, normal_N, subnormal_N)
    return np.copysign(ordinal_N, score_N)


ORDINAL_END = float(float32_ordinal(np.array([FLOAT32_MAX]))[0]) + 1


def knot_rises(knot_score_M: np.ndarray, budget: float) -> np.ndarray:
    """The tilt's rise from the lowest float32 to the first knot, between neighbouring knots, and
    from the last one to the highest float32: M + 1 numbers.

    All are equal, so that the tilt at the knots depends on nothing but their order: passing the
    scores through an increasing map changes no bit of it. Only between knots so far apart that this
    would be less than `STEP` for each float32 between them, the rise is that: less than 4e-6 over
    all of them.
    """
    ends = np.array([ORDINAL_END])
    ordinal = np.concatenate([-ends, float32_ordinal(knot_score_M), ends])
    return np.maximum(budget / (len(knot_score_M) + 1), STEP * np.diff(ordinal))


def tilt(score_N: np.ndarray, knot_score_M: np.ndarray, rise_M1: np.ndarray) -> np.ndarray:
    """The tilt at each score, above 0 and below ``rise_M1.sum()``, strictly increasing."""
    ends = np.array([ORDINAL_END])
    ordinal = np.concatenate([-ends, float32_ordinal(knot_score_M), ends])
    level = np.concatenate([[0.0], np.cumsum(rise_M1)])
    return np.interp(float32_ordinal(score_N), ordinal, level)
