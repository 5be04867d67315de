"""Images decoded as they are wanted (dataset.decoded_cache=off) against images out of the cache.

Three nodes of Ray on this machine, each with one CPU; a training worker, which only reads, holds
one of them. Two CPUs are left to decode, in both ways: the cache is filled by them before the first
epoch, the stream uses them in every epoch. Last, the stream of a node that has no CPU but the
worker's. The store's memory is that of Ray's object store, all nodes together, under a worker that
takes what comes and under one that is slower than the decoding.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import ray
from _features import stretched
from _report import Report, arguments
from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster

from exreid.data.metadata import Columns, read_image_table
from exreid.data.synthetic import write_dataset
from exreid.distributed.decode import StreamedImages, decode_over_tasks
from exreid.features.extraction import PrepareImages
from exreid.features.fill_cache import KeepDecoded, fill_cache
from exreid.records import ImageTable
from exreid.storage.feature_store import SignatureMemo
from exreid.training.feed import CachedImages, ImageSource

BATCH = 32
SIDE_PX = 384
STORE_BYTES = 100 * 2**20
"""Of each node: little, so that it would not hold all images."""
MANY_IMAGES, SLOW_S = 768, 1.0
"""Images of a slow worker's epoch, more than the stores would hold, and its time for a batch."""
STORE = re.compile(r"Plasma memory usage (\d+) MiB")


class Worker:
    """Holds a CPU as a training worker does, and asks for batches."""

    def seconds(self, source: ImageSource, places: list[np.ndarray], step_s: float) -> float:
        """Until all have come, and each has been used for ``step_s``."""
        start = time.perf_counter()
        for batch, place_b in zip(source.batches(places), places, strict=True):
            if len(batch) != len(place_b):
                raise RuntimeError("images are missing")
            time.sleep(step_s)
        return time.perf_counter() - start


@contextmanager
def store_watched(most: list[int]) -> Iterator[None]:
    """Append the largest MiB that the object store held during the block."""
    over, seen = threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(sum(map(int, STORE.findall(memory_summary(stats_only=True)))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        most.append(max(seen))


def cached(table: ImageTable, prepare: PrepareImages, folder: Path) -> CachedImages:
    """The cache, filled on the CPUs that no worker has."""
    keep = KeepDecoded(prepare, folder / "decoded")
    everything = fill_cache(
        table,
        partial(decode_over_tasks, keep=keep, cpus=1.0),
        folder=folder / "decoded",
        memo=SignatureMemo(folder / "signatures"),
        on_error="raise",
    )
    return CachedImages(folder / "decoded", everything[1])


@dataclass
class Measured:
    """Seconds of epochs and of filling the cache, and the most MiB of the object store."""

    alone_s: float = 0.0
    streamed_s: float = 0.0
    cached_s: float = 0.0
    filled_s: float = 0.0
    stores: list[int] = field(default_factory=list)
    """Streaming, streaming to a slow worker, filling the cache."""


def measure(cluster: Cluster, table: ImageTable, places: list[np.ndarray], out: Path) -> Measured:
    """On a cluster of one node, to which two are added."""
    found, prepare = Measured(), PrepareImages(table.root, stretched(SIDE_PX))
    stream = StreamedImages(table, prepare)
    worker = ray.remote(num_cpus=1)(Worker).remote()
    epoch = partial(_epoch, worker)
    found.alone_s = [epoch(stream, places) for _ in range(2)][1]  # in the first, a process starts
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    epoch(stream, places)  # and two more
    with store_watched(found.stores):
        found.streamed_s = fmean(epoch(stream, places) for _ in range(2))
    more = places * (MANY_IMAGES // len(table))
    with store_watched(found.stores):
        epoch(stream, more, SLOW_S)
    start = time.perf_counter()
    with store_watched(found.stores):
        cache = cached(table, prepare, out)
    found.filled_s = time.perf_counter() - start
    found.cached_s = fmean(epoch(cache, places) for _ in range(2))
    return found


def main() -> None:
    """Fill, read, stream."""
    options = arguments(__doc__ or "")
    size = (1024, 768)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, identities = Path(name), 4 if options.quick else 16
        write_dataset(
            folder / "data", identities=identities, images_per_identity=16, seed=1, image_wh_px=size
        )
        table, _ = read_image_table(str(folder / "data"), columns=Columns())
        order = np.random.default_rng(0).permutation(len(table))
        places = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            found = measure(cluster, table, places, folder)
        finally:
            ray.shutdown()
            cluster.shutdown()
    images, report = len(table), Report("decoded_cache=off against the cache: three nodes")
    label = f"{images} photographs of {size[0]} x {size[1]}: filling the cache"
    report.add(label, images / found.filled_s, "images/s")
    for name, seconds in {
        "an epoch of the stream": found.streamed_s,
        "an epoch of the stream, on the worker's CPU": found.alone_s,
        "an epoch out of the cache": found.cached_s,
    }.items():
        report.add(name, images / seconds, "images/s", "filling", found.filled_s / seconds)
    mib = SIDE_PX**2 * 3 / 2**20
    ways = {"streaming": images, "to a slow worker": MANY_IMAGES // images * images}
    for (name, asked), most in zip(ways.items(), found.stores, strict=False):
        report.add(f"object store, {name}", most, "MiB", "its images", most / (asked * mib))
    report.add("object store, filling the cache", found.stores[2], "MiB")
    report.show(options.json)


def _epoch(
    worker: ray.actor.ActorHandle,
    source: ImageSource,
    places: list[np.ndarray],
    step_s: float = 0.0,
) -> float:
    seconds: float = ray.get(worker.seconds.remote(source, places, step_s))
    return seconds


if __name__ == "__main__":
    main()
