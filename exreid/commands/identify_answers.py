"""The answers of `exreid identify`, as a terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exreid.commands.terminal import OUT
from exreid.explain.answer_words import UNSURE, found_words, quality_words
from exreid.progress import counted

if TYPE_CHECKING:
    from exreid.gallery.folder import StoredGallery
    from exreid.gallery.photo_answers import EncounterAnswer, Identification, PhotoAnswer

STYLES = {"known": "green", "new": "yellow", "unsure": "magenta"}
SHOWN_UNREADABLE = 20
PIPED_WIDTH = 200


def show_answers(gallery: StoredGallery, identification: Identification) -> None:
    """Print a table of the answers, then what there is to know about them."""
    answered = [photo for photo in identification.photos if photo.status == "answered"]
    if answered:
        table = _table(answered, {visit.visit: visit for visit in identification.visits})
        # In a pipe or a file, the width is not limited by a terminal.
        console = OUT if OUT.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
        console.print(table)
    for line in _notes(gallery, identification):
        # A terminal wraps sentences; lines in a pipe, and lines with a file, are not wrapped.
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal or line.startswith("  "))


def _table(answered: list[PhotoAnswer], visits: dict[str, EncounterAnswer]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("photo", overflow="fold")
    table.add_column("answer", overflow="fold")
    named = any(photo.animal for photo in answered)
    if named:
        table.add_column("animal", overflow="fold")
    columns = 2 + named
    last = None
    for photo in answered:
        visit = visits.get(photo.visit or "")
        if visit is not None and visit.photos > 1 and photo.visit != last:
            table.add_row(*_encounter_cells(visit)[:columns], style="bold")
        last = photo.visit
        cells = _photo_cells(photo, indent=visit is not None and visit.photos > 1)
        table.add_row(*cells[:columns])
    return table


def _encounter_cells(visit: EncounterAnswer) -> list[Text]:
    return [
        Text(f"{visit.name} ({counted(visit.photos, 'photograph')} together)"),
        Text(visit.told.sentence, style=STYLES.get(visit.told.kind, "")),
        Text((visit.animal or "") if visit.told.kind == "known" else ""),
    ]


def _photo_cells(photo: PhotoAnswer, *, indent: bool) -> list[Text]:
    return [
        Text(f"  {photo.photo}" if indent else photo.photo),
        Text(photo.told.sentence, style=STYLES.get(photo.told.kind, "")),
        Text(photo.animal or ""),
    ]


def _notes(gallery: StoredGallery, identification: Identification) -> list[str]:
    counts = identification.counts
    lines = [_summary(identification)]
    if counts["answered"]:
        lines.append(_how_encounters(identification))
    if counts.get("unsure"):
        lines.append(UNSURE)
    same = [photo for photo in identification.photos if photo.status == "in gallery"]
    if same:
        known = counted(
            len(same),
            "photograph is in the gallery already, and was not searched for:",
            "photographs are in the gallery already, and were not searched for:",
        )
        lines.append(known)
        lines += [f"  {photo.photo} = {photo.note}" for photo in same[:SHOWN_UNREADABLE]]
        lines += _more(len(same))
    bad = [photo for photo in identification.photos if photo.status == "unreadable"]
    if bad:
        lines.append(f"{len(bad):,} cannot be read; left out (rejected.csv):")
        lines += [f"  {photo.photo}: {photo.note}" for photo in bad[:SHOWN_UNREADABLE]]
        lines += _more(len(bad))
    if counts["other_files"]:
        others = counted(
            counts["other_files"],
            "other file in the folders is not a photograph",
            "other files in the folders are not photographs",
        )
        lines.append(f"{others}.")
    if counts["answered"] and identification.quality is not None:
        verdict, *more = quality_words(identification.quality, gallery.config)
        if identification.quality.level == "good":
            more = [identification.quality.no_rate] if identification.quality.no_rate else []
        lines += [f"The gallery. {verdict}", *more]
    elif counts["answered"] and identification.reason:
        lines.append(identification.reason)
    return lines


def _summary(identification: Identification) -> str:
    """The number of photographs, and the answers to them."""
    counts = identification.counts
    total, answered = counts["photographs"], counts["answered"]
    head = counted(total, "photograph")
    if answered < total:
        head += f", {answered} answered"
    if "known" not in counts:
        return f"{head}." if not answered else f"{head}. Known and new are not told apart."
    decided = (counts[kind] for kind in ("known", "new", "unsure"))
    return f"{head}: {found_words(*decided, new_animals=counts.get('new_animals', 0))}."


def _more(count: int) -> list[str]:
    rest = count - SHOWN_UNREADABLE
    return [f"  and {rest} more; identifications.csv lists them all"] if rest > 0 else []


def _how_encounters(identification: Identification) -> str:
    how = [visit.how for visit in identification.visits]
    names = {"table": "by the table", "time": "by time", "folder": "by folder name"}
    parts = [f"{how.count(key)} {text}" for key, text in names.items() if key in how]
    alone = sum(
        photo.status == "answered" and photo.visit is None for photo in identification.photos
    )
    if not parts:
        return "Encounters: none known."
    rest = f"; {counted(alone, 'photograph')} of no known encounter" if alone else ""
    return f"Encounters: {', '.join(parts)}{rest}."
