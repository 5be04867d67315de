"""The index of all descriptors: how often it is right, as a shortlist and alone, and what it costs.

Each way is a whole probe in one process. k, the images that a keypoint speaks for, is looked at on
the database alone: its images as queries, never answered from their own encounter. --root names a
data set with its columns as exreid takes them; by default animals are generated. With --lightglue
all pairs are matched exactly too, and the best 20 of each shortlist: minutes to hours. With
--descriptors the other descriptors are measured, and keypoints outside masks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from _report import Report, data_parser

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.matching.shortlist import in_turn
from exreid.runs.probe import run_probe

INDEX = "benchmark.method=local_index"
DESCRIPTORS = {
    "DISK": ["benchmark.local_features=disk"],
    "SIFT": ["benchmark.local_features=sift"],
    "no masks": ["benchmark.local_masks=none"],
}
FUSED = ["benchmark.method=wildfusion", "benchmark.candidate_k=20", "benchmark.shortlist=both"]
FUSED += ["benchmark.fusion.local_index=true", "benchmark.fusion.weights=listwise"]
DEPTHS = (5, 10, 20, 50, 100)
SHORT = ["benchmark.method=local_lightglue", "benchmark.candidate_k=20"]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--lightglue", action="store_true", help="match pairs too")
    parser.add_argument("--descriptors", action="store_true", help="other descriptors too")
    return parser.parse_args()


def probe(overrides: list[str]) -> tuple[Any, pd.DataFrame]:
    """One run's result, and its rankings."""
    folder, result = run_probe(load_config(ProbeConfig, None, overrides))
    return result, pd.read_parquet(folder / "rankings.parquet")


def add_run(report: Report, name: str, result: Any) -> None:
    """The rows of one way."""
    low, high = (100 * end for end in result.intervals["top_1"])
    report.add(f"{name}: top-1", 100 * result.metrics["top_1"], "%", interval=(low, high))
    for metric in ("top_5", "balanced_top_1", "mAP", "shortlist_hit"):
        if metric in result.metrics:
            report.add(f"  {metric}", 100 * result.metrics[metric], "%")


def hit_rates(rankings: list[pd.DataFrame]) -> dict[int, float]:
    """Share of queries with their animal among the first B, taken from the rankings in turn."""
    images = pd.Index(rankings[0]["gallery_id"].unique())
    queries = sorted(rankings[0]["query_id"].unique())
    lists = []
    for ranking in rankings:
        wide = ranking.sort_values(["query_id", "rank"]).groupby("query_id")["gallery_id"]
        rows = [images.get_indexer(pd.Index(wide.get_group(query))) for query in queries]
        longest = max(map(len, rows))
        lists.append(
            np.stack([np.pad(row, (0, longest - len(row)), constant_values=-1) for row in rows])
        )
    order_QG = np.argsort(-in_turn(lists, len(images)), axis=1, kind="stable")
    own = rankings[0][rankings[0]["is_match"]].groupby("query_id")["gallery_id"].agg(set)
    hit_QG = np.array(
        [
            [images[g] in own.get(q, ()) for g in row]
            for q, row in zip(queries, order_QG, strict=True)
        ]
    )
    return {depth: float(hit_QG[:, :depth].any(axis=1).mean()) for depth in DEPTHS}


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    out = options.out or Path(tempfile.mkdtemp())
    root, overrides = options.root, list(options.overrides)
    if root is None:
        root = out / "data"
        write_dataset(root, identities=6 if options.quick else 20, images_per_identity=10, seed=5)
        overrides.append("dataset.encounter_cols=[source,encounter]")
    keypoints = 64 if options.quick else options.keypoints
    overrides += [f"dataset.root={root}", f"output.root={out}", "ray.num_actors=0", "safety=off"]
    overrides += [f"benchmark.local_top_k={keypoints}", "benchmark.keep_candidates=100000"]
    config = load_config(ProbeConfig, None, overrides).dataset
    practice = [*overrides, f"dataset.query_split_value={config.database_split_value}"]
    report = Report(f"The index of all descriptors, {keypoints} keypoints an image")
    for k in (1, 2, 3, 5):
        more = [INDEX, f"benchmark.index_neighbours={k}", "benchmark.exclude=encounter"]
        result, _ = probe([*practice, *more])
        add_run(report, f"database images as queries, k={k}", result)
    for name, more in DESCRIPTORS.items() if options.descriptors else ():
        result, _ = probe([*practice, INDEX, *more, "benchmark.exclude=encounter"])
        add_run(report, f"database images as queries, {name}", result)
        add_run(report, f"local_index, {name}", probe([*overrides, INDEX, *more])[0])
    for exclude in ("image", "encounter"):
        asked = [*overrides, f"benchmark.exclude={exclude}"]
        cosine, by_model = probe(asked)
        index, by_index = probe([*asked, INDEX])
        add_run(report, f"cosine, own {exclude} excluded", cosine)
        add_run(report, f"local_index, own {exclude} excluded", index)
        searched = index.counts["pairs_searched"] - index.counts["pairs_known"]
        if searched:
            seconds = index.timings_s["ranking"]
            report.add("  time of a query", 1000 * seconds / index.counts["queries"], "ms")
            report.add("  speed", searched / seconds, "pairs/s")
        lists = {"global": [by_model], "local": [by_index], "both": [by_model, by_index]}
        for how, rankings in lists.items():
            for depth, rate in hit_rates(rankings).items():
                report.add(f"  shortlist={how}, hit rate of {depth}", 100 * rate, "%")
        if options.lightglue:
            for how in lists:
                result, _ = probe([*asked, *SHORT, f"benchmark.shortlist={how}"])
                add_run(report, f"LightGlue, shortlist={how} of 20, own {exclude} excluded", result)
            result, _ = probe([*asked, *FUSED])
            add_run(report, f"fused with LightGlue, own {exclude} excluded", result)
            result, _ = probe([*asked, "benchmark.method=local_lightglue"])
            add_run(report, f"LightGlue at all pairs, own {exclude} excluded", result)
    report.show(options.json)


if __name__ == "__main__":
    main()
