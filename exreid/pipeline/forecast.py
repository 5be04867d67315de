"""How long a run will take, said at its start.

From the arithmetic of LightGlue (Lindenberger et al. 2023) and what the other steps cost a core
(benchmarks/scaling.py), for the weights that come with the install, on this machine's CPUs.
"""

from __future__ import annotations

import math
import os

from exreid.config.probe import ProbeConfig
from exreid.matching.cascade import cascade_of, choosing_stages
from exreid.matching.lightglue import MatchSettings
from exreid.matching.nearest import NearestSettings
from exreid.progress import counted, duration, tell

EMBED_S = {"efficientnet-lite0": 0.02}
KEYPOINTS_S = {"aliked-n16": 0.17, "aliked-n16rot": 0.17, "aliked-n32": 0.3, "disk": 0.5}
"""CPU seconds of one core for a photograph, with its decoding."""
OPERATIONS_PER_S = {"fp32": 90e9, "bf16": 250e9}
"""Of a core that computes in bf16 (AVX-512), in the matcher."""
RAY_STARTS_S = 30.0
"""With its actors, on a machine with two cores."""
WIDTH = 256
"""Of LightGlue's states."""


def tell_forecast(config: ProbeConfig, *, images: int, queries: int, gallery: int) -> None:
    """Say how long the run takes at most, where that can be known."""
    seconds = cpu_seconds(config, images=images, queries=queries, gallery=gallery)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if seconds is None or not cores or _elsewhere(config):
        return
    start_s = 0.0 if config.ray.num_actors == 0 else RAY_STARTS_S
    minutes = math.ceil((seconds / cores + start_s) / 60)
    text = duration(60 * minutes).removesuffix(" 0 s")
    tell(
        f"{counted(images, 'photograph')}: at most about {text} on {counted(cores, 'CPU core')}, "
        "less for what is in the cache.",
        seconds=60 * minutes,
    )


def cpu_seconds(config: ProbeConfig, *, images: int, queries: int, gallery: int) -> float | None:
    """Of one core; None for a backbone or local features whose cost is not known."""
    benchmark = config.benchmark
    embed_s = EMBED_S.get(config.model.type)
    if embed_s is None:
        return None
    if benchmark.is_global:
        return images * embed_s
    keypoints_s = KEYPOINTS_S.get(benchmark.local_features)
    if keypoints_s is None:
        return None
    keypoints = benchmark.local_top_k
    stages = cascade_of(config) if benchmark.matches_pairs else []
    candidates = min(benchmark.candidate_k or gallery, gallery)
    query_s = gallery * pair_cpu_s(NearestSettings(), keypoints) if benchmark.has_index else 0.0
    for stage in stages:
        pairs = min(candidates, max(stage.least, stage.share * candidates))
        query_s += pairs * pair_cpu_s(stage.settings, keypoints)
    last_s = pair_cpu_s(stages[-1].settings, keypoints) if stages else 0.0
    asked = queries
    if benchmark.open_set.enabled:
        asked += min(benchmark.open_set.queries, gallery)
    fitted_s = 0.0
    if benchmark.method == "wildfusion" and benchmark.calibration.load is None:
        full = choosing_stages(config)[-1]
        through = max(full.least, full.share * candidates) if len(stages) > 1 else 1
        fitted_s = benchmark.calibration.pairs / through * (query_s if len(stages) > 1 else last_s)
    shown_s = queries * benchmark.keep_matches * last_s
    return images * (embed_s + keypoints_s) + asked * query_s + fitted_s + shown_s


def pair_cpu_s(settings: MatchSettings | NearestSettings, keypoints: int) -> float:
    """CPU seconds of one core for a pair of images with so many keypoints each."""
    if isinstance(settings, NearestSettings):
        return 2 * 128 * keypoints**2 / OPERATIONS_PER_S["fp32"]
    return pair_operations(settings, keypoints) / OPERATIONS_PER_S[settings.dtype]


def pair_operations(settings: MatchSettings, keypoints: int) -> float:
    """Additions and multiplications of LightGlue for a pair, without its input and assignment.

    In each layer, of both images: the projections and feed-forward nets of self- and of
    cross-attention (19 products with a width x width matrix), and the attention itself.
    """
    count = min(keypoints, settings.keypoints or keypoints)
    products = 2 * 19 * count * WIDTH**2
    attention = 2 * 8 * count**2 * WIDTH / 2
    return settings.layers * 2 * (products + attention)


def _elsewhere(config: ProbeConfig) -> bool:
    """Whether GPUs or other machines do the work."""
    import torch

    if config.ray.num_actors == 0:
        return False
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    return torch.cuda.is_available() or address not in (None, "", "local")
