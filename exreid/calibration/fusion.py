"""One score from several methods: each is calibrated, and the calibrated scores are added up.

With equal weights it is WildFusion's mean of calibrated scores (Cermak et al. 2024, "WildFusion:
individual animal identification with calibrated similarity fusion"); with learned ones a logistic
regression over them. With listwise weights raw scores are added up, so that the right animal comes
first in as many lists of candidates as possible (`exreid.calibration.logistic.fit_listwise`), and
only their sum is calibrated. In each case an answer's score is exactly the float64 sum of the
methods' contributions, in the order of the methods.

With isotonic calibration and equal weights, a method's contribution depends on the order of its raw
scores, not on their scale. Passing them through an increasing map before anything is fitted changes

- no bit of the score of a pair whose raw scores occur among the fitted ones, where those are at
  most 25 distinct numbers; where they are more, less than 8e-6 (see `exreid.calibration.tilt`), so
  that only pairs that nearly tie may change places;
- of a raw score between two fitted ones, or beyond them, its position between the same two: the
  curve is linear there, and a map need not be. A method's own order never changes.

The logistic and the beta curve depend on the scale, and learned weights on held-out scores, which
are between fitted ones.

Letters: P pairs, M methods.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NotRequired, TypedDict

import numpy as np

from exreid.calibration.curves import (
    Calibration,
    CalibrationKind,
    SavedCalibration,
    fit_calibration,
)
from exreid.calibration.logistic import fit_listwise, fit_logistic
from exreid.calibration.pairs import CalibrationPairs
from exreid.errors import CalibrationError

FusionWeights = Literal["equal", "learned", "listwise"]
WEIGHTS_RIDGE = 1e-3
"""Keeps learned weights finite where the methods separate the animals perfectly."""
FUSION_FORMAT = 1


@dataclass(frozen=True)
class FusedScores:
    """The fused scores of P pairs, and the parts of each."""

    probability_PM: np.ndarray
    """float64: each method's calibrated score; NaN where it has none."""
    contribution_PM: np.ndarray
    """float64: each method's addend to the score; NaN where it has none."""
    score_P: np.ndarray
    """float64: the sum of the contributions, from the first method to the last."""
    probability_P: np.ndarray
    """float64: the score, calibrated; NaN for a pair that lacks a method."""
    methods_P: np.ndarray
    """int64: how many methods scored the pair. A pair that lacks one ranks below all complete
    pairs, whatever its score: sums over different methods are not compared."""


class SavedFusion(TypedDict):
    """A `Fusion` as JSON."""

    format: int
    methods: list[str]
    weights: list[float]
    calibrations: list[SavedCalibration]
    answer: SavedCalibration
    of_raw: NotRequired[bool]
    """Missing where it is false in files of before."""


@dataclass(frozen=True)
class Fusion:
    """The fitted map from the methods' raw scores to one score. Saved as JSON, with every bit."""

    methods: tuple[str, ...]
    calibrations: tuple[Calibration, ...]
    weights: tuple[float, ...]
    answer: Calibration
    """From the fused score to the probability of "same animal"."""
    of_raw: bool = False
    """The weights are those of raw scores, not of calibrated ones."""

    def __post_init__(self) -> None:
        if not len(self.methods) == len(self.calibrations) == len(self.weights) > 0:
            raise ValueError("a fusion needs a calibration and a weight for each of its methods.")
        if not all(0 <= weight < np.inf for weight in self.weights) or not any(self.weights):
            raise ValueError("the weights of a fusion are 0 or more, and not all 0.")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all fitted numbers, as hexadecimal text."""
        return hashlib.sha256(json.dumps(self.as_json()).encode()).hexdigest()

    def apply(self, score_PM: np.ndarray) -> FusedScores:
        """Fuse raw scores, one column per method; NaN where a method did not score the pair."""
        if score_PM.ndim != 2 or score_PM.shape[1] != len(self.methods):
            raise ValueError(f"scores of {self.methods} are wanted, not {score_PM.shape}.")
        probability_PM = np.stack(
            [curve.apply(score_PM[:, m]) for m, curve in enumerate(self.calibrations)], axis=1
        )
        added_PM = score_PM.astype(np.float64) if self.of_raw else probability_PM
        contribution_PM = added_PM * np.array(self.weights)
        score_P = sum_in_order(contribution_PM)
        methods_P = np.count_nonzero(~np.isnan(probability_PM), axis=1)
        whole_P = np.where(methods_P == len(self.methods), score_P, np.nan)
        return FusedScores(
            probability_PM, contribution_PM, score_P, self.answer.apply(whole_P), methods_P
        )

    def as_json(self) -> SavedFusion:
        """What `from_json` reads."""
        return {
            "format": FUSION_FORMAT,
            "methods": list(self.methods),
            "weights": list(self.weights),
            "calibrations": [curve.as_json() for curve in self.calibrations],
            "answer": self.answer.as_json(),
            "of_raw": self.of_raw,
        }

    @classmethod
    def from_json(cls, saved: SavedFusion) -> Fusion:
        """The fusion that was saved; CalibrationError for anything else."""
        try:
            if saved["format"] != FUSION_FORMAT:
                raise CalibrationError(
                    f"a fusion of format {saved['format']}, and this version reads "
                    f"{FUSION_FORMAT}: fit it again."
                )
            return cls(
                tuple(saved["methods"]),
                tuple(Calibration.from_json(curve) for curve in saved["calibrations"]),
                tuple(float(weight) for weight in saved["weights"]),
                Calibration.from_json(saved["answer"]),
                bool(saved.get("of_raw", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"not a saved fusion: {error!r}. Fit it again.") from error


@dataclass(frozen=True)
class HeldOut:
    """Probabilities of the calibration pairs, by curves that were fitted without the animals of
    their fold; NaN where the other folds are too small for a fit."""

    probability_PM: np.ndarray
    """float64, of each method."""
    probability_P: np.ndarray
    """float64, of the fused score."""


def fit_fusion(
    score_PM: np.ndarray,
    pairs: CalibrationPairs,
    methods: tuple[str, ...],
    *,
    kind: CalibrationKind = "isotonic",
    weights: FusionWeights = "equal",
    listed_P: np.ndarray | None = None,
) -> tuple[Fusion, HeldOut]:
    """Fit each method's calibration, the weights, and the calibration of the fused score.

    ``score_PM``: the raw scores of the pairs, none missing. Fits on calibrated scores (the weights,
    the answer's probability, the held-out probabilities) use only scores whose curve was fitted on
    the other folds' animals: cross-fitting (Wolpert 1992, "Stacked
    generalization"). Where there are too few animals for that, equal weights fall back to scores
    of the curves themselves, and nothing is held out. The answer's probability is that of pairs
    that are ``listed_P`` (bool), where only such pairs become answers; the ranking does not
    depend on it. CalibrationError names the method that cannot be calibrated.
    """
    curves = []
    for m, method in enumerate(methods):
        try:
            curves.append(_calibrated(score_PM[:, m], pairs, slice(None), kind))
        except CalibrationError as error:
            raise CalibrationError(f"{method}: {error}") from error
    held_PM = np.stack([_held_out(score_PM[:, m], pairs, kind) for m in range(len(methods))], 1)
    known_P = ~np.isnan(held_PM).any(axis=1)
    enough = known_P.any() and len(np.unique(pairs.same_P[known_P])) == 2
    if not enough:
        if weights == "learned":
            raise CalibrationError(
                "too few animals to learn the weights of the methods on. Set "
                "benchmark.fusion.weights=equal."
            )
        held_PM = np.stack([c.apply(score_PM[:, m]) for m, c in enumerate(curves)], axis=1)
        known_P = np.ones(len(held_PM), bool)
    of_raw = weights == "listwise"
    added_PM = np.where(known_P[:, None], score_PM, np.nan) if of_raw else held_PM
    weight_M = _weights(added_PM, pairs, known_P, weights)
    fused_P = sum_in_order(added_PM * np.array(weight_M))
    answer = _calibrated(fused_P, pairs, _enough(fused_P, pairs, known_P, listed_P), kind)
    fusion = Fusion(methods, tuple(curves), weight_M, answer, of_raw)
    if not enough:
        return fusion, HeldOut(np.full_like(held_PM, np.nan), np.full(len(held_PM), np.nan))
    return fusion, HeldOut(held_PM, _held_out_fused(added_PM, pairs, kind, weights, listed_P))


def sum_in_order(value_PM: np.ndarray) -> np.ndarray:
    """The float64 sum over the methods, from the first to the last; NaN counts as nothing.

    >>> sum_in_order(np.array([[0.25, 0.5], [np.nan, 0.5]])).tolist()
    [0.75, 0.5]
    """
    total_P = np.zeros(len(value_PM))
    for m in range(value_PM.shape[1]):
        total_P = total_P + np.nan_to_num(value_PM[:, m], nan=0.0)
    return total_P


def _calibrated(
    score_P: np.ndarray, pairs: CalibrationPairs, rows: np.ndarray | slice, kind: CalibrationKind
) -> Calibration:
    return fit_calibration(
        score_P[rows], pairs.same_P[rows], kind=kind, weight_P=pairs.weight_P[rows]
    )


def _held_out(score_P: np.ndarray, pairs: CalibrationPairs, kind: CalibrationKind) -> np.ndarray:
    held_P = np.full(len(score_P), np.nan)
    known_P = ~np.isnan(score_P)
    for fold in np.unique(pairs.fold_P):
        inside_P = pairs.fold_P == fold
        try:
            curve = _calibrated(score_P, pairs, known_P & ~inside_P, kind)
        except CalibrationError:
            continue
        held_P[inside_P] = curve.apply(score_P[inside_P])
    return held_P


def _weights(
    added_PM: np.ndarray, pairs: CalibrationPairs, rows: np.ndarray, kind: FusionWeights
) -> tuple[float, ...]:
    """Of what is added up: calibrated scores, or for listwise weights raw ones."""
    count, same_P = added_PM.shape[1], pairs.same_P[rows]
    if kind == "equal":
        return (1 / count,) * count
    if kind == "listwise":
        try:
            weight_M = fit_listwise(added_PM[rows], same_P, pairs.first_P[rows])
        except ValueError as error:
            raise CalibrationError(
                f"the weights of the methods cannot be learned: {error} Set "
                "benchmark.fusion.weights=equal."
            ) from error
        return tuple((weight_M if weight_M.any() else np.ones(count)).tolist())
    weight_P = pairs.weight_P[rows] / pairs.weight_P[rows].mean()
    weight_M, _ = fit_logistic(
        added_PM[rows],
        same_P.astype(np.float64),
        weight_P,
        ridge=WEIGHTS_RIDGE,
        non_negative=True,
    )
    # Scaled to sum to 1, which changes no ranking, so that scores of runs can be compared.
    total = float(weight_M.sum())
    if total <= 0:
        return (1 / count,) * count
    return tuple(float(weight) / total for weight in weight_M)


def _enough(
    score_P: np.ndarray, pairs: CalibrationPairs, rows_P: np.ndarray, listed_P: np.ndarray | None
) -> np.ndarray:
    """The listed ones of the rows, where a curve can be fitted on them; else all."""
    if listed_P is None:
        return rows_P
    some_P = rows_P & listed_P
    both = len(np.unique(pairs.same_P[some_P])) == 2
    return some_P if both and len(np.unique(score_P[some_P])) > 1 else rows_P


def _held_out_fused(
    added_PM: np.ndarray,
    pairs: CalibrationPairs,
    kind: CalibrationKind,
    weights: FusionWeights,
    listed_P: np.ndarray | None,
) -> np.ndarray:
    known_P = ~np.isnan(added_PM).any(axis=1)
    result_P = np.full(len(added_PM), np.nan)
    for fold in np.unique(pairs.fold_P):
        inside_P = pairs.fold_P == fold
        rest_P = known_P & ~inside_P
        if len(np.unique(pairs.same_P[rest_P])) < 2:
            continue
        try:
            weight_M = np.array(_weights(added_PM, pairs, rest_P, weights))
            fused_P = sum_in_order(added_PM * weight_M)
            curve = _calibrated(fused_P, pairs, _enough(fused_P, pairs, rest_P, listed_P), kind)
        except CalibrationError:
            continue
        asked_P = inside_P & known_P
        result_P[asked_P] = curve.apply(fused_P[asked_P])
    return result_P
