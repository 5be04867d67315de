"""Deciding between known and new in a probe: fitted on database images, applied to queries."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from exreid.config_benchmark import OpenSetConfig
from exreid.errors import CalibrationError
from exreid.matching.identities import Leaders, leaders
from exreid.matching.logistic import fit_logistic, sigmoid
from exreid.metrics.openset import Answers, choose_bar, exchangeable_count
from exreid.records import Ranking, RetrievalSide
from exreid.runs.new_animals import NewAnimals

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class OpenSet:
    """What was decided of the queries, and what that was learned from."""

    deciders: tuple[Decider, ...]
    """One, or one of each fold of the queries' animals."""
    practice: Answers
    found: Leaders
    """Of the queries."""
    probability_Q: np.ndarray
    """float64: that each query's leader is right."""
    known_Q: np.ndarray
    """bool: called known."""
    new_animals: NewAnimals | None

    @property
    def counts(self) -> dict[str, int]:
        """For the result."""
        counts = {"called_new": int(np.count_nonzero(~self.known_Q))}
        if self.new_animals is not None:
            counts["new_groups"] = len(np.unique(self.new_animals.group_N))
        return counts


def decide(
    practice: Practice,
    taught: RetrievalSide,
    ranking: Ranking,
    gallery: RetrievalSide,
    options: OpenSetConfig,
) -> OpenSet:
    """Decide known/new for each query; ``taught`` is the gallery of the practice."""
    decider, answers = fit_decider(practice, taught, options)
    found = leaders(ranking, gallery.identity_N)
    probability_Q = decider.probability(found)
    known_Q = probability_Q > decider.bar
    return OpenSet((decider,), answers, found, probability_Q, known_Q, None)


def practice_queries(gallery: RetrievalSide, count: int, seed: int) -> RetrievalSide:
    """Up to ``count`` gallery images, drawn at random by the seed: one of each animal, then another
    of each, and so on, since what can be promised goes by the number of animals."""
    rng = np.random.default_rng(seed)
    mixed = gallery.by_id[rng.permutation(len(gallery))]
    identity = gallery.identity_N[mixed]
    by_animal = np.argsort(identity, kind="stable")
    start = np.flatnonzero(np.diff(identity[by_animal], prepend=-1))
    nth = np.arange(len(mixed)) - np.repeat(start, np.diff([*start, len(mixed)]))
    # Animals in a drawn order too: where not all have a place, no name comes first.
    turn = np.repeat(rng.permutation(len(start)), np.diff([*start, len(mixed)]))
    chosen = mixed[by_animal][np.lexsort((turn, nth))[:count]]
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
    # In an order of their own, so that the order of the rows changes no bit of the fit.
    order_P = np.lexsort((weight_P, right_P, margin_P, score_P))
    feature_P2 = np.stack([score_P, margin_P], axis=1)[order_P]
    scales = (float(feature_P2[:, 0].std()) or 1.0, float(feature_P2[:, 1].std()) or 1.0)
    coefficients, intercept = fit_logistic(
        feature_P2 / scales,
        right_P[order_P].astype(np.float64),
        weight_P[order_P],
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
    bar = choose_bar(
        answers, rule=options.rule, rate=options.false_match_rate, promise=options.promise
    )
    if np.isposinf(bar):
        least = 1 / (exchangeable_count(answers, options.promise) + 1)
        log.warning(
            "open set: %d database %s can promise a false-match rate of %.1f%% at best, and %.1f%% "
            "is asked for: every query is called new. Raise benchmark.open_set.false_match_rate "
            "or benchmark.open_set.queries.",
            exchangeable_count(answers, options.promise),
            options.promise,
            100 * least,
            100 * options.false_match_rate,
        )
    return Decider(slopes, intercept, scales, bar), answers
