"""How far a review is, in words, and its page as the page takes it; served, or in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from exreid.progress import counted
from exreid.records import Json
from exreid.report.reviewed import NameQuestion, ReviewedRun
from exreid.review.asking import Question, linked, untold
from exreid.review.audit import AuditResult
from exreid.review.decisions import ANSWERS
from exreid.review.flanks import fewest_animals, flanks_of_groups
from exreid.review.state import State, agrees, wrong_decisions

MOST_MATCHES = 60
"""Drawn, the most certain."""
Match = Callable[[int, int], Sequence[tuple[float, float, float, float]]]
"""Of two rows of the photographs: the matched keypoints, the most certain first, each as x and y in
both photographs as shares of their width and height."""


def answers_of(state: State) -> int:
    """The number of answers about pairs of visits."""
    return sum(row.verdict in ANSWERS for row in state.decisions)


def told(run: ReviewedRun, state: State) -> list[str]:
    """How far the review is, in sentences."""
    after = f"after {counted(answers_of(state), 'answer')}"
    if run.kind == "identify":
        return [f"{_confirmed_words(run, state)}, {after}."]
    wrong = wrong_decisions(state)
    so_far = f"{counted(state.animals, 'animal')} in {counted(len(run.subject.visits), 'visit')}"
    lines = [f"{so_far}, {after}; {wrong:.1f} wrong decisions are expected."]
    if state.audit is not None:
        lines.append(_audit_words(state.audit))
        if not agrees(state, run.wrong):
            lines.append("The audit does not agree yet: there are more questions.")
    return [*lines, *_flank_words(run, state)]


def _audit_words(audit: AuditResult) -> str:
    groups, fewest = audit.animals, audit.fewest
    low, high = audit.interval_of_groups
    interval = f"95% interval {low} to {high}"
    words = f"By the audit alone: {groups.value:.1f} animals ({interval})"
    if fewest.value < groups.value:
        words = (
            f"By the audit alone: {groups.value:.1f} groups that people can tell apart ({interval}"
            f"), which are {audit.range_of_animals[0]} to {high} animals"
        )
    return f"{words}; {100 * audit.missed.value:.0f}% of the pairs of one animal are missed."


def _flank_words(run: ReviewedRun, state: State) -> list[str]:
    """What the review cannot say, since a left flank is compared with no right one."""
    group_V = state.result.doubts.group_V
    flank_G = flanks_of_groups(run.flank_V, group_V)
    unknown = int(np.count_nonzero(flank_G == 0))
    fewest = fewest_animals(run.flank_V, group_V)
    if fewest == state.animals:
        return []
    if unknown == len(flank_G):
        line = "No photograph's flank is known: an animal's two flanks may count as two animals"
        if run.kind == "gallery":
            return [f"{line}."]
        return [f"{line}, so these are {fewest} to {state.animals} (dataset.viewpoint_col tells)."]
    left, right = (int(np.count_nonzero(flank_G == flank)) for flank in (1, 2))
    also = f", by neither for sure: {unknown}" if unknown else ""
    line = (
        f"Known by the left flank alone: {counted(left, 'animal')}, by the right alone: {right}"
        f"{also}. No question can say which of these belong together. So the groups are right at "
        f"most within each flank, and they are {fewest} to {state.animals} animals."
    )
    return [line]


def _within_flanks(run: ReviewedRun, state: State) -> bool:
    """Whether flanks are known, and some animals by one alone."""
    group_V = state.result.doubts.group_V
    some = run.kind != "identify" and bool(run.flank_V.any())
    return some and fewest_animals(run.flank_V, group_V) < state.animals


def _confirmed_words(run: ReviewedRun, state: State) -> str:
    found, known = run.confirmed(state), set(run.known.values())
    visits = counted(len(run.subject.visits) - len(run.known), "visit")
    new = {name for name in found.values() if name not in known}
    of_known = sum(name in known for name in found.values())
    parts = [f"{of_known} of known animals"]
    if new:
        parts.append(f"{len(found) - of_known} of {counted(len(new), 'new animal')}")
    unsure = int(np.count_nonzero(untold(state) & ~linked(state, run.known_V)))
    if unsure:
        parts.append(f"{unsure} that nobody could tell")
    return f"{visits}: {', '.join(parts)}"


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
            "hint": _flank_hint(run, question),
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
    title = "Done, within each flank" if _within_flanks(run, state) else "Done"
    names = sorted(name for name in called if name)
    return content | {"kind": "done", "title": title, "called": names}


def drawn_matches(found: Sequence[tuple[float, float, float, float]]) -> dict[str, Json]:
    """The matches of two photographs as the page takes them: their number, and those drawn."""
    drawn: list[Json] = [[round(share, 4) for share in match] for match in found[:MOST_MATCHES]]
    return {"count": len(found), "matches": drawn}


def _flank_hint(run: ReviewedRun, question: Question) -> str:
    """Where no photographs of the two visits show one flank."""
    seen = [int(run.flank_V[run.subject.place[name]]) for name in (question.first, question.second)]
    return "one left, one right flank" if sorted(seen) == [1, 2] else ""


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
    return {"animal": run.known.get(name) or run.named.get(name, ""), "photos": photos}


def _photo(run: ReviewedRun, row: int) -> Json:
    photo = run.photos.iloc[row]
    words = [photo.get(name) for name in ("date", "viewpoint")]
    about = " · ".join(word for word in words if isinstance(word, str) and word)
    return {"row": row, "name": str(photo["image_id"]), "about": about}
