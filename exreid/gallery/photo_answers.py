"""What is told of new photographs: one answer each, and one for each visit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.gallery.folder import Gallery
from exreid.gallery.photo_table import Photos
from exreid.metrics.identities import IdentityAnswer, Leaders, pool_encounters
from exreid.pipeline.answers import ENCOUNTER_FILE, NEW_ANIMALS_FILE, OPEN_SET_FILE
from exreid.pipeline.stages import Ranked
from exreid.records import Rejected


@dataclass(frozen=True)
class Candidate:
    """One animal that a photograph may show."""

    animal: str
    score: float
    probability: float | None
    best_photo: str
    """The gallery's photograph of it that fits best."""
    photos: int
    """Its photographs among the candidates."""


@dataclass(frozen=True)
class PhotoAnswer:
    """What is told of one photograph."""

    photo: str
    status: str
    """``answered``, ``in gallery`` or ``unreadable``."""
    visit: str | None = None
    time: str | None = None
    decision: str | None = None
    """``known`` or ``new``; None where the gallery does not decide."""
    known_probability: float | None = None
    """That the leading animal is the right one, and so no new one."""
    margin: float | None = None
    """By how much of the score the leading animal is before the next."""
    new_animal: int | None = None
    """Of a photograph that is called new: its animal's number among the new ones of this run."""
    animals: tuple[Candidate, ...] = ()
    note: str = ""
    """Why it is unreadable, which photograph of the gallery it is, or why its decision promises no
    false-match rate."""

    @property
    def probability(self) -> float | None:
        """Of the leading animal."""
        stated = self.animals[0].probability if self.animals else None
        return self.known_probability if stated is None else stated

    def row(self) -> dict[str, Any]:
        """A line of ``identifications.csv``."""
        first, second = (*self.animals[:2], None, None)[:2]
        return {
            "photo": self.photo,
            "status": self.status,
            "visit": self.visit,
            "time": self.time,
            "decision": self.decision,
            "animal": first.animal if first else None,
            "probability": self.probability,
            "score": first.score if first else None,
            "next_animal": second.animal if second else None,
            "next_probability": second.probability if second else None,
            "margin": self.margin,
            "new_animal": self.new_animal,
            "best_gallery_photo": first.best_photo if first else None,
            "note": self.note,
        }


@dataclass(frozen=True)
class VisitAnswer:
    """What the photographs of one visit say together."""

    visit: str
    how: str
    """How the visit was found: ``table``, ``time`` or ``folder``."""
    photos: int
    known: int | None
    """How many of them are called known."""
    decision: str | None
    """``known`` or ``new``, of all of them together; None where the gallery does not decide."""
    probability: float | None
    """That the animal is the right one, and so no new one."""
    animal: str | None
    """The one that leads them together, among those that lead a photograph."""
    score: float | None
    next_animal: str | None

    @property
    def name(self) -> str:
        """As people say it."""
        return str(visit_name(self.visit))


@dataclass(frozen=True)
class Identification:
    """All that is told."""

    photos: list[PhotoAnswer]
    visits: list[VisitAnswer]
    counts: dict[str, Any]
    reason: str | None = None
    """Why the decisions promise no false-match rate, where they do not."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "photos": [asdict(p) | {"probability": p.probability} for p in self.photos],
            "visits": [asdict(visit) for visit in self.visits],
            "counts": self.counts,
            "reason": self.reason,
        }


PART = re.compile(r"(\d+):")


def visit_name(encounter: str | None) -> str | None:
    """An encounter as people say it: where it is made of columns of a table, their texts without
    the lengths that keep them apart (see `exreid.data.metadata_checks.joined_text`).

    >>> visit_name("5:north|2:17"), visit_name("cam1 2024-05-01 22:00:00")
    ('north / 17', 'cam1 2024-05-01 22:00:00')
    """
    parts, rest = [], encounter or ""
    while found := PART.match(rest):
        end = found.end() + int(found[1])
        if end > len(rest) or rest[end : end + 1] not in ("", "|"):
            break
        parts.append(rest[found.end() : end])
        rest = rest[end + 1 :]
    return encounter if rest or not parts else " / ".join(parts)


def visit_table(ranked: Ranked, names: dict[int, str], decision_Q: np.ndarray | None) -> pa.Table:
    """``encounters.parquet``: the answer of each visit, its photographs pooled as a probe does, and
    decided as one photograph is that had the pooled score and margin."""
    queries, encounters = ranked.queries, ranked.table.rows["encounter"]
    rows = []
    pooled = pool_encounters(ranked.ranking, ranked.gallery.identity_N, queries.encounter_N)
    for _, members, answer in pooled:
        animals = [names[int(code)] for code in answer.identity_A[:2]]
        known = None if decision_Q is None else int((decision_Q[members] == "known").sum())
        probability, decision = _visit_decision(ranked, members, answer)
        rows.append(
            {
                "encounter": encounters.iloc[queries.position_N[members[0]]],
                "identity": None,
                "photos": len(members),
                "identity_rank": None,
                "leader": animals[0] if animals else None,
                "score": float(answer.score_A[0]) if animals else None,
                "next": animals[1] if len(animals) > 1 else None,
                "known_photos": known,
                "decision": decision,
                "known_probability": probability,
            }
        )
    number, text = pa.int64(), pa.string()
    types = {
        "encounter": text,
        "identity": text,
        "photos": number,
        "identity_rank": number,
        "leader": text,
        "score": pa.float64(),
        "next": text,
        "known_photos": number,
        "decision": text,
        "known_probability": pa.float64(),
    }
    return pa.Table.from_pylist(rows, pa.schema(list(types.items())))


def _visit_decision(
    ranked: Ranked, members: np.ndarray, answer: IdentityAnswer
) -> tuple[float | None, str | None]:
    """The probability that the leader of a visit is right, and known or new; None undecided."""
    if ranked.open_set is None:
        return None, None
    (decider,), score_A = ranked.open_set.deciders, answer.score_A
    if len(score_A) == 0:
        return 0.0, "new"
    kept_M = np.count_nonzero(ranked.ranking.candidate_index_QK[members] >= 0, axis=1)
    last_M = ranked.ranking.candidate_score_QK[members, np.maximum(kept_M - 1, 0)]
    after = score_A[1:].max() if len(score_A) > 1 else float(last_M[kept_M > 0].mean())
    margin = max(float(score_A[0] - after), 0.0)
    pooled = Leaders(answer.identity_A[:1], score_A[:1], np.array([margin]))
    probability = float(decider.probability(pooled)[0])
    return probability, "known" if probability > decider.bar else "new"


def identification(
    folder: Path,
    gallery: Gallery,
    photos: Photos,
    rejected: Sequence[Rejected],
    ranked: Ranked | None,
) -> Identification:
    """What the files of a run say, photograph by photograph."""
    decider = gallery.decider()
    reason = decider.reason or None if decider is not None else None
    answered = [] if ranked is None else _answered(folder, photos, ranked, reason)
    visits = [] if ranked is None else _visits(folder, photos)
    order = {visit.visit: i for i, visit in enumerate(visits)}
    answered.sort(
        key=lambda one: (order.get(one.visit or "", len(order)), one.time or "~", one.photo)
    )
    known = [
        PhotoAnswer(path, "in gallery", animals=(), note=f"{identity}: {image_id}")
        for path, image_id, identity in photos.in_gallery
    ]
    bad = [PhotoAnswer(one.path, "unreadable", note=one.reason) for one in rejected]
    decided = [one for one in answered if one.decision is not None]
    counts: dict[str, Any] = {
        "photographs": photos.found,
        "answered": len(answered),
        "in_gallery": len(known),
        "images_left_out": len(bad),
        "other_files": photos.others,
        "visits": len(visits),
        "gallery_images": len(gallery),
        "gallery_fingerprint": gallery.fingerprint,
    }
    if decided:
        counts["known"] = sum(one.decision == "known" for one in decided)
        counts["new"] = sum(one.decision == "new" for one in decided)
    if gallery.grouping() is not None:
        counts["new_animals"] = len({one.new_animal for one in decided} - {None})
    return Identification([*answered, *known, *bad], visits, counts, reason)


def _answered(
    folder: Path, photos: Photos, ranked: Ranked, reason: str | None
) -> list[PhotoAnswer]:
    named = dict(tuple(pd.read_parquet(folder / "answers.parquet").groupby("query_id", sort=False)))
    decisions: dict[str, Any] = {}
    if (folder / OPEN_SET_FILE).exists():
        rows = pd.read_parquet(folder / OPEN_SET_FILE)
        decisions = {row["query_id"]: row for row in rows.to_dict("records")}
    groups: dict[str, int] = {}
    if (folder / NEW_ANIMALS_FILE).exists():
        rows = pd.read_parquet(folder / NEW_ANIMALS_FILE)
        groups = dict(zip(rows["query_id"], rows["group"].tolist(), strict=True))
    found = []
    for place in ranked.queries.position_N.tolist():
        row = ranked.table.rows.iloc[place]
        mine = named.get(row["image_id"], pd.DataFrame()).to_dict("records")
        animals = tuple(
            Candidate(
                one["identity"],
                one["score"],
                None if pd.isna(one["probability"]) else one["probability"],
                one["best_gallery_id"],
                one["images"],
            )
            for one in mine
        )
        decision = decisions.get(row["image_id"], {})
        margin = decision.get("margin")
        if margin is None and len(animals) > 1:
            margin = animals[0].score - animals[1].score
        found.append(
            PhotoAnswer(
                row["path"],
                "answered",
                visit=row["encounter"],
                time=None if pd.isna(row["date"]) else str(row["date"]),
                decision=decision.get("decision"),
                known_probability=decision.get("known_probability"),
                margin=margin,
                new_animal=groups.get(row["image_id"]),
                animals=animals,
                note=reason or "",
            )
        )
    return found


def _visits(folder: Path, photos: Photos) -> list[VisitAnswer]:
    file = folder / ENCOUNTER_FILE
    if not file.exists():
        return []
    encounters = photos.table.rows["encounter"].tolist()
    how = dict(zip(encounters, photos.how_N, strict=True))
    first = pd.Series(photos.time_N).groupby(pd.Series(encounters, dtype=object)).min()
    rows = pd.read_parquet(file).to_dict("records")
    rows.sort(key=lambda row: (str(first.get(row["encounter"])), row["encounter"]))
    return [
        VisitAnswer(
            row["encounter"],
            how[row["encounter"]],
            row["photos"],
            None if pd.isna(row["known_photos"]) else int(row["known_photos"]),
            row["decision"],
            None if pd.isna(row["known_probability"]) else row["known_probability"],
            row["leader"],
            None if pd.isna(row["score"]) else row["score"],
            row["next"],
        )
        for row in rows
    ]
