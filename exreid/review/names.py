"""The names of the animals of a review: each name is one animal's, and each animal has one name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exreid.review.decisions import Decision


@dataclass(frozen=True)
class Names:
    """What each group of visits is called."""

    name_G: tuple[str | None, ...]
    """None for a group without a name, and where the names do not agree."""
    several: Mapping[int, tuple[str, ...]]
    """Groups whose visits were given different names."""
    shared: Mapping[str, tuple[int, ...]]
    """Names that were given to visits of several groups."""


def names_of(decisions: Sequence[Decision], place: Mapping[str, int], group_V: np.ndarray) -> Names:
    """The names by the rows that count, in the order of their times (`decisions.standing`). A later
    name of the same visit replaces the earlier; nothing decides between names of two visits."""
    name_of = {row.first: row.name for row in decisions if row.verdict == "name"}
    given: dict[int, set[str]] = {}
    owners: dict[str, set[int]] = {}
    for visit, name in name_of.items():
        group = int(group_V[place[visit]])
        given.setdefault(group, set()).add(name)
        owners.setdefault(name, set()).add(group)
    several = {group: tuple(sorted(names)) for group, names in given.items() if len(names) > 1}
    shared = {name: tuple(sorted(groups)) for name, groups in owners.items() if len(groups) > 1}
    sole = {
        group: next(iter(names))
        for group, names in given.items()
        if len(names) == 1 and names.isdisjoint(shared)
    }
    groups = int(group_V.max(initial=-1)) + 1
    return Names(tuple(sole.get(group) for group in range(groups)), several, shared)


def free_name(used: Collection[str], stem: str = "animal") -> str:
    """The next name to offer.

    >>> free_name({"animal 1", "animal 3", "Bo"})
    'animal 4'
    """
    numbers = [
        int(name[len(stem) + 1 :])
        for name in used
        if name.startswith(f"{stem} ") and name[len(stem) + 1 :].isdecimal()
    ]
    return f"{stem} {max(numbers, default=0) + 1}"
