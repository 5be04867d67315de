"""How each query of a run was answered: the top identity, and whether it is right.

Letters: Q queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from exreid.explain.answer_words import told_answer
from exreid.explain.decision import ProbabilityOf
from exreid.report.read import RunData

CONFIDENCE = {"identity": "probability that it is right", "pair": "probability of the pair"}


def outcomes(labelled_Q: np.ndarray, in_gallery_Q: np.ndarray, right_Q: np.ndarray) -> np.ndarray:
    """The outcome of each query's top identity (`exreid.explain.words.OUTCOMES`), from bool arrays:
    the query's identity is known, it is in the gallery, the top identity is it."""
    answered_Q = np.where(right_Q, "right", "wrong")
    return np.where(labelled_Q, np.where(in_gallery_Q, answered_Q, "new"), "open").astype(object)


def verdicts(outcome_Q: np.ndarray, decision_Q: np.ndarray) -> np.ndarray:
    """Whether each answer is right: its outcome, except that a new animal which was called known is
    ``wrong``. A decision is ``known``, ``new`` or None.

    >>> verdicts(np.array(["new", "new", "right"]), np.array(["known", None, "new"])).tolist()
    ['wrong', 'new', 'right']
    """
    return np.where((outcome_Q == "new") & (decision_Q == "known"), "wrong", outcome_Q)


def query_outcomes(data: RunData) -> pd.DataFrame:
    """A row per query, in order: ``image`` (a row of `RunImages`), ``truth``, ``top`` (the top
    identity), ``outcome``, ``first_rank`` (of the query's own identity; 0 where the gallery lacks
    it), ``decision``, ``probability`` (NaN without one), ``group`` (of a new animal; None),
    ``kind`` and ``said`` (of `told_answer`) and ``verdict``."""
    ranks, queries = data.ranks, data.queries
    identity = data.images.rows["identity"].to_numpy(dtype=object)
    count = len(queries)
    top_Q, first_rank_Q = np.full(count, None, object), np.zeros(count, np.int64)
    for q in range(count):
        rows = ranks.of(q)
        if rows.start < rows.stop:
            top_Q[q] = identity[ranks.image_R[rows.start]]
        hits = np.flatnonzero(ranks.match_R[rows] == 1)
        first_rank_Q[q] = ranks.rank_R[rows][hits[0]] if len(hits) else 0
    truth_Q = queries["identity"].to_numpy(dtype=object)
    labelled_Q = np.array([identity is not None for identity in truth_Q], bool)
    in_gallery_Q = queries["positives"].to_numpy() > 0
    outcome_Q = outcomes(labelled_Q, in_gallery_Q, np.array(top_Q == truth_Q, bool))
    decision_Q, probability_Q = np.full(count, None, object), np.full(count, np.nan)
    open_set = decisions_by_query(data)
    if open_set is not None:
        # Where a gallery decides nothing, the cells are NaN.
        decided = [name if isinstance(name, str) else None for name in open_set["decision"]]
        decision_Q = np.array(decided, object)
        probability_Q = open_set["known_probability"].to_numpy()
    elif data.fusion is not None:
        best = data.fusion[data.fusion["rank"] == 1].set_index("query_id")["probability"]
        probability_Q = best.reindex(queries["query_id"]).to_numpy()
    group_of: dict[str, int] = {}
    if data.new_animals is not None:
        columns = data.new_animals["query_id"], data.new_animals["group"]
        group_of = dict(zip(*columns, strict=True))
    group_Q = [group_of.get(query_id) for query_id in data.query_ids]
    answers = [
        told_answer(top, p if np.isfinite(p) else None, decision)
        for top, p, decision in zip(top_Q, probability_Q, decision_Q, strict=True)
    ]
    return pd.DataFrame(
        {
            "image": [data.images.place_of[name] for name in queries["query_id"]],
            "truth": pd.Series(truth_Q, dtype=object),
            "top": pd.Series(top_Q, dtype=object),
            "outcome": outcome_Q,
            "first_rank": first_rank_Q,
            "decision": pd.Series(decision_Q, dtype=object),
            "probability": probability_Q,
            "group": pd.Series(group_Q, dtype=object),
            "kind": pd.Series([answer.kind for answer in answers], dtype=object),
            "said": pd.Series([answer.sentence for answer in answers], dtype=object),
            "verdict": verdicts(outcome_Q, decision_Q),
        }
    )


def probability_of(data: RunData) -> ProbabilityOf | None:
    """The meaning of the probability of `query_outcomes`; None without one."""
    if decisions_by_query(data) is not None:
        return "identity"
    return None if data.fusion is None else "pair"


def decisions_by_query(data: RunData) -> pd.DataFrame | None:
    """``open_set.parquet`` in the queries' order; None without the file, or where a query lacks its
    row."""
    if data.open_set is None:
        return None
    place = pd.Index(data.open_set["query_id"]).get_indexer(data.queries["query_id"])
    return None if (place < 0).any() else data.open_set.iloc[place].reset_index(drop=True)


@dataclass(frozen=True)
class PicturedAnswer:
    """A query's answer, as ``index.csv`` has it."""

    query_id: str
    identity: str
    verdict: str
    """``right``, ``wrong``, ``new`` (the gallery does not have the identity, and no decision called
    it known) or ``no candidate``."""
    confidence_name: str
    confidence: float
    """The best that the run has: the probability that the top identity is right, that of the best
    pair, or its score."""
    score: float
    best_gallery_id: str | None
    best_identity: str | None
    first_right_rank: int | None
    decision: str | None
    answer: str
    """In words; see `exreid.explain.answer_words`."""


def pictured_answers(data: RunData, score_name: str) -> list[PicturedAnswer]:
    """A row per query, in order; ``score_name`` is what a score without a probability is called."""
    probability = probability_of(data)
    confidence_name = CONFIDENCE[probability] if probability else score_name
    answers = []
    for q, outcome in enumerate(query_outcomes(data).to_dict("records")):
        rows = data.ranks.of(q)
        has_candidate, best, score = rows.start < rows.stop, None, math.nan
        if has_candidate:
            best = data.images.text(data.ranks.image_R[rows.start], "image_id")
            score = float(data.ranks.score_R[rows.start])
        answers.append(
            PicturedAnswer(
                query_id=data.query_ids[q],
                identity=outcome["truth"],
                verdict=outcome["verdict"] if has_candidate else "no candidate",
                confidence_name=confidence_name,
                confidence=float(outcome["probability"]) if probability else score,
                score=score,
                best_gallery_id=best,
                best_identity=outcome["top"],
                first_right_rank=outcome["first_rank"] or None,
                decision=outcome["decision"],
                answer=outcome["said"],
            )
        )
    return answers
