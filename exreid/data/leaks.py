"""Gallery images that give a query's answer away, and queries that cannot be answered.

Letters: Q queries, G gallery images, P pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from exreid.progress import counted
from exreid.records import RetrievalSide

SAME_FILE, SAME_PICTURE, IN_ENCOUNTER = "same_file", "same_picture", "same_picture_in_encounter"
CUT_ENCOUNTER, NO_PARTNER = "cut_encounter", "no_partner"
DUPLICATE_QUERY, DUPLICATE_GALLERY = "duplicate_query", "duplicate_gallery"
OTHER_ANIMAL = "of another animal by its label"


@dataclass(frozen=True)
class Leak:
    """One line of ``leaks.csv``."""

    kind: str
    query_id: str
    gallery_id: str
    detail: str


@dataclass
class Leaks:
    """The leaks that were found, and their counts."""

    found: list[Leak] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, other: Leaks) -> None:
        """Add the leaks of another check."""
        self.found.extend(other.found)
        self.counts |= other.counts

    def of(self, kind: str) -> list[Leak]:
        """The leaks of one kind."""
        return [leak for leak in self.found if leak.kind == kind]


def encounter_leaks(queries: RetrievalSide, gallery: RetrievalSide, names: Sequence[str]) -> Leaks:
    """Encounters with photographs on both sides; ``names`` by the table's position."""
    shots_E = _members(gallery.encounter_N)
    cut: dict[int, list[int]] = defaultdict(list)
    for q, code in enumerate(queries.encounter_N.tolist()):
        others = shots_E.get(code, ()) if code >= 0 else ()
        if any(gallery.position_N[g] != queries.position_N[q] for g in others):
            cut[code].append(q)
    leaks = Leaks()
    for code, own_queries in cut.items():
        first = own_queries[0]
        others = [g for g in shots_E[code] if gallery.position_N[g] != queries.position_N[first]]
        detail = (
            f"{names[queries.position_N[first]]}: {counted(len(own_queries), 'query', 'queries')}, "
            f"{len(others)} gallery"
        )
        leaks.found.append(
            Leak(CUT_ENCOUNTER, queries.image_ids[first], gallery.image_ids[others[0]], detail)
        )
    in_cut = sum(map(len, cut.values()))
    leaks.counts = {"cut_encounters": len(cut), "queries_of_cut_encounters": in_cut}
    return leaks


def partner_leaks(
    queries: RetrievalSide, gallery: RetrievalSide, names: Sequence[str], *, same_encounter: bool
) -> Leaks:
    """Queries without a gallery image of their animal (one of the query's encounter counts only if
    ``same_encounter``); and the number of animals that only the gallery shows."""
    images_I = _members(gallery.identity_N)
    leaks = Leaks()
    lonely: set[int] = set()
    for q, code in enumerate(queries.identity_N.tolist()):
        encounter = queries.encounter_N[q]
        if not any(
            gallery.position_N[g] != queries.position_N[q]
            and (same_encounter or encounter < 0 or gallery.encounter_N[g] != encounter)
            for g in images_I.get(code, ())
        ):
            lonely.add(code)
            name = names[queries.position_N[q]]
            leaks.found.append(Leak(NO_PARTNER, queries.image_ids[q], "", name))
    only_gallery = np.setdiff1d(gallery.identity_N, queries.identity_N)
    leaks.counts = {
        "queries_without_partner": len(leaks.found),
        "animals_without_partner": len(lonely),
        "animals_of_the_gallery_alone": len(only_gallery),
    }
    return leaks


def copy_leaks(
    queries: RetrievalSide,
    gallery: RetrievalSide,
    file_Q: Sequence[str],
    file_G: Sequence[str],
    picture_P2: np.ndarray,
    *,
    same_encounter: bool,
    path_N: Sequence[str] | None = None,
) -> Leaks:
    """Gallery images that are a query's file again, or a copy of its photograph. Several images of
    one path (``path_N``, in the table's order) are different animals, not copies.

    Equal files have equal texts in ``file_Q`` and ``file_G``; ``picture_P2`` are the pairs of
    copies, each query's nearest first. Of each query and kind the first is listed. Pairs within one
    known encounter are a separate kind, and no leak if such images may not answer (not
    ``same_encounter``).
    """
    files: dict[str, list[int]] = defaultdict(list)
    for g, name in enumerate(file_G):
        files[name].append(g)
    pictures: dict[int, list[int]] = defaultdict(list)
    for q, g in picture_P2.tolist():
        if file_Q[q] != file_G[g]:
            pictures[q].append(g)
    leaks = Leaks()
    two_animals = 0
    path_G = [position if path_N is None else path_N[position] for position in gallery.position_N]
    for q, name in enumerate(file_Q):
        encounter = queries.encounter_N[q]

        def in_encounter(g: int, encounter: int = int(encounter)) -> bool:
            return encounter >= 0 and int(gallery.encounter_N[g]) == encounter

        def is_another(g: int, position: int = int(queries.position_N[q])) -> bool:
            other = int(gallery.position_N[g])
            return other != position and (path_N is None or path_N[other] != path_N[position])

        same = [g for g in files.get(name, ()) if is_another(g)]
        near = pictures.get(q, [])
        if not same_encounter:
            same = [g for g in same if not in_encounter(g)]
        groups = {
            SAME_FILE: same,
            SAME_PICTURE: [g for g in near if not in_encounter(g)],
            IN_ENCOUNTER: [g for g in near if in_encounter(g)] if same_encounter else [],
        }
        for kind, copies in groups.items():
            if copies:
                own = queries.identity_N[q]
                own_paths = {path_G[g] for g in copies if gallery.identity_N[g] == own}
                other = [g for g in copies if path_G[g] not in own_paths]
                two_animals += bool(other)
                leaks.found.append(
                    Leak(
                        kind,
                        queries.image_ids[q],
                        gallery.image_ids[(other or copies)[0]],
                        _copy_detail(len(copies), bool(other)),
                    )
                )
    for kind in (SAME_FILE, SAME_PICTURE, IN_ENCOUNTER):
        leaks.counts[f"queries_{kind}"] = len(leaks.of(kind))
    leaks.add(_duplicates(DUPLICATE_QUERY, queries, file_Q, path_N))
    leaks.add(_duplicates(DUPLICATE_GALLERY, gallery, file_G, path_N))
    if not np.array_equal(
        queries.position_N, gallery.position_N
    ):  # otherwise they are counted above
        two_animals += sum(
            leak.detail.endswith(OTHER_ANIMAL)
            for kind in (DUPLICATE_QUERY, DUPLICATE_GALLERY)
            for leak in leaks.of(kind)
        )
    leaks.counts["copies_under_two_animals"] = two_animals
    return leaks


def _duplicates(
    kind: str, side: RetrievalSide, file_N: Sequence[str], path_N: Sequence[str] | None
) -> Leaks:
    """Images of one side that repeat a file of that side under another path (``path_N``, if
    given)."""
    leaks = Leaks()
    path = [position if path_N is None else path_N[position] for position in side.position_N]
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(file_N):
        others = [other for other in places[name] if path[other] != path[place]]
        places[name].append(place)
        if others:
            animals = [other for other in others if path[other] == path[others[0]]]
            same_animal = [
                other for other in animals if side.identity_N[other] == side.identity_N[place]
            ]
            again, first = side.image_ids[place], (same_animal or animals)[0]
            detail = f"the same file as {side.image_ids[first]}"
            if not same_animal:
                detail = f"{detail}; {OTHER_ANIMAL}"
            ids = (again, "") if kind == DUPLICATE_QUERY else ("", again)
            leaks.found.append(Leak(kind, *ids, detail))
    leaks.counts = {f"{kind}_images": len(leaks.found)}
    return leaks


def _copy_detail(count: int, two_animals: bool) -> str:
    parts = [f"and {count - 1} more"] if count > 1 else []
    return "; ".join([*parts, OTHER_ANIMAL] if two_animals else parts)


def _members(code_N: np.ndarray) -> dict[int, list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for place, code in enumerate(code_N.tolist()):
        members[code].append(place)
    return members
