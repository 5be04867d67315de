"""The list and the parts of a report's queries, and the rows of examples, on disk.

Letters: Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exreid.explain.canvas import colours_of
from exreid.explain.decision import percent
from exreid.explain.overlay import MatchedKeypoints
from exreid.report.content import OUTCOMES
from exreid.report.data import RunData
from exreid.report.data_files import QUERIES_PER_PART, coded, write_script
from exreid.report.pages import Examples, Tile
from exreid.report.pairs import PairTask, encode_pairs
from exreid.report.pictures import Picture, Wanted, in_order, picture_file
from exreid.report.queries import ANIMALS, QueryPages, Shown, sentences

TILES = 6
"""Photographs in a row of examples."""
LARGE_ANIMALS = 3
"""Of so many animals of each query the best photograph is shown large."""


class PairRows:
    """``matches.parquet`` by query."""

    def __init__(self, data: RunData, pages: QueryPages) -> None:
        self.table = data.matches
        self.rows: list[list[tuple[int, int]]] = [[] for _ in range(len(data.queries))]
        self.verified = data.config is not None and data.config.benchmark.geometry != "none"
        if self.table is None:
            return
        names = (self.table.column(name).to_pylist() for name in ("query_id", "gallery_id"))
        query_of = {name: q for q, name in enumerate(data.queries["query_id"])}
        for row, (query, gallery) in enumerate(zip(*names, strict=True)):
            if query in query_of and gallery in pages.place:
                self.rows[query_of[query]].append((row, pages.place[gallery]))

    def task(self, row: int, query: Picture, gallery: Picture, threshold: float) -> PairTask:
        """What is needed to draw this row."""
        assert self.table is not None
        names = ("query_xy", "gallery_xy", "confidence", "inlier", "query_wh_px", "gallery_wh_px")
        one = {name: self.table.column(name)[row].values.to_numpy(False) for name in names}
        found = MatchedKeypoints.from_lists(
            one["query_xy"],
            one["gallery_xy"],
            one["confidence"],
            one["inlier"] if self.verified or one["inlier"].any() else None,
        )
        sizes = tuple(one["query_wh_px"].tolist()), tuple(one["gallery_wh_px"].tolist())
        return PairTask(found, sizes, query, gallery, threshold)


def wanted_pictures(data: RunData, shown: Sequence[Shown], pairs: PairRows) -> dict[int, Wanted]:
    """Which photographs the report shows, by their place, and which of them large."""
    large: set[int] = set()
    small: set[int] = set()
    for one in shown:
        for number, (_, places) in enumerate(one.neighbours):
            small.update(places)
            if number < LARGE_ANIMALS:
                large.update(places[:1])
        large.update(place for _, place in pairs.rows[one.query])
    config = data.config
    crop = config.dataset.crop_margin if config and config.dataset.crop_to_mask else None
    rows = data.photos.rows
    columns = [rows[name].to_numpy(dtype=object) for name in ("root", "path", "mask")]
    queries = set(range(len(data.queries)))
    return {
        i: Wanted(columns[0][i], columns[1][i], columns[2][i], i in large or i in queries, crop)
        for i in sorted(large | small | queries)
    }


def write_index(file: Path, data: RunData, pages: QueryPages, pictures: dict[int, Picture]) -> None:
    """``data/index.js``: the list of queries, a column per thing."""
    index, rows = pages.index, data.photos.rows.iloc[pages.index["photo"]]
    animals = coded([*index["truth"], *index["leader"]])
    count = len(index)
    columns: dict[str, Any] = {
        "id": data.queries["query_id"].tolist(),
        "key": [pictures[i].key for i in index["photo"]],
        "truth": animals[0][:count],
        "leader": animals[0][count:],
        "outcome": [OUTCOMES.index(one) for one in index["outcome"]],
        "decision": [{"known": 0, "new": 1}.get(one, -1) for one in index["decision"]],
        "p": [float(p) if np.isfinite(p) else None for p in index["probability"]],
        "score": [_score(data, q) for q in range(count)],
        "rank": index["first_rank"].tolist(),
    }
    texts = {"animal": animals[1]}
    for name in ("viewpoint", "site", "visit", "date"):
        columns[name], texts[name] = coded(rows[name].tolist())
    benchmark = data.config.benchmark if data.config else None
    columns |= {
        "texts": texts,
        "per_part": QUERIES_PER_PART,
        "truth_known": data.truth_known,
        "bar": _shown_bar(pages.bar),
        "threshold": benchmark.match_threshold if benchmark else 0.0,
        "has_matches": data.matches is not None,
        "kept_matches": benchmark.keep_matches if benchmark else 0,
        "colours": [f"#{bytes(rgb).hex()}" for rgb in colours_of(np.linspace(0, 1, 16))],
    }
    write_script(file, "index", columns)


def write_parts(
    folder: Path,
    data: RunData,
    shown: Sequence[Shown],
    pairs: PairRows,
    pictures: dict[int, Picture],
    *,
    workers: int,
    on_progress: Callable[[int], Any],
) -> None:
    """``data/part-0000.js`` and so on: what the pages of single queries show."""
    starts = range(0, len(shown), QUERIES_PER_PART)
    threshold = data.config.benchmark.match_threshold if data.config else 0.0

    def tasks() -> Iterator[list[PairTask]]:
        for start in starts:
            yield [
                pairs.task(row, pictures[one.photo], pictures[place], threshold)
                for one in shown[start : start + QUERIES_PER_PART]
                for row, place in pairs.rows[one.query]
            ]

    drawn = in_order(encode_pairs, tasks(), workers if data.matches is not None else 1)
    for number, (start, entries) in enumerate(zip(starts, drawn, strict=True)):
        part = shown[start : start + QUERIES_PER_PART]
        content = _Part(data, pictures).content(part, pairs, iter(entries))
        write_script(folder / f"part-{number:04d}.js", f"part-{number:04d}", content)
        on_progress(len(part))
    for old in folder.glob("part-*.js"):
        if int(old.stem.removeprefix("part-")) >= len(starts):
            old.unlink()


class _Part:
    """One part: its photographs once each, and its queries."""

    def __init__(self, data: RunData, pictures: dict[int, Picture]) -> None:
        self.data, self.pictures = data, pictures
        self.local: dict[int, int] = {}

    def content(
        self, shown: Sequence[Shown], pairs: PairRows, entries: Iterator[dict[str, Any]]
    ) -> dict[str, Any]:
        """What the script hands over."""
        queries = [self._query(one, pairs, entries) for one in shown]
        return {"queries": queries, "photos": [self._photo(i) for i in self.local]}

    def _place(self, i: int) -> int:
        return self.local.setdefault(i, len(self.local))

    def _photo(self, i: int) -> list[Any]:
        row, picture = self.data.photos.rows.iloc[i], self.pictures[i]
        return [
            row["image_id"],
            picture.key,
            *picture.wh_px,
            int(picture.large),
            *(row[name] or "" for name in ("identity", "date", "site", "visit", "viewpoint")),
        ]

    def _query(
        self, one: Shown, pairs: PairRows, entries: Iterator[dict[str, Any]]
    ) -> dict[str, Any]:
        card = one.card
        found = {self._place(place): next(entries) for _, place in pairs.rows[one.query]}
        animals, ranks = [], {}
        for number, (neighbour, places) in enumerate(one.neighbours):
            animals.append(self._animal(one, number, neighbour, places))
            for place in places:
                ranks[self._place(place)] = list(one.ranks[place])
        return {
            "photo": self._place(one.photo),
            "animals": animals,
            "ranks": ranks,
            "pairs": found,
            "first_rank": one.first_rank,
            "card": {
                "leader": card.leader,
                "decision": card.decision,
                "probability": card.probability,
                "sentences": sentences(card),
                "warnings": list(card.warnings),
                "parts": [vars(part) for part in card.contributions],
            },
            "details": self._details(one.photo),
        }

    def _animal(self, one: Shown, number: int, neighbour: Any, places: list[int]) -> dict[str, Any]:
        rows = self.data.photos.rows
        own = rows.iloc[one.photo]
        visits, sides = [], []
        for place in places:
            row = rows.iloc[place]
            if own["encounter"] is not None and row["encounter"] == own["encounter"]:
                visits.append(self._place(place))
            if own["viewpoint"] and row["viewpoint"] and row["viewpoint"] != own["viewpoint"]:
                sides.append(self._place(place))
        return {
            "place": number + 1 if number < ANIMALS else None,
            "name": neighbour.identity,
            "own": neighbour.is_match,
            "chance": one.chances[number],
            "images": [self._place(place) for place in places],
            "own_visit": visits,
            "other_side": sides,
        }

    def _details(self, place: int) -> list[list[str]]:
        row, photos = self.data.photos.rows.iloc[place], self.data.photos
        named = {"date": "date", "site": photos.site_column or "site", "visit": "visit"}
        found = [[label, row[name]] for name, label in named.items() if row[name]]
        if row["viewpoint"]:
            found.append(["side", row["viewpoint"]])
        cells = photos.details.iloc[place]
        found += [
            [str(name), str(cell)]
            for name, cell in cells.items()
            if cell is not None and cell == cell and str(cell) != ""  # noqa: PLR0124 - NaN
        ]
        return found


def example_rows(
    data: RunData, index: pd.DataFrame, pictures: dict[int, Picture]
) -> list[Examples]:
    """What the first page shows of the photographs: mistakes first, as they teach most."""
    p = index["probability"].fillna(-np.inf)
    stated = bool(np.isfinite(p).any())
    sure = index.assign(p=p).sort_values("p", ascending=False, kind="stable")
    outcome = sure["outcome"]
    known, new = sure["decision"] == "known", sure["decision"] == "new"
    rows = [
        (
            "New animals taken for known ones",
            "The gallery does not have these animals, yet the run called them known.",
            sure[(outcome == "new") & known],
            "outcome=new&decision=known&sort=sure",
        ),
        (
            "The surest mistakes",
            "Another animal stood first, with the highest probabilities."
            if stated
            else "Another animal stood first.",
            sure[outcome == "wrong"],
            "outcome=wrong&sort=sure",
        ),
        (
            "New animals",
            "The gallery does not have these animals.",
            sure[(outcome == "new") & ~known][::-1],
            "outcome=new",
        ),
        (
            "The surest right answers",
            "The right animal stood first, with the highest probabilities."
            if stated
            else "The right animal stood first.",
            sure[outcome == "right"],
            "outcome=right&sort=sure",
        ),
        (
            "Probably new animals",
            "No animal of the gallery is near enough.",
            sure[(outcome == "open") & new][::-1],
            "decision=new&sort=unsure",
        ),
        (
            "Answers",
            "The surest first." if stated else "In the order of the run.",
            sure[(outcome == "open") & ~new],
            "sort=sure",
        ),
    ]
    return [
        Examples(
            title, note, [_tile(data, row, pictures) for row in part.head(TILES).itertuples()], link
        )
        for title, note, part, link in rows
        if len(part)
    ]


def _tile(data: RunData, row: Any, pictures: dict[int, Picture]) -> Tile:
    picture = pictures[row.photo]
    width, height = picture.wh_px
    title = "probably new" if row.decision == "new" else row.leader or "no candidate"
    note = {
        "wrong": f"is {row.truth}",
        "new": f"new animal: {row.truth}",
        "right": f"is {row.truth}, called new" if row.decision == "new" else "",
    }.get(row.outcome, "")
    return Tile(
        str(data.photos.rows["image_id"].iat[row.photo]),
        title,
        note,
        row.verdict,
        picture_file(picture.key, "t") if picture.key else "",
        width,
        height,
        percent(row.probability) if np.isfinite(row.probability) else None,
    )


def _score(data: RunData, q: int) -> float | None:
    start, end = data.ranks.start_Q1[q], data.ranks.start_Q1[q + 1]
    if start == end or not np.isfinite(data.ranks.score_R[start]):
        return None
    return float(data.ranks.score_R[start])


def _shown_bar(bar: float | None) -> float | None:
    return bar if bar is not None and 0 <= bar <= 1 else None
