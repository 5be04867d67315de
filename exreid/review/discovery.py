"""What a review of a discovery begins with, read from the files of `exreid discover`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exreid.errors import ReviewError, reading
from exreid.review.belief import pair_graph
from exreid.review.state import Subject, subject_of

LEAST_PROBABILITY = 1e-6
REMEDY = "A review needs the whole folder of a finished exreid discover."


@dataclass(frozen=True, eq=False)
class Discovered:
    """A discovery to be reviewed."""

    subject: Subject
    images: Mapping[str, tuple[str, ...]]
    """By visit the ids of its photographs, in the table's order."""
    alike: Mapping[tuple[str, str], tuple[str, str]]
    """By scored pair of visits, in the order of their names, the photograph of each that are most
    alike."""


def read_discovery(folder: Path, seed: int = 0) -> Discovered:
    """The visits of ``animals.parquet``, with the probabilities of ``pairs.parquet``. A pair that
    was not scored has the lowest probability of those that were; visits of one photograph
    (``photos.parquet``) show two animals. ReviewError for a folder without these files."""
    animals = _columns(folder / "animals.parquet", "image_id", "encounter")
    pairs = _columns(
        folder / "pairs.parquet",
        *("first_encounter", "second_encounter", "first_id", "second_id", "probability"),
    )
    photos = _columns(folder / "photos.parquet", "image_id", "path")
    visits = sorted(set(animals["encounter"]))
    place = {name: v for v, name in enumerate(visits)}
    images: dict[str, list[str]] = {name: [] for name in visits}
    for image, visit in zip(animals["image_id"], animals["encounter"], strict=True):
        images[visit].append(image)
    with reading(folder / "pairs.parquet", ReviewError, REMEDY):
        ends = [[place[name] for name in pairs[f"{end}_encounter"]] for end in ("first", "second")]
        pair_P2 = np.sort(np.array(ends, np.int64).T.reshape(-1, 2), axis=1)
        order_P = np.lexsort((pair_P2[:, 1], pair_P2[:, 0]))
        probability_P = np.clip(
            np.array(pairs["probability"], np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY
        )
    alike = {}
    for name, other, image, its in zip(*list(pairs.values())[:4], strict=True):
        alike[min(name, other), max(name, other)] = (image, its) if name < other else (its, image)
    visit_of = dict(zip(animals["image_id"], animals["encounter"], strict=True))
    graph = pair_graph(
        len(visits),
        pair_P2[order_P],
        probability_P[order_P],
        unlisted=float(probability_P.min(initial=0.5)),
        apart_N2=_of_one_photograph(photos, visit_of, place),
    )
    kept = {name: tuple(ids) for name, ids in images.items()}
    return Discovered(subject_of(visits, graph, seed), kept, alike)


def _columns(file: Path, *names: str) -> dict[str, list[str]]:
    with reading(file, ReviewError, REMEDY):
        table: pa.Table = pq.read_table(file, columns=list(names))
        return {name: table[name].to_pylist() for name in names}


def _of_one_photograph(
    photos: Mapping[str, list[str]], visit_of: Mapping[str, str], place: Mapping[str, int]
) -> np.ndarray:
    """Pairs of visits that share a photograph, int64 (N, 2)."""
    shown: dict[str, set[int]] = {}
    for image, path in zip(photos["image_id"], photos["path"], strict=True):
        if image in visit_of:
            shown.setdefault(path, set()).add(place[visit_of[image]])
    pairs = {
        (one, other)
        for visits in shown.values()
        for one in visits
        for other in visits
        if one < other
    }
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
