"""A run that a person reviews: what is asked, what was answered, and the animals that follow.

The answers are rows of ``decisions.csv`` in the run's folder; all else is computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.errors import ReviewError
from exreid.report.pictures import Wanted
from exreid.review.asking import (
    Question,
    decided,
    linked,
    next_confirmation,
    next_doubt,
    next_of_groups,
    next_question,
    untold,
)
from exreid.review.decisions import (
    Decision,
    Verdict,
    append_decision,
    merge_decisions,
    moment,
    read_decisions,
)
from exreid.review.flanks import flanks_of
from exreid.review.names import Names, free_name, names_of
from exreid.review.state import State, Subject, load
from exreid.storage.run_folder import write_table

DECISIONS, REVIEWED = "decisions.csv", "reviewed.parquet"
Kind = Literal["discover", "identify", "gallery"]
LONG_AGO = "0001-01-01T00:00:00+00:00"
KEPT = ("image_id", "path", "encounter", "date", "viewpoint", "mask", "bbox")
"""Columns of ``reviewed.parquet``, besides ``identity``, where the photographs have them."""


@dataclass(frozen=True)
class NameQuestion:
    """What is this animal called?"""

    visit: str
    visits: tuple[str, ...]
    """Of the animal."""
    offered: str
    names: tuple[str, ...]
    """Those that its visits were given, where they do not agree, or that others have too."""


@dataclass(frozen=True)
class ReviewedRun:
    """A finished run, ready to be asked about."""

    folder: Path
    photos: pd.DataFrame
    """A row for each photograph."""
    visit_N: np.ndarray
    """int64: the visit of each photograph."""
    subject: Subject
    """Of an identification: its visits, and each known animal as one visit more."""
    best: dict[tuple[str, str], tuple[int, int]]
    """By the names of two visits: the rows of their most alike photographs."""
    wrong: float
    """The review is done where fewer decisions than this are expected to be wrong."""
    kind: Kind = "discover"
    known: Mapping[str, str] = field(default_factory=dict)
    """The names of known animals, by their visits."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Of a gallery: the present name of each visit's animal."""
    since: str = LONG_AGO
    """Names that were given earlier do not count."""
    taken: frozenset[str] = frozenset()
    """All names of the gallery."""
    gallery: str | None = None
    """Its folder, where the run says so."""
    fingerprint: str = ""
    """Of the gallery that is reviewed."""
    tells_probability: bool = True
    """Whether the probabilities are measured ones."""

    @cached_property
    def photos_of(self) -> dict[str, list[int]]:
        """The rows of each visit's photographs."""
        found: dict[str, list[int]] = {name: [] for name in self.subject.visits}
        for row, visit in enumerate(self.visit_N.tolist()):
            found[self.subject.visits[visit]].append(row)
        return found

    @cached_property
    def flank_V(self) -> np.ndarray:  # noqa: N802
        """The flanks that each visit shows (`flanks_of`)."""
        return visit_flanks(self.photos, self.visit_N, len(self.subject.visits))

    @property
    def decisions(self) -> Path:
        """The file of answers."""
        return self.folder / DECISIONS

    def state(self, before: State | None = None) -> State:
        """What follows from the answers so far."""
        return self.state_of(read_decisions(self.decisions).decisions, before)

    def state_of(self, rows: Sequence[Decision], before: State | None = None) -> State:
        """What follows from these answers. Of a gallery that has changed since, those about visits
        that it still has, and no names of before."""
        if self.kind == "gallery":
            place, since = {"", *self.subject.place}, moment(self.since)
            rows = [row for row in rows if row.first in place and row.second in place]
            rows = [row for row in rows if row.verdict != "name" or moment(row.when) >= since]
        return load(self.subject, rows, before)

    @cached_property
    def known_V(self) -> np.ndarray:  # noqa: N802
        """Which visits are known animals, bool."""
        return np.array([name in self.known for name in self.subject.visits])

    @cached_property
    def _order(self) -> list[int]:
        """The other visits in the order of their photographs."""
        visits = dict.fromkeys(self.visit_N.tolist())
        return [visit for visit in visits if not self.known_V[visit]]

    def _given(self, state: State) -> list[Decision]:
        """The names that were there before the review, as rows; without one that a person has given
        to another animal."""
        group_V, place = state.result.doubts.group_V, self.subject.place
        owners: dict[str, set[int]] = {}
        for row in state.decisions:
            if row.verdict == "name":
                owners.setdefault(row.name, set()).add(int(group_V[place[row.first]]))
        return [
            Decision(visit, "", "name", name, "gallery", LONG_AGO, 0.0, None, "", None)
            for visit, name in {**self.known, **self.named}.items()
            if visit in self.known
            or name not in owners
            or int(group_V[place[visit]]) in owners[name]
        ]

    def question(self, state: State, who: str) -> Question | NameQuestion | None:
        """The next one; names come after all pairs. None: the review is done."""
        if self.kind == "identify":
            pair = next_confirmation(state, who, self.known_V, self._order)
        elif self.kind == "gallery":
            pair = next_doubt(state, who, self.names(state).several)
        else:
            pair = next_question(state, who, self.wrong)
        if pair is None:
            return self._name_question(state)
        return self._shown(pair)

    def _shown(self, pair: Question) -> Question:
        """The question, without a probability where none was measured."""
        return pair if self.tells_probability else replace(pair, probability=None)

    def _name_question(self, state: State) -> NameQuestion | None:
        group_V, names = state.result.doubts.group_V, self.names(state)
        used = {row.name for row in state.decisions if row.verdict == "name"} | self.taken
        clashing = {group for groups in names.shared.values() for group in groups}
        clear_V = ~untold(state) if self.kind == "identify" else np.ones(len(group_V), bool)
        for group, name in enumerate(names.name_G):
            members = np.flatnonzero((group_V == group) & clear_V)
            if name is None and len(members):
                visits = tuple(self.subject.visits[v] for v in members)
                given = self._often_first(names.several.get(group, ()), visits)
                if group in clashing and not given:
                    given = tuple(n for n, groups in names.shared.items() if group in groups)
                return NameQuestion(visits[0], visits, free_name(used), given)
        return None

    def _often_first(self, names: Sequence[str], visits: Sequence[str]) -> tuple[str, ...]:
        held = [self.named.get(visit) for visit in visits]
        return tuple(sorted(names, key=lambda name: -held.count(name)))

    def names(self, state: State) -> Names:
        """What the animals are called."""
        group_V = state.result.doubts.group_V
        return names_of((*self._given(state), *state.decisions), self.subject.place, group_V)

    def confirmed(self, state: State) -> dict[str, str]:
        """The name of each visit whose animal people have confirmed: by an answer that joins it to
        a known animal, or by a name for its animal, whose photographs are shown all together. Of a
        gallery the visits that were given a name."""
        group_V, names = state.result.doubts.group_V, self.names(state).name_G
        if self.kind == "gallery":
            place = self.subject.place
            given = {place[row.first] for row in state.decisions if row.verdict == "name"}
            groups = {int(group_V[v]) for v in given}
            rows = zip(self.subject.visits, group_V.tolist(), strict=True)
            return {visit: str(names[g]) for visit, g in rows if g in groups and names[g]}
        of_known = set(group_V[self.known_V].tolist())
        linked_V = linked(state, self.known_V)
        clear_V = ~untold(state) if self.kind == "identify" else np.ones(len(group_V), bool)
        found = {}
        for v, visit in enumerate(self.subject.visits):
            name, group = names[group_V[v]], int(group_V[v])
            sure = linked_V[v] if group in of_known else clear_V[v]
            if name is not None and sure and visit not in self.known:
                found[visit] = name
        return found

    def seen(self, state: State) -> int:
        """The number of visits, without known animals, that an answer is about."""
        pair_N2 = state.result.votes.pair_N2
        return int(np.count_nonzero(~self.known_V[np.unique(pair_N2)]))

    def answer(self, question: Question, verdict: Verdict, *, who: str, seconds: float) -> Decision:
        """Save an answer."""
        row = decided(question, verdict, who=who, when=_now(), seconds=_seconds(seconds))
        append_decision(self.decisions, row)
        return row

    def _others(self, state: State, question: NameQuestion) -> dict[str, int]:
        """The names of the review's other animals, and the group of each."""
        group_V, place = state.result.doubts.group_V, self.subject.place
        given = {row.first: row.name for row in state.decisions if row.verdict == "name"}
        held = {self.named.get(visit) for visit in question.visits}
        before = {v: n for v, n in self.named.items() if n not in held}
        own = group_V[place[question.visit]]
        names = {**before, **self.known, **given}
        groups = [(name, int(group_V[place[visit]])) for visit, name in names.items()]
        return {name: group for name, group in groups if group != own}

    def whether_one(self, state: State, question: NameQuestion, name: str) -> Question | None:
        """Where another animal of the review has this name: whether both are one. None where none
        has it, or no photographs of the two can tell."""
        own, name = (
            int(state.result.doubts.group_V[self.subject.place[question.visit]]),
            one_line(name),
        )
        for other, group in self._others(state, question).items():
            if other.casefold() == name.casefold():
                pair = next_of_groups(state, own, group)
                if pair is not None:
                    return self._shown(pair)
        return None

    def name(
        self, state: State, question: NameQuestion, name: str, *, who: str, seconds: float
    ) -> None:
        """Save an animal's name; ReviewError for one that another animal has."""
        name = one_line(name)
        if not name:
            raise ReviewError("Give the animal a name.")
        for other in (*self._others(state, question), *self.taken):
            if other.casefold() == name.casefold():
                raise ReviewError(
                    f"Another animal is called {other}. If both are one, give this one another "
                    "name, and join them later with exreid gallery merge."
                )
        for visit in question.visits if question.names else question.visits[:1]:
            row = Decision(visit, "", "name", name, who, _now(), _seconds(seconds), None, "", None)
            append_decision(self.decisions, row)

    def undo(self, state: State, who: str) -> bool:
        """Take back this person's last answer that counts; whether there was one."""
        own = [row for row in state.decisions if row.who == who]
        if not own:
            return False
        last = own[-1]
        row = replace(last, verdict="undo", name="", when=_now(), seconds=0.0, probability=None)
        append_decision(self.decisions, replace(row, purpose="", drawn=None))
        return True

    def add(self, rows: Sequence[Decision]) -> int:
        """Add the answers of another file; how many were new."""
        own = read_decisions(self.decisions).decisions
        new = [row for row in merge_decisions([rows]) if row not in set(own)]
        load(self.subject, [*own, *new])  # ReviewError for another run's
        for row in new:
            append_decision(self.decisions, row)
        return len(new)

    def animals(self, state: State) -> list[str]:
        """The name of each photograph's animal."""
        names = self.names(state).name_G
        group_N = state.result.doubts.group_V[self.visit_N]
        return [names[group] or f"unnamed {group + 1}" for group in group_N.tolist()]

    def save(self, state: State) -> Path:
        """Write ``reviewed.parquet``: the photographs, each with its animal's name; of an
        identification only confirmed names."""
        called: list[str | None] = [*self.animals(state)]
        if self.kind == "identify":
            found = self.confirmed(state)
            called = [found.get(self.subject.visits[v]) for v in self.visit_N]
        kept = [name for name in KEPT if name in self.photos]
        frame = self.photos[kept].assign(identity=pd.Series(called, dtype=object))
        frame = frame[~self.known_V[self.visit_N]]
        write_table(self.folder / REVIEWED, pa.Table.from_pandas(frame, preserve_index=False))
        return self.folder / REVIEWED

    def wanted(self, row: int) -> Wanted:
        """The picture of a photograph."""
        photo = self.photos.iloc[row]
        cells = {name: _text(photo.get(name)) for name in ("root", "path", "mask", "bbox")}
        return Wanted(cells["root"], cells["path"], None, large=True, bbox=cells["bbox"])


def visit_flanks(photos: pd.DataFrame, visit_N: np.ndarray, visits: int) -> np.ndarray:
    """The flanks that each visit shows, by the viewpoints of its photographs (`flanks_of`)."""
    views_V: list[list[str | None]] = [[] for _ in range(visits)]
    views = photos["viewpoint"].tolist() if "viewpoint" in photos else [None] * len(photos)
    for view, visit in zip(views, visit_N.tolist(), strict=True):
        views_V[visit].append(_text(view))
    return flanks_of(views_V)


def one_line(name: str) -> str:
    """A name as it is kept, with single spaces alone."""
    return " ".join(name.split())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _seconds(seconds: float) -> float:
    return round(min(max(seconds, 0.0), 86400.0), 1) if math.isfinite(seconds) else 0.0


def _text(cell: object) -> str | None:
    return cell if isinstance(cell, str) and cell else None
