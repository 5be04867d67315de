"""The index of ever more photographs: building it, memory, a query, and what is found.

A gallery of real photographs (--root, with its columns as exreid takes them; by default generated
ones) grows by drawn ones. Each of their descriptors is one of a database photograph with noise: as
far from it as real descriptors are from the nearest of another photograph. Queries are real, and
what is drawn knows nothing of them. Searches are told apart by the answers of comparing all, on
--queries photographs. In the same process: LightGlue exact and fast, and FAISS's flat search as of
HotSpotter, whose SIFT has 128 numbers too. Needs 0.1 MB of disk for each photograph.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss
import numpy as np
import torch
from _features import best
from _report import Report, data_parser
from pairs import fast_way, matcher_of
from scipy.stats import binomtest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.features.local_extraction import LocalFeatureStore, as_record
from exreid.matching.lightglue import MatchSettings
from exreid.pipeline.index_segments import COMPARED_IMAGES
from exreid.pipeline.inputs import read_images
from exreid.pipeline.keypoints import LocalImages, extract_local_images
from exreid.pipeline.local_index import LocalIndex
from exreid.pipeline.match import LocalMethod
from exreid.pipeline.matchers import Matchers, MatchingTally
from exreid.progress import no_progress
from exreid.records import LocalFeatures, RetrievalSide
from exreid.storage.array_store import write_part
from exreid.storage.pair_store import PairStore

Result = TypeVar("Result")
PART = 200
"""Images that are drawn and written at a time."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=20, help="that are compared with all too")
    return parser.parse_args()


def real_features(config: ProbeConfig) -> tuple[LocalFeatures, LocalFeatures, LocalImages]:
    """The queries' features, the database's, and how they were made."""
    table, _ = read_images(config)
    boxed = bool(table.rows["bbox"].notna().any())
    images, position_N, _ = extract_local_images(
        table, config, None, lambda count: None, boxed=boxed
    )
    split = table.rows["split"].to_numpy()[position_N]
    keypoints = config.benchmark.local_top_k
    sides = [
        best(images.store.gather_places(images.keys, np.flatnonzero(split == value)), keypoints)
        for value in (config.dataset.query_split_value, config.dataset.database_split_value)
    ]
    return sides[0], sides[1], images


def distances_to_others(features: LocalFeatures) -> np.ndarray:
    """How far some of the descriptors are from the nearest one of another photograph."""
    rng, count = np.random.default_rng(0), len(features)
    flat = torch.nn.functional.normalize(
        torch.from_numpy(features.descriptors_NKL).float().flatten(0, 1), dim=1
    )
    keypoints = features.descriptors_NKL.shape[1]
    real = np.flatnonzero((np.arange(keypoints) < features.count_N[:, None]).reshape(-1))
    some = rng.choice(real, min(1000, len(real)), replace=False)
    similarity = flat[some] @ flat[real].T
    similarity[torch.from_numpy(some[:, None] // keypoints == real // keypoints)] = -1
    assert count > 1, "several photographs"
    return np.asarray((2 - 2 * similarity.max(dim=1).values).clamp(0).sqrt())


def drawn(features: LocalFeatures, distances: np.ndarray, count: int, seed: int) -> LocalFeatures:
    """So many images of real descriptors with noise."""
    rng = np.random.default_rng(seed)
    keypoints, length = features.descriptors_NKL.shape[1:]
    real_NK = np.arange(keypoints) < features.count_N[:, None]
    pool = features.descriptors_NKL[real_NK].astype(np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    source = pool[rng.integers(0, len(pool), count * keypoints)]
    cosine = (1 - rng.choice(distances, len(source)) ** 2 / 2)[:, None].astype(np.float32)
    noise = rng.standard_normal(source.shape, np.float32)
    noise -= (noise * source).sum(axis=1, keepdims=True) * source
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = cosine * source + np.sqrt(1 - cosine**2) * noise
    return LocalFeatures(
        np.zeros((count, keypoints, 2), np.float32),
        mixed.reshape(count, keypoints, length).astype(np.float16),
        np.full(count, keypoints, np.int32),
        np.full((count, 2), 512, np.int32),
    )


def method_of(config: ProbeConfig, images: LocalImages) -> LocalMethod:
    """The features as a method that matches in this process."""
    tally = MatchingTally()
    return LocalMethod(
        config,
        images,
        partial(images.store.gather_places, images.keys),
        list(images.keys),
        Matchers(None, tally),
        lambda name: PairStore(images.store.store.folder / name),
        images.store.store.folder,
        no_progress,
        tally,
    )


def side(start: int, count: int) -> RetrievalSide:
    """Images at these places of the table, each of another animal."""
    position_N = np.arange(start, start + count)
    codes = position_N.astype(np.int32)
    ids = tuple(map(str, position_N))
    return RetrievalSide(ids, position_N, codes, np.full(count, -1, np.int32))


def index_of(
    config: ProbeConfig,
    images: LocalImages,
    size: int,
    *,
    search: str = "auto",
    segments: Path | None = None,
) -> LocalIndex:
    """Of so many images; the table has the queries, then the gallery, then one more."""
    benchmark = config.benchmark.model_copy(update={"index_search": search})
    config = config.model_copy(update={"benchmark": benchmark})
    method = method_of(config, replace(images, segments=segments))
    queries, neighbours = len(images.keys) - 1 - size, benchmark.index_neighbours
    if segments is not None:  # a gallery's own, and one more image
        size += 1
    return LocalIndex(method, side(0, len(images.keys)), side(queries, size), neighbours=neighbours)


def memory_mib(kind: str) -> float:
    """``VmRSS``, or a part of it: ``RssAnon``, ``RssFile``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


def timed(way: Callable[[], Result]) -> tuple[Result, np.ndarray]:
    """What it returns, and its seconds: by the clock, and of all processors together, which a busy
    machine changes less."""
    start = time.perf_counter(), time.process_time()
    result = way()
    return result, np.array([time.perf_counter(), time.process_time()]) - start


def one_query(config: ProbeConfig, images: LocalImages, size: int, folder: Path) -> list[float]:
    """What a process that answers one query has mapped of files for it, and else read, in MiB."""

    def read_mib() -> float:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(lines[0].split()[1]) / 2**20

    before = memory_mib("RssFile"), read_mib()
    index = index_of(config, images, size, segments=folder)
    index.scores(side(1, 1), "image")
    return [memory_mib("RssFile") - before[0], read_mib() - before[1]]


def grow(
    report: Report, config: ProbeConfig, images: LocalImages, size: int, compared: int
) -> None:
    """All figures of one size."""

    def add(name: str, seconds_M2: list[np.ndarray]) -> float:
        clock_s, processors_s = np.median(seconds_M2, axis=0).tolist()
        report.add(name, clock_s, "s")
        report.add("    of the processors", processors_s, "s", "the clock", processors_s / clock_s)
        return float(clock_s)

    queries = len(images.keys) - 1 - size
    index = index_of(config, images, size)
    segments = index.segments
    assert segments is not None
    built, seconds = timed(segments.segments)
    add(f"{size:,} photographs: building", [seconds])
    ends = (".json", ".faiss")
    files = [segment.file.with_suffix(end) for segment, _ in built for end in ends]
    report.add("  on disk, an image", sum(file.stat().st_size for file in files) / size, "bytes")
    segments.keep_recall(0, 0)  # it is measured here, on other queries
    asked = [side(q, 1) for q in range(queries)]
    answers = [timed(partial(index.scores, query, "image")) for query in asked]
    clock_s = add("  a query", [seconds for _, seconds in answers])
    report.add("  resident", memory_mib("VmRSS"), "MiB")
    report.add("  of that not of files", memory_mib("RssAnon"), "MiB")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        mapped, read = pool.apply(one_query, (config, images, size, segments.folder))
    report.add("  mapped for one query", mapped, "MiB")
    report.add("  else read for it", read, "MiB")
    exact, kept, found, took = index_of(config, images, size, search="exact"), [], [], []
    for q in np.linspace(0, queries - 1, compared).round().astype(int).tolist():
        true, seconds = timed(partial(exact.scores, asked[q], "image"))
        took.append(seconds)
        kept.append(true[0].argmax() == answers[q][0][0].argmax())
        wanted = exact.nearest(asked[q], "image")[0].image_QKC[0]
        near = index.nearest(asked[q], "image")[0].image_QKC[0]
        found.append((wanted[:, :, None] == near[:, None, :]).any(axis=2).mean())
    add("  a query, comparing all", took)
    report.add("  times as fast", float(np.median(took, axis=0)[0]) / clock_s, "")
    report.add("  nearest images found", 100 * float(np.mean(found)), "%")
    share = binomtest(int(np.sum(kept)), compared).proportion_ci(method="wilson")
    interval = 100 * share.low, 100 * share.high
    name = f"  first answers kept, of {compared}"
    report.add(name, 100 * float(np.mean(kept)), "%", interval=interval)

    def one_more() -> None:
        more = index_of(config, images, size, segments=segments.folder)
        assert more.segments is not None
        more.segments.segments()
        assert not more.segments.plan.new, "nothing is built"
        assert len(more.segments.plan.rest) <= COMPARED_IMAGES

    add("  adding one", [timed(one_more)[1]])


def others(report: Report, real: LocalFeatures, some: LocalFeatures, query: LocalFeatures) -> None:
    """What the others take for a query among 1,000 images, by the time of a few."""
    pairs = np.array([(0, 1 + g) for g in range(12)], np.int32)
    matcher = matcher_of(MatchSettings())
    matcher.score(real, real, pairs[:1])
    flat = faiss.IndexFlatL2(some.descriptors_NKL.shape[2])
    flat.add(some.descriptors_NKL.reshape(-1, flat.d).astype(np.float32))
    asked = query.descriptors_NKL[0].astype(np.float32)
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "LightGlue exact": (len(pairs), partial(matcher.score, real, real, pairs)),
        "LightGlue fast": (len(real) - 1, fast_way(real, [], 1)),
        "FAISS flat, as HotSpotter's SIFT": (len(some), partial(flat.search, asked, 5)),
    }
    for name, (count, way) in ways.items():
        clock_s, processors_s = timed(way)[1] * 1000 / count
        report.add(f"{name}, a query among 1,000", clock_s, "s")
        report.add("    of the processors", processors_s, "s", "the clock", processors_s / clock_s)


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    report = Report("The index of ever more photographs", as_it_goes=options.json)
    with tempfile.TemporaryDirectory(dir=options.out) as place:
        overrides = [f"output.root={place}", "ray.num_actors=0", "safety=off", *options.overrides]
        root = options.root or Path(place, "data")
        if options.root is None:
            animals = 4 if options.quick else 20
            write_dataset(root, identities=animals, images_per_identity=10, seed=5)
        overrides += [f"dataset.root={root}", f"benchmark.local_top_k={options.keypoints}"]
        overrides.append("benchmark.method=local_index")
        config = load_config(ProbeConfig, None, overrides)
        queries, real, images = real_features(config)
        own = {"cache": str(Path(place, "cache"))}  # what is searched is not known before
        config = config.model_copy(update={"benchmark": config.benchmark.model_copy(update=own)})
        distances = distances_to_others(real)
        sizes = [600] if options.quick else options.sizes
        compared = min(4 if options.quick else options.queries, len(queries))
        folder = Path(place, "features")
        one = drawn(real, distances, 1, 10**9)
        keys: list[str] = []

        def add(features: LocalFeatures) -> None:
            new = [f"{len(keys) + i:032x}" for i in range(len(features))]
            write_part(folder, new, as_record(features))
            keys.extend(new)

        add(queries)
        add(real)
        others(report, real, drawn(real, distances, 500, 10**8), queries)
        for size in sizes:
            assert size >= len(real), f"{len(real)} real photographs are in the gallery"
            while (missing := len(queries) + size - len(keys)) > 0:
                add(drawn(real, distances, min(PART, missing), len(keys)))
            write_part(folder, [extra := f"{10**9 + size:032x}"], as_record(one))
            store = LocalFeatureStore(folder, images.name, options.keypoints)
            grown = replace(images, keys=(*keys, extra), store=store)
            grow(report, config, grown, size, compared)
    report.show(options.json)


if __name__ == "__main__":
    main()
