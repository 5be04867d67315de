"""The probe, told from top to bottom: table, embeddings, ranking, metrics, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from exreid.config import ProbeConfig
from exreid.data.metadata import retrieval_sides, select_split
from exreid.matching.cosine import rank_by_cosine
from exreid.metrics.retrieval import query_values, retrieval_counts, retrieval_metrics
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.models.backbones import build_backbone
from exreid.records import Embeddings, ImageTable, Ranking, Rejected, Result, RetrievalSide
from exreid.runs.artifacts import (
    RunFolder,
    new_run_id,
    query_table,
    ranking_table,
    read_ranking,
    write_rejected,
    write_table,
    write_text,
)
from exreid.runs.inputs import embed_images, output_root, read_images
from exreid.runs.tracking import log_result

Progress = Callable[[str, int], Callable[[int], Any]]
"""Given a stage's name and its total, gives the function that counts it on."""


def no_progress(stage: str, total: int) -> Callable[[int], Any]:
    """Counts nothing."""
    return lambda count: None


def run_probe(
    config: ProbeConfig, *, progress: Progress = no_progress, verbose: bool = False
) -> tuple[Path, Result]:
    """Run the probe and write its folder; a failed run keeps its folder, with the error."""
    run_id = config.output.run_id or new_run_id(config.benchmark.method, config.model.type)
    folder = RunFolder(
        output_root(config) / "benchmark_runs", run_id, config, config.benchmark.method
    )
    try:
        result = _probe(config, folder, progress, verbose)
    except BaseException as error:
        folder.fail(error)
        raise
    folder.finish(result)
    log_result(
        config.wandb,
        run_id=run_id,
        folder=folder.path,
        tree=config.model_dump(mode="json"),
        result=result,
    )
    return folder.path, result


def _probe(config: ProbeConfig, folder: RunFolder, progress: Progress, verbose: bool) -> Result:
    timings_s: dict[str, float] = {}
    with timed(timings_s, "metadata"):
        whole, rejected = read_images(config)
        if config.dataset.make_split is not None:
            frame = whole.rows[["image_id", "split"]]
            write_text(folder.path / "split.csv", frame.to_csv(index=False))
        table = _query_and_gallery(whole, config)
    with timed(timings_s, "model"):
        backbone = build_backbone(
            config.model.type,
            checkpoint=config.model.checkpoint,
            image_size=config.dataset.image_size,
        )
    with timed(timings_s, "embeddings"):
        embeddings, positions, report = embed_images(
            table,
            config,
            backbone,
            verbose=verbose,
            on_progress=progress("Extracting features", len(table)),
        )
    rejected = [*rejected, *report.rejected]
    write_rejected(folder.path / "rejected.csv", rejected)
    table = table.take(positions)
    with timed(timings_s, "ranking"):
        queries, gallery, ranking = _rank(table, embeddings, config, progress)
    with timed(timings_s, "metrics"):
        identities = [table.rows["identity"].iloc[i] for i in queries.position_N]
        result = measure(ranking, queries.identity_N, config)
    write_table(folder.path / "rankings.parquet", ranking_table(ranking, queries, gallery))
    write_table(folder.path / "queries.parquet", query_table(ranking, queries, identities))
    counts = {
        **retrieval_counts(ranking, queries, gallery),
        **_left_out(rejected),
        "images_cached": report.cached,
        "images_extracted": report.extracted,
    }
    return Result(result.method, result.metrics, result.intervals, counts, timings_s)


def measure(ranking: Ranking, identity_Q: np.ndarray, config: ProbeConfig) -> Result:
    """Metrics and their intervals; the same for a fresh ranking and one read from disk."""
    benchmark = config.benchmark
    options: dict[str, Any] = {"top_k": benchmark.top_k, "mean_ap": benchmark.mAP}
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
    return measure(ranking, identity_Q, config)


def _query_and_gallery(table: ImageTable, config: ProbeConfig) -> ImageTable:
    """The rows that are a query, or stand in the gallery, in the table's order."""
    dataset = config.dataset
    query = select_split(table, dataset.query_split_value)
    gallery = select_split(table, dataset.database_split_value)
    return table.take(np.union1d(query, gallery))


def _rank(
    table: ImageTable, embeddings: Embeddings, config: ProbeConfig, progress: Progress
) -> tuple[RetrievalSide, RetrievalSide, Ranking]:
    dataset, benchmark = config.dataset, config.benchmark
    query = select_split(table, dataset.query_split_value)
    database = select_split(table, dataset.database_split_value)
    queries, gallery = retrieval_sides(table, query, database)
    ranking = rank_by_cosine(
        embeddings.vectors_ND[query],
        embeddings.vectors_ND[database],
        queries,
        gallery,
        exclude=benchmark.exclude,
        keep=benchmark.keep_candidates,
        on_progress=progress("Ranking", len(query)),
    )
    return queries, gallery, ranking


def _left_out(rejected: list[Rejected]) -> dict[str, Any]:
    stages = [item.stage for item in rejected]
    return {
        "images_left_out": len(rejected),
        "left_out_by_stage": {stage: stages.count(stage) for stage in sorted(set(stages))},
    }


@contextmanager
def timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds that a stage takes."""
    start = time.perf_counter()
    yield
    timings_s[stage] = round(time.perf_counter() - start, 3)
