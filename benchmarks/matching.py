"""What surrounds the matching: the driver's time and memory for each pair, and actors that wait.

A matcher that does nothing leaves the plan, the look-ups, the features' way to the actors and the
log of finished tiles. Then real pairs, over one actor and over two.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from _report import Report, arguments, peak_mib

from exreid.config.probe import RayConfig
from exreid.distributed.match import MatchReport, match_over_actors
from exreid.distributed.placement import Placement
from exreid.distributed.session import ray_session
from exreid.features.local_extraction import LocalFeatureStore, as_record
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.pairs import score_pairs
from exreid.matching.tiles import match_in_process, score_tile
from exreid.models.lightglue import load_lightglue
from exreid.records import LocalFeatures, PairEvidence
from exreid.storage.array_store import write_part
from exreid.storage.pair_store import PairStore

KEYPOINTS, SHORTLIST = 256, 100


class Nothing:
    """A matcher that finds nothing, at once."""

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """Zeros."""
        count = len(pair_P2)
        return PairEvidence(np.zeros(count, np.int32), np.zeros(count), np.zeros(count, np.int32))


def lightglue() -> LightGlueMatcher:
    """The exact matcher."""
    return LightGlueMatcher(load_lightglue("aliked"), MatchSettings())


def pairs_of(queries: int, gallery: int, shortlist: int) -> tuple[np.ndarray, np.ndarray]:
    """A random shortlist of each query."""
    random = np.random.default_rng(0)
    query_P = np.repeat(np.arange(queries, dtype=np.int32), shortlist)
    rows = [random.choice(gallery, shortlist, replace=False) for _ in range(queries)]
    return query_P, np.concatenate(rows).astype(np.int32)


def random_store(folder: Path, images: int) -> tuple[LocalFeatureStore, list[str]]:
    """A cache of made-up features."""
    random = np.random.default_rng(1)
    keys = [f"{i:032x}" for i in range(images)]
    for start in range(0, images, 64):
        count = min(64, images - start)
        descriptors = random.normal(size=(count, KEYPOINTS, 128))
        descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
        features = LocalFeatures(
            (random.random((count, KEYPOINTS, 2)) * 500).astype(np.float32),
            descriptors.astype(np.float16),
            np.full(count, KEYPOINTS, np.int32),
            np.full((count, 2), 512, np.int32),
        )
        write_part(folder, keys[start : start + count], as_record(features))
    return LocalFeatureStore(folder, "aliked-n16", KEYPOINTS), keys


def scored(folder: Path, queries: int, gallery: int, run: Any, per_tile: int = 64) -> None:
    """Score the shortlists of so many queries with a fresh store of pairs."""
    query_P, gallery_P = pairs_of(queries, gallery, min(SHORTLIST, gallery))
    score_pairs(
        query_P,
        gallery_P,
        query_keys=[f"q{i}" for i in range(queries)],
        gallery_keys=[f"g{i}" for i in range(gallery)],
        store=PairStore(folder),
        run=run,
        pairs_per_tile=per_tile,
    )


def driver_alone(report: Report, folder: Path, queries: int, gallery: int) -> None:
    """Plan, look-ups and log, without features and actors."""
    empty = LocalFeatures(
        np.zeros((0, 1, 2), np.float32),
        np.zeros((0, 1, 1), np.float16),
        np.zeros(0, np.int32),
        np.zeros((0, 2), np.int32),
    )
    seconds = 0.0

    def nothing(tiles: Iterator[Any]) -> Any:
        return match_in_process(
            tiles, Nothing(), score_tile, queries=lambda index: empty, gallery=lambda index: empty
        )

    def run() -> None:
        nonlocal seconds
        start = time.perf_counter()
        scored(folder, queries, gallery, nothing)
        seconds = time.perf_counter() - start

    mib = peak_mib(run)
    pairs = queries * SHORTLIST
    name = f"{queries:,} x {gallery:,}, {SHORTLIST} candidates"
    report.add(f"{name}: driver, time", 1e6 * seconds / pairs, "us/pair")
    report.add(f"{name}: driver, memory", mib, "MiB")


def over_actors(
    store: LocalFeatureStore, keys: list[str], matcher: Any, actors: int, report: MatchReport
) -> Callable[[Iterator[Any]], Any]:
    """Runs tiles over so many actors with the store's features."""
    gather = lambda index: store.gather([keys[i % len(keys)] for i in index])  # noqa: E731
    return lambda tiles: match_over_actors(
        tiles,
        matcher,
        score_tile,
        queries=gather,
        gallery=gather,
        placement=Placement(actors, 1.0, 0.0),
        report=report,
    )


def main() -> None:
    """Measure, and print the table."""
    options = arguments(__doc__ or "")
    report = Report("Around the matching")
    sizes = [(1000, 3000)] if options.quick else [(1000, 3000), (10_000, 30_000)]
    with tempfile.TemporaryDirectory() as name, ray_session(RayConfig()):
        root = Path(name)
        for queries, gallery in sizes:
            driver_alone(report, root / f"alone-{queries}", queries, gallery)
        store, keys = random_store(root / "local", 256)
        idle = 100 if options.quick else 1000
        busy = 3 if options.quick else 10
        rates = {}
        for actors in (1, 2):
            for kind, matcher, queries in (("nothing", Nothing, idle), ("exact", lightglue, busy)):
                went = MatchReport()
                start = time.perf_counter()
                run = over_actors(store, keys, matcher, actors, went)
                scored(
                    root / f"{kind}-{actors}", queries, 3000, run, 64 if kind == "nothing" else 16
                )
                seconds = time.perf_counter() - start
                pairs = queries * SHORTLIST
                label = f"{actors} actor{'s' * (actors > 1)}, "
                if kind == "nothing":
                    report.add(label + "a matcher of nothing", 1e6 * seconds / pairs, "us/pair")
                    continue
                rates[actors] = pairs / went.available_s * actors
                ratio = rates[actors] / rates[1]
                report.add(label + "exact", rates[actors], "pairs/s", "1 actor", ratio)
                report.add(label + "exact, waiting", 100 * went.wait_share, "%")
    report.show(options.json)


if __name__ == "__main__":
    main()
