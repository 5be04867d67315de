"""Extraction and its cache: nothing twice, nothing stale, nothing lost; one process or actors."""

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig, RayConfig
from exreid.data.images import Preprocessing
from exreid.data.metadata import Columns, read_image_table
from exreid.errors import CheckpointError, ImageError
from exreid.features.embedding import Embedder
from exreid.features.extraction import PrepareImages, embed_table, extract_in_process
from exreid.features.fill_cache import fill_cache, fill_in_process
from exreid.features.local_extraction import ExtractLocal, LocalPreprocessing
from exreid.models.backbones import build_backbone
from exreid.pipeline import keypoints
from exreid.pipeline.keypoints import extract_local_images
from exreid.records import LocalFeatures
from exreid.storage.feature_store import FeatureStore, SignatureMemo

BATCH = 4
OLD = 1_500_000_000


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("efficientnet-lite0", image_size=96)


@pytest.fixture
def table(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    return read_image_table(str(tmp_path / "data"), columns=Columns())[0].take(range(10))


def _prepare(table, **changes):
    options = {"resize": "stretch", "crop_pct": 1.0, "interpolation": "bicubic"}
    options |= {"no_background": False, "crop": "none", "crop_margin": 0.0}
    options |= {"image_wh_px": (96, 96), "fill_rgb": (0, 0, 0), **changes}
    return PrepareImages(table.root, Preprocessing(**options))


def _extract(table, backbone, tmp_path, *, on_error="raise", **changes):
    prepare = _prepare(table, **changes)

    def source(table, positions):
        embedder = Embedder(backbone, batch_size=BATCH)
        return extract_in_process(table, positions, prepare=prepare, embedder=embedder)

    stage = tmp_path / f"cache-{sorted(changes)}"
    return embed_table(
        table,
        source,
        store=FeatureStore(stage, {}),
        memo=SignatureMemo(tmp_path / "signatures"),
        on_error=on_error,
    )


def test_a_second_run_computes_nothing_and_gives_the_same_bits(table, backbone, tmp_path):
    first, _, report = _extract(table, backbone, tmp_path)
    assert (report.cached, report.extracted) == (0, 10)
    second, _, report = _extract(table, backbone, tmp_path)
    assert (report.cached, report.extracted) == (10, 0)
    np.testing.assert_array_equal(first.vectors_ND, second.vectors_ND)
    assert first.image_ids == tuple(table.rows["image_id"])


def test_one_new_photo_costs_one_extraction(table, backbone, tmp_path):
    whole, _, _ = _extract(table, backbone, tmp_path / "whole")
    _extract(table.take(range(9)), backbone, tmp_path)
    grown, _, report = _extract(table, backbone, tmp_path)
    assert (report.cached, report.extracted) == (9, 1)
    np.testing.assert_array_equal(grown.vectors_ND, whole.vectors_ND)


def test_a_changed_photo_of_the_same_size_and_time_is_not_served_stale(table, backbone, tmp_path):
    before, _, _ = _extract(table, backbone, tmp_path)
    files = [Path(table.root, path) for path in table.rows["path"][:2]]
    shutil.copy(files[1], files[0])
    for file in files:
        os.utime(file, (OLD, OLD))
    after, _, report = _extract(table, backbone, tmp_path)
    assert report.extracted <= 1
    np.testing.assert_array_equal(after.vectors_ND[0], before.vectors_ND[1])


def test_a_changed_mask_is_extracted_anew(table, backbone, tmp_path):
    _extract(table, backbone, tmp_path, no_background=True)
    masks = table.rows["mask"].tolist()
    table.rows.loc[0, "mask"] = masks[1]
    _, _, report = _extract(table, backbone, tmp_path, no_background=True)
    assert (report.cached, report.extracted) == (9, 1)


def test_an_unreadable_photo_is_named_or_listed(table, backbone, tmp_path):
    path = table.rows["path"][3]
    with Path(table.root, path).open("r+b") as stream:
        stream.truncate(500)
    with pytest.raises(ImageError, match=f"line 5, {path}: .*on_error=skip"):
        _extract(table, backbone, tmp_path)
    embeddings, positions, report = _extract(table, backbone, tmp_path, on_error="skip")
    assert positions.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(embeddings.image_ids) == 9
    assert [(item.path, item.row, item.stage) for item in report.rejected] == [(path, 5, "image")]


def test_a_vector_does_not_depend_on_its_batch(table, backbone):
    images = _prepare(table)(
        {
            "position": np.arange(10),
            "path": table.rows["path"].to_numpy(dtype=object),
            "region": np.full(10, "", dtype=object),
        }
    )["image"]
    embedder = Embedder(backbone, batch_size=BATCH)
    together = embedder(images)
    apart = np.concatenate([embedder(images[i : i + 1]) for i in range(10)])
    np.testing.assert_array_equal(together, apart)


def test_three_actors_give_the_bits_of_one_process(table, backbone, local_ray):
    from exreid.distributed.extract import extract_over_actors
    from exreid.distributed.placement import place_actors

    with Path(table.root, table.rows["path"][7]).open("r+b") as stream:
        stream.truncate(500)
    prepare = _prepare(table)
    placement = place_actors(RayConfig(num_actors=3))
    assert placement.actors == 3

    def over_actors(table, positions):
        return extract_over_actors(
            table,
            positions,
            prepare=prepare,
            backbone=backbone,
            batch_size=BATCH,
            dtype="fp32",
            deterministic=False,
            placement=placement,
        )

    def in_process(table, positions):
        embedder = Embedder(backbone, batch_size=BATCH, threads=1)
        return extract_in_process(table, positions, prepare=prepare, embedder=embedder)

    options = {"store": None, "memo": None, "on_error": "skip"}
    ours, positions, report = embed_table(table, over_actors, **options)
    plain, _, _ = embed_table(table, in_process, **options)
    np.testing.assert_array_equal(ours.vectors_ND, plain.vectors_ND)
    assert positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [item.row for item in report.rejected] == [9]


def test_a_single_actor_gives_the_keypoints_of_one_process(table, local_ray, tmp_path, monkeypatch):
    from exreid.distributed.placement import place_actors

    with Path(table.root, table.rows["path"][7]).open("r+b") as stream:
        stream.truncate(500)

    def found(name, placement):
        keys = {"local_top_k": 32, "local_size": 96, "cache": tmp_path / name}
        config = load_config(
            ProbeConfig,
            None,
            ["dataset.on_error=skip", *(f"benchmark.{key}={value}" for key, value in keys.items())],
        )
        images, position_N, report = extract_local_images(
            table, config, placement, lambda count: None, boxed=False
        )
        return images.keys, images.store.gather(images.keys), position_N.tolist(), report

    keys, plain, positions, _ = found("here", None)

    def refused(*arguments, **options):
        raise AssertionError("extracted in this process")

    monkeypatch.setattr(keypoints, "fill_in_process", refused)
    placement = place_actors(RayConfig(num_actors=1))
    assert placement.actors == 1
    actor_keys, ours, actor_positions, report = found("actor", placement)
    assert actor_keys == keys
    assert actor_positions == positions == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [item.row for item in report.rejected] == [9]
    assert plain.count_N.min() > 0
    for field in LocalFeatures.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(ours, field), getattr(plain, field), err_msg=field)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_vectors_that_are_no_numbers_are_never_kept(table, backbone, tmp_path, on_error):
    """It is no fault of an image's: skipping the unreadable does not skip it."""
    broken = copy.deepcopy(backbone)
    with torch.no_grad():
        broken.module.bn1.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"\.jpg: the network gives a vector"):
        _extract(table, broken, tmp_path, on_error=on_error)
    assert not [*tmp_path.glob("cache-*/part-*")]


def test_descriptors_that_are_no_numbers_are_never_kept(table, tmp_path, monkeypatch):
    preprocessing = LocalPreprocessing(64, False, "none", "none", 0.0)
    keep = ExtractLocal(table.root, preprocessing, tmp_path, extractor="aliked-n16", keypoints=8)
    extract = keep.extract

    def broken(images, masks):
        found = extract(images, masks)
        found.descriptors_NKL[0, 0, 0] = np.inf
        return found

    monkeypatch.setattr(keep, "extract", broken)
    broken.device = extract.device
    with pytest.raises(CheckpointError, match="the network gives a descriptor"):
        fill_cache(
            table.take(range(2)),
            lambda table, positions: fill_in_process(table, positions, keep=keep),
            folder=tmp_path,
            memo=None,
            on_error="skip",
        )
    assert not [*tmp_path.glob("part-*")]
