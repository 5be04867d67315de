"""Part of `three_nodes.py`: images decoded as they are wanted, on the CPUs of other machines."""

import time
import uuid
from pathlib import Path

import numpy as np
import ray

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
    crop="none",
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
        images = list(StreamedImages(table, prepare).batches(places))
        return ray.get_runtime_context().get_node_id(), images


def most_at_once(spans):
    """How many spans overlap at most."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return int(np.cumsum([step for _, step in edges]).max())


def stream(table, prepare, places, folder, seconds):
    """By a worker that has one CPU; each batch takes so long to decode."""
    folder.mkdir()
    worker = ray.remote(num_cpus=1)(Worker).remote()
    noting = Noting(prepare, str(folder), seconds)
    home, images = ray.get(worker.run.remote(table, noting, places))
    ray.kill(worker)
    notes = [file.read_text().split() for file in folder.iterdir()]
    spans = [(float(start), float(end)) for _, start, end in notes]
    return home, images, {node for node, _, _ in notes}, most_at_once(spans)


def check(dataset, folder, others, seconds=0.05):
    """On a cluster of one node with one CPU, and so many others."""
    config = load_config(ProbeConfig, None, [f"dataset.root={dataset}"])
    table, _ = read_images(config)
    prepare = PrepareImages(table.root, PREPROCESSING)
    order = np.random.default_rng(3).permutation(len(table))
    places = [*np.array_split(order, 12), np.zeros(0, np.int64), order[:2]]
    plain = DecodingImages(prepare, input_columns(table, np.arange(len(table))))
    expected = list(plain.batches(places))
    home, images, where, most = stream(table, prepare, places, folder, seconds)
    assert len(images) == len(expected)
    for one, other in zip(images, expected, strict=True):
        assert len(one) == len(other)
        if len(one):
            np.testing.assert_array_equal(one, other)
    if others == 0:
        assert where == {home}
        assert most == 1, "the worker's own CPU is all there is"
    else:
        assert home not in where, "its CPU is the worker's"
        assert len(where) == others
        assert most <= others, "one on each CPU"
