"""The parts of `gpu.py` that compare the GPU's numbers with the CPU's."""

from __future__ import annotations

import time
from functools import partial
from typing import Literal

import numpy as np
import torch
from _gpu_world import EXTRACTOR, Bench, random_features
from ranking import make_case

from exreid.errors import CheckpointError
from exreid.features.embedding import Embedder
from exreid.matching.cosine import rank_by_cosine
from exreid.matching.cosine_on_device import rank_on_device
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.local_index import nearest_images
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.models.backbones import build_backbone
from exreid.models.lightglue import load_lightglue
from exreid.records import Ranking

NEAR_PX = 0.1


def keypoints_agree(bench: Bench) -> None:
    """Keypoints and descriptors of the drawn photographs: ALIKED's, and DISK's, which takes a CPU
    some ten times as long, of a few."""
    _keypoints_agree(bench, EXTRACTOR, None)
    try:
        _keypoints_agree(bench, "disk", 2 if bench.quick else 16)
    except CheckpointError as error:
        print(f"disk is left out: {error}")


def _keypoints_agree(bench: Bench, name: str, photographs: int | None) -> None:
    ours, cpus = (
        bench.extract(d, keypoints=256, masks=True, name=name, photographs=photographs)
        for d in (bench.device, "cpu")
    )
    near, cosine = [], []
    for row in range(len(cpus)):
        count = min(ours.count_N[row], cpus.count_N[row])
        gap = np.abs(
            ours.keypoints_NK2[row, :count, None] - cpus.keypoints_NK2[row, None, :count]
        ).max(axis=2)
        same = gap.argmin(axis=1)
        found = gap[np.arange(count), same] < NEAR_PX
        near.append(found.mean())
        one = ours.descriptors_NKL[row, :count].astype(np.float64)[found]
        two = cpus.descriptors_NKL[row, :count].astype(np.float64)[same[found]]
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        cosine.append(((one * two).sum(axis=1) / lengths).min())
    report = bench.report
    share = 100 * float(np.mean(near))
    report.add(f"{name}: keypoints within {NEAR_PX} px of the CPU's", share, "%")
    report.add("  least cosine of their descriptors", float(np.min(cosine)), "")


def matches_agree(bench: Bench) -> None:
    """LightGlue's and the nearest neighbours' counts of the same features."""
    features = bench.extract("cpu", keypoints=256, masks=True)
    random = np.random.default_rng(1)
    count = 24 if bench.quick else 256
    pair_P2 = random.integers(0, len(features), (count, 2)).astype(np.int32)
    # Half of them show one animal: those have the many matches.
    pair_P2[::2, 1] = pair_P2[::2, 0] // 4 * 4 + random.integers(0, 4, len(pair_P2[::2]))
    exact = LightGlueMatcher(load_lightglue("aliked"), MatchSettings())
    reference = exact.score(features, features, pair_P2).match_count_P
    ways = {"fp32": MatchSettings(), "bf16": MatchSettings(dtype="bf16")}
    if bench.cuda:
        ways["bf16, compiled"] = MatchSettings(dtype="bf16", compile=True)
    for name, settings in ways.items():
        matcher = LightGlueMatcher(load_lightglue("aliked"), settings, bench.device)
        off = np.abs(matcher.score(features, features, pair_P2).match_count_P - reference)
        bench.report.add(f"{name}: pairs with the CPU's fp32 count", 100 * (off == 0).mean(), "%")
        bench.report.add("  its mean difference", float(off.mean()), "matches")
        bench.report.add(f"  its largest, of up to {reference.max()}", float(off.max()), "matches")
    ours, cpus = (
        NearestMatcher(NearestSettings(), d).score(features, features, pair_P2).match_count_P
        for d in (bench.device, "cpu")
    )
    bench.report.add("nearest: pairs with the CPU's count", 100 * (ours == cpus).mean(), "%")


def index_agrees(bench: Bench) -> None:
    """The nearest images of all keypoints, each photograph among the others; then many more."""
    features = bench.extract("cpu", keypoints=256, masks=True)
    pair_P2 = np.argwhere(~np.eye(len(features), dtype=bool)).astype(np.int32)
    ours, cpus = (
        nearest_images(NearestMatcher(NearestSettings(), d), features, features, pair_P2, keep=4)
        for d in (bench.device, "cpu")
    )
    same = 100 * (ours.image_QKC == cpus.image_QKC).mean()
    bench.report.add("index: nearest images that are the CPU's", same, "%")
    queries, images, keypoints = (4, 16, 64) if bench.quick else (64, 4096, 512)
    many, few = random_features(images, keypoints), random_features(queries, keypoints)
    pair_P2 = np.argwhere(np.ones((queries, images), bool)).astype(np.int32)
    matcher = NearestMatcher(NearestSettings(), bench.device)
    search = partial(nearest_images, matcher, few, many, pair_P2, keep=4)
    rate = len(pair_P2) / bench.seconds(search, 2)
    share = rate * 2 * keypoints**2 * 128 / bench.peak.get("fp32", np.nan)
    label = f"  {queries} queries, {images} photographs, {keypoints} keypoints"
    bench.report.add(label, rate, "pairs/s", "the product", share)
    if bench.cuda:
        bench.report.add("    its memory", bench.memory_gib(search), "GiB")


def ranking_agrees(bench: Bench) -> None:
    """Rankings by cosine, the products on the device, beside the CPU's; and their speed."""
    case = make_case(*((64, 2000) if bench.quick else (2000, 50_000)))
    sides = case.query_QD, case.gallery_GD, case.queries, case.gallery
    start = time.perf_counter()
    cpus = rank_by_cosine(*sides)
    cpu_s = time.perf_counter() - start
    size = f"{len(case.queries):,} queries, {len(case.gallery):,} images"
    for dtype in (torch.float64, torch.float32):
        ranked = partial(rank_on_device, *sides, device=bench.device, dtype=dtype)
        ours = ranked()
        name = str(dtype).removeprefix("torch.")
        same = [
            np.array_equal(getattr(ours, field), getattr(cpus, field))
            for field in Ranking.__dataclass_fields__
            if "score" not in field
        ]
        share = 100 * float(np.mean(same))
        bench.report.add(f"ranking, {name} products: columns that are the CPU's", share, "%")
        off = float(np.abs(ours.positive_score_P - cpus.positive_score_P).max())
        bench.report.add("  largest difference of a score", off, "")
        seconds = bench.seconds(ranked, 2)
        rate = len(case.queries) / seconds
        bench.report.add(f"  {size}", rate, "queries/s", "the CPU", cpu_s / seconds)


def embeddings_agree(bench: Bench) -> None:
    """EfficientNet-Lite0 with random weights."""
    size = 224
    images = np.stack([_resized(image, size) for image, _ in bench.prepared])
    torch.manual_seed(0)
    backbone = build_backbone("timm:tf_efficientnet_lite0", pretrained=False)
    cpus = Embedder(backbone, batch_size=16)(images)
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    for dtype in dtypes:
        torch.manual_seed(0)
        again = build_backbone("timm:tf_efficientnet_lite0", pretrained=False)
        ours = Embedder(again, batch_size=16, dtype=dtype, device=bench.device.type)(images)
        error = np.linalg.norm(ours - cpus) / np.linalg.norm(cpus)
        bench.report.add(f"embeddings, {dtype}: error against the CPU's", float(error), "of 1")


def _resized(image_HWC: np.ndarray, size: int) -> np.ndarray:
    import cv2

    resized: np.ndarray = cv2.resize(image_HWC, (size, size))
    return resized
