"""LightGlue on one device, without Ray: pairs per second by keypoints, arithmetic and batch size.

Weights and features are random, which changes no speed: nothing is downloaded, and what a pair
costs does not depend on what is seen. Beside each figure stands the share of the arithmetic that
the device reaches in one large matrix product of the same type, measured in the same run; batches
grow until pairs per second do not. By default on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _report import Report
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.models.lightglue import LightGlue
from exreid.records import LocalFeatures

WAYS = {
    "fp32": MatchSettings(),
    "bf16": MatchSettings(dtype="bf16"),
    "bf16, compiled": MatchSettings(dtype="bf16", compile=True),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMAGES = 64
SATURATED = 1.05
"""Batches of twice as many pairs that gain less than this are as large as is worth it."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--keypoints", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--largest", type=int, default=512, help="pairs of a batch")
    return parser.parse_args()


def random_features(keypoints: int) -> LocalFeatures:
    """Images with as many keypoints each."""
    random = np.random.default_rng(0)
    descriptors = random.standard_normal((IMAGES, keypoints, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    places = random.uniform(0, 512, (IMAGES, keypoints, 2)).astype(np.float32)
    return LocalFeatures(
        places,
        descriptors.astype(np.float16),
        np.full(IMAGES, keypoints, np.int32),
        np.full((IMAGES, 2), 512, np.int32),
    )


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of one call, when the device has done it; the first call, which compiles, is left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def product_flops_per_s(dtype: torch.dtype, device: torch.device) -> float:
    """Of a large matrix product."""
    size = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, device, 5)


def flops_per_pair(features: LocalFeatures, device: torch.device) -> float:
    """Arithmetic of one pair, as torch counts it."""
    matcher = LightGlueMatcher(network(), MatchSettings(), device)
    one = np.zeros((1, 2), np.int32)
    # The plain form of attention: torch does not count every other.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        matcher.score(features.take(np.arange(1)), features.take(np.arange(1)), one)
    return float(counted.get_total_flops())


def network() -> LightGlue:
    """As ALIKED's, with random weights."""
    torch.manual_seed(0)
    return LightGlue(128).eval().requires_grad_(False)


def rates(
    features: LocalFeatures, settings: MatchSettings, device: torch.device, largest: int
) -> dict[int, float]:
    """Pairs per second by the pairs of a batch, twice as many each time until it gains nothing."""
    found: dict[int, float] = {}
    batch, cuda = 8, device.type == "cuda"
    while batch <= largest:
        matcher = LightGlueMatcher(network(), replace(settings, batch_pairs=batch), device)
        rows = np.arange(batch * (4 if cuda else 1))
        pair_P2 = np.stack([rows % IMAGES, (7 * rows + 1) % IMAGES], axis=1).astype(np.int32)
        score = partial(matcher.score, features, features, pair_P2)
        rate = len(pair_P2) / seconds(score, device, 3 if cuda else 1)
        best = max(found.values(), default=0.0)
        found[batch] = rate
        if rate < SATURATED * best:
            break
        batch *= 2
    return found


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} CPU threads"
    report = Report(f"LightGlue on {name}")
    peak = {dtype: product_flops_per_s(DTYPES[dtype], device) for dtype in DTYPES}
    for dtype, flops in peak.items():
        report.add(f"{dtype} in a large matrix product", flops / 1e12, "TFLOP/s")
    largest = 16 if options.quick else options.largest
    for keypoints in options.keypoints[: 1 if options.quick else None]:
        features = random_features(keypoints)
        flops = flops_per_pair(features, device)
        report.add(f"{keypoints} keypoints: arithmetic of a pair", flops / 1e9, "GFLOP")
        for way, settings in WAYS.items():
            if options.quick and settings.compile:
                continue
            for batch, rate in rates(features, settings, device, largest).items():
                share = rate * flops / peak[settings.dtype]
                report.add(f"  {way}, batches of {batch}", rate, "pairs/s", "the product", share)
    report.show(options.json)


if __name__ == "__main__":
    main()
