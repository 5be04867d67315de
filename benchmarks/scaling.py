"""What matching costs past one machine: measured costs, and the schedule for up to 256 actors.

- Costs here, in CPU seconds of one core: an image's keypoints and embedding, a pair by precision.
- The driver's costs here: planning, handing tiles to real actors that do nothing, keeping
  evidence; and its memory. And what an actor spends on reading features, which are on this disk.
- The schedule: the real planner and the real driver, with actors that only let time pass, in
  virtual time (`_virtual_ray.py`), since 256 actors do not fit on one machine. What a call of Ray
  costs the driver there is what it cost here. The first `MOST_TILES` tiles are simulated, of a
  plan of 10^6 pairs at most; the rest goes on at their pace.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import torch
from _features import joined
from _report import Report, arguments
from _virtual_ray import Costs, VirtualRay
from pairs import photographs

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig, RayConfig
from exreid.data.images import Preprocessing, prepare_image
from exreid.data.synthetic import write_dataset
from exreid.distributed.match import MatchReport, match_over_actors
from exreid.distributed.placement import Placement
from exreid.distributed.session import ray_session
from exreid.features.embedding import Embedder
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import LocalFeatureStore, record_dtype
from exreid.matching.cascade import MakeMatcher, Stage, cascade_of
from exreid.matching.lightglue import MatchSettings
from exreid.matching.pairs import score_pairs
from exreid.matching.tiles import plan_tiles, score_tile
from exreid.models.backbones import build_backbone
from exreid.records import LocalFeatures, PairEvidence
from exreid.storage.array_store import write_part
from exreid.storage.pair_store import PairStore

KEYPOINTS, DESCRIPTOR = 512, 128
CANDIDATES = 100
FAST_PROBE = load_config(ProbeConfig, None, ["benchmark.precision=fast"])
ACTORS = (1, 4, 16, 64, 256)
MOST_TILES = 5_000
START_S = 15.0
"""ASSUMED: until an actor on a machine that is up has built its matcher."""
GPU_PAIR_S = {"exact": 1 / 1123, "fast": 1 / 30794}
"""Measured by gpu.py on an NVIDIA H200: pairs of 512 keypoints, exact through Ray, and candidates
of fast by its matchers alone."""
CPU_TILE, GPU_TILE = 64, 4096
EMPTY = LocalFeatures(
    np.zeros((1, 1, 2), np.float32),
    np.zeros((1, 1, DESCRIPTOR), np.float16),
    np.zeros(1, np.int32),
    np.ones((1, 2), np.int32),
)


class Sleeps:
    """A matcher that takes its time and finds nothing."""

    def __init__(self, pair_s: float) -> None:
        self.pair_s = pair_s

    def score(
        self, queries: LocalFeatures, gallery: LocalFeatures, pair_P2: np.ndarray
    ) -> PairEvidence:
        """Zeros."""
        time.sleep(self.pair_s * len(pair_P2))
        return nothing(len(pair_P2))


def nothing(pairs: int) -> PairEvidence:
    """Evidence of so many pairs."""
    return PairEvidence(np.zeros(pairs, np.int32), np.zeros(pairs), np.zeros(pairs, np.int32))


def core_s(work: Any, repeats: int) -> float:
    """CPU seconds of the fastest of some runs: others on the machine hardly count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def shortlist(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and candidates at random: what neighbouring queries share is chance alone."""
    queries = max(1, pairs // CANDIDATES)
    rng = np.random.default_rng(0)
    gallery_P = rng.integers(0, max(1000, 2 * queries), queries * CANDIDATES)
    return np.repeat(np.arange(queries), CANDIDATES), gallery_P


def features_of(images: list[np.ndarray]) -> LocalFeatures:
    """The images' local features."""
    extract = LocalExtractor("aliked-n16", keypoints=KEYPOINTS)
    return joined([extract(image[None]) for image in images])


def fast_costs(costs: dict[str, float]) -> float:
    """Core seconds of a pair of `CANDIDATES` by all stages of fast, none of which is cut short."""
    *stages, last = cascade_of(FAST_PROBE)
    exact = max(last.share, last.least / CANDIDATES)
    return sum(stage.share * costs[stage.name] for stage in stages) + exact * costs["exact"]


def unit_costs(report: Report, root: Path, quick: bool) -> None:
    """CPU seconds of one core for an image, and for a pair by precision."""
    write_dataset(root, identities=2, images_per_identity=4)
    torch.set_num_threads(1)
    repeats = 1 if quick else 3
    images = photographs(root, 8)
    features = features_of(images)
    pair_P2 = np.array([(q, 4 + g) for q in range(4) for g in range(2 if quick else 4)], np.int32)
    costs = {"keypoints": core_s(partial(features_of, images[:4]), repeats) / 4}
    for stage in [Stage("exact", MatchSettings()), *cascade_of(FAST_PROBE)[:-1]]:
        matcher = MakeMatcher("aliked", stage.settings, "cpu")()
        matcher.score(features, features, pair_P2[:1])
        score = partial(matcher.score, features, features, pair_P2)
        costs[stage.name] = core_s(score, repeats) / len(pair_P2)
    costs["fast"] = fast_costs(costs)
    backbone = build_backbone("efficientnet-lite0")
    side = backbone.image_size
    pre = Preprocessing(
        (side, side), "crop", 0.875, "bicubic", False, "none", 0.0, (128, 128, 128), True
    )
    files = [file.read_bytes() for file in sorted(root.rglob("*.jpg"))]
    decode = partial(lambda: [prepare_image(data, None, pre) for data in files])
    costs["decode"] = core_s(decode, repeats) / len(files)
    embed = partial(Embedder(backbone, batch_size=8), np.zeros((8, side, side, 3), np.uint8))
    costs["embedding"] = core_s(embed, repeats) / 8
    names = {
        "keypoints": "512 keypoints of an image (ALIKED-n16)",
        "decode": "decoding an image of 320 x 240",
        "embedding": "embedding an image (EfficientNet-Lite0)",
        "exact": "a pair, exact",
        "fast": "a pair of 100 candidates, fast",
    }
    for key, name in names.items():
        report.add(f"here: {name}", 1e3 * costs[key], "core-ms")


def other_costs(report: Report, root: Path, quick: bool) -> Costs:
    """What the driver spends on a tile and a pair, beside real actors; an actor on an image."""
    store = local_store(root / "local")
    names = [f"{i:04d}" for i in range(512)]
    image_s = core_s(partial(store.gather, names), 3) / len(names)
    tiles = 60 if quick else 400
    with ray_session(RayConfig()):
        tile_s, start_s = real_run(
            store, np.repeat(np.arange(tiles * 8) % 512, 8), np.tile(np.arange(8), tiles * 8)
        )
    query_P, gallery_P = shortlist(10**5 if quick else 10**6)
    keys = [f"image {i}" for i in range(int(max(query_P.max(), gallery_P.max())) + 1)]

    def keep() -> None:
        score_pairs(
            query_P,
            gallery_P,
            query_keys=keys,
            gallery_keys=keys,
            store=PairStore(root / "pairs"),
            run=lambda tiles: ((tile, nothing(len(tile.place_P))) for tile in tiles),
            pairs_per_tile=CPU_TILE,
        )

    pair_s = core_s(keep, 1) / len(query_P)
    shutil.rmtree(root / "pairs")
    tracemalloc.start()
    keep()
    held_bytes = tracemalloc.get_traced_memory()[1] / len(query_P)
    tracemalloc.stop()
    report.add("actor here: reading an image's features", 1e3 * image_s, "ms")
    report.add("driver here: a tile", 1e3 * tile_s, "ms")
    report.add("driver here: planning and keeping a pair", 1e6 * pair_s, "us")
    report.add("driver here: memory for a pair", held_bytes, "bytes")
    report.add("driver here: until actors are up", start_s, "s")
    return Costs(tile_s, pair_s, image_s, START_S)


def local_store(folder: Path) -> LocalFeatureStore:
    """Made-up features of 512 images, on disk."""
    rng = np.random.default_rng(0)
    records = np.zeros(512, record_dtype(KEYPOINTS, DESCRIPTOR))
    records["descriptors"] = rng.normal(size=records["descriptors"].shape)
    records["count"], records["wh_px"] = KEYPOINTS, 512
    write_part(folder, [f"{i:04d}" for i in range(512)], records)
    return LocalFeatureStore(folder, "aliked-n16", KEYPOINTS)


def real_run(
    store: LocalFeatureStore, query_P: np.ndarray, gallery_P: np.ndarray
) -> tuple[float, float]:
    """The driver's CPU seconds for a tile over two real actors, and the actors' start."""

    def of(index: np.ndarray) -> LocalFeatures:
        return store.gather([f"{i:04d}" for i in index])

    plan = list(plan_tiles(query_P, gallery_P, pairs_per_tile=CPU_TILE))
    begun, first, start_s = time.perf_counter(), 0.0, 0.0
    for done, _ in enumerate(
        match_over_actors(
            iter(plan),
            partial(Sleeps, 0.0),
            score_tile,
            queries=of,
            gallery=of,
            placement=Placement(2, 1.0, 0.0),
            report=MatchReport(),
        )
    ):
        if done == 0:
            first, start_s = time.process_time(), time.perf_counter() - begun
    return (time.process_time() - first) / (len(plan) - 1), start_s


def schedule(
    report: Report,
    costs: Costs,
    name: str,
    *,
    pair_s: float,
    per_tile: int,
    sizes: list[int],
) -> None:
    """Efficiency and time of shortlists of several sizes over 1 to 256 simulated actors."""
    for pairs in sizes:
        query_P, gallery_P = shortlist(min(pairs, 10**6))
        for actors in ACTORS:
            wall_s, ray = simulate(
                costs,
                query_P,
                gallery_P,
                pair_s=pair_s,
                per_tile=per_tile,
                actors=actors,
                pairs=pairs,
            )
            ideal_s = pairs * pair_s / actors
            title = f"{name}, {pairs:.0e} pairs, {actors} actors"
            report.add(f"{title}: time", wall_s / 3600, "h", "all actors busy", ideal_s / wall_s)
            report.add(f"{title}: driver busy", 100 * ray, "%")


def simulate(
    costs: Costs,
    query_P: np.ndarray,
    gallery_P: np.ndarray,
    *,
    pair_s: float,
    per_tile: int,
    actors: int,
    pairs: int,
) -> tuple[float, float]:
    """Virtual seconds for so many pairs, and the share in which the driver is at work."""
    ray = VirtualRay(costs, pair_s)
    marks: list[tuple[float, int]] = []
    matched = 0
    plan = islice(plan_tiles(query_P, gallery_P, pairs_per_tile=per_tile), MOST_TILES)
    with ray.in_place():
        for tile, _ in match_over_actors(
            plan,
            partial(Sleeps, pair_s),
            score_tile,
            queries=EMPTY.take,  # never called: actors would
            gallery=EMPTY.take,
            placement=Placement(actors, 1.0, 0.0),
            report=MatchReport(),
        ):
            ray.work(costs.pair_s * len(tile.place_P))
            matched += len(tile.place_P)
            marks.append((ray.now_s, matched))
    if pairs <= matched:
        return ray.now_s, ray.driver_s / ray.now_s
    # The middle half is the steady state: what is left over goes on at its pace.
    (from_s, from_pairs), (to_s, to_pairs) = marks[len(marks) // 4], marks[3 * len(marks) // 4]
    steady_s = (to_s - from_s) / (to_pairs - from_pairs)
    return ray.now_s + steady_s * (pairs - matched), ray.driver_s / ray.now_s


def check(report: Report, costs: Costs) -> None:
    """The simulation against two real actors that sleep."""
    pair_s = 0.002
    query_P, gallery_P = shortlist(10**4)

    def of(index: np.ndarray) -> LocalFeatures:
        return EMPTY.take(np.zeros(len(index), int))

    with ray_session(RayConfig()):
        found, begun = MatchReport(), 0.0
        for done, _ in enumerate(
            match_over_actors(
                plan_tiles(query_P, gallery_P, pairs_per_tile=CPU_TILE),
                partial(Sleeps, pair_s),
                score_tile,
                queries=of,
                gallery=of,
                placement=Placement(2, 1.0, 0.0),
                report=found,
            )
        ):
            begun = time.perf_counter() if done == 0 else begun
        real_s = time.perf_counter() - begun
    bare = replace(costs, image_s=0.0, start_s=0.0)
    virtual_s, _ = simulate(
        bare,
        query_P,
        gallery_P,
        pair_s=pair_s,
        per_tile=CPU_TILE,
        actors=2,
        pairs=len(query_P),
    )
    report.add(
        "2 real actors that sleep: from the first tile to the last",
        real_s,
        "s",
        "simulated",
        real_s / virtual_s,
    )
    report.add("2 real actors that sleep: waiting", 100 * found.wait_share, "%")


def main() -> None:
    """Measure, then simulate."""
    options = arguments(__doc__ or "")
    report = Report("Scaling: costs here, and the schedule of many actors")
    with tempfile.TemporaryDirectory() as folder:
        unit_costs(report, Path(folder) / "data", options.quick)
        costs = other_costs(report, Path(folder), options.quick)
    check(report, costs)
    exact_s = next(row["value"] for row in report.rows if row["name"] == "here: a pair, exact")
    sizes = [10**4, 10**6] if options.quick else [10**4, 10**5, 10**6, 10**7, 10**8]
    pair_s = float(exact_s) / 1e3  # type: ignore[arg-type]
    schedule(
        report, costs, "CPU, exact, tiles of 64", pair_s=pair_s, per_tile=CPU_TILE, sizes=sizes
    )
    for precision, gpu_s in GPU_PAIR_S.items():
        name = f"H200 ({1e3 * gpu_s:.2g} ms a pair), {precision}, tiles of {GPU_TILE}"
        schedule(report, costs, name, pair_s=gpu_s, per_tile=GPU_TILE, sizes=sizes)
    report.show(options.json)


if __name__ == "__main__":
    main()
