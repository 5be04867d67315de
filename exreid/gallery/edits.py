"""Edits of a gallery: names of animals that were changed, photographs that a review put in or that
were taken out.

Its ``decisions.csv`` has a row for each photograph of each edit. An undone edit stays, followed by
the one that undid it.

Letters: G gallery images.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Literal

from exreid.data.metadata_cells import similar_names
from exreid.data.metadata_formats import clean_text
from exreid.errors import GalleryError, ReviewError
from exreid.gallery.layout import DAMAGED
from exreid.progress import counted
from exreid.records import ImageTable
from exreid.review.decisions import ACTIONS, Action, Decision, decisions_text, read_decisions
from exreid.storage.run_folder import write_text

SHOWN_NAMES = 5


@dataclass(frozen=True)
class Edit:
    """New names for some photographs, all given at once."""

    action: Action | Literal["undo"]
    before: Mapping[str, str]
    """The photographs' names before the edit, by ``image_id``; empty where it adds the photograph,
    or puts it back."""
    after: Mapping[str, str]
    """Their names after it; empty where it takes the photograph out."""
    who: str
    when: str
    """ISO 8601 with a time zone."""

    def words(self) -> str:
        """A sentence."""
        olds, news = _listed(self.before.values()), _listed(self.after.values())
        photographs = counted(len(self.after), "photograph")
        added = sum(not name for name in self.before.values())
        if self.action == "apply":
            moved = len(self.after) - added
            parts = [f"{counted(added, 'photograph')} added" if added else ""]
            parts += [f"{counted(moved, 'photograph')} renamed" if moved else ""]
            return f"{' and '.join(filter(None, parts))} by a review: {news}"
        if self.action == "remove":
            return f"{photographs} of {olds} removed"
        if self.action == "undo" and not any(self.before.values()):
            return f"undone: {photographs} of {news} put back"
        if self.action == "undo" and not all(self.after.values()):
            return f"undone: {photographs} of a review taken out or named as before ({olds})"
        said = {
            "rename": f"{olds} renamed to {news}",
            "merge": f"{olds} merged into {news}",
            "split": f"{news} split off {olds}",
            "undo": f"undone: {olds} back to {news}",
        }[self.action]
        return f"{said} ({photographs})"


def now() -> str:
    """The time of an edit."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_edits(file: Path) -> list[Edit]:
    """The edits in a gallery's ``decisions.csv``, in their order. GalleryError for any other
    file."""
    try:
        found = read_decisions(file)
    except ReviewError as error:
        raise GalleryError(f"{error} {DAMAGED}") from error
    foreign = [row for row in found.decisions if row.verdict not in (*ACTIONS, "undo")]
    if foreign or found.torn:
        raise GalleryError(f"{file}: is not a gallery's table of decisions. {DAMAGED}")
    edits = []
    for _, rows in groupby(found.decisions, lambda row: (row.verdict, row.who, row.when)):
        own = list(rows)
        before = {row.first: row.before for row in own}
        after = {row.first: row.name for row in own}
        action: Action | Literal["undo"] = own[0].verdict  # type: ignore[assignment]
        edits.append(Edit(action, before, after, own[0].who, own[0].when))
    return edits


def write_edits(file: Path, edits: Sequence[Edit]) -> None:
    """Write what `read_edits` reads."""
    rows = [
        Decision(
            image, "", edit.action, name, edit.who, edit.when, 0.0, None, "", None,
            edit.before[image],
        )
        for edit in edits
        for image, name in edit.after.items()
    ]  # fmt: skip
    write_text(file, decisions_text(rows))


def standing_edits(edits: Sequence[Edit]) -> list[Edit]:
    """Those that were not undone, in their order."""
    left: list[Edit] = []
    for edit in edits:
        if edit.action == "undo":
            left.pop()
        else:
            left.append(edit)
    return left


def names_taken_away(edits: Sequence[Edit], table: ImageTable) -> dict[str, tuple[str, str]]:
    """By each name that edits have taken from the gallery: one that its photographs have now, and
    the day of the edit."""
    now = dict(zip(table.rows["image_id"], table.rows["identity"], strict=True))
    present = set(now.values())
    return {
        old: (now[image], edit.when[:10])
        for edit in standing_edits(edits)
        for image, old in edit.before.items()
        if old and image in now and old not in present
    }


def rename(table: ImageTable, old: str, new: str, missing: Sequence[str]) -> dict[str, str]:
    """The new name of each photograph of ``old``, by ``image_id``. ``missing``: the words that are
    no names. GalleryError for a name that another animal has."""
    ids = _photographs(table, old)
    return dict.fromkeys(ids, accepted_name(table, new, missing, instead_of=old))


def merge(table: ImageTable, kept: str, other: str) -> dict[str, str]:
    """The name ``kept`` for each photograph of ``other``. GalleryError where a photograph shows
    both."""
    kept_ids, other_ids = _photographs(table, kept), _photographs(table, other)
    if kept == other:
        raise GalleryError(f"{kept}: give the names of two animals.")
    path = dict(zip(table.rows["image_id"], table.rows["path"], strict=True))
    both = sorted({path[i] for i in kept_ids} & {path[i] for i in other_ids})
    if both:
        raise GalleryError(f"{both[0]} shows both {kept} and {other}: they are two animals.")
    return dict.fromkeys(other_ids, kept)


def split(
    table: ImageTable, old: str, new: str, places: Sequence[str], missing: Sequence[str]
) -> dict[str, str]:
    """The name ``new`` for the photographs of ``old`` that ``places`` name: ids, or encounters.
    GalleryError where one names nothing, or nothing would be left."""
    ids = _photographs(table, old)
    name = accepted_name(table, new, missing, instead_of=None)
    rows = table.rows[table.rows["image_id"].isin(ids)]
    chosen: dict[str, str] = {}
    for place in places:
        here = rows[(rows["image_id"] == place) | (rows["encounter"] == place)]["image_id"]
        if here.empty:
            known = [*rows["image_id"], *rows["encounter"].dropna().unique()]
            raise GalleryError(
                f"{old} has no photograph or encounter {place}.{_near(place, known)}"
            )
        chosen |= dict.fromkeys(here, name)
    if not chosen:
        raise GalleryError("Name the photographs, or the encounters, that show the other animal.")
    if len(chosen) == len(ids):
        raise GalleryError(f"These are all photographs of {old}: rename it instead.")
    return chosen


def remove(table: ImageTable, words: Sequence[str]) -> dict[str, str]:
    """An empty name for each photograph that these words name: an id, a path, or an animal, for all
    of its photographs. GalleryError where one names nothing, or both a photograph and an animal, or
    nothing would be left."""
    rows, chosen = table.rows, dict[str, str]()
    for word in words:
        of_photo = rows["image_id"][(rows["image_id"] == word) | (rows["path"] == word)]
        of_animal = rows["image_id"][rows["identity"] == word]
        if of_photo.empty and of_animal.empty:
            near = _near(word, [*rows["image_id"], *rows["identity"].unique()])
            raise GalleryError(f"The gallery has no photograph and no animal {word}.{near}")
        if len(of_photo) and len(of_animal):
            raise GalleryError(
                f"{word} is both a photograph and an animal of the gallery: give the ids of the "
                "photographs."
            )
        chosen |= dict.fromkeys([*of_photo, *of_animal], "")
    if len(chosen) == len(rows):
        raise GalleryError("These are all photographs of the gallery: delete its folder instead.")
    return chosen


def undo(edits: Sequence[Edit]) -> dict[str, str]:
    """The names before the last edit that was not undone yet; GalleryError if there is none."""
    left = standing_edits(edits)
    if not left:
        raise GalleryError("There is no edit to undo.")
    return dict(left[-1].before)


def _photographs(table: ImageTable, name: str) -> list[str]:
    names = table.rows["identity"]
    ids: list[str] = table.rows["image_id"][names == name].tolist()
    if not ids:
        near = _near(name, names.unique().tolist())
        raise GalleryError(f"The gallery has no animal called {name}.{near}")
    return ids


def accepted_name(
    table: ImageTable, given: str, missing: Sequence[str], *, instead_of: str | None
) -> str:
    """The name as it is kept. GalleryError for one that another animal of the gallery has, or that
    is too like its name; ``missing``: the words that are no names."""
    name = " ".join(clean_text(given).splitlines())
    if not name or name.casefold() in {clean_text(word).casefold() for word in missing}:
        raise GalleryError(f"{given!r} is not a name: it means that an animal is unknown.")
    names = [n for n in table.rows["identity"].unique() if n != instead_of]
    if name in names:
        raise GalleryError(
            f"The gallery has another animal called {name}. If both are one animal: exreid gallery "
            f"merge DIR {shlex.join([name, instead_of or 'OTHER'])}"
        )
    for group in similar_names([*names, name]):
        if name in group:
            (other,) = sorted(set(group) - {name})[:1]
            raise GalleryError(f"{name} is too like {other}, another animal of the gallery.")
    return name


def _near(word: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _listed(names: Iterable[str]) -> str:
    each = list(dict.fromkeys(names))
    if len(each) > SHOWN_NAMES:
        each = [*each[: SHOWN_NAMES - 1], f"{len(each) - SHOWN_NAMES + 1} others"]
    *first, last = each or [""]
    return f"{', '.join(first)} and {last}" if first else last
