"""The animals of an identification: its title, the known, the new, and the unsure ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from exreid.progress import counted
from exreid.report.pages import AnimalCard, AnimalSection, Example
from exreid.report.pictures import Picture
from exreid.report.read import RunData

SHOWN_PHOTOGRAPHS = 6
"""Of each animal."""
MakeExample = Callable[[RunData, pd.Series, Picture], Example]


def run_title(data: RunData) -> str:
    """What was photographed, and when; or, where the truth is known, what was asked of what."""
    count = asked(data)
    queries = data.images.rows.iloc[: len(data.queries)]
    if data.result.kind != "identify":
        place = Path(data.config.dataset.root).name if data.config else ""
        return f"{count} of the data set {place}, answered and checked" if place else count
    folders = {str(root) for root in queries["root"] if root}
    where = Path(next(iter(folders))).name if len(folders) == 1 else ""
    when = _period(queries["date"].tolist())
    folder = f" from the folder {where}" if where else ""
    return f"{count}{folder}{f', {when}' if when else ''}"


def asked(data: RunData) -> str:
    """What was asked: photographs, or animals where some photographs show several."""
    queries = data.images.rows.iloc[: len(data.queries)]
    photographs = len(queries[["root", "path"]].drop_duplicates())
    if photographs == len(queries):
        return counted(photographs, "photograph")
    return f"{counted(len(queries), 'animal')} on {counted(photographs, 'photograph')}"


def _period(dates: list[str | None]) -> str:
    """The days from the first to the last date.

    >>> _period(["2024-05-03", None, "2024-05-05 22:10:00"]), _period(["2024-05-03"])
    ('3 May 2024 to 5 May 2024', '3 May 2024')
    """
    days = pd.to_datetime(pd.Series([date[:10] for date in dates if date]), errors="coerce")
    if not days.notna().any():
        return ""
    first, last = (f"{day.day} {day:%B %Y}" for day in (days.min(), days.max()))
    return first if first == last else f"{first} to {last}"


def animal_sections(
    data: RunData,
    outcomes: pd.DataFrame,
    pictures: Mapping[int, Picture],
    example: MakeExample,
) -> list[AnimalSection]:
    """The animals that photographs of unknown truth show, with pictures, the most seen first;
    ``outcomes`` is `query_outcomes`."""
    asked = outcomes[outcomes["outcome"] == "open"].sort_values(
        "probability", ascending=False, kind="stable"
    )

    def cards(part: pd.DataFrame, names: pd.Series, *, linked: bool) -> list[AnimalCard]:
        animals = []
        for key, rows in part.groupby(names, sort=True):
            name = key if linked else f"New {key}" if key else "Not grouped"
            shown = rows[:SHOWN_PHOTOGRAPHS].iterrows()
            examples = [example(data, query, pictures[query["image"]]) for _, query in shown]
            link = f"decision=known&find={quote(str(name))}" if linked else "decision=new"
            note = counted(len(rows), "photograph")
            animals.append(AnimalCard(str(name), note, len(rows), examples, link))
        return sorted(animals, key=lambda card: -card.count)  # by name, or number, where equal

    known = asked[asked["kind"] == "known"]
    new = asked[asked["kind"] == "new"]
    sections = [
        AnimalSection("Known animals", "", cards(known, known["top"], linked=True)),
        AnimalSection(
            "New animals",
            "No known animal is near enough. Photographs that may show one animal are together.",
            cards(new, new["group"].fillna(0).astype(int), linked=False),
        ),
    ]
    return [section for section in sections if section.animals]
