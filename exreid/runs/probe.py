"""The probe, told from top to bottom: table, embeddings, ranking, metrics, files."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
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
from exreid.runs.local import (
    FIRST_LOOK,
    FULL_LOOK,
    LAST_LOOK,
    LocalImages,
    Looks,
    PairMatching,
    extract_local_images,
    placement_for,
    unordered,
)
from exreid.runs.progress import Progress, no_progress, timed
from exreid.runs.tracking import log_result


def run_probe(
    config: ProbeConfig, *, progress: Progress = no_progress, verbose: bool = False
) -> tuple[Path, Result]:
    """Run the probe and write its folder; a failed run keeps its folder, with the error."""
    benchmark = config.benchmark
    only_local = benchmark.method != "cosine" and benchmark.candidate_k is None
    features = benchmark.local_features if only_local else config.model.type
    run_id = config.output.run_id or new_run_id(benchmark.method, features)
    folder = RunFolder(output_root(config) / "benchmark_runs", run_id, config, benchmark.method)
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
    stages = _Stages(config, folder.path, progress, verbose, timings_s)
    queries, gallery, ranking, identities = stages.run(table)
    rejected = [*rejected, *stages.rejected]
    write_rejected(folder.path / "rejected.csv", rejected)
    with timed(timings_s, "metrics"):
        result = measure(ranking, queries.identity_N, config)
    ranking = _cut(ranking, config.benchmark.keep_candidates)
    write_table(folder.path / "rankings.parquet", ranking_table(ranking, queries, gallery))
    write_table(folder.path / "queries.parquet", query_table(ranking, queries, identities))
    counts = {**retrieval_counts(ranking, queries, gallery), **_left_out(rejected), **stages.counts}
    return Result(result.method, result.metrics, result.intervals, counts, timings_s)


class _Stages:
    """From the table to the ranking: global features, local ones, pairs, as the method asks."""

    def __init__(
        self,
        config: ProbeConfig,
        folder: Path,
        progress: Progress,
        verbose: bool,
        timings_s: dict[str, float],
    ) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.verbose, self.timings_s = verbose, timings_s
        self.rejected: list[Rejected] = []
        self.counts: dict[str, Any] = {}

    def run(self, table: ImageTable) -> tuple[RetrievalSide, RetrievalSide, Ranking, list[str]]:
        """The two sides, the ranking, and each query's identity."""
        config, benchmark = self.config, self.config.benchmark
        local = benchmark.method == "local_lightglue"
        embeddings: Embeddings | None = None
        if not local or benchmark.candidate_k is not None:
            table, embeddings = self._embed(table)
        with ExitStack() as stack:
            images = None
            if local:
                placement = placement_for(config, stack, verbose=self.verbose)
                with timed(self.timings_s, "keypoints"):
                    bar = self.progress("Finding keypoints", len(table))
                    images = extract_local_images(table, config, placement, bar)
                table, embeddings = self._without_unreadable(table, embeddings, images)
            query = select_split(table, config.dataset.query_split_value)
            database = select_split(table, config.dataset.database_split_value)
            queries, gallery = retrieval_sides(table, query, database)
            with timed(self.timings_s, "ranking"):
                ranking = self._rank(queries, gallery, embeddings)
            if images is not None:
                with timed(self.timings_s, "matching"):
                    matching = PairMatching(
                        config,
                        images,
                        queries=query,
                        gallery=database,
                        placement=placement,
                        folder=self.folder,
                        progress=self.progress,
                    )
                    ranking = matching.rerank(ranking, queries, gallery)
                    if benchmark.keep_matches:
                        found = matching.matches(ranking, benchmark.keep_matches)
                        write_table(self.folder / "matches.parquet", found)
                self._count(matching.looks)
        identities = [table.rows["identity"].iloc[i] for i in queries.position_N]
        return queries, gallery, ranking, identities

    def _embed(self, table: ImageTable) -> tuple[ImageTable, Embeddings]:
        config = self.config
        with timed(self.timings_s, "model"):
            backbone = build_backbone(
                config.model.type,
                checkpoint=config.model.checkpoint,
                image_size=config.dataset.image_size,
            )
        with timed(self.timings_s, "embeddings"):
            embeddings, positions, report = embed_images(
                table,
                config,
                backbone,
                verbose=self.verbose,
                on_progress=self.progress("Extracting features", len(table)),
            )
        self.rejected.extend(report.rejected)
        self.counts |= {"images_cached": report.cached, "images_extracted": report.extracted}
        return table.take(positions), embeddings

    def _without_unreadable(
        self, table: ImageTable, embeddings: Embeddings | None, images: LocalImages
    ) -> tuple[ImageTable, Embeddings | None]:
        """The images that have local features as well."""
        report = images.report
        self.rejected.extend(report.rejected)
        self.counts |= {"keypoints_cached": report.cached, "keypoints_extracted": report.extracted}
        if embeddings is not None:
            ids = [embeddings.image_ids[i] for i in images.positions]
            embeddings = Embeddings(tuple(ids), embeddings.vectors_ND[images.positions])
        return table.take(images.positions), embeddings

    def _rank(
        self, queries: RetrievalSide, gallery: RetrievalSide, embeddings: Embeddings | None
    ) -> Ranking:
        benchmark = self.config.benchmark
        if embeddings is None:
            return unordered(queries, gallery, self.config)
        return rank_by_cosine(
            embeddings.vectors_ND[queries.position_N],
            embeddings.vectors_ND[gallery.position_N],
            queries,
            gallery,
            exclude=benchmark.exclude,
            keep=max(benchmark.keep_candidates, benchmark.candidate_k or 1),
            on_progress=self.progress("Ranking", len(queries)),
        )

    def _count(self, looks: Looks) -> None:
        names = {
            "pairs_looked_at": FIRST_LOOK,
            "pairs_matched": FULL_LOOK,
            "pairs_exact": LAST_LOOK,
        }
        self.counts |= {
            name: looks.pairs[stage] for name, stage in names.items() if stage in looks.pairs
        }
        self.counts["pairs_known"] = looks.pairs_known
        if looks.actors_lost:
            self.counts["actors_lost"] = looks.actors_lost
        if looks.wait_share is not None:
            self.counts["actors_wait_share"] = round(looks.wait_share, 4)


def measure(ranking: Ranking, identity_Q: np.ndarray, config: ProbeConfig) -> Result:
    """Metrics and their intervals; the same for a fresh ranking and one read from disk."""
    benchmark = config.benchmark
    shortlist = benchmark.candidate_k if benchmark.method != "cosine" else None
    options: dict[str, Any] = {
        "top_k": benchmark.top_k,
        "mean_ap": benchmark.mAP,
        "shortlist": shortlist,
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
    return measure(ranking, identity_Q, config)


def _query_and_gallery(table: ImageTable, config: ProbeConfig) -> ImageTable:
    """The rows that are a query, or stand in the gallery, in the table's order."""
    dataset = config.dataset
    query = select_split(table, dataset.query_split_value)
    gallery = select_split(table, dataset.database_split_value)
    return table.take(np.union1d(query, gallery))


def _cut(ranking: Ranking, keep: int) -> Ranking:
    """The ranking with its best candidates alone; the positives' ranks stay as they are."""
    return replace(
        ranking,
        candidate_index_QK=ranking.candidate_index_QK[:, :keep],
        candidate_score_QK=ranking.candidate_score_QK[:, :keep],
    )


def _left_out(rejected: list[Rejected]) -> dict[str, Any]:
    stages = [item.stage for item in rejected]
    return {
        "images_left_out": len(rejected),
        "left_out_by_stage": {stage: stages.count(stage) for stage in sorted(set(stages))},
    }
