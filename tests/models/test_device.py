"""Work that does not fit a GPU's memory is done in parts, and memory is kept between batches."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from exreid.features.embedding import Embedder
from exreid.matching.cosine_on_device import rank_on_device
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.local_index import nearest_images
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.models.backbones import build_backbone
from exreid.models.device import (
    ONE_ARENA,
    Fetched,
    deterministic,
    in_parts,
    on_device,
    whole_fp32,
)
from exreid.models.lightglue import LightGlue
from tests.matching.fakes import random_features
from tests.matching.test_cosine import vectors_and_sides


def _holds(most):
    def work(rows):
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(rows.start, rows.stop))

    return work


@pytest.mark.parametrize("most", [1, 2, 3, 7, 20])
def test_parts_cover_all_rows_in_order(most, caplog):
    parts = in_parts(_holds(most), 13)
    assert [row for part in parts for row in part] == list(range(13))
    assert max(len(part) for part in parts) <= most
    assert bool(caplog.records) == (most < 13)


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        in_parts(_holds(0), 4)


def test_vectors_of_a_batch_in_parts_are_those_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    backbone = build_backbone("timm:test_vit", pretrained=False)
    size = backbone.image_size
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3)).astype(np.uint8)
    embed = Embedder(backbone, batch_size=4)
    whole = embed(images)
    forward = embed._forward

    def small(rows):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(rows)

    monkeypatch.setattr(embed, "_forward", small)
    np.testing.assert_allclose(embed(images), whole, rtol=1e-5, atol=1e-6)


PRODUCTS = torch.backends.cuda.matmul
ROUNDED = {
    "by a user": lambda: torch.set_float32_matmul_precision("high"),
    "by a user, as torch names it now": lambda: setattr(PRODUCTS, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("how", ROUNDED)
def test_fp32_is_whole_while_it_is_asked_for(how):
    before = torch.backends.cudnn.allow_tf32
    try:
        ROUNDED[how]()
        with whole_fp32():
            assert not torch.backends.cudnn.allow_tf32
            assert not PRODUCTS.allow_tf32
            assert PRODUCTS.fp32_precision == "ieee"
        assert torch.backends.cudnn.allow_tf32 == before
        assert PRODUCTS.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


class _Precisions(TorchFunctionMode):
    """Whether TF32 was allowed at each product of matrices."""

    def __init__(self):
        super().__init__()
        self.rounded = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        name = getattr(function, "__name__", "")
        if name in {"matmul", "__matmul__", "linear", "bmm", "scaled_dot_product_attention"}:
            self.rounded.append(PRODUCTS.fp32_precision == "tf32")
        return function(*arguments, **(keywords or {}))


def test_exact_matches_and_ranks_are_never_of_rounded_products():
    torch.manual_seed(0)
    features, pairs = random_features(3, keypoints=8, length=128), np.array([[0, 1]], np.int32)
    lightglue = LightGlueMatcher(LightGlue(128).eval(), MatchSettings())
    nearest = NearestMatcher(NearestSettings())
    sides = vectors_and_sides(1, 4, 40, 8)
    works = {
        "LightGlue": lambda: lightglue.score(features, features, pairs),
        "nearest": lambda: nearest.score(features, features, pairs),
        "index": lambda: nearest_images(nearest, features, features, pairs, keep=1),
        "ranks": lambda: rank_on_device(*sides, device=torch.device("cpu"), keep=3),
    }
    torch.set_float32_matmul_precision("high")
    try:
        for name, work in works.items():
            with _Precisions() as seen:
                work()
            assert seen.rounded, name
            assert not any(seen.rounded), name
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_deterministic_mode_ends_with_what_it_is_for(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def modes():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    def strictly():
        with deterministic():
            assert modes() == (True, False)
            # Without it torch refuses a GPU's matrix products.
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            with deterministic(False):
                assert not modes()[0]
            assert modes() == (True, False)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        strictly()
    assert modes() == (False, True)


def test_vectors_can_be_asked_to_be_deterministic(monkeypatch):
    backbone = build_backbone("timm:test_vit", pretrained=False)
    embed, modes = Embedder(backbone, batch_size=1, deterministic=True), []
    forward = embed._forward

    def watched(images):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return forward(images)

    monkeypatch.setattr(embed, "_forward", watched)
    embed(np.zeros((2, backbone.image_size, backbone.image_size, 3), np.uint8))
    assert modes == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()


class _OnGpu:
    """A tensor of a GPU that copies later than it is asked to."""

    device = torch.device("cuda:1")

    def __init__(self, host):
        self.host = host

    def to(self, where, *, non_blocking):
        assert (where, non_blocking) == ("cpu", True)
        return self.host


def test_who_fetches_numbers_waits_for_their_copies_alone(monkeypatch):
    hosts, asked = [torch.zeros(2), torch.zeros(())], []

    class Stream:
        def record_event(self):
            asked.append("recorded")
            return self

        def synchronize(self):
            hosts[0].fill_(3)
            hosts[1].fill_(7)

    def stream_of(device):
        asked.append(device)
        return Stream()

    monkeypatch.setattr(torch.cuda, "current_stream", stream_of)
    fetched = Fetched(*map(_OnGpu, hosts))
    assert asked == [_OnGpu.device, "recorded"]
    assert [value.tolist() for value in fetched.wait()] == [[3, 3], 7]


def test_arrays_of_ray_go_to_a_gpu_without_a_warning(monkeypatch, recwarn):
    """They cannot be written; torch warns of that once in a process, unless it is set otherwise."""
    values = np.arange(12, dtype=np.float16).reshape(3, 4)[:, ::2]
    values.flags.writeable = False
    empty, pinned = torch.empty, []

    def on_host(shape, *, dtype, pin_memory):
        assert pin_memory
        pinned.append(empty(shape, dtype=dtype))
        return pinned[0]

    monkeypatch.setattr(torch, "empty", on_host)
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        there = on_device(values, torch.device("meta"))
    finally:
        torch.set_warn_always(before)
    assert (there.device.type, there.dtype, there.shape) == ("meta", torch.float16, (3, 2))
    assert pinned[0].tolist() == values.tolist()
    assert not recwarn.list


def test_a_copy_is_a_copy():
    values = np.arange(4)
    there = on_device(values[::2], torch.device("cpu"))
    values[:] = 9
    assert there.tolist() == [0, 2]


BLOCKS = """
import resource
import threading
import numpy as np
from exreid.models.device import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(80 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def measure():
    faults()
    given_back = faults()
    keep_memory()
    faults()
    print(given_back, faults())

if {beside_others}:
    for _ in range(20):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
else:
    measure()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
@pytest.mark.parametrize("beside_others", [False, True])
def test_memory_that_was_freed_is_used_again_and_not_asked_for_anew(beside_others):
    environment = {**os.environ, **(ONE_ARENA if beside_others else {})}
    code = BLOCKS.replace("{beside_others}", str(beside_others))
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    given_back, kept = map(int, printed.split())
    assert given_back > 100
    assert kept < given_back / 10


EXTRACTION = """
import resource
import numpy as np
import torch
from exreid.features.embedding import Embedder
from exreid.features.local_extraction import ExtractLocal, LocalPreprocessing
from exreid.models.backbones import build_backbone

torch.set_num_threads(1)
if {local}:
    preprocessing = LocalPreprocessing(512, False, "none", "none", 0.1)
    work = ExtractLocal(".", preprocessing, None, extractor="aliked-n16", keypoints=64).extract
    images = np.full((2, 512, 512, 3), 90, np.uint8)
else:
    images = np.full((16, 224, 224, 3), 90, np.uint8)
    work = Embedder(build_backbone("efficientnet-lite0"), batch_size=8)
for _ in range(2):
    work(images)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / len(images))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
@pytest.mark.parametrize(("local", "given_back"), [(False, 5000), (True, 70000)])
def test_an_extraction_keeps_its_memory(local, given_back):
    """``given_back``: about the page faults of an image where the system gets the memory back."""
    code = EXTRACTION.replace("{local}", str(local))
    faults = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert faults < given_back / 5


def test_the_benchmark_of_a_gpu_says_what_it_has_no_time_for(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from _gpu_world import QUICK_FACTOR, Bench
    from _report import Report

    report = Report("")
    ends_s = time.monotonic() + 60
    whole, small = (Bench(report, torch.device("cpu"), Path(), q, ends_s) for q in (False, True))
    assert whole.has_time("pairs", 30)
    assert not whole.has_time("runs", 100)
    assert small.has_time("runs", 100)
    assert not small.has_time("trainings", 61 * QUICK_FACTOR)
    assert [row["name"] for row in report.rows] == [
        f"{part}: LEFT OUT, takes about" for part in ("runs", "trainings")
    ]


def test_the_benchmark_of_a_gpu_runs_small_without_one(tmp_path):
    """Its parts without photographs; ``make bench`` runs them all."""
    parts = ["peaks", "ranking", "lightglue", "memory"]
    rows = tmp_path / "rows.json"
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    words = ["--device", "cpu", "--json", rows, "--only", *parts]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, *words], check=True, capture_output=True, env=own)
    value_of = {row["name"].strip(): row["value"] for row in json.loads(rows.read_text())}
    # By hand, for each of 2 x 64 keypoints in each of 9 layers: 9 square products of 256 for the
    # keypoint's own image and 8 for the other (a message's projection is one with what reads it),
    # and 4 products with 64 keypoints. Before and after: descriptors, the last projection, matches.
    by_hand = 2 * 128 * 9 * (17 * 256**2 + 4 * 64 * 256)
    by_hand += 2 * 128 * (128 * 256 + 256**2) + 2 * 64 * 64 * 256
    assert value_of["64 keypoints: arithmetic of a pair"] == pytest.approx(by_hand / 1e9, rel=1e-4)
    assert value_of["ranking, float64 products: columns that are the CPU's"] == 100
    assert value_of["ranking, float32 products: columns that are the CPU's"] == 100
    rates = ["fp32 in a large matrix product", "fp32, batches of 4", "bf16, batches of 4"]
    assert all(value_of[name] > 0 for name in rates)
