"""Run as a process of its own: images decoded as they are wanted, on the CPUs of other machines.

``stream_over_nodes.py DATASET FOLDER [SECONDS]``; with SECONDS each batch takes so long to decode.
"""

import sys
import time
import uuid
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.images import Preprocessing
from exreid.distributed.decode import StreamedImages
from exreid.features.extraction import PrepareImages, input_columns
from exreid.pipeline.inputs import read_images
from exreid.training.feed import DecodingImages

PREPROCESSING = Preprocessing(
    image_wh_px=(64, 64),
    resize="stretch",
    crop_pct=1.0,
    interpolation="bicubic",
    no_background=False,
    crop_to_mask=False,
    crop_margin=0.0,
    fill_rgb=(0, 0, 0),
)


class Noting:
    """Prepares as it does, and leaves a file that says where and when."""

    def __init__(self, prepare, folder, seconds):
        self.prepare, self.folder, self.seconds = prepare, folder, seconds

    def __call__(self, batch):
        start = time.time()
        time.sleep(self.seconds)
        done = self.prepare(batch)
        node = ray.get_runtime_context().get_node_id()
        file = Path(self.folder) / uuid.uuid4().hex
        file.write_text(f"{node} {start} {time.time()}")
        return done


class Worker:
    """Holds its CPU as a training worker does."""

    def run(self, table, prepare, places):
        start = time.perf_counter()
        images = list(StreamedImages(table, prepare).batches(places))
        return ray.get_runtime_context().get_node_id(), images, time.perf_counter() - start


def most_at_once(spans):
    """How many spans overlap at most."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return int(np.cumsum([step for _, step in edges]).max())


def stream(nodes, table, prepare, places, folder, seconds):
    """On a head with one CPU, which the worker holds, and so many nodes with one more each."""
    folder.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    worker = ray.remote(num_cpus=1)(Worker).remote()
    noting = Noting(prepare, str(folder), seconds)
    home, images, took_s = ray.get(worker.run.remote(table, noting, places))
    ray.shutdown()
    cluster.shutdown()
    notes = [file.read_text().split() for file in folder.iterdir()]
    spans = [(float(start), float(end)) for _, start, end in notes]
    return home, images, took_s, {node for node, _, _ in notes}, most_at_once(spans)


def main(dataset, folder, seconds):
    config = load_config(ProbeConfig, None, [f"dataset.root={dataset}"])
    table, _ = read_images(config)
    prepare = PrepareImages(table.root, PREPROCESSING)
    order = np.random.default_rng(3).permutation(len(table))
    places = [*np.array_split(order, 12), np.zeros(0, np.int64), order[:2]]
    plain = DecodingImages(prepare, input_columns(table, np.arange(len(table))))
    expected = list(plain.batches(places))
    times_s = {}
    for nodes in (0, 2):
        home, images, times_s[nodes], where, most = stream(
            nodes, table, prepare, places, Path(folder) / str(nodes), seconds
        )
        assert len(images) == len(expected)
        for one, other in zip(images, expected, strict=True):
            assert len(one) == len(other)
            if len(one):
                np.testing.assert_array_equal(one, other)
        if nodes == 0:
            assert where == {home}
            assert most == 1, "the worker's own CPU is all there is"
        else:
            assert home not in where, "its CPU is the worker's"
            assert len(where) == 2
            assert most <= 2, "one on each CPU"
    sys.stdout.write(f"streamed on its own CPU in {times_s[0]:.2f} s, on two others in ")
    sys.stdout.write(f"{times_s[2]:.2f} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:3], float((sys.argv[3:] or ["0.05"])[0]))
