"""How often answers are right: by the number of candidates looked at, and by group of queries.

Letters: Q queries, G gallery images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from exreid.explain.comparison_plots import Curve, GroupTop1
from exreid.metrics.comparison import group_averages
from exreid.metrics.ranking import Exclude
from exreid.metrics.retrieval import QueryValues, average_values, hit
from exreid.metrics.uncertainty import bootstrap_intervals

DEPTH = 20
CUMULATIVE_RESAMPLES = 1000
GAP_EDGES_DAYS = (1, 7, 30, 90, 365)
COUNT_EDGES = (1, 2, 5, 10, 20)


def cumulative_match(label: str, first_rank_Q: np.ndarray, identity_Q: np.ndarray) -> Curve:
    """Top-k against k from 1 to `DEPTH`, with its 95% band where there are two identities."""
    depth = np.arange(1, DEPTH + 1)
    every_Q = np.ones(len(first_rank_Q), bool)
    table = {str(k): QueryValues(hit(first_rank_Q, k), every_Q) for k in depth.tolist()}
    value = np.array(list(average_values(table, identity_Q).values()))
    ends = bootstrap_intervals(table, identity_Q, resamples=CUMULATIVE_RESAMPLES)
    low, high = np.array(list(ends.values())).T if ends else (None, None)
    return Curve(label, depth, value, low, high)


def top_1_by_group(
    group: str,
    name_Q: Sequence[str],
    run: str,
    first_rank_Q: np.ndarray,
    identity_Q: np.ndarray,
    *,
    shown: Collection[str] | None = None,
    resamples: int = 2000,
) -> list[GroupTop1]:
    """Top-1 of a run in each group of queries, by `in_name_order`; ``shown``: only these groups."""
    inside_Q = np.array([shown is None or name in shown for name in name_Q], bool)
    top_1 = QueryValues(hit(first_rank_Q, 1), inside_Q)
    averages = group_averages(top_1, identity_Q, name_Q, resamples=resamples)
    rows = []
    for name in in_name_order(list(averages)):
        queries, identities, value, interval = averages[name]
        low, high = interval or (None, None)
        rows.append(GroupTop1(group, name, run, value, low, high, queries, identities))
    return rows


def date_gaps(queries: pd.DataFrame, gallery: pd.DataFrame, exclude: Exclude) -> list[str]:
    """Days from each query to the nearest gallery image of its identity that may answer it, in
    bins; ``unknown`` where a date is, or where there is no such image.

    Both tables have ``image_id``, ``identity``, ``encounter`` and ``date``, whose day counts.
    """
    day_G = pd.to_datetime(gallery["date"], errors="coerce").to_numpy("datetime64[D]")
    columns = gallery["identity"], gallery["image_id"], gallery["encounter"], day_G
    images_of: dict[str, list[tuple[str, str | None, np.datetime64]]] = {}
    for identity, image_id, encounter, day in zip(*columns, strict=True):
        if isinstance(identity, str) and not np.isnat(day):
            images_of.setdefault(identity, []).append((image_id, encounter, day))
    day_Q = pd.to_datetime(queries["date"], errors="coerce").to_numpy("datetime64[D]")
    names = []
    columns = queries["identity"], queries["image_id"], queries["encounter"], day_Q
    for identity, image_id, encounter, day in zip(*columns, strict=True):
        own = encounter if exclude == "encounter" and isinstance(encounter, str) else None
        gaps = [
            abs((other_day - day) / np.timedelta64(1, "D"))
            for other_id, other_encounter, other_day in images_of.get(identity, ())
            if other_id != image_id and (own is None or other_encounter != own)
        ]
        known = gaps and not np.isnat(day)
        names.append(binned(float(min(gaps)), GAP_EDGES_DAYS, " days") if known else "unknown")
    return names


def binned(value: float, edges: Sequence[int], unit: str) -> str:
    """The name of the bin: up to each edge, and over the last; they sort by their first number."""
    low = 0
    for edge in edges:
        if value <= edge:
            if unit:
                return f"{low} to {edge}{unit}"
            return str(edge) if edge - low == 1 else f"{low + 1} to {edge}"
        low = edge
    return f"over {edges[-1]}{unit}"


def in_name_order(names: Sequence[str]) -> list[str]:
    """The distinct names, numbers and bins by their first number, others after them."""

    def key(name: str) -> tuple[int, float, str]:
        first = name.removeprefix("over ").split(" ")[0]
        late = name.startswith("over ")
        return (0, float(first) + late, name) if first.isdigit() else (1, 0.0, name)

    return sorted(set(names), key=key)
