"""The parts of `gpu.py` that compare the GPU's numbers with the CPU's."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from _gpu_world import Bench, random_features

from exreid.features.embedding import Embedder
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.local_index import nearest_images
from exreid.matching.nearest import NearestMatcher, NearestSettings
from exreid.models.backbones import build_backbone
from exreid.models.lightglue import load_lightglue

NEAR_PX = 0.1
METRICS = ("top_1", "top_5", "mAP", "mAP_at_k")


def keypoints_agree(bench: Bench) -> None:
    """ALIKED's keypoints and descriptors of the drawn photographs."""
    ours, cpus = (bench.extract(d, keypoints=256, masks=True) for d in (bench.device, "cpu"))
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
    report.add(f"keypoints within {NEAR_PX} px of the CPU's", 100 * float(np.mean(near)), "%")
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


def runs_agree(bench: Bench) -> None:
    """A training, and probes with its weights, over Ray: with the GPU, and without."""
    sides = {"CPU": "ray.gpus_per_worker=0"}
    if bench.cuda:
        sides["GPU"] = "ray.gpus_per_worker=1"
    common = [f"dataset.root={bench.root}", "dataset.encounter_cols=[source,encounter]"]
    backbone = "model.type=timm:tf_efficientnet_lite0"
    out = {name: bench.folder / f"runs-{name}" for name in sides}
    finetune = [
        *("model.pretrained=false", "train.epochs=2", "train.batch_size=16", "ray.num_workers=1"),
        *("dataset.image_size=128", "validation.mode=query_gallery", "output.run_id=trained"),
        *("optimizer.lr=0.0001", "train.deterministic=true"),
    ]
    _all_at_once(
        [
            ["finetune", *common, backbone, *finetune, gpus, f"output.root={out[name]}"]
            for name, gpus in sides.items()
        ]
    )
    for name in sides:
        history = (out[name] / "results" / "trained" / "history.csv").read_text().splitlines()
        column = history[0].split(",").index("loss")
        losses = [line.split(",")[column] for line in history[1:]]
        for epoch, loss in enumerate(value for value in losses if value):
            bench.report.add(f"training on the {name}: loss of epoch {epoch + 1}", float(loss), "")
    weights = out["CPU"] / "results" / "trained" / "checkpoint-final.pth"
    probe = [backbone, f"model.checkpoint={weights}", "benchmark.bootstrap_resamples=0"]
    # benchmark.calibration.pairs: fewer than the default, since curves are not what is tested.
    methods = {
        "cosine": [],
        "local_lightglue": ["benchmark.local_top_k=128", "benchmark.candidate_k=20"],
        "wildfusion": ["benchmark.local_top_k=128", "benchmark.candidate_k=20"],
    }
    for method, more in methods.items():
        extra = ["benchmark.calibration.pairs=100"] if method == "wildfusion" else []
        _all_at_once(
            [
                [
                    *("probe", *common, *probe, f"benchmark.method={method}", *more, *extra),
                    *(gpus, f"output.root={out[name]}", f"output.run_id={method}"),
                ]
                for name, gpus in sides.items()
            ]
        )
        for name in sides:
            file = out[name] / "benchmark_runs" / method / "result.json"
            metrics = json.loads(file.read_text())["metrics"]
            for metric in (m for m in METRICS if metrics.get(m) is not None):
                bench.report.add(f"{method} on the {name}: {metric}", 100 * metrics[metric], "%")


def _all_at_once(commands: list[list[str]]) -> None:
    """Run `exreid` with each of these arguments; RuntimeError with the output of one that fails."""
    start = [sys.executable, "-m", "exreid.cli"]
    here = Path(__file__).parent.parent
    processes = [
        subprocess.Popen(
            [*start, *command],
            cwd=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    for command, process in zip(commands, processes, strict=True):
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"exreid {' '.join(command)}:\n{output[-3000:]}")
