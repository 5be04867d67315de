"""The probe, told from top to bottom: table, leaks, features, fits, answers, metrics, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import retrieval_sides, select_split
from exreid.distributed.session import one_ray
from exreid.metrics.retrieval import query_values, retrieval_counts, retrieval_metrics
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.pipeline.answer_metrics import with_answers
from exreid.pipeline.answers import (
    answer_tables,
    read_answer_tables,
    write_decisions,
    write_evidence,
    write_tables,
)
from exreid.pipeline.check_leaks import check_leaks, leak_check
from exreid.pipeline.crossfit import cross_fitted, fits_on_queries
from exreid.pipeline.embed import Features, embed
from exreid.pipeline.ending import recording_failure
from exreid.pipeline.fit_and_retrieve import (
    Fitted,
    Retrieval,
    fit_decisions,
    fit_methods,
    matches_of_best,
    retrieve,
)
from exreid.pipeline.forecast import tell_forecast
from exreid.pipeline.inputs import cache_folder, methods_of, output_root, read_images, settled
from exreid.pipeline.keypoints import find_keypoints, matching_placement
from exreid.pipeline.plausibility_gate import gate_of
from exreid.pipeline.prepare_scoring import Scoring, scoring_of
from exreid.pipeline.rank import search_of
from exreid.pipeline.tracking import log_result
from exreid.progress import Progress, RunLog, no_progress
from exreid.records import Counts, ImageTable, Ranking, Rejected, Result
from exreid.storage.run_files import damage_named
from exreid.storage.run_folder import RunFolder, new_run_id, write_rejected, write_table, write_text
from exreid.storage.run_tables import best_candidates, query_table, ranking_table, read_ranking


def run_probe(
    config: ProbeConfig,
    *,
    progress: Progress = no_progress,
    verbose: bool = False,
    parent: Path | None = None,
    select: Callable[[ImageTable], ImageTable] = lambda table: table,
    on_features: Callable[[Features], object] = lambda features: None,
) -> tuple[Path, Result]:
    """Run the probe and write its folder; a failed run keeps its folder, with the error; a
    wrong command leaves none (`recording_failure`).

    Run again with the same ``output.run_id``, an interrupted one goes through its stages once
    more: what the caches hold by then is not computed again.

    A trial of a sweep stands in a folder of its own, ``parent``, and goes by the splits of the
    table that ``select`` makes of the data set's. ``on_features`` is given what was extracted.
    """
    config = settled(config)
    benchmark = config.benchmark
    backbones, local = methods_of(config)
    features = config.model.type if backbones else local[0]
    run_id = config.output.run_id or new_run_id(benchmark.method, features)
    parent = parent or output_root(config) / "benchmark_runs"
    folder = RunFolder(parent, run_id, config, benchmark.method)
    with recording_failure(folder):
        result, table = _probe(config, folder.path, RunLog(progress, verbose), select, on_features)
        folder.finish(result)
    if config.visualization.enabled:
        from exreid.report.visualize import draw_run  # imports timm, which takes seconds

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
    folder: Path,
    log: RunLog,
    select: Callable[[ImageTable], ImageTable],
    on_features: Callable[[Features], object],
) -> tuple[Result, ImageTable]:
    benchmark, dataset = config.benchmark, config.dataset
    with log.timed("metadata"):
        table, rejected = _read_table(config, folder, select)
    with ExitStack() as stack:
        stack.enter_context(one_ray())
        with log.timed("leaks"):
            leaks = check_leaks(
                leak_check(table, config),
                config.safety,
                folder=folder,
                cache=None if benchmark.cache == "off" else cache_folder(config),
                ray=config.ray,
                on_error=dataset.on_error,
                progress=log.progress,
                verbose=log.verbose,
            )
        features = embed(table, config, log)
        images = len(features.table)
        placement = matching_placement(config, stack, images=images, verbose=log.verbose)
        features = find_keypoints(features, config, placement, log)
        rejected.extend(features.rejected)
        on_features(features)
        scoring = scoring_of(features, config, placement, folder=folder, log=log, stack=stack)
        retrieval, fitted = _fit_and_retrieve(scoring, folder, rejected)
        # Pictures show at least what the first answer of each query rests on.
        keep = max(benchmark.keep_matches, int(config.visualization.enabled))
        if features.local and keep:
            write_table(folder / "matches.parquet", matches_of_best(scoring, retrieval, keep))
    with log.timed("answers"):
        answers = answer_tables(retrieval, config)
        write_tables(folder, answers)
        write_decisions(folder, retrieval, config)
    with log.timed("metrics"):
        result = measure(retrieval.ranking, retrieval.queries.identity_N, config)
        result = with_answers(result, answers, config)
    _write(folder, retrieval, rejected, benchmark.keep_candidates)
    counts = {
        **retrieval_counts(retrieval.ranking, retrieval.queries, retrieval.gallery),
        **_left_out(rejected),
        **features.counts,
        **fitted.counts,
        **retrieval.counts(benchmark.adaptive.risk),
        **(scoring.matching.counts() if features.local else {}),
    }
    result = replace(
        result, counts=counts, timings_s=log.timings_s, leaks=leaks, quality=fitted.quality
    )
    return result, features.table


def _read_table(
    config: ProbeConfig, folder: Path, select: Callable[[ImageTable], ImageTable]
) -> tuple[ImageTable, list[Rejected]]:
    """The rows that are a query, or stand in the gallery, in the table's order."""
    whole, rejected = read_images(config)
    whole = select(whole)
    if config.dataset.make_split is not None:
        frame = whole.rows[["image_id", "split"]]
        write_text(folder / "split.csv", frame.to_csv(index=False))
    query_N, gallery_N = _split(whole, config, rejected)
    table = whole.take(np.union1d(query_N, gallery_N))
    gate_of(table, config)  # what it lacks is an error before anything takes time
    tell_forecast(config, images=len(table), queries=len(query_N), gallery=len(gallery_N))
    return table, rejected


def _split(
    table: ImageTable, config: ProbeConfig, rejected: list[Rejected]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the queries and of the gallery."""
    dataset = config.dataset
    query_N = select_split(table, dataset.query_split_value, rejected)
    return query_N, select_split(table, dataset.database_split_value, rejected)


def _fit_and_retrieve(
    scoring: Scoring, folder: Path, rejected: list[Rejected]
) -> tuple[Retrieval, Fitted]:
    """Fit on the gallery, then answer and decide; where the queries are the gallery, each fold of
    them by what was fitted on the others."""
    config, table = scoring.config, scoring.features.table
    queries, gallery = retrieval_sides(table, *_split(table, config, rejected))
    search = search_of(scoring, gallery)
    if fits_on_queries(config):
        retrieval, quality = cross_fitted(scoring, queries, gallery, search, folder)
        return retrieval, Fitted(quality=quality)
    fitted = fit_methods(scoring, gallery, search, folder)
    fitted = fit_decisions(scoring, fitted, gallery, search)
    return retrieve(scoring, queries, gallery, fitted, search), fitted


def _write(
    folder: Path, retrieval: Retrieval, rejected: list[Rejected], keep_candidates: int
) -> None:
    """The rankings, and where their scores come from."""
    ranking, queries = retrieval.ranking, retrieval.queries
    write_rejected(folder / "rejected.csv", rejected)
    write_evidence(folder, retrieval)
    ranking = best_candidates(ranking, keep_candidates)
    identity = retrieval.table.rows["identity"]
    identities = [identity.iloc[position] for position in queries.position_N]
    rankings = ranking_table(ranking, queries, retrieval.gallery)
    write_table(folder / "rankings.parquet", rankings)
    write_table(folder / "queries.parquet", query_table(ranking, queries, identities))


def measure(ranking: Ranking, identity_Q: np.ndarray, config: ProbeConfig) -> Result:
    """Metrics and their intervals; the same for a fresh ranking and one read from disk."""
    benchmark = config.benchmark
    shortlist = benchmark.shortlist_k
    intervals: dict[str, tuple[float, float]] = {}
    metrics = retrieval_metrics(
        ranking,
        identity_Q,
        top_k=benchmark.top_k,
        mean_ap=benchmark.mAP,
        shortlist=shortlist,
        open_split=True,
        more=benchmark.metrics,
    )
    if benchmark.bootstrap_resamples:
        values = query_values(
            ranking,
            top_k=benchmark.top_k,
            mean_ap=benchmark.mAP,
            shortlist=shortlist,
            open_split=True,
            more=benchmark.metrics,
        )
        intervals = bootstrap_intervals(
            values, identity_Q, resamples=benchmark.bootstrap_resamples, seed=config.seed
        )
    return Result(benchmark.method, metrics, intervals, counts={})


def recompute_metrics(folder: Path, config: ProbeConfig) -> Result:
    """The numbers of a finished run, from its rankings alone."""
    ranking, identity_Q = read_ranking(folder)
    with damage_named(folder):
        measured = measure(ranking, identity_Q, config)
        return with_answers(measured, read_answer_tables(folder), config)


def _left_out(rejected: list[Rejected]) -> Counts:
    by_stage = Counter(item.stage for item in rejected)
    return {"images_left_out": len(rejected), "left_out_by_stage": dict(sorted(by_stage.items()))}
