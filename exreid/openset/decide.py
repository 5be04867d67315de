"""Deciding between known and new in a probe: fitted on database images, applied to queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exreid.calibration.logistic import fit_logistic, sigmoid
from exreid.config.methods import OpenSetConfig
from exreid.errors import CalibrationError
from exreid.metrics.identities import TopIdentities, top_identities
from exreid.metrics.openset import Answers, choose_threshold, exchangeable_count
from exreid.openset.group import NewAnimals
from exreid.records import Counts, Ranking, RetrievalSide

DECISION_RIDGE = 1e-4
"""For each answer; keeps the coefficients finite where score and margin tell right from wrong."""
LEVEL_SLOPE = 1e-6
DECISION_FOLDS = 5
"""Folds of the identities; the answers of each are scored by a fit on the others."""
UNPROMISED_THRESHOLD = 0.5
"""Where no rate can be promised, an animal counts as known if it is more probably right than
not."""


@dataclass(frozen=True)
class CalibrationQueries:
    """Database images that were answered as if they were queries."""

    queries: RetrievalSide
    ranking: Ranking


@dataclass(frozen=True)
class Decider:
    """From the score and margin of a top identity to the probability that it is right."""

    coefficients: tuple[float, float]
    intercept: float
    scales: tuple[float, float]
    """Divisors of score and margin."""
    bounds: tuple[float, float]
    """The lowest and the highest probability that the number of fitted identities supports."""
    threshold: float
    """Queries above it are called known."""
    reason: str = ""
    """Why no false-match rate is promised; empty where one is, or where none was asked for."""

    def logit(self, score_Q: np.ndarray, margin_Q: np.ndarray) -> np.ndarray:
        """The log odds of being right, before bounds, float64 (Q,)."""
        logit_Q = self.coefficients[0] * score_Q / self.scales[0] + self.intercept
        return logit_Q + self.coefficients[1] * margin_Q / self.scales[1]

    def bounded(self, logit_Q: np.ndarray) -> np.ndarray:
        """The probabilities of logits, within the bounds."""
        low, high = self.bounds
        return low + (high - low) * sigmoid(logit_Q)

    def probability(self, top: TopIdentities) -> np.ndarray:
        """float64 (Q,); 0 for a query without candidates."""
        some_Q = np.isfinite(top.score_Q)
        logit_Q = self.logit(np.where(some_Q, top.score_Q, 0.0), top.margin_Q)
        return np.where(some_Q, self.bounded(logit_Q), 0.0)


@dataclass(frozen=True)
class Decisions:
    """Known or new for each query, and the fit behind it."""

    deciders: tuple[Decider, ...]
    """One, or one for each fold of the queries' identities."""
    calibration: Answers
    """Of the calibration queries; empty where they are not stored."""
    top: TopIdentities
    """Of the queries."""
    probability_Q: np.ndarray
    """float64: that each query's top identity is right."""
    known_Q: np.ndarray
    """bool: called known."""
    new_animals: NewAnimals | None = None

    @property
    def counts(self) -> Counts:
        """For the result."""
        counts: Counts = {"called_new": int(np.count_nonzero(~self.known_Q))}
        if self.new_animals is not None:
            counts["new_groups"] = len(np.unique(self.new_animals.group_N))
        return counts


def decide(
    ranking: Ranking, identity_G: np.ndarray, decider: Decider, calibration: Answers
) -> Decisions:
    """Known or new for each query, from its ranking of a gallery with these identities."""
    top = top_identities(ranking, identity_G)
    probability_Q = decider.probability(top)
    known_Q = probability_Q > decider.threshold
    return Decisions((decider,), calibration, top, probability_Q, known_Q)


def calibration_queries(gallery: RetrievalSide, count: int, seed: int) -> RetrievalSide:
    """Up to ``count`` gallery images, drawn at random by the seed: one of each identity, then
    another of each, and so on, since the rate that can be promised depends on the number of
    identities."""
    rng = np.random.default_rng(seed)
    mixed = gallery.by_id[rng.permutation(len(gallery))]
    identity = gallery.identity_N[mixed]
    by_identity = np.argsort(identity, kind="stable")
    start = np.flatnonzero(np.diff(identity[by_identity], prepend=-1))
    nth = np.arange(len(mixed)) - np.repeat(start, np.diff([*start, len(mixed)]))
    # Identities are in a drawn order too: where not all fit, no name is preferred.
    turn = np.repeat(rng.permutation(len(start)), np.diff([*start, len(mixed)]))
    chosen = mixed[by_identity][np.lexsort((turn, nth))[:count]]
    return gallery.take(np.sort(chosen))


@dataclass(frozen=True)
class _Responses:
    """Answers to the calibration queries: P top identities, and whether each is right."""

    score_P: np.ndarray
    margin_P: np.ndarray
    known_P: np.ndarray
    right_P: np.ndarray
    own_P: np.ndarray
    """int: the query's own identity, the same in both of its roles."""

    def take(self, chosen_P: np.ndarray) -> _Responses:
        return _Responses(*(getattr(self, name)[chosen_P] for name in self.__dataclass_fields__))


def fit_decider(
    calibration: CalibrationQueries, gallery: RetrievalSide, options: OpenSetConfig, seed: int = 0
) -> tuple[Decider, Answers]:
    """Fit the probability and the threshold; and the answers that the threshold comes from.

    Every calibration query is answered twice: as it is, where another encounter of its identity is
    in the gallery, and with its identity taken out of its candidates, as a new one. A logistic
    regression over the top identity's score and its margin to the next one (neither may count
    against it) gives the probability that it is right, for ``options.new_share`` new animals. The
    threshold is `choose_threshold` on the same answers, each with its probability by `_held_out`: a
    fit scores the answers it was fitted on too well, and a threshold on such scores lets more new
    animals pass than stated. Where there are too few identities to state a rate, the
    threshold is `UNPROMISED_THRESHOLD`, and `Decider.reason` says so. CalibrationError where there
    is nothing to fit on.
    """
    responses = _responses(calibration, gallery)
    decider = _fitted(responses, options.new_share)
    # An identity in its role as a new animal counts as another than in its role as a known one.
    identity_P = responses.own_P + np.where(responses.known_P, 0, responses.own_P.max() + 1)
    probability_P = _held_out(responses, decider, options.new_share, seed)
    answers = _with_unanswered(
        Answers(probability_P, responses.known_P, responses.right_P, identity_P), calibration
    )
    threshold = choose_threshold(
        answers, rule=options.rule, rate=options.false_match_rate, promise=options.promise
    )
    if not np.isposinf(threshold):
        return replace(decider, threshold=threshold), answers
    reason = _unpromised(exchangeable_count(answers, options.promise), options)
    if len(np.unique(gallery.identity_N)) > len(np.unique(calibration.queries.identity_N)):
        reason += " Raise benchmark.open_set.queries: not all animals took part."
    return replace(decider, threshold=UNPROMISED_THRESHOLD, reason=reason), answers


def _with_unanswered(answers: Answers, calibration: CalibrationQueries) -> Answers:
    """With the known animals that have no candidate, as a gate leaves none: they pass for new."""
    known_Q = np.diff(calibration.ranking.positive_offset_Q1) > 0
    own = calibration.queries.identity_N[known_Q & ~_answered(calibration.ranking)]
    none = np.zeros(len(own))
    return Answers(
        np.append(answers.score_Q, none),
        np.append(answers.known_Q, none == 0),
        np.append(answers.right_Q, none > 0),
        np.append(answers.identity_Q, own),
    )


def _answered(ranking: Ranking) -> np.ndarray:
    """Whether each query has a candidate, bool (Q,)."""
    return np.asarray((ranking.candidate_index_QK >= 0).any(axis=1))


def _unpromised(count: int, options: OpenSetConfig) -> str:
    rate = options.false_match_rate
    needed = int(np.ceil(1 / rate - 1e-9)) - 1
    return (
        f"No false-match rate is promised: {100 * rate:.3g}% needs {needed} {options.promise}, and "
        f"the gallery has {count} to practise on. An animal counts as known where its probability "
        f"is over {100 * UNPROMISED_THRESHOLD:.0f}%."
    )


def _responses(calibration: CalibrationQueries, gallery: RetrievalSide) -> _Responses:
    own_Q = calibration.queries.identity_N
    known_Q = np.diff(calibration.ranking.positive_offset_Q1) > 0
    known_Q &= _answered(calibration.ranking)
    as_known = top_identities(calibration.ranking, gallery.identity_N)
    as_new = top_identities(calibration.ranking, gallery.identity_N, without_Q=own_Q)
    new_Q = np.isfinite(as_new.score_Q)
    right_Q = known_Q & (as_known.identity_Q == own_Q)
    if not right_Q.any() or not new_Q.any():
        what = "was answered rightly" if new_Q.any() else "has a candidate of another animal"
        raise CalibrationError(
            f"none of the {len(own_Q)} database images that were asked as queries {what}: there is "
            "nothing to fit the decision known/new on. Raise benchmark.open_set.queries, use a "
            "stronger method, or a database with several encounters of each animal."
        )
    responses = _Responses(
        np.concatenate([as_known.score_Q[known_Q], as_new.score_Q[new_Q]]),
        np.concatenate([as_known.margin_Q[known_Q], as_new.margin_Q[new_Q]]),
        np.repeat([True, False], [known_Q.sum(), new_Q.sum()]),
        np.concatenate([right_Q[known_Q], np.zeros(int(new_Q.sum()), bool)]),
        np.concatenate([own_Q[known_Q], own_Q[new_Q]]),
    )
    # Sorted, so that the order of the rows changes no bit of the fit.
    keys = (responses.known_P, responses.right_P, responses.margin_P, responses.score_P)
    return responses.take(np.lexsort(keys))


def _fitted(responses: _Responses, new_share: float) -> Decider:
    """The probability of these answers, without a threshold."""
    known_P, right_P = responses.known_P, responses.right_P
    weight_P = np.where(
        known_P,
        (1 - new_share) / max(int(known_P.sum()), 1),
        new_share / max(int((~known_P).sum()), 1),
    )
    scales = (float(responses.score_P.std()) or 1.0, float(responses.margin_P.std()) or 1.0)
    coefficients, intercept = fit_logistic(
        np.stack([responses.score_P, responses.margin_P], axis=1) / scales,
        right_P.astype(np.float64),
        weight_P,
        ridge=DECISION_RIDGE,
        non_negative=True,
    )
    slopes = (float(coefficients[0]), float(coefficients[1]))
    if not any(slopes):
        # Neither helps on the database: all are about as likely, in the score's order.
        slopes = (LEVEL_SLOPE, 0.0)
    # Images of one identity are alike, so identities are counted.
    right, wrong = (len(np.unique(responses.own_P[rows])) for rows in (right_P, ~right_P))
    bounds = (1 / (wrong + 2), (right + 1) / (right + 2))
    return Decider(slopes, intercept, scales, bounds, threshold=0.0)


def _held_out(responses: _Responses, whole: Decider, new_share: float, seed: int) -> np.ndarray:
    """Each answer's probability by a fit without its identity, float64 (P,).

    A fit on fewer identities may be steeper or flatter than the whole one, so that its answers
    could not be compared with the others. So its logits are scaled to the mean and the spread of
    the whole fit on the new answers of the fold's fit: only the weights of score and margin against
    each other are held out.
    """
    whole_P = whole.logit(responses.score_P, responses.margin_P)
    logit_P = whole_P.copy()
    identities, place_P = np.unique(responses.own_P, return_inverse=True)
    count = min(DECISION_FOLDS, len(identities))
    fold_P = (np.random.default_rng(seed).permutation(len(identities)) % count)[place_P]
    for fold in range(count if count > 1 else 0):
        inside_P = fold_P == fold
        rest = responses.take(np.flatnonzero(~inside_P))
        if not rest.right_P.any() or rest.right_P.all():
            continue
        other_P = _fitted(rest, new_share).logit(responses.score_P, responses.margin_P)
        seen_P = ~responses.known_P & ~inside_P
        if not seen_P.any() or other_P[seen_P].std() == 0:
            continue
        unit_P = (other_P[inside_P] - other_P[seen_P].mean()) / other_P[seen_P].std()
        logit_P[inside_P] = whole_P[seen_P].mean() + whole_P[seen_P].std() * unit_P
    return whole.bounded(logit_P)
