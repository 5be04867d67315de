"""The budget of a probe's local matching: rounds over all queries, and the matched pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from exreid.calibration.budget_rule import BudgetUse, Candidates, match_by_risk
from exreid.config.methods import AdaptiveConfig
from exreid.metrics.ranking import Exclude
from exreid.pipeline.calibrate import FittedFusion
from exreid.records import Counts, RetrievalSide


@dataclass(frozen=True)
class BudgetSpent:
    """The raw scores of a shortlist's pairs, as far as they were matched."""

    score_PM: np.ndarray
    """float64; NaN for the local methods of a pair that was not matched."""
    spent: BudgetUse

    def pairs_of_each(self, query_P: np.ndarray) -> np.ndarray:
        """int64: matched pairs of each query."""
        return np.bincount(query_P[self.spent.matched_P], minlength=len(self.spent.risk_Q))

    def table(self, queries: RetrievalSide, query_P: np.ndarray) -> pa.Table:
        """``budget.parquet``."""
        columns = {
            "query_id": queries.image_ids,
            "pairs": self.pairs_of_each(query_P),
            "shortlist": np.bincount(query_P, minlength=len(queries)),
            "rounds": self.spent.rounds_Q,
            "risk": self.spent.risk_Q,
        }
        return pa.table(columns)

    def counts(self, query_P: np.ndarray, risk: float) -> Counts:
        """The counts for ``result.json``; a query with a whole shortlist matched is decided."""
        pairs_Q = self.pairs_of_each(query_P)
        whole_Q = pairs_Q == np.bincount(query_P, minlength=len(pairs_Q))
        return {
            "budget_pairs": int(pairs_Q.sum()),
            "budget_pairs_mean": round(float(pairs_Q.mean()), 2) if len(pairs_Q) else 0.0,
            "budget_pairs_max": int(pairs_Q.max(initial=0)),
            "budget_share": round(float(pairs_Q.sum() / max(len(query_P), 1)), 4),
            "budget_undecided": int(np.count_nonzero((self.spent.risk_Q > risk) & ~whole_Q)),
        }


def match_within_budget(
    fitted: FittedFusion,
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    options: AdaptiveConfig,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    exclude: Exclude,
) -> BudgetSpent:
    """Match the pairs of all shortlists (`shortlist_pairs`) as far as the budget rule wants. The
    pairs of a round, of all queries, are matched together."""
    methods, fusion, rule = fitted.methods, fitted.fusion, fitted.rule
    assert rule is not None, "the config refuses a budget without local methods"
    places = queries.position_N[query_P], gallery.position_N[gallery_P]
    identity_P = gallery.identity_N[gallery_P]
    score_PM = np.full((len(query_P), len(methods)), np.nan)
    local = [m for m, method in enumerate(methods) if method.kind == "local"]
    for m, method in enumerate(methods):
        if m not in local:
            score_PM[:, m] = method.score(*places, all_pairs=True, exclude=exclude)
    logit_P = rule.logits(np.delete(score_PM, local, axis=1))
    part_P = fusion.apply(score_PM).score_P
    ends = np.searchsorted(query_P, np.arange(len(queries) + 1))
    shortlists = [
        Candidates(gallery_P[rows], identity_P[rows], logit_P[rows], part_P[rows])
        for rows in map(slice, ends[:-1], ends[1:])
    ]

    def score(place: np.ndarray) -> np.ndarray:
        for m in local:
            asked = places[0][place], places[1][place]
            score_PM[place, m] = methods[m].score(*asked, all_pairs=True, exclude=exclude)
        return fusion.apply(score_PM[place]).score_P

    spent = match_by_risk(
        rule,
        shortlists,
        score,
        risk=options.risk,
        batch=options.batch,
        least=options.least,
        most=options.most,
    )
    return BudgetSpent(score_PM, spent)
