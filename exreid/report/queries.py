"""What a report says of each query: its list entry, its decision card, its neighbours.

Letters: Q queries, R rows of a ranking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from exreid.explain.decision import Contribution, DecisionCard, Reach, card_sentences, decision_card
from exreid.explain.strip import Neighbour, neighbours_by_identity
from exreid.report.data import RunData
from exreid.report.run_answers import outcomes, verdicts
from exreid.report.words import method_words

ANIMALS, IMAGES_OF_EACH = 6, 3
"""Shown of each query: so many animals, and so many photographs of each."""
CANDIDATES = 100
"""Best candidates of each query that are looked through for them."""


@dataclass(frozen=True)
class Shown:
    """A query as its page shows it, photographs as rows of `Photos`."""

    query: int
    photo: int
    first_rank: int
    """Of the query's own animal, by its best photograph; 0 where there is none."""
    neighbours: list[tuple[Neighbour, list[int]]]
    card: DecisionCard
    ranks: dict[int, tuple[int, float, float | None]]
    """Of each photograph shown: its rank, score, and probability where one is stated."""
    chances: list[float | None]
    """Of each neighbour: the stated probability of that animal."""


@dataclass(frozen=True)
class _Near:
    """A query with all that is near it."""

    query: int
    row: dict[str, Any]
    found: list[Neighbour]
    evidence: dict[int, dict[str, float]]
    photo_R: np.ndarray
    rank_R: np.ndarray


class QueryPages:
    """Builds the entries, from a run's tables."""

    def __init__(self, data: RunData) -> None:
        self.data = data
        photos = data.photos
        self.ids = photos.image_ids
        self.place = {name: i for i, name in enumerate(self.ids)}
        self.strip_rows = pd.DataFrame(
            {
                name: photos.rows[name].to_numpy()
                for name in ("identity", "encounter", "viewpoint", "date", "site")
            },
            index=photos.rows["image_id"],
            dtype=object,
        )
        self.fusion = data.tables.get("fusion")
        self.chances = _chances(data.tables.get("answers"))
        self.open_set = _by_query(data, "open_set")
        self.groups = _groups(data.tables.get("new_animals"))
        documents = data.documents.get("open_set") or {}
        self.bar: float | None = documents.get("bar")
        self.stated_rate: float | None = documents.get("stated_false_match_rate")
        reason = documents.get("reason")
        self.reasons: tuple[str, ...] = (str(reason),) if reason else ()

    @cached_property
    def index(self) -> pd.DataFrame:
        """A row per query: photo, truth, leader, outcome, decision, verdict, probability,
        first_rank."""
        data, ranks = self.data, self.data.ranks
        count = len(data.queries)
        leader, first = np.full(count, None, object), np.zeros(count, np.int64)
        identity = data.photos.rows["identity"].to_numpy(dtype=object)
        for q in range(count):
            part = slice(ranks.start_Q1[q], ranks.start_Q1[q + 1])
            if ranks.start_Q1[q] < ranks.start_Q1[q + 1]:
                leader[q] = identity[ranks.photo_R[part][0]]
            hits = np.flatnonzero(ranks.match_R[part] == 1)
            first[q] = ranks.rank_R[part][hits[0]] if len(hits) else 0
        truth = data.queries["identity"].to_numpy(dtype=object)
        known = data.queries["positives"].to_numpy() > 0
        told = np.array([one is not None for one in truth], bool)
        outcome = outcomes(told, known, np.array(leader == truth, bool))
        table = pd.DataFrame(
            {
                "photo": [self.place[name] for name in data.queries["query_id"]],
                "truth": pd.Series(truth, dtype=object),
                "leader": pd.Series(leader, dtype=object),
                "outcome": outcome,
                "first_rank": first,
                "decision": pd.Series([None] * count, dtype=object),
                "probability": np.nan,
            }
        )
        if self.open_set is not None:
            table["decision"] = pd.Series(list(self.open_set["decision"]), dtype=object)
            table["probability"] = self.open_set["known_probability"].to_numpy()
        elif self.fusion is not None:
            best = self.fusion[self.fusion["rank"] == 1].set_index("query_id")["probability"]
            table["probability"] = best.reindex(data.queries["query_id"]).to_numpy()
        decision = table["decision"].to_numpy(dtype=object)
        return table.assign(verdict=verdicts(outcome, decision))

    def photo_of(self, query: int) -> int:
        """The query's photograph, as a row of `Photos`."""
        return int(self.index["photo"].to_numpy()[query])

    @property
    def probability_of(self) -> str:
        """What the index's probability is of; empty without one."""
        if self.open_set is not None:
            return "leader"
        return "pair" if self.fusion is not None else ""

    def shown(self) -> Iterator[Shown]:
        """Each query, in order."""
        for q in range(len(self.data.queries)):
            yield self._shown(q)

    def _shown(self, q: int) -> Shown:
        ranks = self.data.ranks
        part = slice(int(ranks.start_Q1[q]), int(ranks.start_Q1[q + 1]))
        photo_R, rank_R, score_R = ranks.photo_R[part], ranks.rank_R[part], ranks.score_R[part]
        best = slice(0, CANDIDATES)
        names = [self.ids[i] for i in photo_R[best]]
        values = self.strip_rows.iloc[self.photo_of(q)].to_dict()
        row = {str(name): value for name, value in values.items()}
        row["identity"] = self.index["truth"].iat[q]
        found = neighbours_by_identity(
            names, score_R[best].tolist(), self.strip_rows, query=row, most=ANIMALS
        )
        found += self._own_animal(photo_R, rank_R, score_R, found, row)
        places = [[self.place[name] for name in one.images[:IMAGES_OF_EACH]] for one in found]
        shown = {place for part in places for place in part}
        evidence = self._evidence(q)
        photo = self.photo_of(q)
        near = _Near(q, row, found, evidence, photo_R, rank_R)
        return Shown(
            q,
            photo,
            int(self.index["first_rank"].to_numpy()[q]),
            list(zip(found, places, strict=True)),
            self._card(near),
            {
                int(p): (int(r), float(s), evidence.get(int(p), {}).get("probability"))
                for p, r, s in zip(photo_R, rank_R, score_R, strict=True)
                if int(p) in shown
            },
            [self.chances.get((self.ids[photo], one.identity or "")) for one in found],
        )

    def _own_animal(
        self,
        photo_R: np.ndarray,
        rank_R: np.ndarray,
        score_R: np.ndarray,
        found: list[Neighbour],
        row: dict[str, Any],
    ) -> list[Neighbour]:
        """The query's own animal, where it is not among those found and the gallery has it."""
        own = row["identity"]
        if own is None or any(one.identity == own for one in found):
            return []
        identity = self.strip_rows["identity"].to_numpy(dtype=object)[photo_R]
        hits = np.flatnonzero(identity == own)
        if not len(hits):
            return []
        names = [self.ids[i] for i in photo_R[hits[:IMAGES_OF_EACH]]]
        return neighbours_by_identity(
            names, score_R[hits[:IMAGES_OF_EACH]].tolist(), self.strip_rows, query=row, most=1
        )

    @cached_property
    def _fusion_rows(self) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
        """Per query where its rows of ``fusion.parquet`` begin; their photographs and values."""
        assert self.fusion is not None
        names = [
            column
            for column in self.fusion.columns
            if column == "probability" or column.startswith(("raw:", "probability:", "contrib"))
        ]
        query = pd.Index(self.data.queries["query_id"]).get_indexer(
            pd.Index(self.fusion["query_id"])
        )
        order = np.lexsort((self.fusion["rank"], query))
        photo = pd.Index(self.ids).get_indexer(pd.Index(self.fusion["gallery_id"]))[order]
        start = np.searchsorted(query[order], np.arange(len(self.data.queries) + 1))
        return start, photo, names, self.fusion[names].to_numpy(np.float64)[order]

    def _evidence(self, q: int) -> dict[int, dict[str, float]]:
        if self.fusion is None:
            return {}
        start, photo, names, values = self._fusion_rows
        return {
            int(photo[i]): dict(zip(names, values[i].tolist(), strict=True))
            for i in range(start[q], start[q + 1])
        }

    def _card(self, near: _Near) -> DecisionCard:
        q, found, row = near.query, near.found, near.row
        index = self.index.iloc[q]
        first = found[0] if found else None
        values: dict[str, Any] = {
            "decision": index["decision"],
            "group": self.groups.get(self.ids[self.photo_of(q)]),
        }
        if np.isfinite(index["probability"]):
            values |= {
                "probability": float(index["probability"]),
                "probability_of": self.probability_of,
            }
        if self.open_set is not None:
            values |= {"bar": self.bar, "false_match_rate": self.stated_rate}
            margin = float(self.open_set["margin"].to_numpy()[q])
            values["margin"] = margin if np.isfinite(margin) else None
        elif len(found) > 1 and np.isfinite(found[0].score) and np.isfinite(found[1].score):
            values["margin"] = found[0].score - found[1].score
        if first is None:
            return decision_card(None, extra_warnings=self.reasons, **values)
        values["score"] = first.score if np.isfinite(first.score) else None
        values["runner_up"] = found[1].identity if len(found) > 1 else None
        own = near.evidence.get(self.place[first.image_id], {})
        values["contributions"] = _contributions(own)
        values["reach"] = self._reach(near, first.identity or "")
        return decision_card(
            first.identity,
            same_encounter=first.same_encounter,
            viewpoints=(row["viewpoint"], first.viewpoint),
            extra_warnings=self.reasons,
            **values,
        )

    def _reach(self, near: _Near, leader: str) -> Reach | None:
        """How many photographs of the leader there are, and how many were matched locally."""
        photos, config, evidence = self.data.photos, self.data.config, near.evidence
        total = photos.gallery_images.get(leader)
        if total is None:
            return None
        own_id = self.ids[self.photo_of(near.query)]
        excludes = config is not None and config.benchmark.exclude == "encounter"
        total -= photos.excluded(leader, own_id, near.row["encounter"] if excludes else None)
        identity = self.strip_rows["identity"].to_numpy(dtype=object)
        if evidence:
            local = [n for n in next(iter(evidence.values())) if n.startswith("raw:")]
            local = [n for n in local if not n.startswith("raw:cosine")]
            if not local:
                return Reach(total)
            matched = [
                photo
                for photo, values in evidence.items()
                if all(np.isfinite(values[name]) for name in local) and identity[photo] == leader
            ]
            return Reach(total, len(matched))
        if config is None or config.benchmark.method != "local_lightglue":
            return Reach(total)
        depth = config.benchmark.candidate_k
        if depth is None:
            return Reach(total, total)
        on = identity[near.photo_R[near.rank_R <= depth]] == leader
        return Reach(total, int(on.sum()))


def sentences(card: DecisionCard) -> list[str]:
    """The card's words for the page, where warnings and contributions stand apart."""
    return card_sentences(replace(card, warnings=(), contributions=()))


def _contributions(values: dict[str, float]) -> tuple[Contribution, ...]:
    names = [name.removeprefix("raw:") for name in values if name.startswith("raw:")]

    def value(kind: str, name: str) -> float | None:
        number = values.get(f"{kind}:{name}", np.nan)
        return float(number) if np.isfinite(number) else None

    return tuple(
        Contribution(
            method_words(name) if len({*map(method_words, names)}) == len(names) else name,
            value("raw", name),
            value("probability", name),
            value("contribution", name),
        )
        for name in names
    )


def _chances(answers: pd.DataFrame | None) -> dict[tuple[str, str], float]:
    """The probability of each animal of each query, where the answers state one."""
    if answers is None or "probability" not in answers:
        return {}
    known = answers[answers["probability"].notna()]
    columns = known["query_id"], known["identity"], known["probability"]
    return {(query, animal): float(p) for query, animal, p in zip(*columns, strict=True)}


def _groups(new_animals: pd.DataFrame | None) -> dict[str, tuple[int, int]]:
    """The group of each query that was called new, and its photographs."""
    if new_animals is None:
        return {}
    columns = (new_animals[name] for name in ("query_id", "group", "group_photos"))
    return {
        query: (int(number), int(photos)) for query, number, photos in zip(*columns, strict=True)
    }


def _by_query(data: RunData, name: str) -> pd.DataFrame | None:
    """A table with one row per query, in the queries' order; None where a query lacks its row."""
    table = data.tables.get(name)
    if table is None:
        return None
    place = pd.Index(table["query_id"]).get_indexer(data.queries["query_id"])
    return None if (place < 0).any() else table.iloc[place].reset_index(drop=True)
