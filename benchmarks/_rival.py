"""What a script of another tool reads and writes; it runs in that tool's environment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass
class Task:
    """One data set's photographs, and how they are compared."""

    folder: Path
    """Has the photographs, ``metadata.csv`` and ``lite0.pth``; the answers go there."""
    table: pd.DataFrame
    """A row for each photograph: ``path`` (absolute), ``unique_name``, ``split``."""
    keypoints: int
    shortlist: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_query(self) -> np.ndarray:
        """bool: the photographs that are asked about; the others are the gallery."""
        return (self.table["split"] == "test").to_numpy()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Keeps the seconds that the with-block takes, as ``features_s`` or ``answers_s``."""
        start = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - start

    def save(self, way: str, scores_QG: np.ndarray, pairs: int) -> None:
        """One way's scores, higher is more alike; NaN: not compared."""
        np.savez(
            self.folder / f"{way}.npz",
            scores_QG=np.float64(scores_QG),
            pairs=pairs,
            features_s=self.seconds["features_s"],
            answers_s=self.seconds["answers_s"],
        )


def read_task(folder: Path) -> Task:
    """What `rivals.py` has written."""
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    table["path"] = [str(folder / path) for path in table["path"]]
    return Task(folder, table, **json.loads((folder / "task.json").read_text()))
