"""The neighbour strip: a query's candidates by animal, with what makes a hit weak evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from exreid.records import ImageTable


@dataclass(frozen=True)
class Neighbour:
    """One animal among a query's candidates, by its best image; None is "not known"."""

    identity: str | None
    rank: int
    """From 1, among the animals."""
    image_id: str
    score: float
    """Of that image; NaN where it was not scored."""
    date: str | None
    """2016-03-14."""
    site: str | None
    encounter: str | None
    viewpoint: str | None
    same_encounter: bool
    """Taken in the query's own visit: no independent evidence."""
    other_side: bool
    """Shows another viewpoint than the query."""
    is_match: bool | None
    """Whether it is the query's animal; None where that is not known."""
    images: tuple[str, ...]
    """All its images among the candidates, best first, the one above included."""


def strip_rows(table: ImageTable, *, site_col: str | None = None) -> pd.DataFrame:
    """What the strip says of images: identity, date, site, encounter, viewpoint by ``image_id``.

    ``site_col`` is a column of the metadata file, such as CzechLynx's ``trap_id``.
    """
    rows = table.rows
    site = table.original[site_col].to_numpy() if site_col else np.full(len(rows), None)
    columns = {name: rows[name].to_numpy() for name in ("identity", "encounter", "viewpoint")}
    dates = [None if pd.isna(day) else f"{day:%Y-%m-%d}" for day in rows["date"]]
    columns |= {"date": np.array(dates, object), "site": site}
    found = pd.DataFrame(columns, index=rows["image_id"], dtype=object)
    return found.where(found.notna(), None)


def neighbours_by_identity(
    gallery_ids: Sequence[str],
    scores: Sequence[float],
    rows: pd.DataFrame,
    *,
    query: Mapping[str, Any] | None = None,
    most: int = 6,
) -> list[Neighbour]:
    """The first ``most`` animals among candidates, which stand best first.

    ``rows`` is `strip_rows` of (at least) these images; ``query`` a row of the same columns, where
    the query has one. An image of unknown identity stands for itself. KeyError for a candidate
    that ``rows`` lacks.
    """
    missing = [image for image in gallery_ids if image not in rows.index]
    if missing:
        raise KeyError(f"{len(missing)} candidates are not in the table, such as {missing[0]!r}.")
    own: Mapping[str, Any] = {} if query is None else query
    groups: dict[tuple[str, str], list[int]] = {}
    for place, image in enumerate(gallery_ids):
        identity = _text(rows.at[image, "identity"])
        groups.setdefault(
            ("image", image) if identity is None else ("animal", identity), []
        ).append(place)
    found = []
    for rank, places in enumerate(list(groups.values())[:most], start=1):
        best = gallery_ids[places[0]]
        values = {name: _text(rows.at[best, name]) for name in rows.columns}
        found.append(
            Neighbour(
                identity=values["identity"],
                rank=rank,
                image_id=best,
                score=float(scores[places[0]]),
                date=values["date"],
                site=values["site"],
                encounter=values["encounter"],
                viewpoint=values["viewpoint"],
                same_encounter=_same(own.get("encounter"), values["encounter"]) is True,
                other_side=_same(own.get("viewpoint"), values["viewpoint"]) is False,
                is_match=_same(own.get("identity"), values["identity"]),
                images=tuple(gallery_ids[place] for place in places),
            )
        )
    return found


def _text(value: Any) -> str | None:
    return None if value is None or pd.isna(value) or value == "" else str(value)


def _same(first: Any, second: str | None) -> bool | None:
    """None where either is not known."""
    text = _text(first)
    return None if text is None or second is None else text == second
