"""The probe, told from top to bottom: table, embeddings, ranking, metrics, files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import select_split
from exreid.metrics.retrieval import query_values, retrieval_counts, retrieval_metrics
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.pipeline.answers import with_answers, write_answers
from exreid.pipeline.check_leaks import check_safety, leak_check
from exreid.pipeline.ending import noted_in
from exreid.pipeline.inputs import cache_folder, output_root, read_images
from exreid.pipeline.stages import Stages
from exreid.pipeline.tracking import log_result
from exreid.progress import Progress, no_progress, timed
from exreid.records import Counts, ImageTable, Ranking, Rejected, Result
from exreid.report.visualize import draw_run
from exreid.storage.run_files import damage_named
from exreid.storage.run_folder import (
    RunFolder,
    new_run_id,
    query_table,
    ranking_table,
    read_ranking,
    write_rejected,
    write_table,
    write_text,
)


def run_probe(
    config: ProbeConfig,
    *,
    progress: Progress = no_progress,
    verbose: bool = False,
    parent: Path | None = None,
    select: Callable[[ImageTable], ImageTable] = lambda table: table,
) -> tuple[Path, Result]:
    """Run the probe and write its folder; a failed run keeps its folder, with the error.

    Run again with the same ``output.run_id``, an interrupted one goes through its stages once
    more: what the caches hold by then is not computed again.

    A trial of a sweep stands in a folder of its own, ``parent``, and goes by the splits of the
    table that ``select`` makes of the data set's.
    """
    benchmark = config.benchmark
    only_local = benchmark.method == "local_lightglue" and benchmark.candidate_k is None
    features = benchmark.local_features if only_local else config.model.type
    run_id = config.output.run_id or new_run_id(benchmark.method, features)
    parent = parent or output_root(config) / "benchmark_runs"
    folder = RunFolder(parent, run_id, config, benchmark.method)
    with noted_in(folder):
        result, table = _probe(config, folder, progress, verbose=verbose, select=select)
        folder.finish(result)
    if config.visualization.enabled:
        draw_run(folder.path, table, config, progress=progress)
    log_result(
        config.wandb,
        run_id=run_id,
        folder=folder.path,
        tree=config.model_dump(mode="json"),
        result=result,
    )
    return folder.path, result


def _probe(
    config: ProbeConfig,
    folder: RunFolder,
    progress: Progress,
    *,
    verbose: bool,
    select: Callable[[ImageTable], ImageTable],
) -> tuple[Result, ImageTable]:
    timings_s: dict[str, float] = {}
    with timed(timings_s, "metadata"):
        whole, rejected = read_images(config)
        whole = select(whole)
        if config.dataset.make_split is not None:
            frame = whole.rows[["image_id", "split"]]
            write_text(folder.path / "split.csv", frame.to_csv(index=False))
        table = _query_and_gallery(whole, config, rejected)
    with timed(timings_s, "leaks"):
        leaks = check_safety(
            leak_check(table, config),
            config.safety,
            folder=folder.path,
            cache=None if config.benchmark.cache == "off" else cache_folder(config),
            ray=config.ray,
            on_error=config.dataset.on_error,
            progress=progress,
            verbose=verbose,
        )
    stages = Stages(config, folder.path, progress, verbose, timings_s)
    ranked = stages.run(table)
    queries, gallery, ranking = ranked.queries, ranked.gallery, ranked.ranking
    identities = [ranked.table.rows["identity"].iloc[i] for i in queries.position_N]
    rejected = [*rejected, *stages.rejected]
    write_rejected(folder.path / "rejected.csv", rejected)
    with timed(timings_s, "answers"):
        write_answers(folder.path, ranked, config)
    with timed(timings_s, "metrics"):
        result = with_answers(measure(ranking, queries.identity_N, config), folder.path, config)
    ranking = _cut(ranking, config.benchmark.keep_candidates)
    write_table(folder.path / "rankings.parquet", ranking_table(ranking, queries, gallery))
    write_table(folder.path / "queries.parquet", query_table(ranking, queries, identities))
    counts = {**retrieval_counts(ranking, queries, gallery), **_left_out(rejected), **stages.counts}
    result = Result(result.method, result.metrics, result.intervals, counts, timings_s, leaks)
    return result, ranked.table


def measure(ranking: Ranking, identity_Q: np.ndarray, config: ProbeConfig) -> Result:
    """Metrics and their intervals; the same for a fresh ranking and one read from disk."""
    benchmark = config.benchmark
    shortlist = benchmark.candidate_k if benchmark.method != "cosine" else None
    options: dict[str, Any] = {
        "top_k": benchmark.top_k,
        "mean_ap": benchmark.mAP,
        "shortlist": shortlist,
        "open_split": True,
    }
    metrics = retrieval_metrics(ranking, identity_Q, **options)
    intervals: dict[str, tuple[float, float]] = {}
    if benchmark.bootstrap_resamples:
        values = query_values(ranking, **options)
        intervals = bootstrap_intervals(
            values, identity_Q, resamples=benchmark.bootstrap_resamples, seed=config.seed
        )
    return Result(benchmark.method, metrics, intervals, counts={})


def recompute_metrics(folder: Path, config: ProbeConfig) -> Result:
    """The numbers of a finished run, from its rankings alone."""
    ranking, identity_Q = read_ranking(folder)
    with damage_named(folder):
        return with_answers(measure(ranking, identity_Q, config), folder, config)


def _query_and_gallery(
    table: ImageTable, config: ProbeConfig, rejected: list[Rejected]
) -> ImageTable:
    """The rows that are a query, or stand in the gallery, in the table's order."""
    dataset = config.dataset
    query = select_split(table, dataset.query_split_value, rejected)
    gallery = select_split(table, dataset.database_split_value, rejected)
    return table.take(np.union1d(query, gallery))


def _cut(ranking: Ranking, keep: int) -> Ranking:
    """The ranking with its best candidates alone; the positives' ranks stay as they are."""
    return replace(
        ranking,
        candidate_index_QK=ranking.candidate_index_QK[:, :keep],
        candidate_score_QK=ranking.candidate_score_QK[:, :keep],
    )


def _left_out(rejected: list[Rejected]) -> Counts:
    stages = [item.stage for item in rejected]
    return {
        "images_left_out": len(rejected),
        "left_out_by_stage": {stage: stages.count(stage) for stage in sorted(set(stages))},
    }
