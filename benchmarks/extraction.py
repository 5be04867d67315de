"""Images per second of the whole extraction (read, decode, resize, embed, over actors) against a
bare forward loop of the same model on tensors that lie ready in memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _report import Report, arguments

from exreid.config.probe import RayConfig
from exreid.data.images import Preprocessing
from exreid.data.metadata import Columns, read_image_table
from exreid.data.synthetic import write_dataset
from exreid.distributed.extract import extract_over_actors
from exreid.distributed.placement import Placement, place_actors
from exreid.distributed.session import ray_session
from exreid.features.extraction import PrepareImages
from exreid.models.backbones import Backbone, build_backbone
from exreid.records import ImageTable

BATCH = 16


def bare_loop(backbone: Backbone, batches: list[torch.Tensor]) -> None:
    """The plain way: channels_last, all threads, nothing but the forward pass."""
    with torch.inference_mode():
        for batch in batches:
            backbone.module(batch)


def extraction_rates(
    backbone: Backbone, table: ImageTable, prepare: PrepareImages, placement: Placement
) -> tuple[float, float]:
    """Images per second of the whole job, actors started anew, and of it from the first result.

    The first result of each actor ends its start; what it took is left out of the second figure
    together with its images.
    """
    count = warm = 0
    start = first = time.perf_counter()
    for batch in extract_over_actors(
        table,
        np.arange(len(table)),
        prepare=prepare,
        backbone=backbone,
        batch_size=BATCH,
        dtype="fp32",
        deterministic=False,
        placement=placement,
    ):
        assert not any(batch.error_N)
        count += len(batch.position_N)
        if warm == 0:
            warm, first = count, time.perf_counter()
    assert count == len(table)
    end = time.perf_counter()
    return len(table) / (end - start), (count - warm) / (end - first)


def main() -> None:
    """Measure, and print the ratio."""
    options = arguments(__doc__ or "")
    images = 400 if options.quick else 2000
    backbone = build_backbone("efficientnet-lite0")
    backbone.module.to(memory_format=torch.channels_last)
    report = Report(f"Extraction of {images} synthetic images, efficientnet-lite0, fp32")
    with tempfile.TemporaryDirectory() as folder, ray_session(RayConfig()):
        root = Path(folder) / "data"
        write_dataset(root, identities=images // 10, images_per_identity=10, workers=2)
        table, _ = read_image_table(str(root), columns=Columns())
        preprocessing = Preprocessing(
            image_wh_px=(224, 224),
            resize="crop",
            crop_pct=backbone.crop_pct,
            interpolation="bicubic",
            no_background=False,
            crop="none",
            crop_margin=0.0,
            fill_rgb=(128, 128, 128),
        )
        prepare = PrepareImages(table.root, preprocessing)
        placement = place_actors(RayConfig())
        batch = torch.rand(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
        batches = [batch] * (images // BATCH)
        bare_loop(backbone, batches[:2])
        bare, whole, steady = [], [], []
        for _ in range(1 if options.quick else 3):
            start = time.perf_counter()
            bare_loop(backbone, batches)
            bare.append(len(batches) * BATCH / (time.perf_counter() - start))
            rates = extraction_rates(backbone, table, prepare, placement)
            whole.append(rates[0])
            steady.append(rates[1])
    for name, rates_of in (
        ("extraction, once the actors run", steady),
        ("extraction, with their start", whole),
    ):
        rate, reference = median(rates_of), median(bare)
        report.add(name, rate, "images/s", "bare forward loop", rate / reference)
    report.add("bare forward loop", median(bare), "images/s")
    report.show(options.json)


if __name__ == "__main__":
    main()
