"""Finished probes side by side: differences, groups, flips, pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import select_split
from exreid.errors import RunError
from exreid.metrics.comparison import Difference, group_averages, holm, paired_differences
from exreid.metrics.ranking import Exclude
from exreid.metrics.retrieval import QueryValues, first_rank, hit, query_values
from exreid.pipeline.inputs import read_images
from exreid.records import Ranking
from exreid.report.compare_plots import draw_budget, draw_cmc, draw_groups
from exreid.storage.run_files import TEXT, damage_named, read_run_json, read_run_table
from exreid.storage.run_folder import read_ranking, write_text
from exreid.storage.spreadsheets import safe_cell

GAPS_DAYS = (1, 7, 30, 90, 365)
COUNTS = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class FinishedRun:
    """A completed probe, read from its folder."""

    name: str
    config: ProbeConfig
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    gallery_images: int
    query_ids: tuple[str, ...]
    identities: tuple[str, ...]
    identity_Q: np.ndarray
    first_rank_Q: np.ndarray
    positives_Q: np.ndarray
    values: dict[str, QueryValues]


@dataclass(frozen=True)
class Comparison:
    """The first run is what the others are compared with."""

    runs: tuple[FinishedRun, ...]
    differences: tuple[dict[str, Difference], ...]
    """Of each further run."""
    adjusted: tuple[dict[str, float], ...]
    """Their p-values, adjusted for all runs that are compared on the same metric."""


def read_run(folder: Path) -> FinishedRun:
    """Read a run; RunError where it is no completed probe."""
    file = folder / "result.json"
    if not file.is_file():
        raise RunError(f"{folder}: has no result.json. Give a probe's folder.")
    result = read_run_json(file)
    if result.get("status") != "completed":
        raise RunError(f"{folder}: this run's status is {result.get('status')!r}, not completed.")
    config = load_config(ProbeConfig, folder / "config.snapshot.yaml")
    ranking, identity_Q = read_ranking(folder)
    queries = read_run_table(folder / "queries.parquet", {"query_id": TEXT, "identity": TEXT})
    with damage_named(folder):
        return _finished_run(folder, config, result, (ranking, identity_Q), queries)


def _finished_run(
    folder: Path,
    config: ProbeConfig,
    result: dict[str, Any],
    ranked: tuple[Ranking, np.ndarray],
    queries: pa.Table,
) -> FinishedRun:
    ranking, identity_Q = ranked
    benchmark = config.benchmark
    shortlist = benchmark.candidate_k if benchmark.method != "cosine" else None
    values = query_values(
        ranking,
        top_k=benchmark.top_k,
        mean_ap=benchmark.mAP,
        shortlist=shortlist,
        open_split=True,
    )
    return FinishedRun(
        folder.resolve().name,
        config,
        {name: float(value) for name, value in result["metrics"].items()},
        {name: (float(low), float(high)) for name, (low, high) in result["intervals"].items()},
        int(result["counts"]["gallery_images"]),
        tuple(queries["query_id"].to_pylist()),
        tuple(queries["identity"].to_pylist()),
        identity_Q,
        first_rank(ranking.positive_offset_Q1, ranking.positive_rank_P),
        np.diff(ranking.positive_offset_Q1),
        values,
    )


def compare(folders: Sequence[Path], *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare every run with the first one; RunError unless all answered the same queries against
    galleries of the same size."""
    runs = tuple(read_run(folder) for folder in folders)
    if len({run.name for run in runs}) < len(runs):
        raise RunError("each run may be given once.")
    for run in runs[1:]:
        _check_same(runs[0], run)
    differences = tuple(
        paired_differences(
            runs[0].values, run.values, runs[0].identity_Q, resamples=resamples, seed=seed
        )
        for run in runs[1:]
    )
    adjusted: tuple[dict[str, float], ...] = tuple({} for _ in differences)
    for name in runs[0].values:
        there = [i for i, found in enumerate(differences) if name in found]
        for i, p_value in zip(
            there, holm([differences[i][name].p_value for i in there]), strict=True
        ):
            adjusted[i][name] = p_value
    return Comparison(runs, differences, adjusted)


def write_comparison(found: Comparison, out: Path, *, groups: Sequence[str] = ()) -> None:
    """comparison.json, comparison.csv, identities.csv, groups.csv, flips.csv, and the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    rows = _rows(found)
    write_text(out / "comparison.json", json.dumps(rows, indent=1) + "\n")
    _write_csv(out / "comparison.csv", rows)
    base = found.runs[0]
    _write_csv(out / "identities.csv", _identity_rows(found.runs))
    _write_csv(out / "flips.csv", _flips(found.runs))
    grouped = _group_rows(found.runs, groups)
    _write_csv(out / "groups.csv", grouped)
    ranks = {run.name: run.first_rank_Q for run in found.runs}
    draw_cmc(out / "cmc.png", ranks, base.identity_Q)
    for group in dict.fromkeys(row["group"] for row in grouped):
        name = "".join(c if c.isalnum() else "_" for c in group)
        part = [row for row in grouped if row["group"] == group]
        draw_groups(out / f"groups_{name}.png", group, part)
    budget = [_budget(run) for run in found.runs if run.config.benchmark.method != "cosine"]
    if len({row["candidate_k"] for row in budget}) > 1:
        draw_budget(out / "budget.png", budget)


def _check_same(base: FinishedRun, run: FinishedRun) -> None:
    if base.query_ids != run.query_ids or base.identities != run.identities:
        odd = sorted(set(base.query_ids) ^ set(run.query_ids))[:3]
        raise RunError(
            f"{base.name} and {run.name} did not answer the same queries"
            + (f": {', '.join(odd)} ... stand in one alone" if odd else "")
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


def _rows(found: Comparison) -> list[dict[str, Any]]:
    rows = []
    for number, run in enumerate(found.runs):
        for name, value in run.metrics.items():
            row = {"metric": name, "run": run.name, "value": value}
            row["low"], row["high"] = run.intervals.get(name, (None, None))
            change = found.differences[number - 1].get(name) if number else None
            row["difference"] = change.value if change else None
            row["difference_low"], row["difference_high"] = (
                change.interval if change and change.interval else (None, None)
            )
            row["p"] = change.p_value if change else None
            row["p_holm"] = found.adjusted[number - 1].get(name) if number else None
            rows.append(row)
    return rows


def _identity_rows(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    frame = pd.DataFrame({"identity": runs[0].identities, "queries": 1})
    for run in runs:
        frame[run.name] = hit(run.first_rank_Q, 1)
    columns = {"queries": "sum", **{run.name: "mean" for run in runs}}
    table = frame.groupby("identity").agg(columns).reset_index()
    return [{str(name): cell for name, cell in row.items()} for row in table.to_dict("records")]


def _flips(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    base, rows = runs[0], []
    for run in runs[1:]:
        before, after = base.first_rank_Q, run.first_rank_Q
        for q in np.flatnonzero((before == 1) != (after == 1)).tolist():
            rows.append(
                {
                    "query_id": base.query_ids[q],
                    "identity": base.identities[q],
                    "run": run.name,
                    "became": "right" if after[q] == 1 else "wrong",
                    "rank_before": int(before[q]),
                    "rank": int(after[q]),
                }
            )
    return rows


def _group_rows(runs: Sequence[FinishedRun], columns: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for group, names in _groups(runs[0], columns).items():
        order = {name: i for i, name in enumerate(in_order(names))}
        for run in runs:
            # Top-1 itself, whatever benchmark.top_k says.
            top_1 = QueryValues(hit(run.first_rank_Q, 1), np.ones(len(run.query_ids), bool))
            averages = group_averages(top_1, run.identity_Q, names)
            for name in sorted(averages, key=lambda one: order[one]):
                queries, identities, value, interval = averages[name]
                low, high = interval or (None, None)
                row = {"group": group, "name": name, "run": run.name, "top_1": value}
                rows.append(
                    row | {"low": low, "high": high, "queries": queries, "identities": identities}
                )
    return rows


def _groups(run: FinishedRun, columns: Sequence[str]) -> dict[str, list[str]]:
    """The built-in groups, and those by columns of the metadata, of each query."""
    found = {"gallery images of the animal": [binned(n, COUNTS, "") for n in run.positives_Q]}
    dataset = run.config.dataset
    dated = dataset.date_col is not None
    if not (columns or dataset.viewpoint_col or dated):
        return found
    try:
        table, _ = read_images(run.config)
    except Exception:
        if columns:
            raise
        return found
    place = {image: i for i, image in enumerate(table.rows["image_id"])}
    positions = [place[image] for image in run.query_ids]
    for column in columns:
        if column not in table.original.columns:
            raise RunError(
                f"{table.source}: no column {column!r} to group by; it has "
                f"{', '.join(table.original.columns)}."
            )
        cells = table.original[column].iloc[positions]
        found[column] = ["(empty)" if pd.isna(cell) else str(cell) for cell in cells]
    viewpoints = table.rows["viewpoint"].iloc[positions]
    if viewpoints.notna().any():
        found["viewpoint"] = [value or "(empty)" for value in viewpoints]
    if table.rows["date"].notna().any():
        database = select_split(table, dataset.database_split_value)
        found["days to the nearest gallery image"] = date_gaps(
            table.rows.iloc[positions], table.rows.iloc[database], run.config.benchmark.exclude
        )
    return found


def date_gaps(queries: pd.DataFrame, gallery: pd.DataFrame, exclude: Exclude) -> list[str]:
    """Days from each query to the nearest gallery image of its animal that may answer it, in bins;
    ``unknown`` where a date is, or where there is no such image.

    Both tables have ``image_id``, ``identity``, ``encounter`` and ``date``, whose day counts.
    """
    day_G = pd.to_datetime(gallery["date"], errors="coerce").to_numpy("datetime64[D]")
    columns = gallery["identity"], gallery["image_id"], gallery["encounter"], day_G
    of_animal: dict[str, list[tuple[str, str | None, np.datetime64]]] = {}
    for identity, image_id, encounter, day in zip(*columns, strict=True):
        if isinstance(identity, str) and not np.isnat(day):
            of_animal.setdefault(identity, []).append((image_id, encounter, day))
    day_Q = pd.to_datetime(queries["date"], errors="coerce").to_numpy("datetime64[D]")
    names = []
    columns = queries["identity"], queries["image_id"], queries["encounter"], day_Q
    for identity, image_id, encounter, day in zip(*columns, strict=True):
        own_visit = encounter if exclude == "encounter" and isinstance(encounter, str) else None
        gaps = [
            abs((other - day) / np.timedelta64(1, "D"))
            for name, visit, other in of_animal.get(identity, ())
            if name != image_id and (own_visit is None or visit != own_visit)
        ]
        known = gaps and not np.isnat(day)
        names.append(binned(float(min(gaps)), GAPS_DAYS, " days") if known else "unknown")
    return names


def binned(value: float, edges: Sequence[int], unit: str) -> str:
    """The name of the bin: up to each edge, and over the last; they sort by their first number."""
    low = 0
    for edge in edges:
        if value <= edge:
            if unit:
                return f"{low} to {edge}{unit}"
            return str(edge) if edge - low == 1 else f"{low + 1} to {edge}"
        low = edge
    return f"over {edges[-1]}{unit}"


def in_order(names: Sequence[str]) -> list[str]:
    """The distinct names, numbers and bins by their first number, others after them."""

    def key(name: str) -> tuple[int, float, str]:
        first = name.removeprefix("over ").split(" ")[0]
        late = name.startswith("over ")
        return (0, float(first) + late, name) if first.isdigit() else (1, 0.0, name)

    return sorted(set(names), key=key)


def _budget(run: FinishedRun) -> dict[str, Any]:
    benchmark = run.config.benchmark
    low, high = run.intervals.get("top_1", (None, None))
    return {
        "method": benchmark.method,
        "candidate_k": benchmark.candidate_k or run.gallery_images,
        "top_1": run.metrics["top_1"],
        "low": low,
        "high": high,
        "ceiling": run.metrics.get("shortlist_hit"),
    }


def _write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    if rows:
        writer = csv.writer(text, lineterminator="\n")
        for cells in (rows[0], *(row.values() for row in rows)):
            writer.writerow([safe_cell(cell) for cell in cells])
    write_text(file, text.getvalue())
