"""Known or new: how well a score tells animals of the gallery from animals that it lacks.

A query is known when a gallery image that may answer it shows its animal, and new otherwise. It
is accepted, which claims that its leading identity is its own, where its score is above a
threshold; a new animal that is accepted is a false match.

Letters: Q queries, I identities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from exreid.metrics.retrieval import QueryValues

ThresholdRule = Literal["false_match_rate", "balanced"]
Promise = Literal["animals", "photos"]


@dataclass(frozen=True)
class Answers:
    """The answer to each query, and whether it is right."""

    score_Q: np.ndarray
    """float64: the higher, the surer that the animal is known and is the leading identity."""
    known_Q: np.ndarray
    """bool."""
    right_Q: np.ndarray
    """bool: the leading identity is the query's own; false for every new animal."""
    identity_Q: np.ndarray
    """int: the query's own identity, new ones too."""

    def __post_init__(self) -> None:
        arrays = (self.score_Q, self.known_Q, self.right_Q, self.identity_Q)
        if len({len(array) for array in arrays}) != 1 or np.any(np.isnan(self.score_Q)):
            raise ValueError("each query needs a score, which is a number, and its answers.")
        if np.any(self.right_Q & ~self.known_Q):
            raise ValueError("the leading identity of a new animal cannot be right.")


def detection_auroc(answers: Answers, weight_Q: np.ndarray | None = None) -> float:
    """The chance that a known animal scores higher than a new one, ties counting half; NaN
    without either kind (Hanley & McNeil 1982).

    >>> detection_auroc(Answers(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]),
    ...                         np.array([True, False, False]), np.arange(3)))
    0.75
    """
    weight_Q = np.ones(len(answers.score_Q)) if weight_Q is None else weight_Q
    _, place_Q = np.unique(answers.score_Q, return_inverse=True)
    known = np.bincount(place_Q, weight_Q * answers.known_Q)
    new = np.bincount(place_Q, weight_Q * ~answers.known_Q)
    pairs = known.sum() * new.sum()
    below = np.cumsum(new) - new
    return float((known * (below + new / 2)).sum() / pairs) if pairs > 0 else float("nan")


def right_auroc(answers: Answers, weight_Q: np.ndarray | None = None) -> float:
    """`detection_auroc` without the known animals whose leading identity is wrong: what the scores
    could tell if every leader of a known animal were right. Of the known animals with a wrong
    leader no evidence for that leader can say that they are known.

    >>> right_auroc(Answers(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]),
    ...                     np.array([True, False, False]), np.arange(3)))
    1.0
    """
    weight_Q = np.ones(len(answers.score_Q)) if weight_Q is None else weight_Q
    return detection_auroc(answers, weight_Q * (answers.right_Q | ~answers.known_Q))


def threshold_at_rate(answers: Answers, rate: float) -> float:
    """The lowest threshold that at most this share of the new animals' answers is above.

    With fewer than 1 / rate of them none is above it. Minus infinity without any.

    >>> answers = Answers(np.array([0.1, 0.2, 0.3]), np.zeros(3, bool), np.zeros(3, bool),
    ...                   np.arange(3))
    >>> threshold_at_rate(answers, 0.05), threshold_at_rate(answers, 0.4)
    (0.3, 0.2)
    """
    falling = np.sort(answers.score_Q[~answers.known_Q])[::-1]
    allowed = int(np.floor(rate * len(falling) + 1e-9))
    return float(falling[allowed]) if allowed < len(falling) else float("-inf")


def choose_threshold(
    answers: Answers, *, rule: ThresholdRule, rate: float = 0.05, promise: Promise = "animals"
) -> float:
    """The threshold for further queries, from answers whose truth is known.

    ``false_match_rate``: a photograph of a further new animal is accepted with a probability of at
    most ``rate`` (split conformal prediction; Vovk, Gammerman & Shafer 2005). What is exchangeable
    is the animal, not the photograph: those of one animal are alike. So with ``promise="animals"``
    each of the K new animals here weighs 1 / (K + 1), shared by its answers, and the threshold is
    the lowest score with a weight of 1 - rate at or below it, which keeps the promise however alike
    an animal's photographs are (Lee, Barber & Willett 2023, "Distribution-free inference with
    hierarchical data"). It is infinite where K is below 1 / rate - 1. ``"photos"`` weighs every
    answer alike, and promises something only where each shows another animal.
    ``balanced``: the highest mean of `balanced_accuracies`, in the middle between two
    scores; of equally good thresholds the lowest.

    ValueError without any answer, whose threshold would mean nothing.
    """
    if len(answers.score_Q) == 0:
        raise ValueError("a threshold needs answers whose truth is known, and there are none.")
    if rule == "false_match_rate":
        if not 0 < rate < 1:
            raise ValueError(f"a false-match rate is between 0 and 1, not {rate}.")
        return _conformal_threshold(answers, rate, promise)
    score_S, place_Q = np.unique(answers.score_Q, return_inverse=True)
    gain_Q = np.where(answers.known_Q, -(_shares(answers, answers.known_Q) * answers.right_Q), 0.0)
    gain_Q = gain_Q + _shares(answers, ~answers.known_Q)
    # The value of a threshold at a score: what it rejects no longer counts as right, or counts as
    # new.
    value_S = np.cumsum(np.bincount(place_Q, gain_Q))
    if value_S.max() <= 0:
        return float("-inf")
    best = int(np.argmax(value_S > value_S.max() - 1e-12))
    above = score_S[best + 1] if best + 1 < len(score_S) else score_S[best]
    return float((score_S[best] + above) / 2)


def _conformal_threshold(answers: Answers, rate: float, promise: Promise) -> float:
    new_Q = ~answers.known_Q
    count = exchangeable_count(answers, promise)
    if count == 0:
        return float("inf")
    share_Q = _shares(answers, new_Q) if promise == "animals" else new_Q / count
    score_S, place_Q = np.unique(answers.score_Q[new_Q], return_inverse=True)
    below_S = np.cumsum(np.bincount(place_Q, share_Q[new_Q])) * count / (count + 1)
    place = int(np.searchsorted(below_S, 1 - rate - 1e-9))
    return float(score_S[place]) if place < len(score_S) else float("inf")


def exchangeable_count(answers: Answers, promise: Promise = "animals") -> int:
    """The number of exchangeable animals or photographs among the new answers; the lowest rate that
    can be promised is 1 / (this + 1)."""
    new_Q = ~answers.known_Q
    if promise == "photos":
        return int(new_Q.sum())
    return len(np.unique(answers.identity_Q[new_Q]))


def balanced_accuracies(answers: Answers, threshold: float) -> dict[str, QueryValues]:
    """BAKS and BAUS, as AnimalCLEF 2025 scores them, for `average_values` and the bootstrap.

    ``BAKS``: over known animals, the mean of each one's share of queries that were accepted with
    the right identity. ``BAUS``: over new animals, of those that were not accepted.
    """
    accepted_Q = answers.score_Q > threshold
    return {
        "BAKS": QueryValues(
            (accepted_Q & answers.right_Q).astype(np.float64), answers.known_Q, "identities"
        ),
        "BAUS": QueryValues((~accepted_Q).astype(np.float64), ~answers.known_Q, "identities"),
    }


def rates_at(answers: Answers, rate: float) -> tuple[float, float]:
    """At `threshold_at_rate`: the share of known queries that is accepted (TPR), and the share that
    is accepted with the right identity (the detection and identification rate of open-set
    identification; Phillips, Grother & Micheals 2011). NaN without known queries."""
    accepted_Q = answers.score_Q > threshold_at_rate(answers, rate)
    known_Q = answers.known_Q
    if not known_Q.any():
        return float("nan"), float("nan")
    return float(accepted_Q[known_Q].mean()), float((accepted_Q & answers.right_Q)[known_Q].mean())


def open_set_curve(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """False-match rate and detection-and-identification rate at every threshold, both rising.

    The first point is the threshold that accepts nothing; then one point for each distinct score. A
    rate is NaN throughout where no query counts for it: none of a new animal, or none of a known
    one.
    """
    score_S, place_Q = np.unique(-answers.score_Q, return_inverse=True)
    new_S = np.bincount(place_Q, ~answers.known_Q, minlength=len(score_S))
    right_S = np.bincount(place_Q, answers.right_Q, minlength=len(score_S))
    totals = int((~answers.known_Q).sum()), int(answers.known_Q.sum())
    false_match_rate, identification_rate = (
        np.concatenate([[0.0], np.cumsum(part)]) / (total or np.nan)
        for part, total in zip((new_S, right_S), totals, strict=True)
    )
    return false_match_rate, identification_rate


def _shares(answers: Answers, counted_Q: np.ndarray) -> np.ndarray:
    """Each counted query's share of the mean over identities of their mean over queries."""
    share_Q = np.zeros(len(counted_Q))
    if counted_Q.any():
        _, place, count = np.unique(
            answers.identity_Q[counted_Q], return_inverse=True, return_counts=True
        )
        share_Q[counted_Q] = 1 / (len(count) * count[place])
    return share_Q
