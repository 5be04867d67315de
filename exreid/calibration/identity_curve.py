"""From an animal's score to the probability that it is the photograph's animal.

Letters: Q calibration queries, A animals named for one of them, P pairs of both.
"""

from __future__ import annotations

import numpy as np

from exreid.calibration.curves import Calibration, CalibrationKind, fit_calibration
from exreid.metrics.identities import IdentityScore, identity_answers
from exreid.records import Ranking, RetrievalSide


def fit_identity_curve(
    ranking: Ranking,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    *,
    new_share: float,
    how: IdentityScore = "max",
    top: int = 3,
    kind: CalibrationKind = "isotonic",
    most: int = 10,
) -> Calibration:
    """Fit the curve on gallery images that were answered as queries.

    Each query counts twice, as in the decision known/new: once as it is, where its animal is among
    its candidates, and once with its animal taken out, as a new one; the new ones together weigh
    ``new_share``. Within a query each of its ``most`` best animals is one pair, right or wrong.
    CalibrationError where no pair is right, or none is wrong.
    """
    scores, same, weights = [], [], []
    known_Q = np.diff(ranking.positive_offset_Q1) > 0
    known_weight = (1 - new_share) / max(int(known_Q.sum()), 1)
    new_weight = new_share / max(len(queries), 1)
    answers = identity_answers(ranking, gallery.identity_N, how=how, top=top)
    for q, answer in enumerate(answers):
        own_A = answer.identity_A == queries.identity_N[q]
        others = answer.score_A[~own_A][:most]
        if known_Q[q]:
            scores.append(answer.score_A[:most])
            same.append(own_A[:most])
            weights.append(np.full(len(scores[-1]), known_weight))
        scores.append(others)
        same.append(np.zeros(len(others), bool))
        weights.append(np.full(len(others), new_weight))
    return fit_calibration(
        np.concatenate([np.zeros(0), *scores]),
        np.concatenate([np.zeros(0, bool), *same]),
        kind=kind,
        weight_P=np.concatenate([np.zeros(0), *weights]),
    )


def shared_out(leader: float, curve_A: np.ndarray) -> np.ndarray:
    """The probabilities of one photograph's animals, best first: ``leader`` for the first; for the
    others in the proportions of the curve, none above the leader's, and all together at most 1.

    >>> shared_out(0.6, np.array([0.5, 0.5, 0.25])).round(3).tolist()
    [0.6, 0.267, 0.133]
    >>> shared_out(0.1, np.array([0.5, 0.4])).round(3).tolist()
    [0.1, 0.08]
    """
    rest_A = curve_A[1:]
    share = leader / curve_A[0] if curve_A[0] > 0 else 0.0
    if rest_A.sum() > 0:
        share = min(share, (1 - leader) / rest_A.sum())
    return np.append(leader, np.minimum(rest_A * share, leader))
