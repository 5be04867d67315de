"""Part of `two_nodes.py`: machines that are said to have GPUs, and who gets them."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from exreid.config.probe import RayConfig
from exreid.config.training import FinetuneRayConfig
from exreid.data.images import Preprocessing
from exreid.data.metadata import Columns, read_image_table
from exreid.data.synthetic import write_dataset
from exreid.distributed.extract import extract_local_over_actors, extract_over_actors
from exreid.distributed.match import MatchReport, match_over_actors
from exreid.distributed.placement import Placement, place_actors, place_trials
from exreid.distributed.rank import rank_over_gpus
from exreid.distributed.sweep import run_trials_over_ray
from exreid.distributed.train import place_workers
from exreid.errors import RunError
from exreid.features.embedding import Embedder
from exreid.features.extraction import PrepareImages, extract_in_process
from exreid.features.fill_cache import fill_in_process
from exreid.features.local_extraction import ExtractLocal, LocalFeatureStore, LocalPreprocessing
from exreid.matching.cosine import rank_by_cosine
from exreid.matching.tiles import plan_tiles, score_tile
from exreid.models.backbones import build_backbone
from exreid.records import LocalFeatures
from tests.distributed.told_gpus import AnyStudy, TellsItsGpu, run_trial
from tests.matching import fakes
from tests.matching.test_cosine import vectors_and_sides
from tests.matching.test_cosine_on_device import assert_ranks_alike

QUERY_P, GALLERY_P = (a.ravel() for a in np.mgrid[:8, :8])


def who_gets_which(placement):
    sides = dict.fromkeys(("queries", "gallery"), fakes.random_features(8, seed=1).take)
    tiles = plan_tiles(QUERY_P, GALLERY_P, pairs_per_tile=2)
    report = MatchReport()
    matched = match_over_actors(
        tiles, TellsItsGpu, score_tile, placement=placement, report=report, **sides
    )
    return [found for _, found in matched]


def defaults():
    """A workstation's GPU, or all of a cluster's, without being asked for."""
    actors = place_actors(RayConfig())
    assert (actors.actors, actors.gpus, actors.device) == (3, 1.0, "cuda")
    assert actors.decode_cpus == 1.0
    workers = place_workers(FinetuneRayConfig())
    assert (workers.workers, workers.cpus, workers.gpus) == (3, 1.0, 1.0)
    trials = place_trials(FinetuneRayConfig(), workers=1, max_concurrent=None, samples=9)
    assert (trials.concurrent, trials.gpus) == (3, 1.0)


def shares():
    halves = place_actors(RayConfig(gpus_per_worker=0.5, cpus_per_worker=0.5))
    assert halves.actors == 6
    assert place_actors(RayConfig(gpus_per_worker=0.6, cpus_per_worker=0.5)).actors == 3
    assert place_actors(RayConfig(gpus_per_worker=2.0)).actors == 1
    # One actor on each machine takes all of its CPUs: none is left for those who decode.
    assert place_actors(RayConfig(cpus_per_worker=2.0)).decode_cpus == 0.0
    given = who_gets_which(place_actors(RayConfig(num_actors=2, gpus_per_worker=0.5)))
    assert given
    assert all(len(gpus) == 1 for gpus in given), given
    placement = place_trials(
        FinetuneRayConfig(gpus_per_worker=0.5), workers=1, max_concurrent=None, samples=2
    )
    done = {}
    options = {"lost": None, "on_end": done.__setitem__, "max_failures": 0}
    run_trials_over_ray(AnyStudy, None, [0, 1], run_trial, placement, **options)
    assert [len(gpus) for gpus, _ in done.values()] == [1, 1], done
    assert all(resources["GPU"] == 0.5 for _, resources in done.values())


SAID_TO_HAVE_GPUS = Placement(actors=1, cpus=1.0, gpus=1.0)


def features_decoded_beside(folder):
    """Actors with a GPU are handed pixels by CPU tasks: the features are those of one process."""
    root = folder / "data"
    write_dataset(root, identities=2, images_per_identity=2, seed=3, image_wh_px=(96, 72))
    table, _ = read_image_table(str(root), columns=Columns())
    # The GPUs are only said to be there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placement, "device", "cpu")
        _keypoints(table, folder)
        _vectors(table)
        _ranked()


def _ranked():
    sides = vectors_and_sides(1, 6, 40, 8)
    found = rank_over_gpus(*sides, placement=SAID_TO_HAVE_GPUS, keep=5)
    assert_ranks_alike(found, rank_by_cosine(*sides, keep=5), 8)


def _keypoints(table, folder):
    def arguments(name):
        return {
            "root": str(table.root),
            "preprocessing": LocalPreprocessing(96, False, "filter", "none", 0.0),
            "folder": folder / name,
            "extractor": "aliked-n16",
            "keypoints": 16,
        }

    positions = np.arange(len(table))
    # As many threads as an actor has: last digits depend on them.
    here = fill_in_process(table, positions, keep=ExtractLocal(**arguments("here"), threads=1))
    actors = extract_local_over_actors(
        table, positions, arguments=arguments("actors"), placement=SAID_TO_HAVE_GPUS
    )
    assert not any(error for batch in [*here, *actors] for error in batch["error"])
    stores = [LocalFeatureStore(folder / name, "aliked-n16", 16) for name in ("here", "actors")]
    keys = [line for file in (folder / "here").glob("*.keys") for line in file.read_text().split()]
    keys = [key for key in keys if key in stores[0].store]
    assert len(keys) == len(table)
    one, other = (store.gather(keys) for store in stores)
    for field in LocalFeatures.__dataclass_fields__:
        assert np.array_equal(getattr(one, field), getattr(other, field)), field


def _vectors(table):
    torch.manual_seed(0)
    backbone = build_backbone("timm:test_vit", pretrained=False)
    prepare = PrepareImages(str(table.root), preprocessing_of(backbone))
    positions = np.arange(len(table))
    options = {"backbone": backbone, "batch_size": 3, "dtype": "fp32", "deterministic": False}
    found = {}
    for batch in extract_over_actors(
        table, positions, prepare=prepare, placement=SAID_TO_HAVE_GPUS, **options
    ):
        found.update(zip(batch.position_N.tolist(), batch.vectors_ND, strict=True))
    embedder = Embedder(backbone, batch_size=3)
    for batch in extract_in_process(table, positions, prepare=prepare, embedder=embedder):
        for position, vector in zip(batch.position_N.tolist(), batch.vectors_ND, strict=True):
            np.testing.assert_allclose(found.pop(position), vector, rtol=1e-5, atol=1e-6)
    assert not found


def preprocessing_of(backbone):
    return Preprocessing(
        image_wh_px=(backbone.image_size, backbone.image_size),
        resize="stretch",
        crop_pct=1.0,
        interpolation="bicubic",
        no_background=False,
        crop="none",
        crop_margin=0.0,
        fill_rgb=(0, 0, 0),
    )


def refused():
    there = r"Its machines: 1 x 2 CPUs and 2 GPUs; 1 x 2 CPUs and 1 GPUs"
    with pytest.raises(RunError, match=there):
        place_actors(RayConfig(gpus_per_worker=3.0))
    with pytest.raises(RunError, match="4 training workers, each with 1 CPUs and 1 GPUs"):
        place_workers(FinetuneRayConfig(num_workers=4))
    # Four CPUs in all, but none of the machines has three.
    with pytest.raises(RunError, match="1 actor, each with 3 CPUs"):
        place_actors(RayConfig(cpus_per_worker=3.0, gpus_per_worker=0.0))
    elastic = place_workers(FinetuneRayConfig(num_workers=4, min_workers=2))
    assert (elastic.least_workers, elastic.workers) == (2, 4)


def check():
    """On one node with two CPUs and two GPUs, and another with two CPUs and one."""
    defaults()
    shares()
    refused()
    with tempfile.TemporaryDirectory() as folder:
        features_decoded_beside(Path(folder))
