"""Visits of animals for benchmarks/review.py: their scores, flanks, and graphs."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from exreid.calibration.curves import fit_calibration
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.pipeline.inputs import read_images
from exreid.review.belief import TEMPER, PairGraph, pair_graph
from exreid.runs.probe import run_probe

SIDES = {"left": 1, "right": 2}


@dataclass(frozen=True, eq=False)
class Visits:
    """Scores of all pairs of visits, the animal of each, and the flanks that it shows."""

    score_VV: np.ndarray
    animal_V: np.ndarray
    flank_V: np.ndarray
    """1 left, 2 right, 3 both, 0 where the data do not say."""

    def take(self, chosen: np.ndarray) -> Visits:
        """Some of the visits."""
        scores = self.score_VV[np.ix_(chosen, chosen)]
        return Visits(scores, self.animal_V[chosen], self.flank_V[chosen])

    def can_tell(self, first: int, second: int) -> bool:
        """Whether a person sees one flank in both."""
        one, other = int(self.flank_V[first]), int(self.flank_V[second])
        return not one or not other or bool(one & other)

    def knowable(self) -> np.ndarray:
        """The groups that answers can lead to, int64 (V,): an animal's visits, apart where none
        joins its flanks."""
        links = [
            (a, b)
            for a, b in combinations(range(len(self.animal_V)), 2)
            if self.animal_V[a] == self.animal_V[b] and self.can_tell(a, b)
        ]
        pair_N2 = np.array(links, np.int64).reshape(-1, 2)
        shape = (len(self.animal_V), len(self.animal_V))
        graph = coo_matrix((np.ones(len(pair_N2)), tuple(pair_N2.T)), shape)
        return np.asarray(connected_components(graph, directed=False)[1])


def scored_visits(options: argparse.Namespace) -> Visits:
    """From ``visits.npz`` in --out where it is, else by a probe; of the flanks of --flank."""
    out = options.out or Path(tempfile.mkdtemp())
    file = out / "visits.npz"
    if not file.exists():
        _probe(options, out, file)
    stored = np.load(file)
    visits = Visits(stored["score_VV"], stored["animal_V"], stored["flank_V"])
    if options.root is not None or options.flank == "both":
        return visits
    kept = np.zeros(len(visits.animal_V), bool)
    for animal in np.unique(visits.animal_V):
        own = np.flatnonzero(visits.animal_V == animal)
        often = np.argmax(np.bincount(visits.flank_V[own]))
        kept[own[visits.flank_V[own] == often]] = True
    return visits.take(np.flatnonzero(kept))


def _probe(options: argparse.Namespace, out: Path, file: Path) -> None:
    root, overrides = options.root, list(options.overrides)
    if root is None:
        root = out / "data"
        animals = 16 if options.quick else 50
        metadata = write_dataset(root, identities=animals, images_per_identity=8, seed=options.seed)
        rows = pd.read_csv(metadata)
        rows["all"] = "train"
        rows.to_csv(root / "all.csv", index=False)
        overrides += ["dataset.metadata_file=all.csv", "dataset.split_col=all"]
        overrides += ["dataset.encounter_cols=[source,encounter]", "dataset.viewpoint_col=pose"]
    keypoints = 64 if options.quick else options.keypoints
    overrides += [f"dataset.root={root}", f"output.root={out}", "ray.num_actors=0", "safety=off"]
    overrides += [f"benchmark.local_top_k={keypoints}", "benchmark.keep_candidates=100000"]
    overrides += ["benchmark.method=local_index", "benchmark.exclude=encounter"]
    database = load_config(ProbeConfig, None, overrides).dataset.database_split_value
    config = load_config(ProbeConfig, None, [*overrides, f"dataset.query_split_value={database}"])
    folder, _ = run_probe(config)
    rankings = pd.read_parquet(folder / "rankings.parquet")
    visits = by_visit(read_images(config)[0].rows, rankings)
    np.savez(file, score_VV=visits.score_VV, animal_V=visits.animal_V, flank_V=visits.flank_V)


def by_visit(images: pd.DataFrame, rankings: pd.DataFrame) -> Visits:
    """The best score of each two encounters' photographs, in either direction."""
    images = images[images["image_id"].isin(rankings["query_id"])]
    names = images["encounter"].astype(str) + "/" + images["identity"].astype(str)
    code_N = pd.factorize(names)[0]
    visit_of = dict(zip(images["image_id"], code_N, strict=True))
    first = rankings["query_id"].map(visit_of).to_numpy(np.int64)
    second = rankings["gallery_id"].map(visit_of).to_numpy(np.int64)
    animal = images.groupby(code_N)["identity"].first()
    score_VV = np.full((len(animal), len(animal)), -1.0)
    np.maximum.at(score_VV, (first, second), rankings["score"].to_numpy())
    flank_V = np.zeros(len(animal), np.int64)
    views = images["viewpoint"] if "viewpoint" in images else pd.Series("", images.index)
    np.bitwise_or.at(flank_V, code_N, [SIDES.get(str(view), 0) for view in views])
    return Visits(np.maximum(score_VV, score_VV.T), pd.factorize(animal)[0], flank_V)


def with_both_flanks(visits: Visits, share: float, seed: int) -> Visits:
    """As if so many of the visits of an animal's rarer flank had shown the other flank too: each is
    joined with another visit of that animal."""
    random = np.random.default_rng([seed, 2])
    label_V = np.arange(len(visits.animal_V))
    for animal in np.unique(visits.animal_V):
        own = visits.animal_V == animal
        left, right = (
            random.permutation(np.flatnonzero(own & (visits.flank_V == side))) for side in (1, 2)
        )
        count = min(len(left), len(right))
        chosen = random.random(count) < share
        label_V[right[:count][chosen]] = left[:count][chosen]
    _, group_V = np.unique(label_V, return_inverse=True)
    groups = int(group_V.max()) + 1
    score_GG, animal_G = np.full((groups, groups), -1.0), np.zeros(groups, np.int64)
    np.maximum.at(score_GG, (group_V[:, None], group_V[None]), visits.score_VV)
    animal_G[group_V] = visits.animal_V
    flank_G = np.zeros(groups, np.int64)
    np.bitwise_or.at(flank_G, group_V, visits.flank_V)
    return Visits(score_GG, animal_G, flank_G)


def in_halves(visits: Visits, seed: int) -> tuple[Visits, Visits]:
    """The visits of one half of the animals, for the curves, and those of the other."""
    animals = np.unique(visits.animal_V)
    fitted = np.random.default_rng(seed).permutation(animals)[: len(animals) // 2]
    fitted_V = np.isin(visits.animal_V, fitted)
    return visits.take(np.flatnonzero(fitted_V)), visits.take(np.flatnonzero(~fitted_V))


def half(
    visits: Visits, seed: int, *, viewpoints: bool, temper: float = TEMPER
) -> tuple[PairGraph, Visits]:
    """The graph of one half of the animals, with the curve of the other, and its visits; with
    ``viewpoints`` both know of the flanks."""
    fitted, reviewed = in_halves(visits, seed)

    def pairs(part: Visits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pair_P2 = np.array(list(combinations(range(len(part.animal_V)), 2)), np.int64)
        if viewpoints:
            pair_P2 = pair_P2[[part.can_tell(a, b) for a, b in pair_P2.tolist()]]
        first, second = pair_P2.T
        return pair_P2, part.score_VV[first, second], part.animal_V[first] == part.animal_V[second]

    _, score_P, same_P = pairs(fitted)
    curve = fit_calibration(score_P, same_P, kind="logistic")
    pair_P2, score_P, _ = pairs(reviewed)
    graph = pair_graph(
        len(reviewed.animal_V),
        pair_P2,
        curve.apply(score_P),
        unlisted=1e-3,
        flank_V=reviewed.flank_V if viewpoints else None,
        temper=temper,
    )
    return graph, reviewed


def hindsight(visits: Visits) -> Iterator[tuple[int, np.ndarray]]:
    """(questions, groups) if it were known which visits to ask about: a bound for all ways that go
    by the scores. Each visit goes down its ranking, each animal on it is asked about once, until
    its own one comes; of an animal's visits those links are asked about that take the fewest
    questions, and first those that join most pairs of visits for a question. No answer is wrong."""
    count, animal_V, knowable_V = len(visits.animal_V), visits.animal_V, visits.knowable()
    cost_VV = np.full((count, count), np.inf)
    for visit in range(count):
        before: set[int] = set()
        for other in np.argsort(-visits.score_VV[visit], kind="stable").tolist():
            if other == visit or not visits.can_tell(visit, other):
                continue
            if animal_V[other] == animal_V[visit]:
                cost_VV[visit, other] = len(before) + 1
            else:
                before.add(int(animal_V[other]))
    cost_VV = np.minimum(cost_VV, cost_VV.T)
    cost_VV[knowable_V[:, None] != knowable_V] = np.inf
    tree = minimum_spanning_tree(np.where(np.isinf(cost_VV), 0.0, cost_VV)).tocoo()
    links = list(zip(tree.row.tolist(), tree.col.tolist(), tree.data.tolist(), strict=True))
    asked, group_V = 0.0, np.arange(count)
    yield 0, group_V
    while links:
        size_G = np.bincount(group_V, minlength=count)
        gain = [size_G[group_V[a]] * size_G[group_V[b]] / cost for a, b, cost in links]
        first, second, cost = links.pop(int(np.argmax(gain)))
        asked += cost
        group_V = np.where(group_V == group_V[second], group_V[first], group_V)
        yield int(asked), group_V
