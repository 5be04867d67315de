"""Pairs spent against top-1: stopping at a risk, against a smaller shortlist at equal cost.

Works on finished runs of method=wildfusion whose whole shortlist was matched (--run, any number of
times): each risk of benchmark.adaptive is played on the scores that lie there, and nothing is
matched again. Without --run it first makes one, on synthetic animals. Differences from the whole
shortlist come with 95% intervals of a paired bootstrap over animals. --out writes budget.csv and
budget.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
from _report import Report

from exreid.calibration.budget_rule import BudgetRule, Candidates, fit_budget_rule, match_by_risk
from exreid.calibration.fusion import Fusion, sum_in_order
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import retrieval_sides
from exreid.data.synthetic import write_dataset
from exreid.metrics.comparison import paired_differences
from exreid.metrics.retrieval import QueryValues
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.pipeline.inputs import read_images
from exreid.runs.probe import run_probe

RISKS = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.005)
SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GOAL_SHARE = 0.2
COLOURS = ("#0072b2", "#d55e00")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--run", type=Path, action="append", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="folder for budget.csv and budget.png")
    return parser.parse_args()


def own_run(quick: bool) -> Path:
    """A run on synthetic animals, its whole shortlist matched."""
    root = Path(tempfile.mkdtemp())
    identities, each = (8, 7) if quick else (20, 10)
    write_dataset(root / "data", identities=identities, images_per_identity=each, seed=5)
    local = ("local_top_k=48", "local_size=256") if quick else ("local_top_k=128",)
    overrides = [
        *(f"dataset.root={root / 'data'}", "dataset.encounter_cols=[source,encounter]"),
        *("benchmark.method=wildfusion", "benchmark.candidate_k=100", f"output.root={root}"),
        *(f"benchmark.{key}" for key in local),
        *("benchmark.calibration.pairs=300" if quick else "seed=0", "ray.num_actors=0"),
    ]
    return run_probe(load_config(ProbeConfig, None, overrides))[0]


@dataclass(frozen=True)
class Recorded:
    """The shortlists of a finished run, all matched."""

    rule: BudgetRule
    shortlists: list[Candidates]
    """Each in the order of the global score."""
    score_P: np.ndarray
    own_Q: np.ndarray
    """The queries' identities."""


def read_run(folder: Path) -> Recorded:
    """Read a run's scores; the rule is fitted to its calibration pairs."""
    config = load_config(ProbeConfig, folder / "config.snapshot.yaml")
    content = json.loads((folder / "fusion.json").read_text(encoding="utf-8"))
    fusion = Fusion.from_json(content["fusion"])
    raw = [f"raw:{name}" for name in fusion.methods]
    local_M = np.array([not name.startswith("cosine:") for name in fusion.methods])
    pairs = pd.read_parquet(folder / "calibration_pairs.parquet")
    known = fusion.apply(pairs[raw].to_numpy())
    rule = fit_budget_rule(
        pairs[raw].to_numpy()[:, ~local_M],
        sum_in_order(known.contribution_PM[:, local_M]),
        known.score_P,
        pairs["is_match"].to_numpy(),
        pairs["weight"].to_numpy(),
    )
    rows = pd.read_parquet(folder / "fusion.parquet")
    if rows[raw].isna().any(axis=None):
        raise SystemExit(
            f"{folder}: not every pair of its shortlist was matched. Give a run with "
            "benchmark.adaptive.enabled=false and benchmark.precision=exact."
        )
    if config.benchmark.keep_candidates < (config.benchmark.candidate_k or 10**9):
        raise SystemExit(
            f"{folder}: it kept fewer candidates than its shortlist holds. Set "
            "benchmark.keep_candidates to benchmark.candidate_k."
        )
    table, _ = read_images(config)
    whole, _ = retrieval_sides(table, *[np.arange(len(table))] * 2)
    place = pd.Series(np.arange(len(whole)), index=list(whole.image_ids))
    rows = rows.assign(q=place[rows["query_id"]].to_numpy(), g=place[rows["gallery_id"]].to_numpy())
    first = raw[int(np.flatnonzero(~local_M)[0])]
    rows = rows.sort_values(["q", first, "g"], ascending=[True, False, True])
    score_PM = rows[raw].to_numpy()
    global_PM = np.where(local_M, np.nan, score_PM)
    score_P, part_P = fusion.apply(score_PM).score_P, fusion.apply(global_PM).score_P
    logit_P, g_P = rule.logits(score_PM[:, ~local_M]), rows["g"].to_numpy()
    query, start = np.unique(rows["q"].to_numpy(), return_index=True)
    ends = np.append(start, len(rows))
    shortlists = [
        Candidates(g_P[part], whole.identity_N[g_P[part]], logit_P[part], part_P[part])
        for part in map(slice, ends[:-1], ends[1:])
    ]
    return Recorded(rule, shortlists, score_P, whole.identity_N[query])


def answers(run: Recorded, matched_P: np.ndarray) -> QueryValues:
    """Top-1 of each query when these pairs are matched."""
    right, end = [], 0
    for own, one in zip(run.own_Q, run.shortlists, strict=True):
        begin, end = end, end + len(one.index_B)
        score_B = np.where(matched_P[begin:end], run.score_P[begin:end], -np.inf)
        best = np.lexsort((one.index_B, -score_B))[0]
        right.append(float(one.identity_B[best] == own))
    return QueryValues(np.array(right), np.ones(len(right), bool))


def ways(run: Recorded) -> list[tuple[str, float, np.ndarray]]:
    """(way, its setting, the pairs that it matches)."""
    found = []
    options: dict[str, Any] = {"batch": 5, "least": 5}
    for risk in RISKS:
        spent = match_by_risk(
            run.rule,
            run.shortlists,
            lambda place: run.score_P[place],
            risk=risk,
            **options,
        )
        found.append(("stop at a risk", risk, spent.matched_P))
    sizes = [len(one.index_B) for one in run.shortlists]
    for share in SHARES:
        top = max(1, round(share * max(sizes)))
        first = [np.arange(size) < top for size in sizes]
        found.append(("smaller shortlist", top, np.concatenate(first)))
    return found


def curve(run: Recorded) -> list[dict[str, Any]]:
    """A row for each way and setting."""
    whole = answers(run, np.ones(len(run.score_P), bool))
    query_P = np.repeat(np.arange(len(run.own_Q)), [len(o.index_B) for o in run.shortlists])
    rows = []
    for way, setting, matched_P in ways(run):
        got = answers(run, matched_P)
        table = {"top_1": got}
        low, high = bootstrap_intervals(table, run.own_Q).get("top_1", (np.nan, np.nan))
        change = paired_differences({"top_1": whole}, table, run.own_Q)["top_1"]
        change_low, change_high = change.interval or (np.nan, np.nan)
        pairs_Q = np.bincount(query_P[matched_P], minlength=len(run.own_Q))
        rows.append(
            {
                "way": way,
                "setting": setting,
                "share": float(matched_P.mean()),
                "pairs_mean": float(pairs_Q.mean()),
                "pairs_max": int(pairs_Q.max()),
                "top_1": float(got.value_Q.mean()),
                "low": low,
                "high": high,
                "change": change.value,
                "change_low": change_low,
                "change_high": change_high,
                "lost": float((whole.value_Q > got.value_Q).mean()),
                "p_value": change.p_value,
            }
        )
    return rows


def at_goal(rows: list[dict[str, Any]], way: str) -> dict[str, Any]:
    """The setting that spends most of at most a fifth of the pairs (or the least of all)."""
    mine = sorted((row for row in rows if row["way"] == way), key=lambda row: row["share"])
    return ([mine[0]] + [row for row in mine if row["share"] <= GOAL_SHARE + 1e-9])[-1]


def draw(file: Path, curves: dict[str, list[dict[str, Any]]]) -> None:
    """Top-1 against the share of pairs, a panel per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(curves), 4.4), layout="constrained")
    for axes, (name, rows) in zip(
        np.atleast_1d(figure.subplots(1, len(curves))), curves.items(), strict=True
    ):
        for colour, way in zip(COLOURS, ("stop at a risk", "smaller shortlist"), strict=True):
            mine = sorted((row for row in rows if row["way"] == way), key=lambda r: r["share"])
            share = [100 * row["share"] for row in mine]
            axes.plot(share, [100 * r["top_1"] for r in mine], "o-", ms=3, color=colour, label=way)
            low, high = ([100 * r[end] for r in mine] for end in ("low", "high"))
            axes.fill_between(share, low, high, color=colour, alpha=0.12, lw=0)
        whole = rows[-1]["top_1"]
        axes.axhline(100 * whole, color="0.4", ls="--", lw=1, label="the whole shortlist")
        axes.axvline(100 * GOAL_SHARE, color="0.7", ls=":", lw=1, label="a fifth of its pairs")
        axes.set(xlabel="pairs matched, % of the shortlist", ylabel="top-1, %", title=name)
        axes.set(xlim=(0, 102), ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Play every setting, print the goal's rows, write the curves."""
    options = arguments()
    report = Report("Pairs spent against top-1, of the whole shortlist")
    curves = {}
    for folder in options.run or [own_run(options.quick)]:
        rows = curves[folder.name] = curve(read_run(folder))
        report.add(f"{folder.name}: whole shortlist, top-1", 100 * rows[-1]["top_1"], "%")
        for way in ("stop at a risk", "smaller shortlist"):
            row = at_goal(rows, way)
            name = f"{folder.name}: {way} ({row['setting']:g})"
            report.add(f"{name}, pairs", 100 * row["share"], "%", "whole shortlist", row["share"])
            report.add(f"{name}, top-1", 100 * row["top_1"], "%")
            report.add("  change of top-1", 100 * row["change"], "points", "whole shortlist")
            for end in ("low", "high"):
                report.add(f"  its 95% interval, {end}", 100 * row[f"change_{end}"], "points")
        print(pd.DataFrame(rows).round(4).to_string())
    report.show(options.json)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "budget.csv").open("w", newline="", encoding="utf-8") as stream:
            fields = ["run", *next(iter(curves.values()))[0]]
            writer = csv.DictWriter(stream, fields, lineterminator="\n")
            writer.writeheader()
            for name, rows in curves.items():
                writer.writerows({"run": name, **row} for row in rows)
        draw(options.out / "budget.png", curves)


if __name__ == "__main__":
    main()
