"""A training's history, a row per epoch, and its count of images, as files to watch."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from exreid.storage.files import written_whole

HISTORY_FILE = "history.csv"
HISTORY_COLUMNS = (
    *("epoch", "loss", "learning_rate", "gradient_norm", "images", "seconds"),
    *("images_per_s", "data_wait_share", "validation_s"),
)
VALIDATION_PREFIX = "val_"
LOW, HIGH = "_low", "_high"
"""Endings of the columns with the ends of a validation metric's 95% interval."""


@dataclass(frozen=True)
class EpochStats:
    """The statistics of one epoch of training, over all workers."""

    loss: float
    """Mean over the images, each at the weights of its step."""
    learning_rate: float
    """Of the last step."""
    gradient_norm: float
    """Mean over the steps, before clipping."""
    images: int
    seconds: float
    data_wait_share: float
    """Share of the time that the workers, on average, waited for images."""

    @property
    def images_per_s(self) -> float:
        """Images trained on per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class HistoryRow:
    """One epoch of a training; epoch 0 is the state before the first."""

    epoch: int
    training: EpochStats | None = None
    """None for epoch 0."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the validation, fractions; empty where there was none."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The [low, high] ends of the metrics' 95% intervals."""
    validation_s: float | None = None

    def cells(self) -> dict[str, float]:
        """The columns of ``history.csv`` and of a checkpoint, by name.

        >>> HistoryRow(0, metrics={"mAP": 0.3}, intervals={"mAP": (0.2, 0.5)}).cells()
        {'epoch': 0, 'val_mAP': 0.3, 'val_mAP_low': 0.2, 'val_mAP_high': 0.5}
        """
        cells: dict[str, float] = {"epoch": self.epoch}
        if self.training is not None:
            cells |= {**asdict(self.training), "images_per_s": self.training.images_per_s}
        cells |= {f"{VALIDATION_PREFIX}{name}": value for name, value in self.metrics.items()}
        for name, (low, high) in self.intervals.items():
            column = f"{VALIDATION_PREFIX}{name}"
            cells |= {f"{column}{LOW}": low, f"{column}{HIGH}": high}
        if self.validation_s is not None:
            cells["validation_s"] = self.validation_s
        return cells

    @classmethod
    def from_cells(cls, cells: Mapping[str, float]) -> HistoryRow:
        """The row that has these `cells`; KeyError, TypeError or ValueError where none can."""
        training = None
        if "loss" in cells:
            training = EpochStats(
                loss=cells["loss"],
                learning_rate=cells["learning_rate"],
                gradient_norm=cells["gradient_norm"],
                images=int(cells["images"]),
                seconds=cells["seconds"],
                data_wait_share=cells["data_wait_share"],
            )
        validated = {
            name.removeprefix(VALIDATION_PREFIX): value
            for name, value in cells.items()
            if name.startswith(VALIDATION_PREFIX)
        }
        metrics = {n: value for n, value in validated.items() if not n.endswith((LOW, HIGH))}
        intervals = {
            name: (validated[f"{name}{LOW}"], validated[f"{name}{HIGH}"])
            for name in metrics
            if f"{name}{LOW}" in validated
        }
        return cls(int(cells["epoch"]), training, metrics, intervals, cells.get("validation_s"))


def epoch_text(row: HistoryRow, epochs: int) -> str:
    """An epoch in a line.

    >>> stats = EpochStats(3.2, 0.001, 1.0, images=120, seconds=4.0, data_wait_share=0.0)
    >>> epoch_text(HistoryRow(2, stats, {"top_1": 0.25, "mAP": 0.2}), epochs=10)
    'Epoch 2 of 10: loss 3.200, learning rate 1.0e-03, 30.0 images/s; validation top_1 25.0%, \
mAP 20.0%'
    """
    parts = []
    if row.training is not None:
        stats = row.training
        parts.append(
            f"loss {stats.loss:.3f}, learning rate {stats.learning_rate:.1e}, "
            f"{stats.images_per_s:.1f} images/s"
        )
    shown = [f"{name} {row.metrics[name]:.1%}" for name in ("top_1", "mAP") if name in row.metrics]
    if shown:
        parts.append(f"validation {', '.join(shown)}")
    when = f"Epoch {row.epoch} of {epochs}" if row.epoch else "Before training"
    return f"{when}: {'; '.join(parts)}"


def write_history(folder: Path, history: Sequence[HistoryRow]) -> None:
    """``history.csv``, whole, under a temporary name, then renamed."""
    rows = [row.cells() for row in history]
    metrics = dict.fromkeys(name for row in rows for name in row if name not in HISTORY_COLUMNS)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*HISTORY_COLUMNS, *metrics], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file = folder / HISTORY_FILE
    with written_whole(file) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_history(folder: Path) -> list[HistoryRow]:
    """The rows written so far; none where there is no file yet."""
    try:
        with (folder / HISTORY_FILE).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError:
        return []
    return [
        HistoryRow.from_cells({name: float(cell) for name, cell in row.items() if cell})
        for row in rows
    ]


def best_row(
    history: Sequence[HistoryRow], metric: str, *, untrained: bool = False
) -> HistoryRow | None:
    """The epoch with the highest validation metric, the earliest of equals; epoch 0 with
    ``untrained`` alone.

    >>> history = [HistoryRow(0, metrics={"mAP": 0.9}), HistoryRow(1, metrics={"mAP": 0.2})]
    >>> best_row(history, "mAP").epoch, best_row(history, "mAP", untrained=True).epoch
    (1, 0)
    """
    rows = [row for row in history if (untrained or row.epoch > 0) and metric in row.metrics]
    return max(rows, key=lambda row: row.metrics[metric], default=None)


class ProgressFile:
    """The number of images trained on so far, in a small file for progress displays."""

    NAME = ".progress"
    EVERY_S = 0.5

    def __init__(self, folder: Path) -> None:
        self.file, self.written_s = folder / self.NAME, 0.0

    def write(self, count: int) -> None:
        """Write the count, unless one was written just now."""
        if time.monotonic() - self.written_s >= self.EVERY_S:
            self.written_s = time.monotonic()
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(str(count), encoding="ascii")
            temporary.replace(self.file)

    @classmethod
    def read(cls, folder: Path) -> int:
        """The last count; 0 where there is none."""
        try:
            return int((folder / cls.NAME).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0
