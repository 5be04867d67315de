"""Segments of the index against the comparison with all images, which has its own naive twin."""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exreid.errors import CacheError
from exreid.matching import segments as module
from exreid.matching.local_index import nearest_images, nearest_of
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.matching.segment_files import opened, read_segment
from exreid.matching.segments import build_segment, search_segment, with_exact_distances
from exreid.records import LocalFeatures
from exreid.storage import mirror

KEYPOINTS, LENGTH, IMAGES = 8, 16, 120
MATCHER = NearestMatcher(NearestSettings())


def _features(images, seed):
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).normal(size=(40, LENGTH))
    shape = (images, KEYPOINTS)
    descriptors = kinds[rng.integers(0, 40, shape)] + 0.5 * rng.normal(size=(*shape, LENGTH))
    count_N = rng.integers(1, KEYPOINTS + 1, images)
    descriptors[np.arange(KEYPOINTS) >= count_N[:, None]] = 0
    return LocalFeatures(
        np.zeros((*shape, 2), np.float32),
        descriptors.astype(np.float16),
        count_N.astype(np.int32),
        np.full((images, 2), 100, np.int32),
    )


GALLERY = _features(IMAGES, 1)
QUERIES = _features(5, 2)


def _built(rows, folder):
    keys = [f"{number:032x}" for number in range(IMAGES)]
    pairs = np.stack([np.arange(len(rows)), rows], axis=1).astype(np.int32)
    none = GALLERY.take(np.zeros(0, int))
    return build_segment(MATCHER, none, GALLERY.take(rows), pairs, keys=keys, folder=folder)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return _built(np.arange(IMAGES), tmp_path_factory.mktemp("segments"))


def _found(file, left_out, keep):
    answer = search_segment(
        MATCHER, QUERIES, GALLERY, left_out, segment=file, images=IMAGES, keep=8 * keep
    )
    return with_exact_distances(QUERIES, answer, lambda i: GALLERY.descriptors_NKL[i], keep)


def test_all_cells_together_have_the_neighbours_of_all_images(file, monkeypatch):
    monkeypatch.setattr(module, "CELLS_A_PROBE", 1)
    left_out = np.argwhere(np.random.default_rng(3).random((5, IMAGES)) < 0.3).astype(np.int32)
    answers_QG = np.ones((5, IMAGES), bool)
    answers_QG[left_out[:, 0], left_out[:, 1]] = False
    for out, pairs in (
        (left_out, np.argwhere(answers_QG)),
        (left_out[:0], np.argwhere(np.ones((5, IMAGES), bool))),
    ):
        # More images than wanted are chosen by 4 bits, and exact distances order them.
        found = _found(file, out, IMAGES)
        true = nearest_images(MATCHER, QUERIES, GALLERY, pairs, keep=3)
        assert np.array_equal(found.image_QKC[:, :, :3], true.image_QKC)
        assert np.array_equal(found.squared_QKC[:, :, :3], true.squared_QKC)
        assert np.array_equal(found.keypoint_QKC[:, :, :3], true.keypoint_QKC)


@pytest.mark.parametrize("cuts", [[], [50], [20, 90]])
def test_one_two_and_three_segments_give_one_answer(tmp_path, monkeypatch, cuts):
    monkeypatch.setattr(module, "CELLS_A_PROBE", 1)
    parts = []
    for rows in np.split(np.arange(IMAGES), cuts):
        file = _built(rows, tmp_path)
        assert read_segment(file).keys == tuple(f"{number:032x}" for number in rows)
        answer = search_segment(
            MATCHER,
            QUERIES,
            GALLERY,
            np.zeros((0, 2), np.int32),
            segment=file,
            images=len(rows),
            keep=8 * IMAGES,
        )
        image_QKC = np.where(answer.image_QKC >= 0, answer.image_QKC + rows[0], -1)
        parts.append(replace(answer, image_QKC=image_QKC))
    found = with_exact_distances(
        QUERIES, nearest_of(parts[::-1], 8 * IMAGES), lambda i: GALLERY.descriptors_NKL[i], 3
    )
    pairs = np.argwhere(np.ones((5, IMAGES), bool))
    true = nearest_images(MATCHER, QUERIES, GALLERY, pairs, keep=3)
    for name in ("squared_QKC", "image_QKC", "keypoint_QKC"):
        assert np.array_equal(getattr(found, name), getattr(true, name)), name


def test_few_cells_find_most_and_never_what_is_left_out(file, monkeypatch):
    monkeypatch.setattr(module, "CELLS_A_PROBE", 8)
    pairs = np.argwhere(np.ones((5, IMAGES), bool))
    true = nearest_images(MATCHER, QUERIES, GALLERY, pairs, keep=1)
    found = _found(file, pairs[:0], 5)
    real_QK = np.arange(KEYPOINTS) < QUERIES.count_N[:, None]
    hit_QK = true.image_QKC[:, :, 0] == found.image_QKC[:, :, 0]
    assert hit_QK[real_QK].mean() > 0.5
    assert (found.image_QKC[~real_QK] == -1).all()
    first_Q = found.image_QKC[:, 0, 0]
    out = np.stack([np.arange(5), first_Q], axis=1).astype(np.int32)
    again = _found(file, out, 5)
    for q, image in out.tolist():
        assert image not in again.image_QKC[q]
    for query in again.image_QKC:
        for images in query:
            named = images[images >= 0].tolist()
            assert len(set(named)) == len(named), "each image once"


def test_some_keypoints_are_asked_of_more_cells(file, monkeypatch):
    monkeypatch.setattr(module, "CELLS_A_PROBE", 1000)
    monkeypatch.setattr(module, "CELLS_A_DEEP_PROBE", 1)
    query, only = QUERIES.take(QUERIES.count_N.argmax()[None]), np.array([0, 2])
    none = np.zeros((0, 2), np.int32)
    answer = search_segment(
        MATCHER, query, GALLERY, none, segment=file, images=IMAGES, keep=8 * IMAGES, only=only
    )
    found = with_exact_distances(query, answer, lambda i: GALLERY.descriptors_NKL[i], 3)
    pairs = np.argwhere(np.ones((1, IMAGES), bool))
    true = nearest_images(MATCHER, query, GALLERY, pairs, keep=3)
    assert np.array_equal(found.image_QKC[:, only], true.image_QKC[:, only])
    others = np.setdiff1d(np.arange(KEYPOINTS), only)
    assert (found.image_QKC[:, others] == -1).all()
    less = search_segment(
        MATCHER, query, GALLERY, none, segment=file, images=IMAGES, keep=8 * IMAGES
    )
    assert (less.image_QKC >= 0)[0, 0].sum() < (answer.image_QKC >= 0)[0, 0].sum()


@pytest.mark.parametrize("length", [16, 7])
def test_codes_are_those_of_faiss(length):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(4)
    values = rng.normal(size=(700, length)).astype(np.float32)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(length), length, 5, length, module.BITS, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual = False
    index.train(values)
    levels = np.sort(faiss.vector_to_array(index.pq.centroids).reshape(length, -1), axis=1)
    faiss.copy_array_to_vector(levels.reshape(-1), index.pq.centroids)
    assert np.array_equal(module._codes(index, values, levels), index.sa_encode(values))


def test_threads_change_no_answer(file, monkeypatch):
    monkeypatch.setattr(module, "CELLS_A_PROBE", 3)
    none, parts, before = np.zeros((0, 2), np.int32), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            parts.append(
                search_segment(MATCHER, QUERIES, GALLERY, none, segment=file, images=IMAGES, keep=5)
            )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for part in parts[1:]:
        assert np.array_equal(part.image_QKC, parts[0].image_QKC)
        assert np.array_equal(part.keypoint_QKC, parts[0].keypoint_QKC)


@pytest.mark.parametrize("rows", [IMAGES, 1])
def test_mapped_lists_are_those_of_faiss(tmp_path, monkeypatch, rows):
    faiss, kept, write = pytest.importorskip("faiss"), [], module.write_segment

    def keeping(index, *arguments):
        kept.append(index)
        return write(index, *arguments)

    monkeypatch.setattr(module, "write_segment", keeping)
    file = _built(np.arange(rows), tmp_path)
    mapped, count = opened(file), int(GALLERY.count_N[:rows].sum())
    asked = QUERIES.descriptors_NKL[:, 0].astype(np.float32)
    bits = np.packbits(np.arange(rows * KEYPOINTS) % 3 > 0, bitorder="little")
    for chosen in ({}, {"sel": faiss.IDSelectorBitmap(bits)}):
        for cells in (2, mapped.nlist):
            params = faiss.SearchParametersIVF(nprobe=cells, **chosen)
            own, whole = (index.search(asked, count, params=params) for index in (mapped, kept[0]))
            assert np.array_equal(own[0], whole[0])
            assert np.array_equal(own[1], whole[1])
    assert mapped.ntotal == count
    if sys.platform == "linux":
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert any(line.endswith(f"{file.stem}.faiss") for line in maps)


def test_a_segment_that_another_machine_built_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "one"))
    built = _built(np.arange(9), mirror.local_root("memory://segments") / "cache")
    sent = pickle.dumps(built)
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "other"))
    file = pickle.loads(sent)
    assert not file.exists()
    keys = read_segment(file).keys
    assert file.is_relative_to(tmp_path / "other")
    assert keys == read_segment(built).keys == tuple(f"{row:032x}" for row in range(9))
    assert opened(file).ntotal == GALLERY.count_N[:9].sum()


@pytest.mark.parametrize("bytes_left", [0, 10, 100, -1])
def test_a_file_that_was_cut_is_not_mapped(file, tmp_path, bytes_left):
    copy = tmp_path / file.name
    whole = file.with_suffix(".faiss").read_bytes()
    copy.with_suffix(".faiss").write_bytes(whole[:bytes_left])
    with pytest.raises(CacheError, match="damaged. Delete"):
        opened(copy)


@pytest.mark.parametrize("damage", ["cells", "names", "cut", "gone"])
def test_damage_is_noticed_when_a_segment_is_opened(file, tmp_path, damage):
    copy, big = tmp_path / file.name, tmp_path / f"{file.stem}.faiss"
    copy.write_bytes(file.read_bytes())
    content = bytearray(file.with_suffix(".faiss").read_bytes())
    big.write_bytes(content)
    assert read_segment(copy).keys == read_segment(file).keys
    if damage == "names":
        copy.write_text(json.dumps(json.loads(copy.read_text()) | {"keypoints": 9}))
    elif damage == "gone":
        big.unlink()
    else:
        content[200] ^= 1
        big.write_bytes(content if damage == "cells" else content[:-1])
    assert read_segment(copy) is None
