"""The answers to new photographs: one for each, and one for each encounter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.data.metadata_rows import encounter_name
from exreid.explain.answer_words import ToldAnswer, told_answer
from exreid.gallery.folder import StoredGallery
from exreid.gallery.photo_table import Photos
from exreid.pipeline.answers import AnswerTables
from exreid.pipeline.fit_and_retrieve import Retrieval
from exreid.records import GalleryQuality, Json, Rejected


@dataclass(frozen=True)
class Candidate:
    """An animal that a photograph may show."""

    animal: str
    score: float
    probability: float | None
    best_photo: str
    """The animal's photograph in the gallery with the best score."""
    photos: int
    """The number of its photographs among the candidates."""


@dataclass(frozen=True)
class PhotoAnswer:
    """The answer to one photograph."""

    photo: str
    status: str
    """``answered``, ``in gallery`` or ``unreadable``."""
    visit: str | None = None
    time: str | None = None
    leader: str | None = None
    """The animal with the best score."""
    decision: str | None = None
    """``known`` or ``new``, by the gallery's threshold; None if the gallery does not decide."""
    known_probability: float | None = None
    """The probability that the leading animal is right, and so known."""
    margin: float | None = None
    """The leading animal's score less the next one's."""
    new_animal: int | None = None
    """For a photograph of a new animal: the animal's number among the new ones of this run."""
    animals: tuple[Candidate, ...] = ()
    """The candidates, the leader first."""
    note: str = ""
    """Why it is unreadable, its photograph in the gallery, why nothing was decided, or which
    animals look nearer and are implausible."""

    @property
    def told(self) -> ToldAnswer:
        """The answer in words."""
        return told_answer(self.leader, self.known_probability, self.decision)

    @property
    def animal(self) -> str | None:
        """The named known animal, or the new one's number; None otherwise."""
        if self.told.kind == "known":
            return self.leader
        grouped = self.told.kind == "new" and self.new_animal is not None
        return f"new {self.new_animal}" if grouped else None

    def row(self) -> dict[str, Json]:
        """A line of ``identifications.csv``."""
        answered = self.status == "answered"
        first, second = (*self.animals[:2], None, None)[:2]
        return {
            "photo": self.photo,
            "status": self.status,
            "visit": self.visit,
            "time": self.time,
            "answer": self.told.sentence if answered else None,
            "decision": self.told.kind if answered else None,
            "animal": self.animal,
            "probability": _short(self.known_probability),
            "nearest_known": self.leader,
            "score": _short(first.score) if first else None,
            "next_animal": second.animal if second else None,
            "next_probability": _short(second.probability) if second else None,
            "margin": _short(self.margin),
            "best_gallery_photo": first.best_photo if first else None,
            "note": self.note,
        }

    def as_json(self) -> dict[str, Json]:
        """For ``--json``."""
        told = {"answer": self.told.sentence, "decision": self.told.kind}
        whole = {name: value for name, value in asdict(self).items() if name != "known_probability"}
        return whole | {"probability": self.known_probability} | told


@dataclass(frozen=True)
class EncounterAnswer:
    """The common answer to the photographs of one encounter."""

    visit: str
    how: str
    """How the encounter was found: ``table``, ``time`` or ``folder``."""
    photos: int
    decision: str | None
    """``known`` or ``new``, for all of them together; None if the gallery does not decide."""
    probability: float | None
    """The probability that the animal is right, and so known."""
    animal: str | None
    """The animal with the best pooled score."""
    score: float | None
    next_animal: str | None

    @property
    def name(self) -> str:
        """The encounter's name for people."""
        return str(encounter_name(self.visit))

    @property
    def told(self) -> ToldAnswer:
        """The answer in words."""
        return told_answer(self.animal, self.probability, self.decision)

    def as_json(self) -> dict[str, Json]:
        """For ``--json``."""
        return asdict(self) | {"answer": self.told.sentence, "decision": self.told.kind}


@dataclass(frozen=True)
class Identification:
    """All answers of a run."""

    photos: list[PhotoAnswer]
    visits: list[EncounterAnswer]
    counts: dict[str, Any]
    reason: str | None = None
    """Why the decisions promise no false-match rate; None if they do."""
    quality: GalleryQuality | None = None
    """How well the gallery tells its animals apart; None if that is not known."""

    def as_json(self) -> dict[str, Json]:
        """For ``--json``."""
        return {
            "photos": [photo.as_json() for photo in self.photos],
            "visits": [visit.as_json() for visit in self.visits],
            "counts": self.counts,
            "reason": self.reason,
            "quality": None if self.quality is None else asdict(self.quality),
        }


def _short(value: float | None) -> float | None:
    """A number with six digits, as in tables."""
    return None if value is None else float(f"{value:.6g}")


def identification(
    gallery: StoredGallery,
    photos: Photos,
    rejected: Sequence[Rejected],
    retrieval: Retrieval | None,
    tables: AnswerTables | None,
) -> Identification:
    """The answers in a run's tables; ``retrieval`` and ``tables`` are None if nothing was
    answered."""
    decider = gallery.decider()
    reason = decider.reason or None if decider is not None else None
    answered: list[PhotoAnswer] = []
    visits: list[EncounterAnswer] = []
    if retrieval is not None and tables is not None:
        note = "" if gallery.decides else "the gallery does not tell known from new"
        answered = _answered(retrieval, tables, note)
        visits = _encounter_answers(tables.encounters, photos)
    order = {visit.visit: i for i, visit in enumerate(visits)}
    answered.sort(
        key=lambda photo: (
            order.get(photo.visit or "", len(order)),
            photo.time or "~",
            photo.photo,
        )
    )
    known = [
        PhotoAnswer(path, "in gallery", animals=(), note=f"{identity}: {image_id}")
        for path, image_id, identity in photos.in_gallery
    ]
    bad = [PhotoAnswer(row.path, "unreadable", note=row.reason) for row in rejected]
    kinds = [photo.told.kind for photo in answered if photo.decision is not None]
    counts: dict[str, Any] = {
        "photographs": photos.given,
        "answered": len(answered),
        "in_gallery": len(known),
        "images_left_out": len(bad),
        "other_files": photos.others,
        "visits": len(visits),
        "gallery_images": len(gallery),
        "gallery_fingerprint": gallery.fingerprint,
    }
    if kinds:
        counts |= {kind: kinds.count(kind) for kind in ("known", "new", "unsure")}
    if gallery.decides and gallery.grouping() is not None:
        groups = {photo.new_animal for photo in answered if photo.told.kind == "new"}
        counts["new_animals"] = len(groups - {None})
    return Identification([*answered, *known, *bad], visits, counts, reason, gallery.quality)


def _answered(retrieval: Retrieval, tables: AnswerTables, note: str) -> list[PhotoAnswer]:
    assert tables.answers is not None, "photographs that were answered have answers"
    rows_of = dict(tuple(tables.answers.to_pandas().groupby("query_id", sort=False)))
    decisions: dict[str, Any] = {}
    if tables.open_set is not None:
        decisions = {row["query_id"]: row for row in tables.open_set.to_pylist()}
    groups: dict[str, int] = {}
    if tables.new_animals is not None:
        groups = {row["query_id"]: row["group"] for row in tables.new_animals.to_pylist()}
    nearer = _nearer_but_implausible(retrieval)
    answered = []
    paths = retrieval.table.rows["path"].iloc[retrieval.queries.position_N]
    shared = set(paths[paths.duplicated()])
    for position in retrieval.queries.position_N.tolist():
        row = retrieval.table.rows.iloc[position]
        answers = rows_of.get(row["image_id"], pd.DataFrame()).to_dict("records")
        animals = tuple(
            Candidate(
                answer["identity"],
                answer["score"],
                None if pd.isna(answer["probability"]) else answer["probability"],
                answer["best_gallery_id"],
                answer["images"],
            )
            for answer in answers
        )
        decision = decisions.get(row["image_id"], {})
        margin = decision.get("margin")
        if margin is None and len(animals) > 1:
            margin = animals[0].score - animals[1].score
        answered.append(
            PhotoAnswer(
                row["image_id"] if row["path"] in shared else row["path"],
                "answered",
                leader=decision.get("leader") or (animals[0].animal if animals else None),
                visit=row["encounter"],
                time=None if pd.isna(row["date"]) else str(row["date"]),
                decision=decision.get("decision"),
                known_probability=decision.get("known_probability"),
                margin=margin,
                new_animal=groups.get(row["image_id"]),
                animals=animals,
                note="; ".join(filter(None, (note, nearer.get(row["image_id"])))),
            )
        )
    return answered


def _nearer_but_implausible(retrieval: Retrieval) -> dict[str, str]:
    """Of each photograph the animals with a candidate before the first plausible one, with the
    reason why that is not matched."""
    if retrieval.gated is None:
        return {}
    rows = retrieval.table.rows
    identity_of = dict(zip(rows["image_id"], rows["identity"], strict=True))
    found: dict[str, dict[str, str]] = {}
    for query_id, of in retrieval.gated.to_pandas().groupby("query_id", sort=False):
        first = of[of["rank"].to_numpy() == np.arange(1, len(of) + 1)]
        for gallery_id, reason in zip(first["gallery_id"], first["reason"], strict=True):
            found.setdefault(str(query_id), {}).setdefault(identity_of[gallery_id], reason)
    return {
        query_id: "looks nearer, but is implausible: "
        + ", ".join(f"{animal} ({reason})" for animal, reason in of.items())
        for query_id, of in found.items()
    }


def _encounter_answers(table: pa.Table | None, photos: Photos) -> list[EncounterAnswer]:
    if table is None:
        return []
    encounters = photos.table.rows["encounter"].tolist()
    how = dict(zip(encounters, photos.how_N, strict=True))
    first = pd.Series(photos.time_N).groupby(pd.Series(encounters, dtype=object)).min()
    rows = table.to_pylist()
    rows.sort(key=lambda row: (str(first.get(row["encounter"])), row["encounter"]))
    return [
        EncounterAnswer(
            row["encounter"],
            how[row["encounter"]],
            row["photos"],
            row["decision"],
            None if pd.isna(row["known_probability"]) else row["known_probability"],
            row["leader"],
            None if pd.isna(row["score"]) else row["score"],
            row["next"],
        )
        for row in rows
    ]
