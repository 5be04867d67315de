"""New animals among the queries: those called new are grouped into animals.

Pairs of the queries that were called new are scored by the run's own method, each image with its
nearest only. Before, whole animals of the database are grouped in the same way, to calibrate the
scores and to choose the cut; nothing is fitted on a query's truth.

Letters: N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from exreid.calibration.curves import Calibration, fit_calibration
from exreid.config.methods import OpenSetConfig
from exreid.errors import CalibrationError
from exreid.matching.cosine import rank_by_cosine
from exreid.metrics.grouping import (
    adjusted_rand_index,
    clusters_at_cuts,
    drawn_rand_index,
)
from exreid.metrics.ranking import Exclude
from exreid.records import ImageTable, RetrievalSide

ScorePlaces = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The run's own score of pairs of table positions, float64."""

MOST_IMAGES = 20
"""Images of one identity in a fit at most, so that several identities take part."""
SHARED_VISITS = 0.01
"""With link_visits=auto, visits are linked unless more than this share of the database's visits
shows two animals."""
CUTS = 20
RESAMPLES = 200


@dataclass(frozen=True)
class Grouping:
    """How images are grouped: from score to probability, and the cut."""

    curve: Calibration | None
    """None where the scores do not separate animals: then only encounters are linked."""
    cut: float
    linked: bool
    """Whether photographs of one encounter count as one animal's."""
    fitted_images: int
    fitted_identities: int
    fitted_ari: float
    """The adjusted Rand index of the groups of those images, at the chosen cut."""


@dataclass(frozen=True)
class NewAnimals:
    """The queries that were called new, and their groups."""

    query_N: np.ndarray
    """Indices of the queries, rising."""
    group_N: np.ndarray
    """int64 from 0, by first appearance."""
    grouping: Grouping
    pair_P2: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """int64: pairs of these queries, by their places in ``query_N``."""
    probability_P: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """That a pair shows one animal."""


@dataclass(frozen=True)
class Grouper:
    """Groups images by the run's own scores of their pairs."""

    score: ScorePlaces
    vectors_ND: np.ndarray | None
    """In the table's order, to find near images. None: all pairs are scored."""
    options: OpenSetConfig
    photo_N: np.ndarray | None = None
    """Codes of the photographs, in the table's order: two images of one show two animals."""

    def fit(self, gallery: RetrievalSide, seed: int) -> Grouping:
        """The probability of a score, and the cut, on whole animals of the gallery: the highest
        cut, which joins least, whose adjusted Rand index is within a standard error of the best."""
        linked = _links_visits(gallery, self.options)
        side = without_shared_visits(
            whole_identities(gallery, self.options.queries, seed), self.photo_N
        )
        animals = len(np.unique(side.identity_N))
        pair_P2, score_P = self._scored(side, linked)
        same_P = side.identity_N[pair_P2[:, 0]] == side.identity_N[pair_P2[:, 1]]
        try:
            curve = fit_calibration(score_P, same_P, kind="logistic")
        except CalibrationError:
            curve = None
        cuts = [1.0]
        if curve is not None and not curve.is_level:
            level = np.quantile(curve.apply(score_P), np.arange(1, CUTS) / CUTS)
            cuts = np.unique(np.concatenate([level, np.arange(1, CUTS + 1) / CUTS])).tolist()
        pair_P2, probability_P = _probabilities(side, pair_P2, score_P, curve, linked)
        photo_N = None if self.photo_N is None else self.photo_N[side.position_N]
        tried = list(clusters_at_cuts(side.position_N, pair_P2, probability_P, cuts, photo_N))
        chosen = sparing_choice(side.identity_N, [group_N for _, group_N in tried], seed)
        ari = adjusted_rand_index(side.identity_N, tried[chosen][1])
        return Grouping(curve, tried[chosen][0], linked, len(side), animals, ari)

    def new_animals(
        self, known_Q: np.ndarray, queries: RetrievalSide, gallery: RetrievalSide, seed: int
    ) -> NewAnimals:
        """The groups of the queries that are not called known."""
        new_N, grouping = np.flatnonzero(~known_Q), self.fit(gallery, seed)
        return self.group(new_N, queries, grouping)

    def group(self, new_N: np.ndarray, queries: RetrievalSide, grouping: Grouping) -> NewAnimals:
        """The groups of these queries."""
        side = without_shared_visits(queries.take(new_N), self.photo_N)
        pair_P2, score_P = self._scored(side, grouping.linked)
        pair_P2, probability_P = _probabilities(
            side, pair_P2, score_P, grouping.curve, grouping.linked
        )
        photo_N = None if self.photo_N is None else self.photo_N[side.position_N]
        ((_, group_N),) = clusters_at_cuts(
            side.position_N, pair_P2, probability_P, [grouping.cut], photo_N
        )
        return NewAnimals(new_N, group_N, grouping, pair_P2, probability_P)

    def _scored(self, side: RetrievalSide, linked: bool) -> tuple[np.ndarray, np.ndarray]:
        pair_P2 = near_pairs(side, self.vectors_ND, self.options.group_nearest, linked=linked)
        place_P2 = side.position_N[pair_P2]
        if len(pair_P2) == 0:
            return pair_P2, np.zeros(0)
        return pair_P2, self.score(place_P2[:, 0], place_P2[:, 1])


def without_shared_visits(side: RetrievalSide, photo_N: np.ndarray | None) -> RetrievalSide:
    """The side without visits in which a photograph shows several animals: they are not linked.
    ``photo_N`` as `Grouper` has it."""
    if photo_N is None:
        return side
    _, place_N, count_U = np.unique(
        photo_N[side.position_N], return_inverse=True, return_counts=True
    )
    shared = np.unique(side.encounter_N[count_U[place_N] > 1])
    apart_N = np.where(np.isin(side.encounter_N, shared), -1, side.encounter_N)
    return replace(side, encounter_N=apart_N)


def _probabilities(
    side: RetrievalSide,
    pair_P2: np.ndarray,
    score_P: np.ndarray,
    curve: Calibration | None,
    linked: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The scored pairs and, with 1, the pairs of linked visits: pairs and probabilities."""
    if curve is None:
        pair_P2, probability_P = pair_P2[:0], np.zeros(0)
    else:
        probability_P = curve.apply(score_P)
    if linked:
        within_P2 = visit_pairs(side)
        pair_P2 = np.concatenate([pair_P2, within_P2])
        probability_P = np.concatenate([probability_P, np.ones(len(within_P2))])
    return pair_P2, probability_P


def sparing_choice(identity_N: np.ndarray, groups: list[np.ndarray], seed: int) -> int:
    """The index of the partition to take; those that join least come first. It is the first one
    that the best does not beat by more than the standard error of their difference over resampled
    animals (the one-standard-error rule: Breiman et al. 1984). A weak score thus joins nothing by
    chance."""
    _, place_N = np.unique(identity_N, return_inverse=True)
    animals = int(place_N.max()) + 1
    rng = np.random.default_rng(seed)
    weight_RI = rng.multinomial(animals, np.full(animals, 1 / animals), size=RESAMPLES)
    statistics = [drawn_rand_index(identity_N, group_N) for group_N in groups]
    ari_C = np.array([ari_of(np.ones(len(place_N))) for ari_of in statistics])
    best = int(np.argmax(ari_C))
    ari_CR = np.array(
        [[ari_of(w_I[place_N].astype(float)) for w_I in weight_RI] for ari_of in statistics]
    )
    error_C = np.nanstd(ari_CR[best] - ari_CR, axis=1)
    return int(np.argmax(ari_C >= ari_C[best] - error_C))


def whole_identities(gallery: RetrievalSide, count: int, seed: int) -> RetrievalSide:
    """Up to ``count`` gallery images: whole animals in an order drawn by the seed, of each up to
    `MOST_IMAGES` drawn ones. Two animals at least are taken."""
    rng = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    for code in rng.permutation(np.unique(gallery.identity_N)).tolist():
        own = gallery.by_id[gallery.identity_N[gallery.by_id] == code]
        if len(own) > MOST_IMAGES:
            own = rng.choice(own, MOST_IMAGES, replace=False)
        if len(chosen) >= 2 and sum(map(len, chosen)) + len(own) > count:
            break
        chosen.append(own)
    return gallery.take(np.sort(np.concatenate(chosen)))


def near_pairs(
    side: RetrievalSide, vectors_ND: np.ndarray | None, nearest: int, *, linked: bool
) -> np.ndarray:
    """Pairs of the side's images, int64 (P, 2), the earlier one first, by place: each image with
    its ``nearest`` by the cosine of the vectors, or with all others without vectors. Where visits
    are ``linked``, pairs of one encounter are left out: they need no score."""
    if len(side) < 2:
        return np.zeros((0, 2), np.int64)
    if vectors_ND is None:
        pair_P2 = np.stack(np.triu_indices(len(side), 1), axis=1).astype(np.int64)
    else:
        vectors = vectors_ND[side.position_N]
        exclude: Exclude = "encounter" if linked else "image"
        ranking = rank_by_cosine(
            vectors, vectors, side, side, exclude=exclude, keep=min(nearest, len(side))
        )
        row, place = np.nonzero(ranking.candidate_index_QK >= 0)
        other = ranking.candidate_index_QK[row, place].astype(np.int64)
        pair_P2 = np.unique(np.sort(np.stack([row, other], axis=1), axis=1), axis=0)
    if linked:
        visit_P2 = side.encounter_N[pair_P2]
        together_P = (visit_P2[:, 0] == visit_P2[:, 1]) & (visit_P2[:, 0] >= 0)
        pair_P2 = pair_P2[~together_P]
    return pair_P2


def visit_pairs(side: RetrievalSide) -> np.ndarray:
    """All pairs of images of one known encounter, int64 (P, 2)."""
    pairs = [np.zeros((0, 2), np.int64)]
    for code in np.unique(side.encounter_N[side.encounter_N >= 0]).tolist():
        members = np.flatnonzero(side.encounter_N == code)
        first, second = np.triu_indices(len(members), 1)
        pairs.append(np.stack([members[first], members[second]], axis=1))
    return np.concatenate(pairs)


def new_animals_table(
    new: NewAnimals, queries: RetrievalSide, table: ImageTable, probability_Q: np.ndarray
) -> pa.Table:
    """``new_animals.parquet``: a row per query that was called new, groups counting from 1. A
    query's encounter is empty where a photograph of that encounter shows several animals."""
    size_G = np.bincount(new.group_N)
    rows = table.rows.iloc[queries.position_N]
    shared = set(rows["encounter"][rows["path"].duplicated(keep=False)])
    rows = rows.iloc[new.query_N]
    encounters = [None if name in shared else name for name in rows["encounter"]]
    return pa.table(
        {
            "query_id": pa.array([queries.image_ids[q] for q in new.query_N], pa.string()),
            "group": pa.array(new.group_N + 1),
            "group_photos": pa.array(size_G[new.group_N], pa.int64()),
            "encounter": pa.array(encounters, pa.string()),
            "identity": pa.array(rows["identity"].tolist(), pa.string()),
            "known_probability": pa.array(probability_Q[new.query_N]),
        }
    )


def new_pairs_table(new: NewAnimals, queries: RetrievalSide) -> pa.Table:
    """``new_pairs.parquet``: the probability that two queries that were called new show one
    animal."""
    ids = [queries.image_ids[q] for q in new.query_N]
    first, second = new.pair_P2.T
    columns = {"first_id": [ids[i] for i in first], "second_id": [ids[i] for i in second]}
    texts = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return pa.table({**texts, "probability": pa.array(new.probability_P)})


def _links_visits(gallery: RetrievalSide, options: OpenSetConfig) -> bool:
    if options.link_visits != "auto":
        return options.link_visits == "on"
    known = gallery.encounter_N >= 0
    visits = np.unique(gallery.encounter_N[known])
    both = np.unique(np.stack([gallery.encounter_N, gallery.identity_N], axis=1)[known], axis=0)
    shared = np.count_nonzero(np.bincount(both[:, 0], minlength=1) > 1)
    # A database without visits is no evidence against those of the queries.
    return bool(shared <= SHARED_VISITS * len(visits))
