"""Images per second of the whole extraction (read, decode, resize, embed, over actors) against a
bare forward loop of the same model on tensors that lie ready in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from _report import Report, arguments, interleaved_s

from exreid.config import RayConfig
from exreid.data.images import Preprocessing
from exreid.data.metadata import Columns, load_images
from exreid.data.synthetic import write_dataset
from exreid.distributed.extract import extract_over_actors
from exreid.distributed.session import Placement, place_actors, ray_session
from exreid.features.extraction import PrepareImages
from exreid.models.backbones import Backbone, build_backbone
from exreid.records import ImageTable

BATCH = 16


def bare_loop(backbone: Backbone, batches: list[torch.Tensor]) -> None:
    """The plain way: channels_last, all threads, nothing but the forward pass."""
    with torch.inference_mode():
        for batch in batches:
            backbone.module(batch)


def extraction(
    backbone: Backbone, table: ImageTable, prepare: PrepareImages, placement: Placement
) -> None:
    """The whole job, with actors started anew each time."""
    count = 0
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
    assert count == len(table)


def main() -> None:
    """Measure, and print the ratio."""
    options = arguments(__doc__ or "")
    images = 400 if options.quick else 3000
    backbone = build_backbone("efficientnet-lite0")
    backbone.module.to(memory_format=torch.channels_last)
    report = Report(f"Extraction of {images} synthetic images, efficientnet-lite0, fp32")
    with tempfile.TemporaryDirectory() as folder, ray_session(RayConfig()):
        root = Path(folder) / "data"
        write_dataset(root, identities=images // 10, images_per_identity=10, workers=2)
        table, _ = load_images(str(root), columns=Columns())
        preprocessing = Preprocessing(
            image_wh_px=(224, 224),
            resize="crop",
            crop_pct=backbone.crop_pct,
            interpolation="bicubic",
            no_background=False,
            crop_to_mask=False,
            crop_margin=0.0,
            fill_rgb=(128, 128, 128),
        )
        prepare = PrepareImages(table.root, preprocessing)
        placement = place_actors(RayConfig())
        batch = torch.rand(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
        batches = [batch] * (images // BATCH)
        bare_loop(backbone, batches[:2])
        seconds = interleaved_s(
            {
                "bare forward loop": lambda: bare_loop(backbone, batches),
                "extraction": lambda: extraction(backbone, table, prepare, placement),
            },
            repeats=1 if options.quick else 3,
        )
    bare = len(batches) * BATCH / seconds["bare forward loop"]
    whole = images / seconds["extraction"]
    report.add("bare forward loop", bare, "images/s")
    report.add("extraction, actors started", whole, "images/s", "bare forward loop", whole / bare)
    report.show(options.json)


if __name__ == "__main__":
    main()
