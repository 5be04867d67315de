"""Implausible candidates: what is checked, and which of a query's best are not matched for it.

Letters: B queries of one block, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from exreid.config.probe import ProbeConfig
from exreid.data.traits import traits_of
from exreid.errors import CalibrationError, ConfigError
from exreid.matching.plausibility_gate import Gate, gate_figures
from exreid.metrics.ranking import blocks
from exreid.records import ImageTable, Ranking, RetrievalSide
from exreid.storage.run_files import GATED


def gate_of(table: ImageTable, config: ProbeConfig) -> Gate | None:
    """Which pairs of a table's images are implausible; None where nothing is checked. ConfigError
    for a check of what no image has."""
    options = config.benchmark.gate
    if not options.enabled:
        return None
    traits = traits_of(table)
    places_N2 = np.concatenate([traits.degrees_N2, traits.cell_km_N2], axis=1)
    dated_N = ~np.isnan(traits.day_N)
    for key, wanted, known, columns in (
        ("flank", options.flank, traits.flank_N >= 0, "dataset.viewpoint_col with left and right"),
        ("sex", options.sex, traits.sex_N >= 0, "a column sex with female and male"),
        (
            "max_km_per_day",
            options.max_km_per_day is not None,
            dated_N & ~np.isnan(places_N2).all(axis=1),
            "dataset.date_col, and columns latitude and longitude, or cell_code",
        ),
    ):
        if wanted and not known.any():
            raise ConfigError(f"benchmark.gate.{key}: needs {columns}, and no image has that.")
    return Gate(traits, options.flank, options.sex, options.max_km_per_day)


@contextmanager
def naming_gate(gate: Gate | None, gallery: RetrievalSide) -> Iterator[None]:
    """An error because there is nothing to fit on says what the gate rules out."""
    try:
        yield
    except CalibrationError as error:
        lost = 0.0 if gate is None else float(str(gate_figures(gate, gallery)["gate_lost"]))
        if gate is None or not lost:
            raise
        raise CalibrationError(
            f"{error} Or loosen benchmark.gate ({', '.join(gate.checks)}): it rules out "
            f"{100 * lost:.0f}% of the gallery's pairs of one animal."
        ) from error


def gated_candidates(
    gate: Gate,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    ranked: Callable[[RetrievalSide], Ranking],
    *,
    in_order: bool,
) -> pa.Table:
    """``gated.parquet``: the implausible candidates that would be among each query's best, with the
    rank and the score that they would have; empty where candidates are not ``in_order``, since all
    are matched. ``ranked`` ranks as if every candidate were plausible."""
    columns: dict[str, list[str | int | float | None]] = {name: [] for name in GATED}
    for block in blocks(queries):
        ranking = ranked(block)
        index_BK = ranking.candidate_index_QK
        marks_BG = gate.marks(block.position_N, gallery.position_N)
        marked_BK = (index_BK >= 0) & (marks_BG[np.arange(len(block))[:, None], index_BK] > 0)
        for b, place in zip(*(axis.tolist() for axis in np.nonzero(marked_BK)), strict=True):
            index = int(index_BK[b, place])
            pair = int(block.position_N[b]), int(gallery.position_N[index])
            columns["query_id"].append(block.image_ids[b])
            columns["rank"].append(place + 1 if in_order else None)
            columns["gallery_id"].append(gallery.image_ids[index])
            score = float(ranking.candidate_score_QK[b, place]) if in_order else None
            columns["score"].append(score)
            columns["reason"].append(gate.reason(*pair))
    return pa.table({name: pa.array(columns[name], kind) for name, kind in GATED.items()})
