"""A gallery, read for a review of its own names: two names of one animal, one name of two.

A name counts as an answer of a person who is right with `NAMED_RIGHT`: between the two parts of an
animal that match least, and between two animals by their most alike visits. Only that pair's score
counts between two animals, and only the strongest chain of scores within one, since visits that do
not match (another flank, a bad photograph) say little. So a group falls apart where even the best
link between its parts is weak.

Letters: V visits, P pairs.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from exreid.errors import ReviewError
from exreid.report.reviewed import ReviewedRun
from exreid.report.run_pairs import LEAST, MOST, read_pairs
from exreid.review.belief import PairGraph, log_odds
from exreid.review.state import subject_of
from exreid.storage.run_files import TEXT, read_run_json, read_run_table

SOURCE = "review.json"
NAMED_RIGHT = 0.97
"""The share of names that are taken for right, near the 97% of LCA's people (see `people`)."""
LISTED = 0.02
"""Two animals may be one where a pair of their visits is more probable."""


def review_folder(gallery: Path) -> Path:
    """Where the review of a gallery is kept: beside it, as a gallery's folder is replaced."""
    return gallery.with_name(f"{gallery.name}.review")


def read_gallery_review(folder: Path, *, wrong: float) -> ReviewedRun:
    """RunError for damaged files; ReviewError where the gallery has one visit."""
    columns = {"image_id": TEXT, "encounter": TEXT, "identity": TEXT}
    animals = read_run_table(folder / "animals.parquet", columns, key="image_id").to_pandas()
    photos = read_run_table(folder / "photos.parquet", {"image_id": TEXT}, key="image_id")
    frame = photos.to_pandas().astype(object)
    names, visit_N = np.unique(animals["encounter"].to_numpy(str), return_inverse=True)
    if len(names) < 2:
        raise ReviewError(f"{folder}: the gallery has one visit, so there is nothing to review.")
    called = animals.groupby(visit_N)["identity"].first().to_numpy(str)
    pairs = read_pairs(folder, animals, names)
    graph, source = named_graph(called, pairs), read_run_json(folder / SOURCE)
    best = {
        (str(names[a]), str(names[b])): (int(i), int(j))
        for a, b, i, j in pairs[["first", "second", "first_row", "second_row"]].to_numpy(int)
    }
    return ReviewedRun(
        folder,
        frame,
        visit_N,
        subject_of([str(name) for name in names], graph),
        best,
        wrong,
        kind="gallery",
        named=dict(zip(map(str, names), map(str, called), strict=True)),
        gallery=str(source["gallery"]),
        since=str(source["written"]),
        fingerprint=str(source["fingerprint"]),
    )


def named_graph(name_V: np.ndarray, pairs: pd.DataFrame) -> PairGraph:
    """The evidence of names and of scored pairs (``first``, ``second``, ``probability``)."""
    visits = len(name_V)
    pair_P2 = pairs[["first", "second"]].to_numpy(np.int64)
    chance_P = pairs["probability"].clip(LEAST, MOST).to_numpy(np.float64)
    animal_V = np.unique(name_V, return_inverse=True)[1]
    sizes = np.bincount(animal_V)
    every = visits * (visits - 1) / 2
    prior = float(log_odds(min(max((sizes * (sizes - 1) / 2).sum() / every, 1e-4), 0.5)))
    named = float(log_odds(NAMED_RIGHT))
    evidence_P = log_odds(chance_P) - prior
    weakest = float(min(evidence_P.min(initial=0.0), 0.0))
    same_P = animal_V[pair_P2[:, 0]] == animal_V[pair_P2[:, 1]]
    found: dict[tuple[int, int], float] = {}
    known = {(a, b): e for (a, b), e in zip(pair_P2.tolist(), evidence_P.tolist(), strict=True)}
    members = [np.flatnonzero(animal_V == animal) for animal in range(len(sizes))]
    for own in members:
        each = [(int(a), int(b)) for a, b in combinations(own, 2)]
        found.update(dict.fromkeys(each, 0.0))
        for link in _strongest_chain(each, known, weakest, visits):
            found[link] = known.get(link, weakest) + named - prior
    between = np.flatnonzero(~same_P & (chance_P >= LISTED))
    best: dict[tuple[int, int], int] = {}
    for row in between[np.argsort(-chance_P[between], kind="stable")].tolist():
        first, second = sorted(animal_V[pair_P2[row]].tolist())
        best.setdefault((first, second), row)
    for (first, second), row in best.items():
        for a in members[first].tolist():
            found.update({(min(a, b), max(a, b)): 0.0 for b in members[second].tolist()})
        a, b = pair_P2[row].tolist()
        found[a, b] = float(evidence_P[row]) - named
    listed = sorted(found)
    evidence = np.array([found[pair] for pair in listed])
    return PairGraph(visits, np.array(listed, np.int64).reshape(-1, 2), evidence, -named, prior)


def _strongest_chain(
    pairs: list[tuple[int, int]], known: dict[tuple[int, int], float], weakest: float, visits: int
) -> list[tuple[int, int]]:
    """The links of the maximum spanning tree over one animal's visits."""
    if not pairs:
        return []
    strength = np.array([known.get(pair, weakest) for pair in pairs])
    ends = tuple(np.array(pairs).T)
    # The tree is a minimum one, over weights above 0: a 0 would be no link.
    weights = coo_matrix((strength.max() - strength + 1.0, ends), (visits, visits))
    tree = minimum_spanning_tree(weights.tocsr()).tocoo()
    return [(int(min(a, b)), int(max(a, b))) for a, b in zip(tree.row, tree.col, strict=True)]
