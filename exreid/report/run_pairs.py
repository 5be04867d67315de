"""Pairs of visits of a run: the scored ones, and those that show two animals."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.errors import RunError
from exreid.storage.run_files import NUMBER, TEXT, read_run_table

LEAST, MOST = 1e-6, 1 - 1e-6
"""Probabilities are between these."""


def read_pairs(folder: Path, animals: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    """Of each pair of visits its places in ``names``, the smaller first, the rows of its best
    photographs, and the probability; rising."""
    columns = dict.fromkeys(("first_encounter", "second_encounter", "first_id", "second_id"), TEXT)
    file = folder / "pairs.parquet"
    table = read_run_table(file, {**columns, "probability": NUMBER}).to_pandas()
    row_of = {image: row for row, image in enumerate(animals["image_id"])}
    place_of = {str(name): place for place, name in enumerate(names)}
    try:
        visit_P2 = np.array(
            [[place_of[a], place_of[b]] for a, b in table.iloc[:, :2].to_numpy()], np.int64
        ).reshape(-1, 2)
        image_P2 = np.array(
            [[row_of[a], row_of[b]] for a, b in table[["first_id", "second_id"]].to_numpy()],
            np.int64,
        ).reshape(-1, 2)
    except KeyError as error:
        raise RunError(f"{file}: names {error}, which animals.parquet does not have.") from error
    turned_P = visit_P2[:, 0] > visit_P2[:, 1]
    visit_P2[turned_P], image_P2[turned_P] = visit_P2[turned_P, ::-1], image_P2[turned_P, ::-1]
    frame = pd.DataFrame(
        {
            "first": visit_P2[:, 0],
            "second": visit_P2[:, 1],
            "first_row": image_P2[:, 0],
            "second_row": image_P2[:, 1],
            "probability": table["probability"].clip(LEAST, MOST),
        }
    )
    return frame.sort_values(["first", "second"], ignore_index=True)


def apart_pairs(photos: pd.DataFrame, visit_N: np.ndarray) -> np.ndarray:
    """Pairs of visits that are animals of one photograph, int64 (N, 2)."""
    places = photos["root"].astype(str) + "/" + photos["path"].astype(str)
    found = {
        pair
        for _, visits in pd.Series(visit_N).groupby(places.to_numpy())
        for pair in combinations(sorted(set(visits)), 2)
    }
    return np.array(sorted(found), np.int64).reshape(-1, 2)
