"""The part of `gpu.py` that takes memory away from the GPU."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import torch
from _gpu_world import Bench, random_features

from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.tiles import score_tile
from exreid.models.lightglue import load_lightglue
from exreid.records import LocalFeatures

IMAGES, MANY = 64, 4096
"""Photographs whose features fit, and of each side of a tile whose do not."""


def too_little_memory(bench: Bench) -> None:
    """Batches that do not fit are halved, tiles whose features do not fit are matched in parts, and
    the counts are those of what fits."""
    if not bench.cuda:
        return
    few, pairs = random_features(IMAGES, 512), np.arange(2048)
    pair_P2 = np.stack([pairs % IMAGES, (7 * pairs + 1) % IMAGES], axis=1).astype(np.int32)
    _, same, matcher = _in_little_memory(bench, few, pair_P2, batch_keypoints=2**21)
    bench.report.add("with 4 GiB, batches of 2,048 pairs are halved", matcher.halved, "times")
    bench.report.add("  pairs with the count that they have without", same, "%")
    many, pairs = random_features(MANY, 512), np.arange(MANY)
    pair_P2 = np.stack([pairs, (7 * pairs + 1) % MANY], axis=1).astype(np.int32)
    tries, same, _ = _in_little_memory(bench, many, pair_P2, batch_keypoints=2**16)
    bench.report.add(f"with 4 GiB, a tile of {2 * MANY} photographs takes", tries, "tries")
    bench.report.add("  pairs with the count that they have without", same, "%")


def _in_little_memory(
    bench: Bench, features: LocalFeatures, pair_P2: np.ndarray, *, batch_keypoints: int
) -> tuple[int, float, LightGlueMatcher]:
    """How often it was tried, the percentage of equal counts, and the matcher."""
    settings = MatchSettings(dtype="bf16")
    matcher = LightGlueMatcher(load_lightglue("aliked"), settings, bench.device)
    whole = matcher.score(features, features, pair_P2).match_count_P
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4 * 2**30 / total), bench.device)
    matcher.gpu_batch_keypoints = batch_keypoints
    try:
        with patch.object(matcher, "score", wraps=matcher.score) as asked:
            again = score_tile(matcher, features, features, pair_P2).match_count_P
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    return asked.call_count, 100 * float((whole == again).mean()), matcher
