"""Rows of an image table as blocks of a Ray data set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from exreid.features.extraction import input_columns
from exreid.records import ImageTable

MAX_RESTARTS = 3
"""Of an actor that extracts from blocks, and of its tasks."""


def table_block(table: ImageTable, positions: np.ndarray) -> pa.Table:
    """Columns ``position``, ``path`` and ``region`` of the images at these positions."""
    return pa.table(
        {
            name: pa.array(column.tolist(), pa.int64() if name == "position" else pa.string())
            for name, column in input_columns(table, positions).items()
        }
    )


def table_blocks(table: ImageTable, positions: np.ndarray, per_block: int) -> list[pa.Table]:
    """Blocks of ``per_block`` images, the last one of the rest."""
    return [
        table_block(table, positions[start : start + per_block])
        for start in range(0, len(positions), per_block)
    ]
