"""Images per second of the whole training over Ray's workers against a bare PyTorch loop.

The bare loop trains the same model with the same loss, batch and threads on tensors that lie ready
in memory, with nothing else around it; like every training it keeps its memory between steps
(`exreid.models.device.keep_memory`), without which it takes a quarter more CPU time. The whole
job reads the decoded cache and augments; one that augments nothing shows what the engine itself
costs. The first epoch stands apart: it includes nothing but what later epochs include as well,
while the decoding before it is timed alone.

CPU time and page faults are those of the training process (with several, of the first) in an epoch
between the first and the last. They say what a noisy machine's clock hides: a worker that trains as
this process does takes the same CPU time for an image, and asks the system for no memory.
"""

from __future__ import annotations

import json
import os

# Threads that wait for one another sleep: CPU time is then that of work, on a busy machine as well.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from _report import Report, arguments

from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.data.synthetic import write_dataset
from exreid.models.backbones import build_backbone
from exreid.models.device import keep_memory
from exreid.runs.finetune import run_finetune
from exreid.training.history import HistoryRow, read_history
from exreid.training.model import build_model
from exreid.training.optim import build_optimizer

BATCH, EPOCHS = 32, 3
CPUS = os.cpu_count() or 1
PLAIN = [
    *("augment.crop_area=[1,1]", "augment.crop_aspect=[1,1]", "augment.brightness=0"),
    *("augment.contrast=0", "augment.saturation=0", "augment.blur=0", "augment.erase=0"),
]
WAYS = {
    "2 workers": (2, []),
    "1 worker": (1, []),
    "1 worker, no augmentation": (1, PLAIN),
    "in process, no augmentation": (0, PLAIN),
}
"""Workers, and what else is set."""


@dataclass(frozen=True)
class Usage:
    """What a process has used since its start."""

    cpu_s: float
    faults: int
    """Pages that the system gave it."""

    @classmethod
    def now(cls) -> Usage:
        """Of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime + used.ru_stime, used.ru_minflt)


@dataclass(frozen=True)
class NoteUsage:
    """Adds a line to a file after each epoch but the last, in the process that trains."""

    file: Path

    def __call__(self, history: Sequence[HistoryRow]) -> bool:
        """Never stops the training."""
        with self.file.open("a") as stream:
            stream.write(json.dumps(asdict(Usage.now())) + "\n")
        return False


@dataclass(frozen=True)
class Measured:
    """One training, or one bare loop."""

    images_per_s: list[float]
    """Of each epoch."""
    cpu_ms: float
    """Of an image."""
    faults: float
    """Of an image."""
    waited: float = 0.0
    """Share of the time spent waiting for images."""
    decoding_s: float = 0.0


def config_of(root: Path, out: Path, workers: int, *more: str) -> FinetuneConfig:
    """The training that is timed: everything trained on but a few images to validate."""
    overrides = [
        *(f"dataset.root={root}", f"output.root={out}", f"train.batch_size={BATCH}"),
        *("dataset.encounter_cols=[source,encounter]", f"train.epochs={EPOCHS}"),
        *("validation.fraction=0.05", "validation.mode=query_gallery"),
        *(f"validation.every={EPOCHS}", f"ray.num_workers={workers}"),
        *(f"ray.cpus_per_worker={max(1, CPUS // max(1, workers))}", *more),
    ]
    return load_config(FinetuneConfig, None, overrides)


def bare_loop(config: FinetuneConfig, steps: int) -> Measured:
    """Forward, loss, backward and step, and nothing else."""
    torch.set_num_threads(CPUS)
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
    before, start_s = Usage.now(), time.perf_counter()
    for _ in range(steps):
        step()
    seconds, after, count = time.perf_counter() - start_s, Usage.now(), steps * BATCH
    return Measured([count / seconds], *_each(before, after, count))


def whole_job(config: FinetuneConfig, workers: int) -> Measured:
    """A run as a user's, from the table to its result."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "usage"
        run, result = run_finetune(config, stop_early=NoteUsage(notes))
        usages = [Usage(**json.loads(line)) for line in notes.read_text().splitlines()]
    stats = [row.training for row in read_history(run) if row.training]
    return Measured(
        [epoch.images_per_s for epoch in stats],
        *_each(usages[-2], usages[-1], stats[0].images / max(1, workers)),
        median(epoch.data_wait_share for epoch in stats),
        result.timings_s["decoding"],
    )


def _each(before: Usage, after: Usage, images: float) -> tuple[float, float]:
    """CPU milliseconds and page faults of an image."""
    return (
        1e3 * (after.cpu_s - before.cpu_s) / images,
        (after.faults - before.faults) / images,
    )


def main() -> None:
    """Measure, and print the ratios."""
    options = arguments(__doc__ or "")
    identities, repeats = (12, 1) if options.quick else (30, 3)
    bare: list[Measured] = []
    jobs: dict[str, list[Measured]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "out"
        write_dataset(root, identities=identities, images_per_identity=16, workers=2)
        for _ in range(repeats):
            for name, (workers, more) in WAYS.items():
                config = config_of(root, out, workers, *more)
                bare.append(bare_loop(config, steps=6))
                jobs[name].append(whole_job(config, workers))
    show(jobs, bare, options.json)


def show(jobs: dict[str, list[Measured]], bare: list[Measured], file: Path | None) -> None:
    """The table: each way's later epochs against the bare loop, its first against its later."""
    report = Report("Training efficientnet-lite0, fp32, batch 32, synthetic images of 224 pixels")
    bare_rate = median(loop.images_per_s[0] for loop in bare)
    bare_ms = median(loop.cpu_ms for loop in bare)
    for name, runs in jobs.items():
        later = median(rate for run in runs for rate in run.images_per_s[1:])
        first = median(run.images_per_s[0] for run in runs)
        cpu_ms = median(run.cpu_ms for run in runs)
        report.add(f"{name}, later epochs", later, "images/s", "bare loop", later / bare_rate)
        report.add(f"{name}, first epoch", first, "images/s", "its later epochs", first / later)
        report.add(f"{name}, CPU time", cpu_ms, "ms/image", "bare loop", cpu_ms / bare_ms)
        report.add(f"{name}, page faults", median(run.faults for run in runs), "1/image")
        report.add(f"{name}, waiting for images", 100 * median(r.waited for r in runs), "%")
    report.add("bare loop", bare_rate, "images/s")
    report.add("bare loop, CPU time", bare_ms, "ms/image")
    report.add("bare loop, page faults", median(loop.faults for loop in bare), "1/image")
    decoding_s = [run.decoding_s for runs in jobs.values() for run in runs]
    report.add("decoding before the first run", decoding_s[0], "s")
    report.add("the same from the cache", median(decoding_s[1:]), "s", "first", None)
    report.show(file)


if __name__ == "__main__":
    main()
