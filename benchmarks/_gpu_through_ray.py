"""The parts of `gpu.py` that go through Ray: pairs over GPU actors, training over Ray Train."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from _features import stretched
from _gpu_fast import BACKBONES, TRAINED, bare_loop
from _gpu_world import Bench, random_features

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig, RayConfig
from exreid.config.training import FinetuneConfig
from exreid.data.images import prepare_image
from exreid.data.synthetic import METADATA_FILE, write_dataset
from exreid.distributed.match import ActorPool, MatchReport, match_over_actors
from exreid.distributed.placement import place_actors
from exreid.distributed.session import ray_session
from exreid.features.local_extraction import LocalFeatureStore, as_record
from exreid.matching.cascade import MakeMatcher
from exreid.matching.lightglue import MatchSettings
from exreid.matching.tiles import plan_tiles, score_tile
from exreid.pipeline.match import PAIRS_PER_TILE
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.storage.array_store import write_part
from exreid.training.checkpoint import FINAL
from exreid.training.history import read_history

TIMES = {"EfficientNet-Lite0, 224 px": 64, "Swin-L, 384 px": 4}
"""How often each photograph is in the table of a training: an epoch is to last some seconds."""
TRAINING_S = 45
"""Expected of a training on a card, from its start to its last checkpoint."""
METRICS = ("top_1", "top_5", "mAP", "mAP_at_k")


def pairs_through_ray(bench: Bench) -> None:
    """All pairs of two sets of images, their features read from the cache by the actors."""
    side, keypoints = (8, 64) if bench.quick else (320, 512)
    folder = bench.folder / "features"
    features = random_features(2 * side, keypoints)
    keys = [f"{i:032x}" for i in range(2 * side)]
    for start in range(0, len(keys), 32):
        rows = np.arange(start, min(start + 32, len(keys)))
        write_part(folder, [keys[i] for i in rows], as_record(features.take(rows)))
    query_P, gallery_P = (a.ravel() for a in np.mgrid[:side, :side])
    config = RayConfig(num_actors=1, gpus_per_worker=1.0 if bench.cuda else 0.0)
    with ray_session(config):
        placement = place_actors(config)
        store = LocalFeatureStore(folder, "aliked-n16", keypoints)
        for name in ("bf16",) if bench.quick else ("bf16", "bf16, compiled", "fp32"):
            settings = MatchSettings(
                dtype="fp32" if name == "fp32" else "bf16", compile="compiled" in name
            )
            make = MakeMatcher("aliked", settings, placement.device)
            few = slice(0, len(query_P) // (4 if name == "fp32" else 1))
            pools: list[ActorPool] = []
            # The first tile alone: the actor starts, and compiles.
            for part in (slice(0, PAIRS_PER_TILE[placement.device]), few):
                report, start_s = MatchReport(), time.perf_counter()
                found = match_over_actors(
                    plan_tiles(
                        query_P[part],
                        gallery_P[part],
                        pairs_per_tile=PAIRS_PER_TILE[placement.device],
                    ),
                    make,
                    score_tile,
                    queries=partial(store.gather_places, keys[:side]),
                    gallery=partial(store.gather_places, keys[side:]),
                    placement=placement,
                    report=report,
                    keep=pools,
                )
                done = sum(len(evidence) for _, evidence in found)
                seconds = time.perf_counter() - start_s
            for pool in pools:
                pool.stop()
            label = f"{done} pairs of {keypoints} keypoints through Ray, {name}"
            bench.report.add(label, done / seconds, "pairs/s")
            bench.report.add("  the matcher at work", 100 * (1 - report.wait_share), "%")


def trainings_through_ray(bench: Bench) -> None:
    """The whole training by one Ray Train worker, out of the decoded cache, and the bare loop.

    Each photograph is there several times, so that an epoch lasts some seconds.
    """
    root = bench.folder / "training-data"
    identities = 6 if bench.quick else 20
    write_dataset(
        root,
        identities=identities,
        images_per_identity=16,
        seed=1,
        image_wh_px=(256, 192),
        workers=os.cpu_count() or 1,
    )
    rows = pd.read_csv(root / METADATA_FILE)
    for label in list(TRAINED)[: 1 if bench.quick else None]:
        if not bench.has_time(f"training {label}", TRAINING_S):
            continue
        bare = bare_loop(bench, label)
        bench.report.add(f"training {label}, bare loop", bare, "images/s")
        _many_times(root, rows, 1 if bench.quick else TIMES[label])
        config = _training(bench, label, root)
        folder, _ = run_finetune(config)
        epochs = [row.training for row in read_history(folder) if row.training]
        later = median(epoch.images_per_s for epoch in epochs[1:])
        bench.report.add(
            f"training {label}, through Ray", later, "images/s", "bare loop", later / bare
        )
        waited = 100 * median(epoch.data_wait_share for epoch in epochs[1:])
        bench.report.add("  waiting for images", waited, "%")
        needed = later * _decoding_s(bench, root, config.dataset.image_size or 224)
        bench.report.add("  decoding as fast (decoded_cache=off) takes", needed, "CPUs")


def _decoding_s(bench: Bench, root: Path, side_px: int) -> float:
    """Seconds that one CPU takes for a photograph."""
    photographs = [file.read_bytes() for file in sorted(root.rglob("*.jpg"))[:16]]

    def decode() -> None:
        for data in photographs:
            prepare_image(data, None, stretched(side_px))

    return bench.seconds(decode) / len(photographs)


def _many_times(root: Path, rows: pd.DataFrame, times: int) -> None:
    parts = []
    for n in range(times):
        paths = rows["path"].str.replace(".jpg", f"-{n}.jpg")
        for path, again in zip(rows["path"], paths, strict=True):
            if not (root / again).exists():
                os.link(root / path, root / again)
        parts.append(rows.assign(path=paths))
    pd.concat(parts).to_csv(root / METADATA_FILE, index=False)


def _training(bench: Bench, label: str, root: Path) -> FinetuneConfig:
    model, size, _ = BACKBONES[label]
    batch = 4 if bench.quick else TRAINED[label]
    gpus = 1 if bench.cuda else 0
    return load_config(
        FinetuneConfig,
        None,
        [
            *(f"dataset.root={root}", "dataset.encounter_cols=[source,encounter]"),
            *(f"model.type={model}", "model.pretrained=false", f"dataset.image_size={size}"),
            *(f"train.batch_size={batch}", "train.epochs=2", "validation.fraction=0.05"),
            *("validation.mode=query_gallery", "validation.every=2", "ray.num_workers=1"),
            *(f"ray.gpus_per_worker={gpus}", f"output.root={bench.folder / 'trainings'}"),
            *(("train.amp=bf16",) if bench.cuda else ("train.amp=off",)),
        ],
    )


def runs_agree(bench: Bench) -> None:
    """A training, and probes with its weights: on the GPU over Ray, and on the CPU in this process,
    without Ray. Where there is no GPU, over Ray's CPU actors."""
    gpus = 1 if bench.cuda else 0
    sides = {
        "on the CPU": ["ray.num_actors=0", "ray.num_workers=0", "ray.gpus_per_worker=0"],
        "over Ray": ["ray.num_actors=1", "ray.num_workers=1", f"ray.gpus_per_worker={gpus}"],
    }
    common = [
        *(f"dataset.root={bench.root}", "dataset.encounter_cols=[source,encounter]"),
        "model.type=timm:tf_efficientnet_lite0",
    ]
    keypoints, candidates, curve_pairs = (64, 5, 40) if bench.quick else (128, 20, 100)
    local = [f"benchmark.local_top_k={keypoints}", f"benchmark.candidate_k={candidates}"]
    probes = {
        "cosine": [],
        "local_lightglue": local,
        "wildfusion": [*local, f"benchmark.calibration.pairs={curve_pairs}"],
    }
    weights: Path | None = None
    cpus: dict[str, float] = {}
    for number, (name, side) in enumerate(sides.items()):
        out = [f"output.root={bench.folder / f'runs-{number}'}"]
        found, trained = _trained([*common, *_workers(side), *out], 64 if bench.quick else 128)
        weights = weights or trained
        for method, keys in probes.items():
            probe = [f"benchmark.method={method}", f"model.checkpoint={weights}", *keys]
            probe += ["benchmark.bootstrap_resamples=0", *_actors(side), *out]
            _, result = run_probe(load_config(ProbeConfig, None, [*common, *probe]))
            known = {metric: result.metrics.get(metric) for metric in METRICS}
            found |= {f"{method}: {m}": value for m, value in known.items() if value is not None}
        cpus = cpus or found
        for what, value in found.items():
            ratio = value / cpus[what] if cpus is not found and cpus[what] else None
            bench.report.add(
                f"{what}, {name}", value, "", "" if ratio is None else "the CPU", ratio
            )


def _workers(side: list[str]) -> list[str]:
    return [key for key in side if "num_actors" not in key]


def _actors(side: list[str]) -> list[str]:
    return [key for key in side if "num_workers" not in key]


def _trained(keys: list[str], side_px: int) -> tuple[dict[str, float], Path]:
    """The losses of two epochs, and the weights after them."""
    more = [
        *("model.pretrained=false", "train.epochs=2", "train.batch_size=16", "optimizer.lr=0.0001"),
        *(f"dataset.image_size={side_px}", "validation.mode=query_gallery"),
        "train.deterministic=true",
    ]
    folder, _ = run_finetune(load_config(FinetuneConfig, None, [*keys, *more]))
    losses = {
        f"training: loss of epoch {row.epoch}": row.training.loss
        for row in read_history(folder)
        if row.training is not None
    }
    return losses, folder / FINAL
