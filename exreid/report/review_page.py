"""What the page of a review shows, as the page takes it; served, or written to a folder."""

from __future__ import annotations

from exreid.progress import counted
from exreid.records import Json
from exreid.report.reviewed import NameQuestion, ReviewedRun, answers_of, told
from exreid.review.asking import Question
from exreid.review.state import State, wrong_decisions


def shown(
    run: ReviewedRun, state: State, question: Question | NameQuestion | None
) -> dict[str, Json]:
    """The question, and how far the review is."""
    content: dict[str, Json] = {"told": list(told(run, state)), "progress": _progress(run, state)}
    if isinstance(question, Question):
        chance = question.probability
        return content | {
            "kind": "pair",
            "probability": None if chance is None else round(chance, 3),
            "sides": _sides(run, question),
        }
    if question is not None:
        rows = [row for visit in question.visits for row in run.photos_of[visit]]
        return content | {
            "kind": "name",
            "offered": question.offered,
            "names": list(question.names),
            "photos": [_photo(run, row) for row in rows],
        }
    called = run.names(state).name_G
    return content | {"kind": "done", "called": sorted(name for name in called if name)}


def _progress(run: ReviewedRun, state: State) -> Json:
    """In a few words, and what there is to add where there is room."""
    answers = counted(answers_of(state), "answer")
    visits = len(run.subject.visits) - len(run.known)
    if run.kind == "identify":
        return [f"{run.seen(state)} of {counted(visits, 'visit')} seen", f" · {answers}"]
    wrong = f"{wrong_decisions(state):.1f}"
    short = f"{answers} · {counted(state.animals, 'animal')}"
    return [short, f" in {counted(visits, 'visit')} · about {wrong} decisions wrong"]


def _sides(run: ReviewedRun, question: Question) -> list[Json]:
    """Both visits; a known animal is on the right."""
    names = [question.first, question.second]
    rows = list(run.best.get((question.first, question.second), (None, None)))
    sides = [_visit(run, name, row) for name, row in zip(names, rows, strict=True)]
    return sides[::-1] if names[0] in run.known else sides


def _visit(run: ReviewedRun, name: str, best: int | None) -> Json:
    rows = run.photos_of[name]
    first = rows[0] if best is None else best
    photos = [_photo(run, row) for row in [first, *(r for r in rows if r != first)]]
    return {"animal": run.known.get(name, ""), "photos": photos}


def _photo(run: ReviewedRun, row: int) -> Json:
    photo = run.photos.iloc[row]
    words = [photo.get(name) for name in ("date", "viewpoint")]
    about = " · ".join(word for word in words if isinstance(word, str) and word)
    return {"row": row, "name": str(photo["image_id"]), "about": about}
