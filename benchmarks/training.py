"""Images per second of the whole training over Ray's workers against a bare PyTorch loop.

The bare loop trains the same model with the same loss, batch and threads on tensors that lie ready
in memory, with nothing else around it; like every training it keeps its memory between steps
(`exreid.training.loop.keep_memory`), without which it takes a quarter more CPU time. The whole
job reads the decoded cache and augments; one that augments nothing shows what the engine itself
costs. The first epoch stands apart: it includes nothing but what later epochs include as well,
while the decoding before it is timed alone.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from _report import Report, arguments

from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.data.synthetic import write_dataset
from exreid.models.backbones import build_backbone
from exreid.runs.finetune import run_finetune
from exreid.training.history import read_history
from exreid.training.loop import keep_memory
from exreid.training.model import build_model
from exreid.training.optim import build_optimizer

BATCH = 32
PLAIN = [
    *("augment.crop_area=[1,1]", "augment.crop_aspect=[1,1]", "augment.brightness=0"),
    *("augment.contrast=0", "augment.saturation=0", "augment.blur=0", "augment.erase=0"),
]


def config_of(root: Path, out: Path, epochs: int, *more: str) -> FinetuneConfig:
    """The training that is timed: everything trained on but a few images to validate."""
    overrides = [
        *(f"dataset.root={root}", f"output.root={out}", f"train.batch_size={BATCH}"),
        *("dataset.encounter_cols=[source,encounter]", f"train.epochs={epochs}"),
        *("validation.fraction=0.05", "validation.mode=query_gallery", *more),
    ]
    return load_config(FinetuneConfig, None, overrides)


def bare_loop(config: FinetuneConfig, steps: int) -> float:
    """Images per second of forward, loss, backward and step, and nothing else."""
    torch.set_num_threads(2)
    keep_memory()
    backbone = build_backbone(config.model.type)
    model = build_model(backbone, config, classes=30, device=torch.device("cpu"))
    optimizer = build_optimizer(model.backbone, model.head, config.optimizer)
    images = torch.rand(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 30
    model.train()

    def step() -> None:
        model(images, labels, 1.0).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - start)


def whole_job(config: FinetuneConfig) -> tuple[list[float], float, float]:
    """Images per second of each epoch, the share of it spent waiting for images, and the
    seconds of decoding before it."""
    folder, result = run_finetune(config)
    stats = [row.training for row in read_history(folder) if row.training]
    waited = median(epoch.data_wait_share for epoch in stats)
    return [epoch.images_per_s for epoch in stats], waited, result.timings_s["decoding"]


def main() -> None:
    """Measure, and print the ratios."""
    options = arguments(__doc__ or "")
    identities, epochs, repeats = (12, 2, 1) if options.quick else (30, 3, 3)
    ways = {
        "2 workers": ["ray.num_workers=2"],
        "1 worker": ["ray.num_workers=1"],
        "1 worker, no augmentation": ["ray.num_workers=1", *PLAIN],
        "in process, no augmentation": ["ray.num_workers=0", *PLAIN],
    }
    bare: list[float] = []
    rates: dict[str, list[list[float]]] = {name: [] for name in ways}
    waits: dict[str, list[float]] = {name: [] for name in ways}
    decoding: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "out"
        write_dataset(root, identities=identities, images_per_identity=16, workers=2)
        for _ in range(repeats):
            for name, more in ways.items():
                bare.append(bare_loop(config_of(root, out, 1), steps=6))
                epoch_rates, waited, decoding_s = whole_job(config_of(root, out, epochs, *more))
                rates[name].append(epoch_rates)
                waits[name].append(waited)
                decoding.append(decoding_s)
    show(rates, waits, decoding, median(bare), options)


def show(
    rates: dict[str, list[list[float]]],
    waits: dict[str, list[float]],
    decoding: list[float],
    bare: float,
    options: object,
) -> None:
    """The table: each way's later epochs against the bare loop, its first against its later."""
    report = Report("Training efficientnet-lite0, fp32, batch 32, synthetic images of 224 pixels")
    for name, runs in rates.items():
        later = median(rate for run in runs for rate in run[1:])
        first = median(run[0] for run in runs)
        report.add(f"{name}, later epochs", later, "images/s", "bare loop", later / bare)
        report.add(f"{name}, first epoch", first, "images/s", "its later epochs", first / later)
        report.add(f"{name}, waiting for images", 100 * median(waits[name]), "%")
    report.add("bare loop", bare, "images/s")
    report.add("decoding before the first run", decoding[0], "s")
    report.add("the same from the cache", median(decoding[1:]), "s", "first", None)
    report.show(getattr(options, "json", None))


if __name__ == "__main__":
    main()
