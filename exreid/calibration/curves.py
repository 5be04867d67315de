"""From a method's raw score to the probability that a pair shows the same animal.

A `Calibration` is fitted on pairs of the database side (`calibration_pairs`), never on a query.
Its curve is a base curve, which rises or stays level, plus a `tilt` of at most about 0.0001:
the sum is strictly increasing over all float32 scores, beyond the fitted range too, and stays
between 0 and 1. So calibration never changes a method's own ranking.

No probability is surer than its pairs support: where all n pairs have one answer, the next may have
the other. So each step of a curve counts one pair more of either answer, which leaves
(n + 1) / (n + 2) at most (Laplace's rule of succession), and less where a pair of the other answer
has a large weight: see `exreid.calibration.isotonic.Support`.

Letters: P pairs, M knots, N scores.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict, get_args

import numpy as np

from exreid.calibration.isotonic import Support, isotonic_means
from exreid.calibration.logistic import fit_logistic, sigmoid
from exreid.calibration.tilt import FLOAT32_MAX, knot_rises, tilt
from exreid.errors import CalibrationError

CalibrationKind = Literal["isotonic", "logistic", "beta"]

TILT_BUDGET = 1e-4
"""How much of the probability scale the tilt of an isotonic curve may take; the other curves
rise by themselves and need far less."""
CURVE_RIDGE = 1e-8
"""Moves no digit that matters, and keeps curves finite through scores that differ by nothing."""
CURVE_FORMAT = 2


class SavedCalibration(TypedDict):
    """A `Calibration` as JSON, which keeps each float64 exactly."""

    format: int
    kind: CalibrationKind
    knot_score: list[float]
    knot_prob: list[float]
    coefficients: list[float]
    pair_count: int
    positive_count: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted curve. Two are equal when their fingerprints are."""

    kind: CalibrationKind
    knot_score_M: np.ndarray
    """float64, rising. Isotonic: the distinct fitted scores; else the lowest and the highest."""
    knot_prob_M: np.ndarray
    """float64. Isotonic: the base curve at the knots, linear between them and level outside; for
    the others the lowest and the highest probability that all pairs together support."""
    coefficients: tuple[float, ...]
    """Logistic: slope and intercept over the score scaled to 0..1 by the knots; beta: a, b
    and c of Kull et al.; isotonic: none."""
    pair_count: int
    positive_count: int

    def __post_init__(self) -> None:
        _check_fitted(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all fitted numbers, as hexadecimal text."""
        text = json.dumps(self.as_json(), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_level(self) -> bool:
        """Whether the base curve is constant: the scores do not rise with sameness, or even
        fall."""
        if self.kind == "isotonic":
            return bool(self.knot_prob_M[0] == self.knot_prob_M[-1])
        slopes = self.coefficients[: -1 if self.kind == "logistic" else 2]
        return all(slope == 0 for slope in slopes)

    def apply(self, score_N: np.ndarray) -> np.ndarray:
        """The probability of each score, float64, of the same shape; NaN (not scored) stays NaN.

        Strictly increasing over the float32 numbers, and above 0 and below 1. ValueError for a
        score that is infinite or too large for float32.
        """
        score_N = np.asarray(score_N, np.float64)
        if np.any(np.abs(score_N) > FLOAT32_MAX):
            raise ValueError("a score to calibrate must be a finite float32 number, or NaN.")
        known_N = ~np.isnan(score_N)
        prob_N = np.full(score_N.shape, np.nan)
        known = score_N[known_N]
        isotonic = self.kind == "isotonic"
        knots = self.knot_score_M if isotonic else self.knot_score_M[:0]
        rises = knot_rises(knots, TILT_BUDGET if isotonic else 0.0)
        prob_N[known_N] = (1 - rises.sum()) * self._base(known) + tilt(known, knots, rises)
        return prob_N

    def _base(self, score_N: np.ndarray) -> np.ndarray:
        """The fitted curve without the tilt; it rises or stays level."""
        if self.kind == "isotonic":
            return _interpolate(score_N, self.knot_score_M, self.knot_prob_M)
        unit_N = _unit_score(score_N, self.knot_score_M)
        features_NF = unit_N[:, None] if self.kind == "logistic" else _beta_features(unit_N)
        *slopes, intercept = self.coefficients
        prob_N = sigmoid(features_NF @ np.array(slopes) + intercept)
        return np.clip(prob_N, *self.knot_prob_M)

    def as_json(self) -> SavedCalibration:
        """What `from_json` reads."""
        return {
            "format": CURVE_FORMAT,
            "kind": self.kind,
            "knot_score": self.knot_score_M.tolist(),
            "knot_prob": self.knot_prob_M.tolist(),
            "coefficients": list(self.coefficients),
            "pair_count": self.pair_count,
            "positive_count": self.positive_count,
        }

    @classmethod
    def from_json(cls, saved: SavedCalibration) -> Calibration:
        """The curve that was saved; CalibrationError for anything else."""
        try:
            if saved["format"] != CURVE_FORMAT:
                raise CalibrationError(
                    f"a calibration of format {saved['format']}, and this version reads "
                    f"{CURVE_FORMAT}: fit it again."
                )
            return cls(
                saved["kind"],
                np.array(saved["knot_score"], np.float64),
                np.array(saved["knot_prob"], np.float64),
                tuple(float(number) for number in saved["coefficients"]),
                int(saved["pair_count"]),
                int(saved["positive_count"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"not a saved calibration: {error!r}. Fit it again.") from error


def fit_calibration(
    score_P: np.ndarray,
    same_P: np.ndarray,
    *,
    kind: CalibrationKind = "isotonic",
    weight_P: np.ndarray | None = None,
) -> Calibration:
    """Fit the probability of "same animal" to raw scores of pairs whose answer is known.

    - ``isotonic``: the rising steps with the least squared error (pool adjacent violators),
      the curve of WildFusion (Cermak et al. 2024), each step with a pair more of either answer.
      It depends on the order of the scores only.
    - ``logistic``: a sigmoid of the score (Platt 1999, with his softened targets, so that
      scores that separate perfectly still give a finite slope).
    - ``beta``: logit p = a ln s - b ln(1 - s) + c, with s the score scaled to 0..1 by the
      lowest and highest fitted one (Kull, Silva Filho & Flach 2017), and the same targets.

    ``weight_P``: how many pairs of the database each one represents. A curve never falls: for
    scores that do not rise with sameness it is level (`Calibration.is_level`). CalibrationError
    without pairs of both answers, when all scores are one, or when one is no float32 number.

    >>> fitted = fit_calibration(np.array([1, 2, 2, 3]), np.array([False, True, False, True]))
    >>> fitted.apply(np.array([0, 1, 2, 3, 9])).round(3).tolist()
    [0.333, 0.333, 0.5, 0.667, 0.667]
    """
    score_P, same_P, weight_P = _checked_pairs(score_P, same_P, weight_P, kind)
    knot_score_M, place_P = np.unique(score_P, return_inverse=True)
    if len(knot_score_M) < 2:
        raise CalibrationError(
            f"all {len(score_P)} calibration pairs have the score {score_P[0]}: there is nothing "
            "to calibrate. Leave this method out, or look at its features."
        )
    counts = (len(score_P), int(np.count_nonzero(same_P)))
    support = Support(score_P, same_P, weight_P)
    if kind == "isotonic":
        total_M = np.bincount(place_P, weight_P)
        mean_M = np.bincount(place_P, weight_P * same_P) / total_M
        curve_M = support.smoothed(isotonic_means(mean_M, total_M), knot_score_M, total_M)
        return Calibration(kind, knot_score_M, curve_M, (), *counts)
    ends = knot_score_M[[0, -1]]
    unit_P = _unit_score(score_P, ends)
    features_PF = unit_P[:, None] if kind == "logistic" else _beta_features(unit_P)
    positives, negatives = weight_P[same_P].sum(), weight_P[~same_P].sum()
    target_P = np.where(same_P, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    coefficient_F, intercept = fit_logistic(
        features_PF, target_P, weight_P, ridge=CURVE_RIDGE * weight_P.sum(), non_negative=True
    )
    coefficients = (*(float(number) for number in coefficient_F), intercept)
    same_2, different_2 = support.one_more(ends, ends)
    bounds = (
        1 / (1 + (negatives + different_2[0]) / same_2[0]),
        1 / (1 + different_2[1] / (positives + same_2[1])),
    )
    return Calibration(kind, ends, np.array(bounds), coefficients, *counts)


def _checked_pairs(
    score_P: np.ndarray, same_P: np.ndarray, weight_P: np.ndarray | None, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs, sorted, so that their order in the input changes no bit."""
    if kind not in get_args(CalibrationKind):
        raise ValueError(f"calibration must be one of {get_args(CalibrationKind)}, not {kind!r}.")
    score_P = np.asarray(score_P, np.float64) + 0.0
    same_P = np.asarray(same_P, bool)
    weight_P = np.ones(len(score_P)) if weight_P is None else np.asarray(weight_P, np.float64)
    if not (score_P.ndim == 1 and score_P.shape == same_P.shape == weight_P.shape):
        raise ValueError("a calibration needs one answer and one weight for each score.")
    if not np.all(np.abs(score_P) <= FLOAT32_MAX):
        raise CalibrationError(
            "a calibration pair has a score that is no finite float32 number: leave out pairs "
            "that were not scored."
        )
    if not np.all((weight_P > 0) & np.isfinite(weight_P)):
        raise ValueError("the weight of a calibration pair must be above 0.")
    positives = int(np.count_nonzero(same_P))
    if positives in (0, len(same_P)):
        raise CalibrationError(
            f"{positives} of {len(same_P)} calibration pairs show the same animal: both kinds are "
            "needed. The database needs identities with several images (from different "
            "encounters, while same-encounter pairs are left out), and more than one identity."
        )
    order_P = np.lexsort((weight_P, same_P, score_P))
    return score_P[order_P], same_P[order_P], weight_P[order_P]


def _check_fitted(fitted: Calibration) -> None:
    if fitted.kind not in get_args(CalibrationKind):
        raise ValueError(f"no calibration is called {fitted.kind!r}")
    scores, probs = fitted.knot_score_M, fitted.knot_prob_M
    if len(scores) < 2 or not np.all(np.abs(scores) <= FLOAT32_MAX) or np.any(np.diff(scores) <= 0):
        raise ValueError("the knots of a calibration are at least two rising scores")
    wanted = {"isotonic": 0, "logistic": 2, "beta": 3}[fitted.kind]
    if len(fitted.coefficients) != wanted or not np.all(np.isfinite(fitted.coefficients)):
        raise ValueError(f"a {fitted.kind} calibration has {wanted} coefficients")
    if any(slope < 0 for slope in fitted.coefficients[:-1]):
        raise ValueError("a calibration never falls")
    if len(probs) != len(scores):
        raise ValueError("a calibration has one probability per knot")
    if np.any(np.diff(probs) < 0) or not np.all((probs >= 0) & (probs <= 1)):
        raise ValueError("the probabilities of a calibration rise from 0 to 1")


def _interpolate(score_N: np.ndarray, knot_M: np.ndarray, value_M: np.ndarray) -> np.ndarray:
    """Linear between knots, level outside, exact at them, and never past the next knot."""
    left_N = np.clip(np.searchsorted(knot_M, score_N, side="right") - 1, 0, len(knot_M) - 2)
    low_N, high_N = value_M[left_N], value_M[left_N + 1]
    share_N = _unit_score(score_N, (knot_M[left_N], knot_M[left_N + 1]))
    return np.where(share_N < 1, np.minimum(low_N + (high_N - low_N) * share_N, high_N), high_N)


def _unit_score(
    score_N: np.ndarray, ends: np.ndarray | tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The score scaled so that the two ends are 0 and 1, and clipped to that."""
    low, high = ends
    return np.clip((score_N - low) / (high - low), 0.0, 1.0)


def _beta_features(unit_N: np.ndarray) -> np.ndarray:
    """ln s and -ln(1 - s), with s kept off 0 and 1 by a millionth; two columns."""
    inside_N = 1e-6 + (1 - 2e-6) * unit_N
    return np.column_stack([np.log(inside_N), -np.log1p(-inside_N)])
