"""Deciding between known and new in a probe: fitted on database images, applied to queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exreid.config_benchmark import OpenSetConfig
from exreid.errors import CalibrationError
from exreid.matching.identities import Leaders, leaders
from exreid.matching.logistic import fit_logistic, sigmoid
from exreid.metrics.openset import Answers, choose_bar
from exreid.records import Ranking, RetrievalSide

RIDGE = 1e-4
"""For each practice answer; keeps the coefficients finite where all of them separate."""
LEVEL_SLOPE = 1e-6


@dataclass(frozen=True)
class Practice:
    """Database images that were answered as if they were queries."""

    queries: RetrievalSide
    ranking: Ranking


@dataclass(frozen=True)
class Decider:
    """From a leader's score and margin to the probability that it is right, and the bar."""

    coefficients: tuple[float, float]
    intercept: float
    scales: tuple[float, float]
    """What score and margin are divided by."""
    bar: float
    """Queries above it are called known."""

    def probability(self, found: Leaders) -> np.ndarray:
        """float64 (Q,); 0 for a query without candidates."""
        some_Q = np.isfinite(found.score_Q)
        score_Q = np.where(some_Q, found.score_Q, 0.0) / self.scales[0]
        logit_Q = self.coefficients[0] * score_Q + self.intercept
        logit_Q = logit_Q + self.coefficients[1] * found.margin_Q / self.scales[1]
        return np.where(some_Q, sigmoid(logit_Q), 0.0)


def practice_queries(gallery: RetrievalSide, count: int, seed: int) -> RetrievalSide:
    """Up to ``count`` gallery images, drawn at random by the seed."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(gallery), min(count, len(gallery)), replace=False)
    return gallery.take(np.sort(chosen))


def fit_decider(
    practice: Practice, gallery: RetrievalSide, options: OpenSetConfig
) -> tuple[Decider, Answers]:
    """Fit the probability and the bar; and the practice answers that they come from.

    Every practice image is answered twice: as it is, where another encounter of its animal is in
    the gallery, and with its animal taken out of its candidates, as a new one. A logistic
    regression over the leader's score and its margin to the next animal (neither may count against
    it) gives the probability that the leader is right, for ``options.new_share`` new animals; the
    bar is `choose_bar` on the same answers. CalibrationError where practice teaches nothing.
    """
    own_Q = practice.queries.identity_N
    known_Q = np.diff(practice.ranking.positive_offset_Q1) > 0
    as_known = leaders(practice.ranking, gallery.identity_N)
    as_new = leaders(practice.ranking, gallery.identity_N, without_Q=own_Q)
    new_Q = np.isfinite(as_new.score_Q)
    right_Q = known_Q & (as_known.identity_Q == own_Q)
    if not right_Q.any() or not new_Q.any():
        what = "was answered rightly" if new_Q.any() else "has a candidate of another animal"
        raise CalibrationError(
            f"none of the {len(own_Q)} database images that stood in as queries {what}: there is "
            "nothing to fit the decision known/new on. Raise benchmark.open_set.queries, use a "
            "stronger method, or a database with several encounters of each animal."
        )
    score_P = np.concatenate([as_known.score_Q[known_Q], as_new.score_Q[new_Q]])
    margin_P = np.concatenate([as_known.margin_Q[known_Q], as_new.margin_Q[new_Q]])
    is_known_P = np.repeat([True, False], [known_Q.sum(), new_Q.sum()])
    right_P = np.concatenate([right_Q[known_Q], np.zeros(int(new_Q.sum()), bool)])
    share = options.new_share
    weight_P = np.where(is_known_P, (1 - share) / known_Q.sum(), share / new_Q.sum())
    scales = (float(score_P.std()) or 1.0, float(margin_P.std()) or 1.0)
    coefficients, intercept = fit_logistic(
        np.stack([score_P / scales[0], margin_P / scales[1]], axis=1),
        right_P.astype(np.float64),
        weight_P,
        ridge=RIDGE,
        non_negative=True,
    )
    slopes = (float(coefficients[0]), float(coefficients[1]))
    if not any(slopes):
        # Neither says anything on the database: all are about as likely, in the score's order.
        slopes = (LEVEL_SLOPE, 0.0)
    decider = Decider(slopes, intercept, scales, bar=0.0)
    whole = Leaders(np.zeros(len(score_P), np.int32), score_P, margin_P)
    identity_P = np.concatenate([own_Q[known_Q], own_Q[new_Q]])
    # An animal that stands in as a new one is another animal than itself as a known one.
    identity_P = identity_P + np.where(is_known_P, 0, own_Q.max() + 1)
    answers = Answers(decider.probability(whole), is_known_P, right_P, identity_P)
    bar = choose_bar(answers, rule=options.rule, rate=options.false_match_rate)
    return Decider(slopes, intercept, scales, bar), answers
