"""Leave-one-out with something fitted: each query is answered by what never saw its animal.

Where the queries are the database, a calibration or a decision that is fitted on the database has
seen the queries' answers. So the animals are dealt to folds, and the queries of a fold are answered
by what was fitted on the animals of the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.data.metadata_checks import split_value
from exreid.errors import CalibrationError
from exreid.metrics.identities import Leaders
from exreid.metrics.openset import Answers
from exreid.metrics.ranking import concatenate_rankings
from exreid.openset.decide import OpenSet
from exreid.records import Ranking, RetrievalSide
from exreid.storage.run_folder import write_table

FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """The queries of some animals, and the database without these."""

    number: int
    members: np.ndarray
    """Indices of the queries, rising."""
    left_out: np.ndarray
    """Identity codes that nothing is fitted on."""

    def taught(self, gallery: RetrievalSide) -> RetrievalSide:
        """What may be fitted on."""
        return gallery.take(np.flatnonzero(~np.isin(gallery.identity_N, self.left_out)))

    def folder(self, run: Path) -> Path:
        """Where what was fitted for this fold is written."""
        folder = run / "folds" / str(self.number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def fits_on_queries(config: ProbeConfig) -> bool:
    """Whether what is fitted on the database would be fitted on the queries."""
    dataset, benchmark = config.dataset, config.benchmark
    fits = benchmark.method == "wildfusion" and benchmark.calibration.load is None
    same = split_value(dataset.query_split_value) == split_value(dataset.database_split_value)
    return same and (fits or benchmark.open_set.enabled)


def animal_folds(queries: RetrievalSide, seed: int) -> list[Fold]:
    """The animals dealt at random, by the seed, to up to `FOLDS` folds; CalibrationError for fewer
    than four animals, whose folds would leave one to fit on."""
    animals = np.unique(queries.identity_N)
    if len(animals) < 4:
        raise CalibrationError(
            f"the queries are the database, and it has {len(animals)} animals: too few to fit on "
            "some and answer for others. Use two splits (dataset.make_split makes them)."
        )
    count = min(FOLDS, len(animals) // 2)
    dealt = np.random.default_rng(seed).permutation(len(animals)) % count
    folds = []
    for number in range(count):
        left_out = animals[dealt == number]
        members = np.flatnonzero(np.isin(queries.identity_N, left_out))
        folds.append(Fold(number + 1, members, left_out))
    return folds


def joined_rankings(parts: Sequence[Ranking], members: Sequence[np.ndarray]) -> Ranking:
    """One ranking in the order of the queries; ``members`` are the queries of each part."""
    whole = concatenate_rankings(parts)
    order_Q = np.argsort(np.concatenate(members))
    count_Q = np.diff(whole.positive_offset_Q1)[order_Q]
    start_Q = whole.positive_offset_Q1[:-1][order_Q]
    offset_Q1 = np.concatenate([[0], np.cumsum(count_Q)]).astype(np.int64)
    place_P = np.repeat(start_Q - offset_Q1[:-1], count_Q) + np.arange(offset_Q1[-1])
    return Ranking(
        positive_offset_Q1=offset_Q1,
        **{
            name: getattr(whole, name)[place_P if name.endswith("_P") else order_Q]
            for name in Ranking.__dataclass_fields__
            if name != "positive_offset_Q1"
        },
    )


def joined_decisions(parts: Sequence[OpenSet], members: Sequence[np.ndarray]) -> OpenSet:
    """The decisions in the order of the queries. New animals are not grouped: one cut for all
    queries would be learned on the queries."""
    order_Q = np.argsort(np.concatenate(members))

    def in_order(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)[order_Q]

    found = Leaders(
        *(
            in_order([getattr(part.found, name) for part in parts])
            for name in Leaders.__dataclass_fields__
        )
    )
    practice = Answers(
        *(
            np.concatenate([getattr(part.practice, name) for part in parts])
            for name in Answers.__dataclass_fields__
        )
    )
    return OpenSet(
        tuple(decider for part in parts for decider in part.deciders),
        practice,
        found,
        in_order([part.probability_Q for part in parts]),
        in_order([part.known_Q for part in parts]),
        None,
    )


def join_evidence(run: Path, folds: Sequence[Fold], queries: RetrievalSide) -> None:
    """``fusion.parquet`` of the run, from those of its folds, in the order of the queries."""
    files = [fold.folder(run) / "fusion.parquet" for fold in folds]
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    place = pd.Index(queries.image_ids).get_indexer(pd.Index(rows["query_id"]))
    rows = rows.iloc[np.lexsort((rows["rank"], place))]
    write_table(run / "fusion.parquet", pa.Table.from_pandas(rows, preserve_index=False))
    for file in files:
        file.unlink()
