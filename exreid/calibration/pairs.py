"""Which pairs of the database a calibration is fitted on.

Of a hundred animals one pair in a hundred shows the same one, and most of the others are told
apart by any method. So pairs are drawn from three strata, each with its own share: pairs of one
animal, near pairs (of two animals, but among each other's best candidates by the global score),
and far ones. A pair's weight is the number of pairs of its stratum that it represents, so that the
weighted pairs represent all pairs.

Letters: N database images, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exreid.errors import CalibrationError
from exreid.metrics.ranking import Exclude, group_by_code
from exreid.records import RetrievalSide

PairMode = Literal["disjoint_sets", "same_set"]
NearestOf = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""For the images at some database indices (rising), the indices of their best candidates among
those at others (rising): int (first, candidates), -1 where there are fewer."""
CALIBRATION_FOLDS = 5
LISTED_PAIRS = 2_000_000
"""Up to this many pairs are listed, and some of them drawn; of more, pairs are drawn at random."""


@dataclass(frozen=True)
class CalibrationPairs:
    """Pairs of database images: indices, answer, weight, and the fold for cross-fitting."""

    first_P: np.ndarray
    """int64 database index of the image that plays the query."""
    second_P: np.ndarray
    same_P: np.ndarray
    """bool: they show the same animal."""
    weight_P: np.ndarray
    """float64: the number of the database's pairs that it represents."""
    fold_P: np.ndarray
    """int64 from 0: all pairs whose first image shows one animal are in one fold."""

    def __len__(self) -> int:
        return len(self.first_P)

    def take(self, index_P: np.ndarray) -> CalibrationPairs:
        """The pairs at these indices."""
        return CalibrationPairs(
            *(getattr(self, name)[index_P] for name in self.__dataclass_fields__)
        )


def calibration_pairs(
    side: RetrievalSide,
    nearest: NearestOf,
    *,
    pairs: int,
    mode: PairMode = "disjoint_sets",
    exclude: Exclude = "encounter",
    seed: int = 0,
) -> CalibrationPairs:
    """Draw about ``pairs`` pairs of database images.

    ``disjoint_sets``: the encounters of each animal are dealt to two sets, so that no image is
    on both sides of the pairs. ``same_set``: all images against all, as the field's reference
    does it, but never an image with itself. ``exclude="encounter"`` leaves out pairs of one
    encounter: they resemble each other for more reasons than the animal.

    Up to half of the pairs show one animal; the rest is half near and half far. The same seed
    gives the same pairs, whatever the order of the images. CalibrationError where there is no
    pair of one animal, or of two.
    """
    rng = np.random.default_rng(seed)
    encounter_N = side.encounter_N if exclude == "encounter" else np.full(len(side), -1)
    sets = _two_sets(side, rng) if mode == "disjoint_sets" else (side.by_id, side.by_id)
    plane = _Plane(side.identity_N, encounter_N, *sets)
    positive, near = plane.positives(), plane.near(nearest)
    far_total = plane.different() - len(near)
    if len(positive) == 0 or len(near) + far_total == 0:
        missing = "of one animal" if len(positive) == 0 else "of two animals"
        where = " that is not of one encounter" if exclude == "encounter" else ""
        raise CalibrationError(
            f"the database has no pair {missing}{where} to calibrate on. Set "
            "benchmark.calibration.exclude=image or benchmark.calibration.mode=same_set, or load a "
            "calibration with benchmark.calibration.load."
        )
    drawn = [_drawn(positive, pairs // 2, rng)]
    drawn.append(_drawn(near, (pairs - len(drawn[0])) // 2, rng))
    drawn.append(plane.far(near, far_total, pairs - len(drawn[0]) - len(drawn[1]), rng))
    totals = [len(positive), len(near), far_total]
    pair_P2 = np.concatenate(drawn)
    identity_P2 = side.identity_N[pair_P2]
    return CalibrationPairs(
        pair_P2[:, 0],
        pair_P2[:, 1],
        identity_P2[:, 0] == identity_P2[:, 1],
        np.repeat(
            [t / max(len(d), 1) for t, d in zip(totals, drawn, strict=True)], [*map(len, drawn)]
        ),
        _folds(identity_P2[:, 0], rng),
    )


def candidate_pairs(
    side: RetrievalSide,
    nearest: NearestOf,
    *,
    queries: int,
    seed: int = 0,
) -> CalibrationPairs:
    """All pairs of up to ``queries`` database images, drawn at random, with their best candidates
    in the whole database, as a method meets them that scores a shortlist of each query. In half of
    a database, as the sets of `calibration_pairs` are, the candidates would be others. ``nearest``
    decides how many candidates there are, and leaves out images that may not answer. Each pair has
    the weight 1.
    """
    rng = np.random.default_rng(seed)
    first_A = side.by_id
    if len(first_A) > queries:
        first_A = first_A[np.sort(rng.choice(len(first_A), queries, replace=False))]
    rising_A = np.sort(first_A)
    nearest_AK = nearest(rising_A, np.arange(len(side)))
    row, place = np.nonzero(nearest_AK >= 0)
    first_P, second_P = rising_A[row], nearest_AK[row, place].astype(np.int64)
    same_P = side.identity_N[first_P] == side.identity_N[second_P]
    fold_P = _folds(side.identity_N[first_P], rng) if len(first_P) else first_P
    return CalibrationPairs(first_P, second_P, same_P, np.ones(len(first_P)), fold_P)


@dataclass(frozen=True)
class _Plane:
    """All pairs of an image of the first set with one of the second, but for an image with itself
    and for pairs of one known encounter; always in the order of the sets."""

    identity_N: np.ndarray
    encounter_N: np.ndarray
    first_A: np.ndarray
    second_B: np.ndarray

    def positives(self) -> np.ndarray:
        """All pairs of one animal, int64 (P, 2)."""
        first = group_by_code(self.identity_N[self.first_A])
        second = group_by_code(self.identity_N[self.second_B])
        blocks = [np.zeros((0, 2), np.int64)]
        for code in first.code_C.tolist():
            a = self.first_A[first.members(code)]
            b = self.second_B[second.members(code)]
            blocks.append(np.stack([np.repeat(a, len(b)), np.tile(b, len(a))], axis=1))
        pair_P2 = np.concatenate(blocks)
        return pair_P2[self._allowed(pair_P2)]

    def near(self, nearest: NearestOf) -> np.ndarray:
        """The pairs of two animals among the first set's best candidates."""
        rising_A = np.sort(self.first_A)
        nearest_AK = nearest(rising_A, np.sort(self.second_B))
        row, place = np.nonzero(nearest_AK >= 0)
        first_P, second_P = rising_A[row], nearest_AK[row, place]
        place_N = np.empty(len(self.identity_N), np.int64)
        for members in (self.first_A, self.second_B):  # which are the same, or share none
            place_N[members] = np.arange(len(members))
        order_P = np.lexsort((place_N[second_P], place_N[first_P]))
        pair_P2 = np.stack([first_P, second_P], axis=1).astype(np.int64)[order_P]
        return pair_P2[self._allowed(pair_P2) & ~self._same(pair_P2)]

    def different(self) -> int:
        """The number of pairs of two animals."""
        key_N = np.where(self.encounter_N >= 0, self.identity_N.astype(np.int64), -1)
        both_N = np.where(key_N >= 0, key_N * (self.encounter_N.max() + 1) + self.encounter_N, -1)
        counts = [self._equal(code_N) for code_N in (self.identity_N, self.encounter_N, both_N)]
        return len(self.first_A) * len(self.second_B) - counts[0] - (counts[1] - counts[2])

    def far(self, near: np.ndarray, total: int, most: int, rng: np.random.Generator) -> np.ndarray:
        """Up to ``most`` of the other pairs of two animals, each as likely as any other."""
        size = len(self.identity_N)
        near_keys = np.sort(near[:, 0] * size + near[:, 1])
        if len(self.first_A) * len(self.second_B) <= LISTED_PAIRS:
            first, second = np.meshgrid(self.first_A, self.second_B, indexing="ij")
            every = self._far_only(np.stack([first.ravel(), second.ravel()], axis=1), near_keys)
            return _drawn(every, most, rng)
        far_P2 = np.zeros((0, 2), np.int64)
        # At most half of them, so that drawing again and again soon finds as many.
        wanted = min(most, (total + 1) // 2)
        while len(far_P2) < wanted:
            a = rng.choice(self.first_A, 2 * wanted)
            b = rng.choice(self.second_B, 2 * wanted)
            far_P2 = np.concatenate([far_P2, self._far_only(np.stack([a, b], axis=1), near_keys)])
            _, place = np.unique(far_P2[:, 0] * size + far_P2[:, 1], return_index=True)
            far_P2 = far_P2[np.sort(place)]
        return far_P2[:wanted]

    def _far_only(self, pair_P2: np.ndarray, near_keys: np.ndarray) -> np.ndarray:
        pair_P2 = pair_P2.astype(np.int64)
        keys = pair_P2[:, 0] * len(self.identity_N) + pair_P2[:, 1]
        is_near = np.isin(keys, near_keys)
        return pair_P2[self._allowed(pair_P2) & ~self._same(pair_P2) & ~is_near]

    def _same(self, pair_P2: np.ndarray) -> np.ndarray:
        identity_P2 = self.identity_N[pair_P2]
        return np.asarray(identity_P2[:, 0] == identity_P2[:, 1])

    def _allowed(self, pair_P2: np.ndarray) -> np.ndarray:
        encounter_P2 = self.encounter_N[pair_P2]
        together = (encounter_P2[:, 0] == encounter_P2[:, 1]) & (encounter_P2[:, 0] >= 0)
        return np.asarray((pair_P2[:, 0] != pair_P2[:, 1]) & ~together)

    def _equal(self, code_N: np.ndarray) -> int:
        """The number of pairs with the same code; a code below 0 equals none."""
        first, second = code_N[self.first_A], code_N[self.second_B]
        code, count = np.unique(first[first >= 0], return_counts=True)
        other, others = np.unique(second[second >= 0], return_counts=True)
        _, at, at_other = np.intersect1d(code, other, return_indices=True)
        return int(count[at] @ others[at_other])


def _two_sets(side: RetrievalSide, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Database indices, by image id: the encounters of each animal go to one set and the other in
    turn; images of no known encounter each count as one."""
    alone = side.encounter_N < 0
    single_N = np.empty(len(side), np.int64)
    single_N[side.by_id] = side.encounter_N.max() + 1 + np.arange(len(side))
    group_N = np.where(alone, single_N, side.encounter_N)
    second_N = np.zeros(len(side), bool)
    for code in np.unique(side.identity_N).tolist():
        own = np.flatnonzero(side.identity_N == code)
        groups = rng.permutation(np.unique(group_N[own]))
        chosen = groups[int(rng.integers(2)) :: 2]
        second_N[own[np.isin(group_N[own], chosen)]] = True
    return side.by_id[~second_N[side.by_id]], side.by_id[second_N[side.by_id]]


def _drawn(pair_P2: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``most`` of the pairs, in their order."""
    if len(pair_P2) <= most:
        return pair_P2
    return pair_P2[np.sort(rng.choice(len(pair_P2), most, replace=False))]


def _folds(identity_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    identity_I, place_P = np.unique(identity_P, return_inverse=True)
    return (rng.permutation(len(identity_I)) % CALIBRATION_FOLDS)[place_P]
