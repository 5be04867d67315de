"""A discovery that a person reviews: what is asked, what was answered, and the animals that follow.

The answers are rows of ``decisions.csv`` in the run's folder; all else is computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.errors import ReviewError, RunError
from exreid.progress import counted
from exreid.report.pictures import Wanted
from exreid.review.asking import Question, decided, next_question
from exreid.review.belief import pair_graph
from exreid.review.decisions import (
    Decision,
    Verdict,
    append_decision,
    merge_decisions,
    read_decisions,
)
from exreid.review.names import Names, free_name, names_of
from exreid.review.state import State, Subject, agrees, load, subject_of, wrong_decisions
from exreid.storage.run_files import NUMBER, TEXT, read_run_table
from exreid.storage.run_folder import write_table
from exreid.storage.run_record import read_record

DECISIONS, REVIEWED = "decisions.csv", "reviewed.parquet"
UNLISTED = 1e-3
"""The probability that two visits outside each other's shortlists show one animal; the lowest of
those inside, where that is lower."""
LEAST, MOST = 1e-6, 1 - 1e-6
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
    """A finished discovery, ready to be asked about."""

    folder: Path
    photos: pd.DataFrame
    """A row for each photograph."""
    visit_N: np.ndarray
    """int64: the visit of each photograph."""
    subject: Subject
    best: dict[tuple[str, str], tuple[int, int]]
    """By the names of two visits: the rows of their most alike photographs."""
    wrong: float
    """The review is done where fewer decisions than this are expected to be wrong."""

    @cached_property
    def photos_of(self) -> dict[str, list[int]]:
        """The rows of each visit's photographs."""
        found: dict[str, list[int]] = {name: [] for name in self.subject.visits}
        for row, visit in enumerate(self.visit_N.tolist()):
            found[self.subject.visits[visit]].append(row)
        return found

    @property
    def decisions(self) -> Path:
        """The file of answers."""
        return self.folder / DECISIONS

    def state(self, before: State | None = None) -> State:
        """What follows from the answers so far."""
        return load(self.subject, read_decisions(self.decisions).decisions, before)

    def question(self, state: State, who: str) -> Question | NameQuestion | None:
        """The next one; names come after all pairs. None: the review is done."""
        pair = next_question(state, who, self.wrong)
        return pair if pair is not None else self._name_question(state)

    def _name_question(self, state: State) -> NameQuestion | None:
        group_V, names = state.result.doubts.group_V, self.names(state)
        used = {row.name for row in state.decisions if row.verdict == "name"}
        clashing = {group for groups in names.shared.values() for group in groups}
        for group, name in enumerate(names.name_G):
            if name is None:
                visits = tuple(self.subject.visits[v] for v in np.flatnonzero(group_V == group))
                given = names.several.get(group, ())
                if group in clashing and not given:
                    given = tuple(n for n, groups in names.shared.items() if group in groups)
                return NameQuestion(visits[0], visits, free_name(used), given)
        return None

    def names(self, state: State) -> Names:
        """What the animals are called."""
        return names_of(state.decisions, self.subject.place, state.result.doubts.group_V)

    def answer(self, question: Question, verdict: Verdict, *, who: str, seconds: float) -> Decision:
        """Save an answer."""
        row = decided(question, verdict, who=who, when=_now(), seconds=_seconds(seconds))
        append_decision(self.decisions, row)
        return row

    def name(
        self, state: State, question: NameQuestion, name: str, *, who: str, seconds: float
    ) -> None:
        """Save an animal's name; ReviewError for one that another animal has."""
        name = " ".join(name.split())
        if not name:
            raise ReviewError("Give the animal a name.")
        group_V, place = state.result.doubts.group_V, self.subject.place
        given = {row.first: row.name for row in state.decisions if row.verdict == "name"}
        for visit, other in given.items():
            same = group_V[place[visit]] == group_V[place[question.visit]]
            if not same and other.casefold() == name.casefold():
                raise ReviewError(f"Another animal is called {other}.")
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
        """Write ``reviewed.parquet``: the photographs, each with its animal's name."""
        kept = [name for name in KEPT if name in self.photos]
        frame = self.photos[kept].assign(identity=self.animals(state))
        write_table(self.folder / REVIEWED, pa.Table.from_pandas(frame, preserve_index=False))
        return self.folder / REVIEWED

    def wanted(self, row: int) -> Wanted:
        """The picture of a photograph."""
        photo = self.photos.iloc[row]
        cells = {name: _text(photo.get(name)) for name in ("root", "path", "mask", "bbox")}
        return Wanted(cells["root"], cells["path"], None, large=True, bbox=cells["bbox"])


def read_review(folder: Path, *, wrong: float = 1.0) -> ReviewedRun:
    """RunError for a folder that is not a finished discovery."""
    record = read_record(folder)
    if record.kind != "discover" or record.status != "completed":
        raise RunError(
            f"{folder}: a review takes a completed run of exreid discover, and this is a run of "
            f"exreid {record.kind} whose status is {record.status!r}."
        )
    animals = read_run_table(
        folder / "animals.parquet", {"image_id": TEXT, "encounter": TEXT}, key="image_id"
    ).to_pandas()
    photos = read_run_table(folder / "photos.parquet", {"image_id": TEXT}, key="image_id")
    frame = photos.to_pandas().astype(object).set_index("image_id", drop=False)
    frame = frame.loc[animals["image_id"]].reset_index(drop=True)
    names, visit_N = np.unique(animals["encounter"].to_numpy(str), return_inverse=True)
    pairs = _pairs(folder, animals, names)
    apart_N2 = _apart(frame, visit_N)
    probability_P = pairs.pop("probability").to_numpy()
    lowest = min(UNLISTED, float(probability_P.min(initial=1.0)))
    graph = pair_graph(
        len(names),
        pairs[["first", "second"]].to_numpy(np.int64),
        probability_P,
        unlisted=lowest,
        apart_N2=apart_N2,
    )
    best = {
        (str(names[a]), str(names[b])): (int(i), int(j))
        for a, b, i, j in pairs.itertuples(index=False)
    }
    subject = subject_of([str(name) for name in names], graph)
    return ReviewedRun(folder, frame, visit_N, subject, best, wrong)


def _pairs(folder: Path, animals: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    """Of each pair of visits its places in ``names``, the smaller first, the rows of its best
    photographs, and the probability; rising."""
    columns = dict.fromkeys(("first_encounter", "second_encounter", "first_id", "second_id"), TEXT)
    file = folder / "pairs.parquet"
    table = read_run_table(file, {**columns, "probability": NUMBER}).to_pandas()
    row_of = {image: row for row, image in enumerate(animals["image_id"])}
    place_of = {str(name): place for place, name in enumerate(names)}
    try:
        visit_P2 = np.array(
            [[place_of[a], place_of[b]] for a, b in table.iloc[:, :2].to_numpy()], np.int64
        ).reshape(-1, 2)
        image_P2 = np.array(
            [[row_of[a], row_of[b]] for a, b in table[["first_id", "second_id"]].to_numpy()],
            np.int64,
        ).reshape(-1, 2)
    except KeyError as error:
        raise RunError(f"{file}: names {error}, which animals.parquet does not have.") from error
    turned_P = visit_P2[:, 0] > visit_P2[:, 1]
    visit_P2[turned_P], image_P2[turned_P] = visit_P2[turned_P, ::-1], image_P2[turned_P, ::-1]
    frame = pd.DataFrame(
        {
            "first": visit_P2[:, 0],
            "second": visit_P2[:, 1],
            "first_row": image_P2[:, 0],
            "second_row": image_P2[:, 1],
            "probability": table["probability"].clip(LEAST, MOST),
        }
    )
    return frame.sort_values(["first", "second"], ignore_index=True)


def _apart(photos: pd.DataFrame, visit_N: np.ndarray) -> np.ndarray:
    """Pairs of visits that are animals of one photograph, int64 (N, 2)."""
    places = photos["root"].astype(str) + "/" + photos["path"].astype(str)
    found: set[tuple[int, int]] = set()
    for _, rows in pd.Series(visit_N).groupby(places):
        visits = sorted(set(rows))
        found.update((a, b) for i, a in enumerate(visits) for b in visits[i + 1 :])
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def told(run: ReviewedRun, state: State) -> list[str]:
    """How far the review is, in sentences."""
    asked = sum(row.verdict != "name" for row in state.decisions)
    wrong = wrong_decisions(state)
    so_far = f"{counted(state.animals, 'animal')} in {counted(len(run.subject.visits), 'visit')}"
    after = f"after {counted(asked, 'answer')}; {wrong:.1f} wrong decisions are expected."
    lines = [f"{so_far}, {after}"]
    if state.audit is not None:
        animals = state.audit.animals
        lines.append(
            f"By the audit alone: {animals.value:.1f} animals (95% interval {animals.low:.1f} to "
            f"{animals.high:.1f}); {100 * state.audit.missed.value:.0f}% of the pairs of one "
            "animal are missed."
        )
        if not agrees(state, run.wrong):
            lines.append("The audit does not agree yet: there are more questions.")
    return lines


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _seconds(seconds: float) -> float:
    return round(min(max(seconds, 0.0), 86400.0), 1) if math.isfinite(seconds) else 0.0


def _text(cell: object) -> str | None:
    return cell if isinstance(cell, str) and cell else None
