"""Deciding between known and new in a probe: fitted on database images, applied to queries."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from exreid.calibration.logistic import fit_logistic, sigmoid
from exreid.config.benchmark import OpenSetConfig
from exreid.errors import CalibrationError
from exreid.metrics.identities import Leaders, leaders
from exreid.metrics.openset import Answers, choose_bar, exchangeable_count
from exreid.openset.group import NewAnimals
from exreid.records import Ranking, RetrievalSide

log = logging.getLogger(__name__)

RIDGE = 1e-4
"""For each practice answer; keeps the coefficients finite where all of them separate."""
LEVEL_SLOPE = 1e-6
FOLDS = 5
"""The animals are dealt to so many folds, and each is answered by what was fitted on the others."""
UNPROMISED_BAR = 0.5
"""Where no rate can be promised: known is what is more probably right than not."""


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
    bounds: tuple[float, float]
    """The lowest and the highest probability that the number of animals behind it supports."""
    bar: float
    """Queries above it are called known."""
    reason: str = ""
    """Why no false-match rate is promised; empty where one is, or where none was asked for."""

    def logit(self, score_Q: np.ndarray, margin_Q: np.ndarray) -> np.ndarray:
        """What the probability rises with, float64 (Q,)."""
        logit_Q = self.coefficients[0] * score_Q / self.scales[0] + self.intercept
        return logit_Q + self.coefficients[1] * margin_Q / self.scales[1]

    def bounded(self, logit_Q: np.ndarray) -> np.ndarray:
        """The probabilities of logits, within the bounds."""
        low, high = self.bounds
        return low + (high - low) * sigmoid(logit_Q)

    def probability(self, found: Leaders) -> np.ndarray:
        """float64 (Q,); 0 for a query without candidates."""
        some_Q = np.isfinite(found.score_Q)
        logit_Q = self.logit(np.where(some_Q, found.score_Q, 0.0), found.margin_Q)
        return np.where(some_Q, self.bounded(logit_Q), 0.0)


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
    *,
    seed: int = 0,
) -> OpenSet:
    """Decide known/new for each query; ``taught`` is the gallery of the practice."""
    decider, answers = fit_decider(practice, taught, options, seed)
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


@dataclass(frozen=True)
class _Lessons:
    """Practice answers: P leaders, and what was right."""

    score_P: np.ndarray
    margin_P: np.ndarray
    known_P: np.ndarray
    right_P: np.ndarray
    own_P: np.ndarray
    """int: the photograph's own animal, the same in both of its roles."""

    def take(self, chosen_P: np.ndarray) -> _Lessons:
        return _Lessons(*(getattr(self, name)[chosen_P] for name in self.__dataclass_fields__))


def fit_decider(
    practice: Practice, gallery: RetrievalSide, options: OpenSetConfig, seed: int = 0
) -> tuple[Decider, Answers]:
    """Fit the probability and the bar; and the practice answers that the bar comes from.

    Every practice image is answered twice: as it is, where another encounter of its animal is in
    the gallery, and with its animal taken out of its candidates, as a new one. A logistic
    regression over the leader's score and its margin to the next animal (neither may count against
    it) gives the probability that the leader is right, for ``options.new_share`` new animals. The
    bar is `choose_bar` on the same answers, each with the probability that `_held_out` gives it:
    what is fitted on an answer scores it too well, and a bar on such scores lets more new animals
    pass than stated. Where there are too few animals to state a rate, the bar is
    `UNPROMISED_BAR`, and `Decider.reason` says so.
    CalibrationError where practice teaches nothing.
    """
    lessons = _lessons(practice, gallery)
    decider = _fitted(lessons, options.new_share)
    # An animal that stands in as a new one is another animal than itself as a known one.
    identity_P = lessons.own_P + np.where(lessons.known_P, 0, lessons.own_P.max() + 1)
    probability_P = _held_out(lessons, decider, options.new_share, seed)
    answers = Answers(probability_P, lessons.known_P, lessons.right_P, identity_P)
    bar = choose_bar(
        answers, rule=options.rule, rate=options.false_match_rate, promise=options.promise
    )
    if not np.isposinf(bar):
        return replace(decider, bar=bar), answers
    reason = _unpromised(exchangeable_count(answers, options.promise), options)
    if len(np.unique(gallery.identity_N)) > len(np.unique(practice.queries.identity_N)):
        reason += " Raise benchmark.open_set.queries: not all animals took part."
    log.warning("open set: %s", reason)
    return replace(decider, bar=UNPROMISED_BAR, reason=reason), answers


def _unpromised(count: int, options: OpenSetConfig) -> str:
    rate = options.false_match_rate
    needed = int(np.ceil(1 / rate - 1e-9)) - 1
    return (
        f"No false-match rate is promised: {100 * rate:.3g}% needs {needed} {options.promise} of "
        f"the database to fit on, and {count} are there (for {100 / (count + 1):.2g}% at best). "
        "Known is what is more probably right than not."
    )


def _lessons(practice: Practice, gallery: RetrievalSide) -> _Lessons:
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
    lessons = _Lessons(
        np.concatenate([as_known.score_Q[known_Q], as_new.score_Q[new_Q]]),
        np.concatenate([as_known.margin_Q[known_Q], as_new.margin_Q[new_Q]]),
        np.repeat([True, False], [known_Q.sum(), new_Q.sum()]),
        np.concatenate([right_Q[known_Q], np.zeros(int(new_Q.sum()), bool)]),
        np.concatenate([own_Q[known_Q], own_Q[new_Q]]),
    )
    # In an order of their own, so that the order of the rows changes no bit of the fit.
    keys = (lessons.known_P, lessons.right_P, lessons.margin_P, lessons.score_P)
    return lessons.take(np.lexsort(keys))


def _fitted(lessons: _Lessons, new_share: float) -> Decider:
    """The probability of these answers, without a bar."""
    known_P, right_P = lessons.known_P, lessons.right_P
    weight_P = np.where(
        known_P,
        (1 - new_share) / max(int(known_P.sum()), 1),
        new_share / max(int((~known_P).sum()), 1),
    )
    scales = (float(lessons.score_P.std()) or 1.0, float(lessons.margin_P.std()) or 1.0)
    coefficients, intercept = fit_logistic(
        np.stack([lessons.score_P, lessons.margin_P], axis=1) / scales,
        right_P.astype(np.float64),
        weight_P,
        ridge=RIDGE,
        non_negative=True,
    )
    slopes = (float(coefficients[0]), float(coefficients[1]))
    if not any(slopes):
        # Neither says anything on the database: all are about as likely, in the score's order.
        slopes = (LEVEL_SLOPE, 0.0)
    # Photographs of one animal are alike, so that animals are what is counted.
    right, wrong = (len(np.unique(lessons.own_P[rows])) for rows in (right_P, ~right_P))
    bounds = (1 / (wrong + 2), (right + 1) / (right + 2))
    return Decider(slopes, intercept, scales, bounds, bar=0.0)


def _held_out(lessons: _Lessons, whole: Decider, new_share: float, seed: int) -> np.ndarray:
    """Each answer's probability by what was fitted without its animal, float64 (P,).

    A fit on fewer animals may be steeper or flatter than the whole one, which would put its answers
    beside all others. So its logits are brought to the mean and the spread that the whole fit has
    on the new answers that it saw: what is held out is how score and margin weigh against each
    other.
    """
    whole_P = whole.logit(lessons.score_P, lessons.margin_P)
    logit_P = whole_P.copy()
    animals, place_P = np.unique(lessons.own_P, return_inverse=True)
    count = min(FOLDS, len(animals))
    fold_P = (np.random.default_rng(seed).permutation(len(animals)) % count)[place_P]
    for fold in range(count if count > 1 else 0):
        inside_P = fold_P == fold
        rest = lessons.take(np.flatnonzero(~inside_P))
        if not rest.right_P.any() or rest.right_P.all():
            continue
        other_P = _fitted(rest, new_share).logit(lessons.score_P, lessons.margin_P)
        seen_P = ~lessons.known_P & ~inside_P
        if not seen_P.any() or other_P[seen_P].std() == 0:
            continue
        unit_P = (other_P[inside_P] - other_P[seen_P].mean()) / other_P[seen_P].std()
        logit_P[inside_P] = whole_P[seen_P].mean() + whole_P[seen_P].std() * unit_P
    return whole.bounded(logit_P)
