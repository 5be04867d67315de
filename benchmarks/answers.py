"""What each option of benchmark.precision=fast does to a probe's answers, and what it saves.

Each way is a whole probe with method=local_lightglue, in one process, over the same shortlist; all
share one cache of pairs, so that each look at a pair is had once. The speed is worked out: the
pairs that each stage had, times what such a pair costs, against the published model at every pair;
costs are measured here and now, in turn, on the photographs that are probed. --root names a data
set with its columns as exreid takes them; by default animals are generated.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from _features import joined
from _report import Report, data_parser, interleaved_s
from pairs import matcher_of, photographs, published

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.features.local import LocalExtractor
from exreid.matching.cascade import STAGE_COUNTS, cascade_of
from exreid.matching.nearest import NearestSettings
from exreid.runs.probe import run_probe

ALONE = [
    *("nearest_share=null", "look_layers=null", "exact_best=0"),
    *("look_decided_sd=null", "full_decided_sd=null"),
]
"""One stage, at every candidate."""
CASCADE = ["look_decided_sd=null", "full_decided_sd=null", "exact_best=0"]
WAYS: dict[str, list[str] | None] = {
    "exact": None,
    "bf16 alone": ALONE,
    "bf16, prune_after=3 alone": [*ALONE, "prune_after=3"],
    "bf16, and exact_best=3": [*ALONE, "exact_best=3"],
    "fp32, first look alone": [*CASCADE, "dtype=fp32", "nearest_share=null"],
    "fp32, nearest and first look": [*CASCADE, "dtype=fp32"],
    "all of fast": [],
    "fast, nearest_share=null": ["nearest_share=null"],
    "fast, look_share=0.08": ["look_share=0.08"],
    "fast, nearest_share=0.4, look_share=0.2": ["nearest_share=0.4", "look_share=0.2"],
    "fast, exact_best=10, full_decided_sd=null": ["exact_best=10", "full_decided_sd=null"],
    "fast, no early stops": ["look_decided_sd=null", "full_decided_sd=null"],
    "fast, nearest 0.7, look 0.2, exact_best=5": [
        *("nearest_share=0.7", "look_share=0.2", "exact_best=5"),
        *("look_decided_sd=null", "full_decided_sd=null"),
    ],
    "fast, no nearest, look 0.3, exact_best=10": [
        *("nearest_share=null", "look_share=0.3", "exact_best=10"),
        *("look_decided_sd=null", "full_decided_sd=null"),
    ],
}
"""The keys of benchmark.fast that each changes; None: benchmark.precision=exact."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--candidates", type=int, default=100, help="of each query")
    return parser.parse_args()


def probe(overrides: list[str], changed: list[str] | None) -> tuple[ProbeConfig, Any, Path]:
    """One way's run."""
    fast = [f"benchmark.fast.{option}" for option in changed or []]
    precision = f"benchmark.precision={'exact' if changed is None else 'fast'}"
    config = load_config(ProbeConfig, None, [*overrides, precision, *fast])
    folder, result = run_probe(config)
    return config, result, folder


def costs_s(root: Path, keypoints: int, settings: set[Any], repeats: int) -> dict[Any, float]:
    """Seconds of a pair by each look's settings, and None: by the published model."""
    images = photographs(root, 16)
    extract = LocalExtractor("aliked-n16", keypoints=keypoints)
    features = joined([extract(image[None]) for image in images])
    many = np.array([(q, 15 - g) for q in range(4) for g in range(8)], np.int32)
    # Nearest neighbours take too little time to be measured over so few pairs.
    pairs = {one: np.tile(many, (8, 1)) if one == NearestSettings() else many for one in settings}
    ways = {
        one: partial(matcher_of(one).score, features, features, pairs[one]) for one in settings
    } | {None: published(features, many[:8])}
    for way in ways.values():
        way()
    seconds = interleaved_s({str(one): way for one, way in ways.items()}, repeats)
    counts = {one: len(pair_P2) for one, pair_P2 in pairs.items()} | {None: 8}
    return {one: seconds[str(one)] / count for one, count in counts.items()}


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    out = options.out or Path(tempfile.mkdtemp())
    root, keypoints, candidates = options.root, options.keypoints, options.candidates
    overrides = list(options.overrides)
    if root is None:
        root = out / "data"
        write_dataset(root, identities=6 if options.quick else 20, images_per_identity=8, seed=5)
        overrides.append("dataset.encounter_cols=[source,encounter]")
    if options.quick:
        keypoints, candidates = 64, 12
    overrides += [f"dataset.root={root}", f"output.root={out}", "ray.num_actors=0"]
    overrides += [f"benchmark.local_top_k={keypoints}", f"benchmark.candidate_k={candidates}"]
    overrides += ["benchmark.method=local_lightglue"]
    done = {name: probe(overrides, changed) for name, changed in WAYS.items()}
    stages = {name: cascade_of(config) for name, (config, _, _) in done.items()}
    settings = {stage.settings for those in stages.values() for stage in those}
    cost = costs_s(root, keypoints, settings, 2 if options.quick else 5)
    report = Report(
        f"Answers of precision=fast: {candidates} candidates a query, {keypoints} keypoints"
    )
    first = {
        name: (pd.read_parquet(folder / "queries.parquet")["identity_rank"] == 1).to_numpy()
        for name, (_, _, folder) in done.items()
    }
    for name, (_, result, _) in done.items():
        by_stage = {stage: result.counts.get(count, 0) for count, stage in STAGE_COUNTS.items()}
        spent_s = sum(by_stage[stage.name] * cost[stage.settings] for stage in stages[name])
        pairs = max(by_stage.values())
        low, high = (100 * end for end in result.intervals["top_1"])
        top_1 = 100 * result.metrics["top_1"]
        report.add(f"{name}: top-1", top_1, "%", interval=(low, high))
        report.add("  speed", pairs / spent_s, "pairs/s", "published", cost[None] * pairs / spent_s)
        if name != "exact":
            kept, of = int((first[name] & first["exact"]).sum()), int(first["exact"].sum())
            gained = int((first[name] & ~first["exact"]).sum())
            report.add(
                "  right answers of exact that it keeps",
                100 * kept / of,
                "%",
                f"{kept} of {of}, and {gained} others",
            )
    report.show(options.json)


if __name__ == "__main__":
    main()
