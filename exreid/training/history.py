"""The history of a training: one row per epoch, from before the first."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exreid.storage.files import temporary_beside

HISTORY_FILE = "history.csv"
COLUMNS = (
    *("epoch", "loss", "learning_rate", "gradient_norm", "images", "seconds"),
    *("images_per_s", "data_wait_share", "validation_s"),
)
VALIDATION_PREFIX = "val_"
LOW, HIGH = "_low", "_high"
"""Endings of the columns that hold the ends of a validation metric's 95% interval."""


def write_history(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``history.csv``, whole, under a temporary name, then renamed."""
    metrics = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *metrics], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file = folder / HISTORY_FILE
    temporary = temporary_beside(file)
    temporary.write_text(text.getvalue(), encoding="utf-8")
    temporary.replace(file)


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows written so far, without their empty cells; none where there is no file yet."""
    try:
        with (folder / HISTORY_FILE).open(newline="", encoding="utf-8") as stream:
            return [
                {name: float(cell) for name, cell in row.items() if cell}
                for row in csv.DictReader(stream)
            ]
    except FileNotFoundError:
        return []


def validation_of(
    row: dict[str, float],
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """A row's validation metrics and their 95% intervals, by the metrics' own names.

    >>> validation_of({"epoch": 1, "val_mAP": 0.3, "val_mAP_low": 0.2, "val_mAP_high": 0.5})
    ({'mAP': 0.3}, {'mAP': (0.2, 0.5)})
    """
    cells = {
        name.removeprefix(VALIDATION_PREFIX): value
        for name, value in row.items()
        if name.startswith(VALIDATION_PREFIX)
    }
    metrics = {name: value for name, value in cells.items() if not name.endswith((LOW, HIGH))}
    intervals = {
        name: (cells[f"{name}{LOW}"], cells[f"{name}{HIGH}"])
        for name in metrics
        if f"{name}{LOW}" in cells
    }
    return metrics, intervals


def best_row(rows: Sequence[dict[str, float]], metric: str) -> dict[str, float] | None:
    """The trained epoch with the highest validation metric, the earliest of equals.

    >>> best_row([{"epoch": 0, "val_mAP": 0.9}, {"epoch": 1, "val_mAP": 0.2}], "mAP")["epoch"]
    1
    """
    name = f"{VALIDATION_PREFIX}{metric}"
    trained = [row for row in rows if row["epoch"] > 0 and name in row]
    return max(trained, key=lambda row: row[name], default=None)
