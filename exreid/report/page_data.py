"""The data of the page of queries: scripts that hand JSON over, since a page from disk may read no
file. Every text goes through JSON and into the page as text, never as markup.

Letters: Q queries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.explain.canvas import colours_of
from exreid.explain.decision import card_sentences
from exreid.explain.words import OUTCOMES, stated_percent, threshold_percent
from exreid.report.matched_pairs import PairEntry, PairTask, encode_pairs, pair_task
from exreid.report.pages import write_whole
from exreid.report.pictures import Picture, made_in_order
from exreid.report.queries import IDENTITIES, QueryNeighbour, QueryPage
from exreid.report.read import MatchedRows, RunData

QUERIES_PER_PART = 24
DECISION_NUMBERS = {"known": 0, "new": 1, "unsure": 2}


def write_index(
    file: Path, data: RunData, outcomes: pd.DataFrame, pictures: Mapping[int, Picture]
) -> None:
    """``data/index.js``: the list of queries, a column per thing; ``outcomes`` is
    `query_outcomes`."""
    rows, ranks = data.images.rows.iloc[outcomes["image"]], data.ranks
    identity_QQ, identities = coded([*outcomes["truth"], *outcomes["top"]])
    count = len(outcomes)
    scores = [float(next(iter(ranks.score_R[ranks.of(q)]), np.nan)) for q in range(count)]
    kinds = list(OUTCOMES)
    columns: dict[str, object] = {
        "id": data.queries["query_id"].tolist(),
        "key": [pictures[image].key for image in outcomes["image"]],
        "truth": identity_QQ[:count],
        "leader": identity_QQ[count:],
        "outcome": [kinds.index(outcome) for outcome in outcomes["outcome"]],
        "said": outcomes["said"].tolist(),
        "decision": [DECISION_NUMBERS.get(name, -1) for name in _decisions(data, outcomes)],
        "p": outcomes["probability"].tolist(),
        "score": scores,
        "rank": outcomes["first_rank"].tolist(),
    }
    texts = {"animal": identities}
    for name in ("viewpoint", "site", "visit", "date"):
        columns[name], texts[name] = coded(rows[name].tolist())
    benchmark = data.config.benchmark if data.config else None
    columns |= {
        "texts": texts,
        "per_part": QUERIES_PER_PART,
        "truth_known": data.truth_known,
        "bar": data.rule.shown_threshold if data.rule else None,
        "bar_text": threshold_percent(data.rule.shown_threshold) if data.rule else None,
        "threshold": benchmark.counted_from if benchmark else 0.0,
        "has_matches": data.matches is not None,
        "kept_matches": benchmark.keep_matches if benchmark else 0,
        "colours": [f"#{bytes(rgb).hex()}" for rgb in colours_of(np.linspace(0, 1, 16))],
    }
    write_script(file, "index", columns)


def _decisions(data: RunData, outcomes: pd.DataFrame) -> pd.Series:
    """The column that filters the list: the decision where the truth is known, else the kind of
    answer."""
    return outcomes["decision" if data.truth_known else "kind"]


def write_parts(
    folder: Path,
    data: RunData,
    pages: Sequence[QueryPage],
    matched: Sequence[MatchedRows],
    pictures: Mapping[int, Picture],
    *,
    workers: int,
    on_progress: Callable[[int], object],
) -> None:
    """``data/part-0000.js`` and so on: the content of the pages of single queries."""
    starts = range(0, len(pages), QUERIES_PER_PART)

    def tasks() -> Iterator[list[PairTask]]:
        for start in starts:
            yield [
                pair_task(data, row, pictures[page.image], pictures[gallery])
                for page in pages[start : start + QUERIES_PER_PART]
                for row, gallery in matched[page.query]
            ]

    drawn = made_in_order(encode_pairs, tasks(), workers if data.matches is not None else 1)
    for number, (start, entries) in enumerate(zip(starts, drawn, strict=True)):
        part = pages[start : start + QUERIES_PER_PART]
        remaining = iter(entries)
        pairs = [{gallery: next(remaining) for _, gallery in matched[page.query]} for page in part]
        content = _part(data, part, pairs, pictures)
        write_script(folder / f"part-{number:04d}.js", f"part-{number:04d}", content)
        on_progress(len(part))
    for old in folder.glob("part-*.js"):
        if int(old.stem.removeprefix("part-")) >= len(starts):
            old.unlink()


class _Numbers(dict[int, int]):
    """Numbers images of a part in the order in which they are asked for."""

    def __missing__(self, image: int) -> int:
        self[image] = len(self)
        return self[image]


def _part(
    data: RunData,
    pages: Sequence[QueryPage],
    pairs: Sequence[Mapping[int, PairEntry]],
    pictures: Mapping[int, Picture],
) -> dict[str, object]:
    """One part: its queries, and its images once each."""
    number_of = _Numbers()
    queries = [
        _query(data, page, entries, number_of) for page, entries in zip(pages, pairs, strict=True)
    ]
    return {"queries": queries, "photos": [_image(data, i, pictures[i]) for i in number_of]}


def _image(data: RunData, image: int, picture: Picture) -> list[object]:
    row = data.images.rows.iloc[image]
    texts = [row[name] or "" for name in ("identity", "date", "site", "visit", "viewpoint")]
    return [row["image_id"], picture.key, *picture.wh_px, int(picture.large), *texts]


def _query(
    data: RunData, page: QueryPage, pairs: Mapping[int, PairEntry], number_of: _Numbers
) -> dict[str, object]:
    card = page.card
    drawn = {number_of[image]: _pair(entry) for image, entry in pairs.items()}
    neighbours, ranks = [], dict[int, object]()
    for place, neighbour in enumerate(page.neighbours, start=1):
        neighbours.append(_neighbour(data, page.image, place, neighbour, number_of))
        for image in neighbour.images:
            rank, score, probability = page.ranks[image]
            ranks[number_of[image]] = [rank, score, _percent(probability)]
    implausible = [
        {
            **_neighbour(data, page.image, IDENTITIES + 1, candidate.neighbour, number_of),
            "reason": candidate.reason,
            "would_be": {
                number_of[image]: candidate.would_be[image] for image in candidate.neighbour.images
            },
        }
        for candidate in page.implausible
    ]
    return {
        "photo": number_of[page.image],
        "animals": neighbours,
        "implausible": implausible,
        "ranks": ranks,
        "pairs": drawn,
        "first_rank": page.first_rank,
        "card": {
            "said": card.said,
            "leader": card.identity,
            "decision": card.decision,
            "probability": card.probability,
            # The answer itself is the page's title.
            "sentences": card_sentences(card)[1 if card.identity else 0 :],
            "warnings": list(card.warnings),
            "parts": [vars(part) for part in card.contributions],
        },
        "details": _details(data, page.image),
    }


def _percent(probability: float | None) -> str | None:
    return None if probability is None else stated_percent(probability)


def _pair(entry: PairEntry) -> dict[str, object]:
    return {name: value for name, value in vars(entry).items() if value is not None}


def _neighbour(
    data: RunData, query_image: int, place: int, neighbour: QueryNeighbour, number_of: _Numbers
) -> dict[str, object]:
    rows = data.images.rows
    own = rows.iloc[query_image]
    own_visit, other_side = [], []
    for image in neighbour.images:
        row = rows.iloc[image]
        if own["encounter"] is not None and row["encounter"] == own["encounter"]:
            own_visit.append(number_of[image])
        if own["viewpoint"] and row["viewpoint"] and row["viewpoint"] != own["viewpoint"]:
            other_side.append(number_of[image])
    return {
        "place": place if place <= IDENTITIES else None,
        "name": neighbour.identity,
        "own": neighbour.is_match,
        "chance": _percent(neighbour.probability),
        "images": [number_of[image] for image in neighbour.images],
        "own_visit": own_visit,
        "other_side": other_side,
    }


def _details(data: RunData, image: int) -> list[list[str]]:
    row = data.images.rows.iloc[image]
    named = {"date": "date", "site": data.images.site_column or "site", "visit": "encounter"}
    named |= {"viewpoint": "side"}
    return [[label, row[name]] for name, label in named.items() if row[name]] + [
        [str(name), str(cell)]
        for name, cell in data.images.details.iloc[image].items()
        if cell is not None and cell == cell and str(cell) != ""  # noqa: PLR0124 - NaN
    ]


def write_script(file: Path, name: str, value: object) -> None:
    """A script that gives ``value`` to the page under ``name``."""
    text = json.dumps(_for_json(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # "<" as an escape: the same text is harmless inside a page too.
    text = text.replace("<", "\\u003c")
    write_whole(file, f"exreid.data({json.dumps(name)},{text});\n")


def coded(values: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """Places among the sorted distinct texts, -1 for None; and those texts.

    >>> coded(["b", None, "a", "b"])
    ([1, -1, 0, 1], ['a', 'b'])
    """
    texts = sorted({value for value in values if value is not None})
    place: dict[str | None, int] = {text: i for i, text in enumerate(texts)}
    return [place.get(value, -1) for value in values], texts


def _for_json(value: object) -> object:
    """NaN and infinities, which JSON lacks, as null; floats at 6 digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _for_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        if value and all(type(part) is int for part in value):
            return value
        return [_for_json(part) for part in value]
    return value
