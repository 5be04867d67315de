"""What a discovery writes: its tables, its figures, and what other runs can go by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes
from exreid.data.metadata_rows import encounter_name
from exreid.errors import CalibrationError
from exreid.explain.answer_words import discovered_words
from exreid.gallery.answer_tables import picture_below, picture_row
from exreid.metrics.grouping import adjusted_rand_index, drawn_rand_index
from exreid.metrics.partitions import grouping_metrics
from exreid.metrics.uncertainty import bootstrap_statistic
from exreid.openset.fit_grouping import VisitGrouping, count_animals, fit_visit_grouping
from exreid.openset.group_visits import belonging, group_visits
from exreid.pipeline.discover import ScoredVisits, named_pairs, nearest_scored, scored_by
from exreid.records import Counts, ImageTable
from exreid.storage.run_folder import write_table, write_text
from exreid.storage.spreadsheets import csv_text

DISCOVERY_FILE = "discovery.json"


@dataclass(frozen=True)
class Discovery:
    """What a set of photographs shows."""

    counts: Counts
    metrics: dict[str, float]
    """Where names are known."""
    intervals: dict[str, tuple[float, float]]
    words: tuple[str, ...]
    """The number of animals, the cut, and where the probabilities come from."""
    rows: pd.DataFrame
    """``animals.csv``."""


@dataclass(frozen=True)
class GroupingSource:
    """Where the probabilities come from."""

    grouping: VisitGrouping
    kind: str
    """``other animals``, ``gallery``, ``discovery`` or ``fusion``."""
    words: str


def write_grouped(
    table: ImageTable,
    scored: ScoredVisits,
    source: GroupingSource,
    config: ProbeConfig,
    folder: Path,
) -> Discovery:
    """Group the visits, and write all tables."""
    grouping, pairs = source.grouping, scored.pairs
    probability_P = grouping.curve.apply(pairs.score_P)
    group_V = _by_size(
        group_visits(pairs, probability_P, grouping.cut, scored.photo_V), scored.images_V
    )
    belongs_V = belonging(pairs, probability_P, group_V)
    visits, groups = len(group_V), int(group_V.max()) + 1
    group_N = group_V[scored.visit_N]
    ids, visit_names = list(scored.side.image_ids), _visit_names(table, scored)
    animals = pa.table(
        {
            "image_id": pa.array(ids, pa.string()),
            "encounter": pa.array([visit_names[v] for v in scored.visit_N], pa.string()),
            "group": pa.array(group_N + 1),
            "probability": pa.array(belongs_V[scored.visit_N]),
            "identity": pa.array(table.rows["identity"].tolist(), pa.string(), from_pandas=True),
        }
    )
    write_table(folder / "animals.parquet", animals)
    first, second = pairs.visit_P2.T
    pair_table = {
        "first_encounter": pa.array([visit_names[v] for v in first], pa.string()),
        "second_encounter": pa.array([visit_names[v] for v in second], pa.string()),
        "first_id": pa.array([ids[i] for i in pairs.image_P2[:, 0]], pa.string()),
        "second_id": pa.array([ids[i] for i in pairs.image_P2[:, 1]], pa.string()),
        "score": pa.array(pairs.score_P),
        "probability": pa.array(probability_P),
        "together": pa.array(group_V[first] == group_V[second]),
    }
    write_table(folder / "pairs.parquet", pa.table(pair_table))
    pictures = [
        picture_row(table, config, i, side="query", where=picture_below(table.root, table, i))
        for i in range(len(table))
    ]
    frame = pd.DataFrame(pictures).astype(object)
    frame = frame.where(frame.notna(), None)
    write_table(folder / "photos.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    rows = _animal_rows(table, group_N, belongs_V[scored.visit_N], visit_names, scored.visit_N)
    write_text(folder / "animals.csv", csv_text(rows))
    own, metrics, intervals = None, dict[str, float](), dict[str, tuple[float, float]]()
    identity_N, _ = codes(table.rows["identity"].tolist(), [])
    if np.any(identity_N >= 0):
        metrics, intervals = _measured(identity_N, group_N, scored.visit_N, config)
        own = _own_grouping(scored, identity_N, table, config)
    alone = int(np.count_nonzero(np.bincount(group_V) == 1))
    counts: Counts = {
        "photographs": len(table),
        "visits": visits,
        "groups": groups,
        "groups_of_one_visit": alone,
        "named_photographs": int(np.count_nonzero(identity_N >= 0)),
        "named_animals": len(np.unique(identity_N[identity_N >= 0])),
    }
    interval = count_animals(groups, visits, grouping.sets, config.seed)
    if interval is not None:
        counts |= {"animals_low": interval[0], "animals_high": interval[1]}
    counts |= {"cut": grouping.cut, "probabilities_from": source.kind}
    words = discovered_words(counts, source.words)
    content = {
        "scored_by": scored_by(config),
        "words": words,
        "nearest": nearest_scored(config),
        "used": grouping.as_json(),
        "practice": None if own is None else own.as_json(),
    }
    write_text(folder / DISCOVERY_FILE, json.dumps(content, indent=1) + "\n")
    return Discovery(counts, metrics, intervals, tuple(words), rows)


def _by_size(group_V: np.ndarray, images_V: np.ndarray) -> np.ndarray:
    """The groups numbered by their photographs, the most first; of equal ones by first
    appearance."""
    images_G = np.bincount(group_V, images_V)
    number_G = np.empty(len(images_G), np.int64)
    number_G[np.argsort(-images_G, kind="stable")] = np.arange(len(images_G))
    return number_G[group_V]


def _visit_names(table: ImageTable, scored: ScoredVisits) -> list[str]:
    """Each visit's encounter; of a photograph without one, or of several animals, its own id."""
    first_V = np.unique(scored.visit_N, return_index=True)[1]
    encounters, known_N = table.rows["encounter"], scored.side.encounter_N >= 0
    return [
        str(encounters.iloc[i]) if known_N[i] else scored.side.image_ids[i]
        for i in first_V.tolist()
    ]


def _animal_rows(
    table: ImageTable,
    group_N: np.ndarray,
    belongs_N: np.ndarray,
    visit_names: list[str],
    visit_N: np.ndarray,
) -> pd.DataFrame:
    """``animals.csv``: a line for each photograph, by animal."""
    rows = pd.DataFrame(
        {
            "photo": table.rows["image_id"],
            "animal": group_N + 1,
            "probability": np.round(belongs_N, 3),
            "visit": [encounter_name(visit_names[v]) for v in visit_N],
            "date": table.rows["date"].astype(str).replace("NaT", ""),
        }
    )
    by_animal = rows.groupby("animal")
    rows["photos_of_animal"] = by_animal["photo"].transform("size")
    rows["visits_of_animal"] = by_animal["visit"].transform("nunique")
    if table.rows["identity"].notna().any():
        rows["name"] = table.rows["identity"]
    return rows.sort_values("animal", kind="stable").reset_index(drop=True)


def _measured(
    identity_N: np.ndarray, group_N: np.ndarray, visit_N: np.ndarray, config: ProbeConfig
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The figures of the groups over photographs with a name, and of one group for each visit."""
    named = np.flatnonzero(identity_N >= 0)
    truth_N, group_N, visit_N = identity_N[named], group_N[named], visit_N[named]
    metrics = grouping_metrics(truth_N, group_N)
    metrics["ari_visits"] = adjusted_rand_index(truth_N, visit_N)
    intervals = {}
    for name, code_N in (("ari", group_N), ("ari_visits", visit_N)):
        interval = bootstrap_statistic(
            drawn_rand_index(truth_N, code_N),
            truth_N,
            resamples=config.benchmark.bootstrap_resamples,
            seed=config.seed,
        )
        if interval is not None:
            intervals[name] = interval
    return metrics, intervals


def _own_grouping(
    scored: ScoredVisits, identity_N: np.ndarray, table: ImageTable, config: ProbeConfig
) -> VisitGrouping | None:
    """What another run can go by; None where the names are too few."""
    name = f"the named animals of {Path(table.source).name}"
    try:
        return fit_visit_grouping([named_pairs(scored, identity_N, name)], config.seed)
    except CalibrationError:
        return None
