r"""A budget for local matching: which pairs of a shortlist to match next, and when to stop.

The risk of stopping is a lost right answer: the query's animal is not the leading one, and an
unmatched image of it would have overtaken the leader. With the animals a of the
shortlist, their unmatched images j, and the leader's score s,

.. math:: risk = \sum_{a \ne leader} P(a) \min(1, \sum_{j \in a} P(score_j \ge s | same\ animal))

A query stops when the risk is small enough; until then the images with the largest part in it are
matched. An unmatched image of the leading animal has no part in it.

P(a) comes from each pair's own probability of "same animal": by its global scores while it is not
matched, by the fused score afterwards (a curve that is never surer than one more pair of the other
kind would leave it: of a hundred candidates the best is an extreme one). An animal has the odds of
its likeliest image, divided by the sum over animals where that is above 1: one animal alone can be
right, and none need be. The score that an unmatched pair of the same animal would get is its known
global part and a local part drawn from the database's pairs of one animal that have about the same
global scores.

All of it is fitted on pairs of database images (`fit_budget_rule`), never on a query; the stated
risk holds as far as a query's pairs resemble those.

Letters: P pairs, B candidates of one query, A animals among them, S database pairs of one animal,
M global methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from exreid.calibration.curves import Calibration, SavedCalibration, fit_calibration
from exreid.calibration.logistic import fit_logistic, sigmoid
from exreid.errors import CalibrationError

WINDOW = 100
"""Database pairs of one animal, nearest by global score, that represent an unmatched pair."""
BUDGET_RIDGE = 1e-3
"""For each pair; keeps the coefficients finite where the global scores separate the animals."""


class SavedBudgetRule(TypedDict):
    """A `BudgetRule` as JSON, which keeps each float64 exactly."""

    centre_M: list[float]
    slope_M: list[float]
    same_logit_S: list[float]
    same_local_S: list[float]
    intercept: float
    answer: SavedCalibration


@dataclass(frozen=True)
class BudgetRule:
    """The fitted probabilities of an unmatched pair; see the module's docstring."""

    centre_M: np.ndarray
    """float64: subtracted from raw global scores."""
    slope_M: np.ndarray
    """float64, 0 or more: logits per unit of each global method's raw score."""
    intercept: float
    same_logit_S: np.ndarray
    """float64, rising: the logits of the database's pairs of one animal."""
    same_local_S: np.ndarray
    """float64: the local methods' part of the fused score of those pairs."""
    answer: Calibration
    """From the fused score to the probability that a matched pair shows one animal."""

    def logits(self, global_PM: np.ndarray) -> np.ndarray:
        """The log odds that a pair shows one animal, by its raw global scores alone."""
        return np.asarray((global_PM - self.centre_M) @ self.slope_M + self.intercept)

    def overtaking(self, logit_B: np.ndarray, need_B: np.ndarray) -> np.ndarray:
        """The chance that a pair of one animal, with these log odds by global scores, gets a local
        part of ``need_B`` or more."""
        size = min(WINDOW, len(self.same_local_S))
        middle_B = np.searchsorted(self.same_logit_S, logit_B)
        start_B = np.clip(middle_B - size // 2, 0, len(self.same_local_S) - size)
        local_BS = self.same_local_S[start_B[:, None] + np.arange(size)]
        return np.asarray((local_BS >= need_B[:, None]).mean(axis=1))

    def as_json(self) -> SavedBudgetRule:
        """What `from_json` reads."""
        return {
            "centre_M": self.centre_M.tolist(),
            "slope_M": self.slope_M.tolist(),
            "same_logit_S": self.same_logit_S.tolist(),
            "same_local_S": self.same_local_S.tolist(),
            "intercept": self.intercept,
            "answer": self.answer.as_json(),
        }

    @classmethod
    def from_json(cls, saved: SavedBudgetRule) -> BudgetRule:
        """The rule that was saved; CalibrationError for anything else."""
        try:
            centre_M, slope_M = (np.array(saved[n], np.float64) for n in ("centre_M", "slope_M"))
            logit_S = np.array(saved["same_logit_S"], np.float64)
            local_S = np.array(saved["same_local_S"], np.float64)
            if len(centre_M) != len(slope_M) or len(logit_S) != len(local_S) or not len(logit_S):
                raise ValueError("its parts are not of one length")
            answer = Calibration.from_json(saved["answer"])
            return cls(centre_M, slope_M, float(saved["intercept"]), logit_S, local_S, answer)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"not a saved budget rule: {error!r}. Fit it again.") from error


def fit_budget_rule(
    global_PM: np.ndarray,
    local_P: np.ndarray,
    fused_P: np.ndarray,
    same_P: np.ndarray,
    weight_P: np.ndarray,
) -> BudgetRule:
    """Fit the rule to database pairs: raw global scores, the local methods' part of the fused
    score, that score, the answer, and the number of pairs that each one represents.

    The log odds are linear in the global scores, none counting against an animal (a logistic
    regression). The curve of matched pairs is isotonic.
    """
    centre_M, spread_M = global_PM.mean(axis=0), global_PM.std(axis=0)
    spread_M = np.where(spread_M > 0, spread_M, 1.0)
    unit_PM = (global_PM - centre_M) / spread_M
    slope_M, intercept = fit_logistic(
        unit_PM,
        same_P.astype(np.float64),
        weight_P / weight_P.mean(),
        ridge=BUDGET_RIDGE * len(same_P),
        non_negative=True,
    )
    answer = fit_calibration(fused_P, same_P, weight_P=weight_P)
    rule = BudgetRule(centre_M, slope_M / spread_M, intercept, np.zeros(0), np.zeros(0), answer)
    logit_S = rule.logits(global_PM[same_P])
    order = np.lexsort((local_P[same_P], logit_S))
    return replace(rule, same_logit_S=logit_S[order], same_local_S=local_P[same_P][order])


@dataclass(frozen=True)
class Candidates:
    """The shortlist of one query, in its order."""

    index_B: np.ndarray
    """int: gallery index; of equal scores the smaller one leads."""
    identity_B: np.ndarray
    """int codes."""
    logit_B: np.ndarray
    """float64: `BudgetRule.logits`."""
    part_B: np.ndarray
    """float64: the global methods' part of the fused score."""


@dataclass(frozen=True)
class QueryState:
    """The risk and the leader of a query after some of its pairs were matched."""

    risk: float
    """See the module's docstring; 1 before anything is matched."""
    part_of_risk_B: np.ndarray
    """float64: each candidate's part in it; 0 for matched ones and the leading animal's."""
    top: int
    """Place of the leading candidate; -1 before anything is matched."""


def query_state(rule: BudgetRule, candidates: Candidates, score_B: np.ndarray) -> QueryState:
    """The state of a query. ``score_B``: the fused score of each matched candidate; NaN for the
    others."""
    open_B = np.isnan(score_B)
    chance_B = np.where(open_B, sigmoid(candidates.logit_B), rule.answer.apply(score_B))
    if open_B.all():
        return QueryState(1.0, chance_B, -1)
    top = int(np.lexsort((candidates.index_B, np.where(open_B, np.inf, -score_B)))[0])
    _, identity_B = np.unique(candidates.identity_B, return_inverse=True)
    odds_A = np.zeros(identity_B.max() + 1)
    np.maximum.at(odds_A, identity_B, chance_B / (1 - chance_B))
    chance_A = odds_A / max(1.0, float(odds_A.sum()))
    passes_B = np.zeros(len(score_B))
    asked = np.flatnonzero(open_B & (identity_B != identity_B[top]))
    passes_B[asked] = rule.overtaking(
        candidates.logit_B[asked], score_B[top] - candidates.part_B[asked]
    )
    passes_A = np.minimum(np.bincount(identity_B, passes_B), 1.0)
    return QueryState(float(chance_A @ passes_A), chance_A[identity_B] * passes_B, top)


@dataclass(frozen=True)
class BudgetUse:
    """The pairs that were matched, and the risk of each query."""

    matched_P: np.ndarray
    """bool: pairs that were matched."""
    risk_Q: np.ndarray
    """float64: the risk at which each query stopped."""
    rounds_Q: np.ndarray
    """int64."""


ScoreRound = Callable[[np.ndarray], np.ndarray]
"""Matches the pairs at these indices of the list, and returns their fused scores."""


def match_by_risk(
    rule: BudgetRule,
    shortlists: list[Candidates],
    score: ScoreRound,
    *,
    risk: float,
    batch: int,
    least: int,
    most: int | None = None,
) -> BudgetUse:
    """Match the pairs of all shortlists (one after the other in the list), round by round, until
    each query's risk is at most ``risk``, or ``most`` of its pairs are matched.

    The first round takes the ``least`` likeliest pairs of each query by global scores; each later
    one the ``batch`` pairs of each open query with the largest part in its risk, of equal ones
    the first on the shortlist. No query's pairs depend on another query.
    """
    start_Q1 = np.cumsum([0, *(len(candidates.index_B) for candidates in shortlists)])
    score_P = np.full(start_Q1[-1], np.nan)
    risk_Q, rounds_Q = np.zeros(len(shortlists)), np.zeros(len(shortlists), np.int64)
    open_queries = [q for q, candidates in enumerate(shortlists) if len(candidates.index_B)]
    while open_queries:
        chosen, still = [], []
        for q in open_queries:
            rows = slice(start_Q1[q], start_Q1[q + 1])
            state = query_state(rule, shortlists[q], score_P[rows])
            risk_Q[q] = state.risk
            done = int(np.count_nonzero(~np.isnan(score_P[rows])))
            left = (len(state.part_of_risk_B) if most is None else most) - done
            if done and (state.risk <= risk or left <= 0):
                continue
            part_B, count = state.part_of_risk_B, min(batch if done else least, left)
            best = np.argsort(-part_B, kind="stable")[:count]
            chosen.append(start_Q1[q] + best[part_B[best] > 0])
            still.append(q)
        if still:
            place = np.concatenate(chosen)
            score_P[place] = score(place)
        rounds_Q[still] += 1
        open_queries = still
    return BudgetUse(~np.isnan(score_P), risk_Q, rounds_Q)
