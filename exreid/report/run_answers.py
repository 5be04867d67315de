"""How a completed run answered its queries, read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq


@dataclass(frozen=True)
class KeptCandidates:
    """The best candidates of one query, in order."""

    gallery_ids: list[str]
    scores: list[float]
    is_match: list[bool]
    first_right: tuple[int, str, float] | None
    """Rank, image and score of the first right candidate, where it stands below the others."""


ANSWER_COLUMNS = (
    *("query_id", "identity", "verdict", "confidence_name", "confidence", "score"),
    *("best_gallery_id", "best_identity", "first_right_rank", "decision"),
)


def outcomes(told_Q: np.ndarray, in_gallery_Q: np.ndarray, right_Q: np.ndarray) -> np.ndarray:
    """What each query's first animal is: ``right``, ``wrong``, ``new`` where the gallery does not
    have the query's, ``open`` where that is not told (bool arrays)."""
    found_Q = np.where(right_Q, "right", "wrong")
    return np.where(told_Q, np.where(in_gallery_Q, found_Q, "new"), "open").astype(object)


def verdicts(outcome_Q: np.ndarray, decision_Q: np.ndarray) -> np.ndarray:
    """Whether each answer is right: its outcome, but that a new animal which was called known is
    ``wrong``. A decision is ``known``, ``new`` or None.

    >>> verdicts(np.array(["new", "new", "right"]), np.array(["known", None, "new"])).tolist()
    ['wrong', 'new', 'right']
    """
    return np.where((outcome_Q == "new") & (decision_Q == "known"), "wrong", outcome_Q)


def read_answers(
    run_folder: Path, identity_of: Mapping[str, str | None], *, score_name: str = "score"
) -> pd.DataFrame:
    """A row per query of a completed run, in its order, with the columns of ``index.csv``.

    ``identity_of`` names the animal of each gallery image, ``score_name`` what scores are. The
    answer is the first candidate.
    ``verdict`` is ``right``, ``wrong``, ``new`` (the gallery does not have the animal, and no
    decision called it known) or ``no candidate``. ``confidence`` is the best that the run has: the
    probability that the leader is right, that of the best pair, or its score.
    """
    queries = pd.read_parquet(run_folder / "queries.parquet")
    columns = ["query_id", "rank", "gallery_id", "score", "is_match"]
    rows = pd.read_parquet(run_folder / "rankings.parquet", columns=columns)
    first = rows[rows["rank"] == 1].set_index("query_id")
    right = rows[rows["is_match"]].groupby("query_id")["rank"].min()
    table = queries[["query_id", "identity"]].copy()
    ids = table["query_id"]
    table["score"] = ids.map(first["score"]).astype(float)
    table["best_gallery_id"] = ids.map(first["gallery_id"])
    table["best_identity"] = [identity_of.get(one) for one in table["best_gallery_id"]]
    table["first_right_rank"] = ids.map(right).astype("Int64")
    table["confidence_name"], table["confidence"] = score_name, table["score"]
    table["decision"] = None
    _add_probabilities(table, run_folder)
    known, told = (queries["positives"] > 0).to_numpy(bool), np.ones(len(queries), bool)
    is_right = ids.isin(first.index[first["is_match"]]).to_numpy(bool)
    verdict = verdicts(outcomes(told, known, is_right), table["decision"].to_numpy(dtype=object))
    table["verdict"] = np.where(ids.isin(first.index), verdict, "no candidate")
    return table


def _add_probabilities(table: pd.DataFrame, run_folder: Path) -> None:
    ids = table["query_id"]
    if (run_folder / "open_set.parquet").exists():
        decided = pd.read_parquet(run_folder / "open_set.parquet").set_index("query_id")
        table["confidence"] = ids.map(decided["known_probability"]).astype(float)
        table["confidence_name"] = "probability that it is right"
        table["decision"] = ids.map(decided["decision"])
    elif (run_folder / "fusion.parquet").exists():
        columns = ["query_id", "rank", "probability"]
        fused = pd.read_parquet(run_folder / "fusion.parquet", columns=columns)
        fused = fused[fused["rank"] == 1].set_index("query_id")
        table["confidence"] = ids.map(fused["probability"]).astype(float)
        table["confidence_name"] = "probability of the pair"


def read_candidates(run_folder: Path, query_ids: set[str], top_k: int) -> dict[str, KeptCandidates]:
    """The best ``top_k`` candidates of these queries of a completed run."""
    file, filters = run_folder / "rankings.parquet", [("query_id", "in", sorted(query_ids))]
    rows = pq.read_table(file, filters=filters).to_pandas().sort_values(["query_id", "rank"])
    found = {query_id: KeptCandidates([], [], [], None) for query_id in query_ids}
    for query_id, own in rows.groupby("query_id"):
        head, right = own.head(top_k), own[own["is_match"]].head(1)
        below = None
        if len(right) and not head["is_match"].any():
            one = right.to_dict("records")[0]
            below = (int(one["rank"]), str(one["gallery_id"]), float(one["score"]))
        found[str(query_id)] = KeptCandidates(
            head["gallery_id"].tolist(), head["score"].tolist(), head["is_match"].tolist(), below
        )
    return found
