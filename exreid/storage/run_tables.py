"""A run's tables of rankings and matches: how they are made, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.errors import RunError
from exreid.records import LocalFeatures, PairMatches, Ranking, RetrievalSide
from exreid.storage.run_files import (
    NUMBER,
    QUERIES,
    RANKINGS,
    TEXT,
    TRUTH,
    damage_named,
    read_run_table,
)


def best_candidates(ranking: Ranking, keep: int) -> Ranking:
    """The ranking with its best candidates alone; the positives' ranks stay as they are."""
    return replace(
        ranking,
        candidate_index_QK=ranking.candidate_index_QK[:, :keep],
        candidate_score_QK=ranking.candidate_score_QK[:, :keep],
    )


def ranking_table(ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide) -> pa.Table:
    """``rankings.parquet``: query_id, rank, gallery_id, score, is_match.

    Has each query's kept candidates and, at their exact ranks, all its positives: by query, then
    by rank.
    """
    kept = ranking.candidate_index_QK >= 0
    query_kept, place = np.nonzero(kept)
    index_kept = ranking.candidate_index_QK[kept]
    query_positive = np.repeat(np.arange(ranking.query_count), np.diff(ranking.positive_offset_Q1))
    # A positive among the kept candidates is in both lists; it is written once.
    kept_count_Q = kept.sum(axis=1)
    deeper = ranking.positive_rank_P > kept_count_Q[query_positive]
    query_index = np.concatenate([query_kept, query_positive[deeper]])
    rank = np.concatenate([place + 1, ranking.positive_rank_P[deeper]])
    index = np.concatenate([index_kept, ranking.positive_index_P[deeper]])
    score = np.concatenate([ranking.candidate_score_QK[kept], ranking.positive_score_P[deeper]])
    order = np.lexsort((rank, query_index))
    query_index, index = query_index[order], index[order]
    return pa.table(
        {
            "query_id": pa.array(np.array(queries.image_ids, object)[query_index], pa.string()),
            "rank": pa.array(rank[order].astype(np.int64)),
            "gallery_id": pa.array(np.array(gallery.image_ids, object)[index], pa.string()),
            "score": pa.array(score[order].astype(np.float32)),
            "is_match": pa.array(queries.identity_N[query_index] == gallery.identity_N[index]),
        }
    )


def matches_table(
    pairs: Sequence[tuple[str, str]],
    matches: Sequence[PairMatches],
    query: LocalFeatures,
    gallery: LocalFeatures,
) -> pa.Table:
    """``matches.parquet``: a row per pair, its matches by falling confidence.

    Points are x, y, x, y, ... in pixels of the extractor's input images, whose sizes are columns
    too. ``query`` and ``gallery``: the pairs' features, row for row.
    """
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("query_xy", "gallery_xy", "confidence", "inlier")
    }
    for row, pair in enumerate(matches):
        columns["query_xy"].append(query.keypoints_NK2[row][pair.query_X].ravel())
        columns["gallery_xy"].append(gallery.keypoints_NK2[row][pair.gallery_X].ravel())
        columns["confidence"].append(pair.confidence_X)
        columns["inlier"].append(pair.inlier_X)
    number, truth = pa.list_(pa.float32()), pa.list_(pa.bool_())
    return pa.table(
        {
            "query_id": pa.array([names[0] for names in pairs], pa.string()),
            "gallery_id": pa.array([names[1] for names in pairs], pa.string()),
            "query_wh_px": pa.array(query.image_wh_px_N2.tolist(), pa.list_(pa.int32())),
            "gallery_wh_px": pa.array(gallery.image_wh_px_N2.tolist(), pa.list_(pa.int32())),
            **{
                name: pa.array(values, truth if name == "inlier" else number)
                for name, values in columns.items()
            },
        }
    )


def query_table(
    ranking: Ranking, queries: RetrievalSide, identities: Sequence[str | None]
) -> pa.Table:
    """``queries.parquet``: what the metrics need of each query besides its positives' ranks."""
    return pa.table(
        {
            "query_id": pa.array(queries.image_ids, pa.string()),
            "identity": pa.array(list(identities), pa.string()),
            "candidates": pa.array(ranking.candidate_count_Q),
            "positives": pa.array(np.diff(ranking.positive_offset_Q1)),
            "identity_rank": pa.array(ranking.identity_rank_Q),
        }
    )


def read_ranking(folder: Path) -> tuple[Ranking, np.ndarray]:
    """The positives' exact ranks of a finished run, and each query's identity code.

    The candidates themselves are not read: K is 0.
    """
    files = folder / "rankings.parquet", folder / "queries.parquet"
    for file in files:
        if not file.is_file():
            raise RunError(
                f"{folder}: has no {file.name}. Give the folder of a completed probe, such as "
                "benchmark_runs/RUN_ID."
            )
    more = {"is_match": TRUTH, "score": NUMBER}
    rows = read_run_table(files[0], RANKINGS, empty=more).to_pandas()
    queries = read_run_table(files[1], QUERIES, empty={"identity": TEXT}, key="query_id")
    queries = queries.to_pandas()
    if len(rows) and rows["is_match"].isna().all():
        raise RunError(
            f"{folder}: this run knows no truth (exreid identify), so there is nothing to measure. "
            "exreid report shows its answers."
        )
    with damage_named(folder):
        return _ranking_of(folder, rows, queries)


def _ranking_of(
    folder: Path, rows: pd.DataFrame, queries: pd.DataFrame
) -> tuple[Ranking, np.ndarray]:
    place = pd.Index(queries["query_id"]).get_indexer(rows["query_id"])
    if (place < 0).any() or rows["is_match"].isna().any():
        raise RunError(f"{folder}: rankings.parquet and queries.parquet do not fit together.")
    rows["is_match"] = rows["is_match"].astype(bool)
    positives = rows.assign(query=place)[rows["is_match"]].sort_values(["query", "rank"])
    counts_Q = np.bincount(positives["query"], minlength=len(queries))
    if not np.array_equal(counts_Q, queries["positives"]):
        raise RunError(f"{folder}: rankings.parquet lacks positives that queries.parquet counts.")
    identity_Q = pd.factorize(queries["identity"], sort=True)[0]
    return (
        Ranking(
            candidate_index_QK=np.zeros((len(queries), 0), np.int32),
            candidate_score_QK=np.zeros((len(queries), 0), np.float32),
            candidate_count_Q=queries["candidates"].to_numpy(np.int64),
            positive_offset_Q1=np.concatenate([[0], np.cumsum(counts_Q)]).astype(np.int64),
            positive_index_P=np.full(len(positives), -1, np.int32),
            positive_rank_P=positives["rank"].to_numpy(np.int64),
            positive_score_P=positives["score"].to_numpy(np.float32),
            identity_rank_Q=queries["identity_rank"].to_numpy(np.int64),
        ),
        identity_Q.astype(np.int32),
    )
