"""Finished probes side by side: differences, groups, flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from exreid.config.io import fingerprint, load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import select_split
from exreid.errors import RunError
from exreid.explain.comparison_plots import BUDGET_METRICS, BudgetPoint, GroupTop1
from exreid.matching.cascade import STAGE_COUNTS
from exreid.metrics.comparison import Difference, holm, paired_differences
from exreid.metrics.retrieval import QueryValues, first_rank, hit, query_values
from exreid.pipeline.inputs import read_images
from exreid.records import Counts
from exreid.report.breakdown import COUNT_EDGES, binned, date_gaps, top_1_by_group
from exreid.storage.run_files import TEXT, damage_named, read_run_table
from exreid.storage.run_record import read_record
from exreid.storage.run_tables import read_ranking


@dataclass(frozen=True)
class FinishedRun:
    """A completed probe, read from its folder."""

    name: str
    config: ProbeConfig
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    counts: Counts
    timings_s: dict[str, float]
    gallery_images: int
    query_ids: tuple[str, ...]
    identities: tuple[str, ...]
    identity_Q: np.ndarray
    first_rank_Q: np.ndarray
    positives_Q: np.ndarray
    values: dict[str, QueryValues]


@dataclass(frozen=True)
class MetricChange:
    """A row of ``comparison.json``: a metric of a run, and what changed against the first run.

    Intervals are of 95%; ``p_holm`` is adjusted for all runs that are compared on the metric.
    """

    metric: str
    run: str
    value: float
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Comparison:
    """The first run is what the others are compared with."""

    runs: tuple[FinishedRun, ...]
    changes: dict[tuple[str, str], MetricChange]
    """By the names of metric and run; in the runs' order, all metrics of each."""


@dataclass(frozen=True)
class Flip:
    """A row of ``flips.csv``: a query that one of two runs answers right."""

    query_id: str
    identity: str
    run: str
    became: str
    """``right`` or ``wrong``."""
    rank_before: int
    rank: int


def read_run(folder: Path) -> FinishedRun:
    """Read a run; RunError where it is no completed probe."""
    record = read_record(folder)
    if record.status != "completed":
        raise RunError(f"{folder}: this run's status is {record.status!r}, not completed.")
    config = load_config(ProbeConfig, folder / "config.snapshot.yaml")
    ranking, identity_Q = read_ranking(folder)
    queries = read_run_table(folder / "queries.parquet", {"query_id": TEXT, "identity": TEXT})
    benchmark = config.benchmark
    with damage_named(folder):
        return FinishedRun(
            folder.resolve().name,
            config,
            record.metrics,
            record.intervals,
            record.counts,
            record.timings_s,
            cast(int, record.counts["gallery_images"]),
            tuple(queries["query_id"].to_pylist()),
            tuple(queries["identity"].to_pylist()),
            identity_Q,
            first_rank(ranking.positive_offset_Q1, ranking.positive_rank_P),
            np.diff(ranking.positive_offset_Q1),
            query_values(
                ranking,
                top_k=benchmark.top_k,
                mean_ap=benchmark.mAP,
                shortlist=benchmark.shortlist_k,
                open_split=True,
                more=benchmark.metrics,
            ),
        )


def compare(
    folders: Sequence[Path],
    *,
    names: Sequence[str | None] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare every run with the first one; ``names`` replace the names of the runs' folders.
    RunError unless all are completed probes that answered the same queries against galleries of the
    same size."""
    runs = tuple(read_run(folder) for folder in folders)
    if names:
        runs = tuple(
            replace(run, name=name or run.name) for run, name in zip(runs, names, strict=True)
        )
    if len({run.name for run in runs}) < len(runs):
        raise RunError(
            "two runs have one name. Give each run once, and name those whose folders are called "
            "alike: NAME=RUN."
        )
    for run in runs[1:]:
        _check_same(runs[0], run)
    base, rest = runs[0], runs[1:]
    differences: list[dict[str, Difference]] = [{}]
    for run in rest:
        differences.append(
            paired_differences(
                base.values, run.values, base.identity_Q, resamples=resamples, seed=seed
            )
        )
    adjusted: list[dict[str, float]] = [{} for _ in runs]
    for name in base.values:
        compared = [i for i, of_run in enumerate(differences) if name in of_run]
        p_values = holm([differences[i][name].p_value for i in compared])
        for i, p_value in zip(compared, p_values, strict=True):
            adjusted[i][name] = p_value
    changes = {}
    for run, of_run, p_holm in zip(runs, differences, adjusted, strict=True):
        for name in run.metrics:
            changes[name, run.name] = _change(run, name, of_run.get(name), p_holm.get(name))
    return Comparison(runs, changes)


def _change(
    run: FinishedRun, metric: str, difference: Difference | None, p_holm: float | None
) -> MetricChange:
    low, high = run.intervals.get(metric, (None, None))
    change_low, change_high = (difference and difference.interval) or (None, None)
    return MetricChange(
        metric=metric,
        run=run.name,
        value=run.metrics[metric],
        low=low,
        high=high,
        difference=difference.value if difference else None,
        difference_low=change_low,
        difference_high=change_high,
        p=difference.p_value if difference else None,
        p_holm=p_holm,
    )


def _check_same(base: FinishedRun, run: FinishedRun) -> None:
    if base.query_ids != run.query_ids or base.identities != run.identities:
        odd = sorted(set(base.query_ids) ^ set(run.query_ids))[:3]
        raise RunError(
            f"{base.name} and {run.name} did not answer the same queries"
            + (f": {', '.join(odd)} ... are in one alone" if odd else "")
            + ". Only runs on one split can be compared."
        )
    if base.gallery_images != run.gallery_images:
        raise RunError(
            f"{base.name} has {base.gallery_images} gallery images, {run.name} has "
            f"{run.gallery_images}. Only runs on one split can be compared."
        )
    excluded = base.config.benchmark.exclude != run.config.benchmark.exclude
    if excluded or not np.array_equal(base.positives_Q, run.positives_Q):
        raise RunError(
            f"{base.name} and {run.name} exclude different images. Run both with the same "
            "benchmark.exclude."
        )


def top_1_by_identity(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """``identities.csv``: queries of each identity, and the share that each run answers right."""
    frame = pd.DataFrame({"identity": runs[0].identities, "queries": 1})
    for run in runs:
        frame[run.name] = hit(run.first_rank_Q, 1)
    columns = {"queries": "sum", **{run.name: "mean" for run in runs}}
    return frame.groupby("identity").agg(columns).reset_index()


def flips(runs: Sequence[FinishedRun]) -> list[Flip]:
    """The queries that the first run answers right and another one wrong, or the other way."""
    base, rows = runs[0], []
    for run in runs[1:]:
        before, after = base.first_rank_Q, run.first_rank_Q
        for q in np.flatnonzero((before == 1) != (after == 1)).tolist():
            became = "right" if after[q] == 1 else "wrong"
            ranks = int(before[q]), int(after[q])
            rows.append(Flip(base.query_ids[q], base.identities[q], run.name, became, *ranks))
    return rows


def top_1_by_groups(runs: Sequence[FinishedRun], columns: Sequence[str]) -> list[GroupTop1]:
    """Top-1 of every run in every group: the built-in ones, and by columns of the metadata."""
    return [
        row
        for group, name_Q in _groups(runs[0], columns).items()
        for run in runs
        for row in top_1_by_group(group, name_Q, run.name, run.first_rank_Q, run.identity_Q)
    ]


def _groups(run: FinishedRun, columns: Sequence[str]) -> dict[str, list[str]]:
    """The name of each query's group, for each kind of group."""
    groups = {"gallery images of the animal": [binned(n, COUNT_EDGES, "") for n in run.positives_Q]}
    dataset = run.config.dataset
    dated = dataset.date_col is not None
    if not (columns or dataset.viewpoint_col or dated):
        return groups
    try:
        table, _ = read_images(run.config)
    except Exception:
        if columns:
            raise
        return groups
    place = {image: i for i, image in enumerate(table.rows["image_id"])}
    positions = [place[image] for image in run.query_ids]
    for column in columns:
        if column not in table.original.columns:
            raise RunError(
                f"{table.source}: no column {column!r} to group by; it has "
                f"{', '.join(table.original.columns)}."
            )
        cells = table.original[column].iloc[positions]
        groups[column] = ["(empty)" if pd.isna(cell) else str(cell) for cell in cells]
    viewpoints = table.rows["viewpoint"].iloc[positions]
    if viewpoints.notna().any():
        groups["viewpoint"] = [value or "(empty)" for value in viewpoints]
    if table.rows["date"].notna().any():
        database = select_split(table, dataset.database_split_value)
        groups["days to the nearest gallery image"] = date_gaps(
            table.rows.iloc[positions], table.rows.iloc[database], run.config.benchmark.exclude
        )
    return groups


def budget_points(runs: Sequence[FinishedRun]) -> list[BudgetPoint]:
    """What each run spends on a query, and how often it is right; runs whose configs differ in
    ``benchmark.candidate_k`` alone are one method."""
    label_of: dict[str, str] = {}
    points = []
    for run in runs:
        benchmark = run.config.benchmark
        alone = benchmark.model_copy(update={"candidate_k": None})
        kind = fingerprint(run.config.model_copy(update={"benchmark": alone}))
        if kind not in label_of:
            words = _method_words(run.config)
            label_of[kind] = run.name if words in label_of.values() else words
        pairs = 0.0
        if benchmark.matches_pairs:
            whole = benchmark.candidate_k or run.gallery_images
            pairs = float(cast(float, run.counts.get("budget_pairs_mean", whole)))
        accuracy = {
            name: (run.metrics[name], *run.intervals.get(name, (None, None)))
            for name in BUDGET_METRICS
            if name in run.metrics
        }
        ceiling = run.metrics.get("shortlist_hit")
        seconds = _seconds_of_matching(run, pairs) if pairs else None
        points.append(BudgetPoint(label_of[kind], pairs, accuracy, ceiling, seconds))
    return points


def _method_words(config: ProbeConfig) -> str:
    benchmark = config.benchmark
    fast = benchmark.matches_pairs and benchmark.precision == "fast"
    adapted = benchmark.matcher_checkpoint is not None
    return benchmark.method + " fast" * fast + " adapted" * adapted


def _seconds_of_matching(run: FinishedRun, pairs: float) -> float | None:
    """Of a query's pairs, as if the cache had had none. None where that cannot be told from the
    pairs that the run matched itself: too few of them, several stages, or some that it fitted on.
    """
    counts, queries = run.counts, len(run.query_ids)
    asked = sum(cast(int, counts.get(name, 0)) for name in STAGE_COUNTS)
    own = asked - cast(int, counts.get("pairs_known", 0))
    alike = run.config.benchmark.precision == "exact" and asked <= pairs * queries
    if "matching" not in run.timings_s or 10 * own < asked or (own < asked and not alike):
        return None
    return run.timings_s["matching"] * asked / own / queries
