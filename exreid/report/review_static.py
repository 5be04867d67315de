"""A review as pages that work from disk, with the questions that follow if all answers are as
expected. They hand out a file of decisions."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from exreid.errors import ConfigError, ExreidError
from exreid.progress import Progress, no_progress
from exreid.records import Json
from exreid.report.pictures import make_picture, picture_file
from exreid.report.review_page import Match, drawn_matches, shown
from exreid.report.reviewed import NameQuestion, ReviewedRun
from exreid.review.asking import Question, decided
from exreid.review.decisions import COLUMNS, Decision, Verdict, read_decisions
from exreid.review.doubts import same_chance
from exreid.storage.run_folder import write_text

ROOM = Path(__file__).parent
FILES = ("report.css", "review.css", "theme.js", "review.js", "review_offline.js")
DATA = "questions.js"
MOST_PHOTOS = 6
"""Of a visit or an animal; the most alike one first."""


def write_static_review(
    run: ReviewedRun,
    out: Path,
    *,
    who: str,
    most: int,
    match: Match | None = None,
    progress: Progress = no_progress,
) -> int:
    """Write the pages; the number of their questions, ``most`` at most. ``who`` may be empty: then
    the page asks. ``match``: the pages draw the matches between each two visits' most alike
    photographs. ConfigError for a folder with other files."""
    if out.exists() and any(out.iterdir()) and not (out / DATA).exists():
        raise ConfigError(f"--static {out}: has other files. Name a new folder.")
    (out / "static").mkdir(parents=True, exist_ok=True)
    questions = _questions(run, who or "person", most)
    advance = progress("Making pictures", len(questions))
    for question in questions:
        _with_pictures(question, run, out)
        if match is not None and question["kind"] == "pair":
            question["matched"] = _matched(question, match)
        advance(1)
    text = json.dumps(questions, sort_keys=True)
    content = {
        "id": hashlib.sha256(f"{run.folder.name}{text}".encode()).hexdigest()[:16],
        "who": who,
        "taken": sorted({*run.taken, *run.known.values(), *run.named.values()}),
        "columns": list(COLUMNS),
        "questions": questions,
        "next": "Save the answers, and send the file to the one who made these pages: exreid "
        f"review apply {run.folder.name} decisions.csv takes it in.",
    }
    # "</" would end the script where a page is put together from parts.
    dumped = json.dumps(content).replace("</", "<\\/")
    write_text(out / DATA, f"window.REVIEW = {dumped};\n")
    for name in FILES:
        shutil.copyfile(ROOM / "static" / name, out / "static" / name)
    page = (ROOM / "templates" / "review.html").read_text(encoding="utf-8")
    own = '<script src="static/review.js"></script>'
    before = f'<script src="{DATA}"></script>\n<script src="static/review_offline.js"></script>\n'
    write_text(out / "index.html", page.replace(own, f"{before}{own}"))
    return len(questions)


def _questions(run: ReviewedRun, who: str, most: int) -> list[dict[str, Any]]:
    """The questions in their order; each answer is taken as the probability says."""
    rows = list(read_decisions(run.decisions).decisions)
    state, found = run.state_of(rows), list[dict[str, Any]]()
    start = datetime.now(UTC)
    while len(found) < most and (question := run.question(state, who)) is not None:
        when = (start + timedelta(milliseconds=len(found))).isoformat(timespec="microseconds")
        content: dict[str, Any] = shown(run, state, question)
        for name in ("told", "progress"):
            content.pop(name)
        if isinstance(question, Question):
            pair = (run.subject.place[name] for name in (question.first, question.second))
            likely = same_chance(state.queue.graph, state.queue.doubts, *pair) >= 0.5
            expected: Verdict = "same" if likely else "different"
            rows.append(decided(question, expected, who=who, when=when, seconds=0.0))
            content |= {"first": question.first, "second": question.second, "expected": expected}
            content |= {"purpose": question.purpose, "drawn": question.drawn}
            content["shown"] = question.probability
        else:
            content |= _naming(question, found)
            rows += [
                Decision(visit, "", "name", question.offered, who, when, 0.0, None, "", None)
                for visit in content["visits"]
            ]
        found.append(content)
        state = run.state_of(rows, state)
    return found


def _naming(question: NameQuestion, found: Sequence[dict[str, Any]]) -> dict[str, Json]:
    """The visits that get the name, and the questions about them."""
    visits = set(question.visits)
    related: list[Json] = [
        place
        for place, other in enumerate(found)
        if other["kind"] == "pair" and visits & {other["first"], other["second"]}
    ]
    named = question.visits if question.names else question.visits[:1]
    return {"visits": list(named), "related": related}


def _matched(question: dict[str, Any], match: Match) -> dict[str, Json]:
    """The matches of the photographs that are shown first, or why there are none."""
    rows = [side["photos"][0]["row"] for side in question["sides"]]
    try:
        return {"rows": rows, **drawn_matches(match(*rows))}
    except ExreidError as error:
        return {"rows": rows, "error": str(error)}


def _with_pictures(question: dict[str, Any], run: ReviewedRun, out: Path) -> None:
    """Make the photographs of a question, and name their files in it; no more than `MOST_PHOTOS` of
    each side."""
    for part in [*question.get("sides", []), *([question] if "photos" in question else [])]:
        part["photos"] = part["photos"][:MOST_PHOTOS]
        for photo in part["photos"]:
            wanted = replace(run.wanted(photo["row"]), large=True)
            picture = make_picture(wanted, out / "photos")
            sizes = ("p", "t") if picture.key else ()
            photo["src"] = {size: f"photos/{picture_file(picture.key, size)}" for size in sizes}
