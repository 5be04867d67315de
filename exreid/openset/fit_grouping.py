"""How visits are grouped, fitted on animals with names, and how many animals groups stand for.

A curve turns the score of two visits into the probability that both show one animal, and average
linkage joins visits while the mean probability between two groups is above a cut.

Letters: V visits, P pairs of visits, I animals with names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from exreid.calibration.curves import Calibration, fit_calibration
from exreid.errors import CalibrationError
from exreid.metrics.grouping import clusters_at_cuts
from exreid.openset.group import sparing_choice
from exreid.openset.group_visits import VisitPairs
from exreid.records import Json

CUTS = 40
RESAMPLES = 1000
HIGHEST_RATE = 0.99
"""Of visits that begin another group: where nearly all do, groups say nothing of animals."""


@dataclass(frozen=True)
class NamedAnimals:
    """Animals with names whose visits were grouped without them."""

    name: str
    """What they are, in words."""
    visits_I: np.ndarray
    """int64: each animal's visits."""
    groups_I: np.ndarray
    """float64: the groups that it makes; of a group with others' visits the share of its own."""


@dataclass(frozen=True)
class VisitGrouping:
    """How visits are grouped, and how far the number of groups is from that of animals."""

    curve: Calibration
    """From the score of a pair of visits to the probability that both show one animal."""
    cut: float
    """Groups are joined while the mean probability between them is at least this."""
    sets: tuple[NamedAnimals, ...]
    """What it was fitted on; empty where nobody knows."""

    def as_json(self) -> dict[str, Json]:
        """What `from_json` reads."""
        sets: list[Json] = [
            {
                "name": known.name,
                "visits": known.visits_I.tolist(),
                "groups": np.round(known.groups_I, 6).tolist(),
            }
            for known in self.sets
        ]
        curve = cast(Mapping[str, Json], self.curve.as_json())
        return {"curve": curve, "cut": self.cut, "sets": sets}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> VisitGrouping:
        """What was saved; CalibrationError for anything else."""
        try:
            sets = tuple(
                NamedAnimals(
                    str(entry["name"]),
                    np.array(entry["visits"], np.int64),
                    np.array(entry["groups"], np.float64),
                )
                for entry in saved["sets"]
            )
            return cls(Calibration.from_json(saved["curve"]), float(saved["cut"]), sets)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"not a saved grouping of visits: {error!r}.") from error


@dataclass(frozen=True)
class NamedPairs:
    """Scored pairs of visits whose animals are known."""

    name: str
    pairs: VisitPairs
    identity_V: np.ndarray
    images_V: np.ndarray
    """The number of each visit's images."""
    photo_V: np.ndarray


def fit_curve(sets: Sequence[NamedPairs]) -> Calibration:
    """The probability that a pair of visits shows one animal, by pairs whose animals are known; the
    pairs of each set weigh alike. CalibrationError where there is nothing to fit on, or where pairs
    of one animal score no higher than others."""
    same = [named.identity_V[named.pairs.visit_P2] for named in sets]
    weights = [
        np.full(len(named.pairs.score_P), 1 / max(len(named.pairs.score_P), 1)) for named in sets
    ]
    mean = np.mean([len(named.pairs.score_P) for named in sets])
    curve = fit_calibration(
        np.concatenate([named.pairs.score_P for named in sets]),
        np.concatenate([pair_P2[:, 0] == pair_P2[:, 1] for pair_P2 in same]),
        kind="logistic",
        weight_P=mean * np.concatenate(weights),
    )
    if curve.is_level:
        names = " and ".join(named.name for named in sets)
        raise CalibrationError(
            f"{names}: pairs of one animal score no higher than others. Use a stronger method."
        )
    return curve


def fit_visit_grouping(sets: Sequence[NamedPairs], seed: int) -> VisitGrouping:
    """The curve, and the cut: the highest, which joins least, whose adjusted Rand index over all
    images is within a standard error of the best. CalibrationError as `fit_curve`."""
    curve = fit_curve(sets)
    probabilities = [curve.apply(named.pairs.score_P) for named in sets]
    level = np.quantile(np.concatenate(probabilities), np.arange(1, CUTS) / CUTS)
    cuts = np.unique(np.concatenate([level, np.arange(1, CUTS + 1) / CUTS])).tolist()
    tried = [
        list(
            clusters_at_cuts(
                np.arange(len(named.photo_V)),
                named.pairs.visit_P2,
                probability_P,
                cuts,
                named.photo_V,
            )
        )
        for named, probability_P in zip(sets, probabilities, strict=True)
    ]
    identity_N, groups = _side_by_side(
        sets, [[group_V for _, group_V in of_cuts] for of_cuts in tried]
    )
    place = sparing_choice(identity_N, groups, seed)
    animals = tuple(
        NamedAnimals(named.name, *groups_of_animals(named.identity_V, of_cuts[place][1]))
        for named, of_cuts in zip(sets, tried, strict=True)
    )
    return VisitGrouping(curve, float(tried[0][place][0]), animals)


def _side_by_side(
    sets: Sequence[NamedPairs], groups: Sequence[Sequence[np.ndarray]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The animals of all images, and their groups at each cut, as of one set."""

    def joined(codes: Sequence[np.ndarray]) -> np.ndarray:
        start, parts = 0, []
        for named, code_V in zip(sets, codes, strict=True):
            parts.append(np.repeat(code_V + start, named.images_V))
            start += int(code_V.max()) + 1
        return np.concatenate(parts)

    at_cuts = [joined(codes) for codes in zip(*groups, strict=True)]
    return joined([named.identity_V for named in sets]), at_cuts


def groups_of_animals(identity_V: np.ndarray, group_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each animal's visits, int64 (I,), and the groups that it makes, float64 (I,): of a group with
    several animals the share of its visits.

    >>> groups_of_animals(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2]))
    (array([3, 1]), array([2.5, 0.5]))
    """
    _, identity_V = np.unique(identity_V, return_inverse=True)
    size_V = np.bincount(group_V)[group_V]
    return np.bincount(identity_V), np.bincount(identity_V, 1 / size_V)


def count_animals(
    groups: int, visits: int, sets: Sequence[NamedAnimals], seed: int
) -> tuple[int, int] | None:
    """The 95% interval of the number of animals behind so many groups of visits; None without
    animals to go by.

    Of the visits beyond each animal's first a share r began another group in those sets, so that
    G = A + r (V - A) groups come from A animals on V visits. A nested bootstrap: a set is drawn,
    its animals are drawn to estimate r, and of these as many as the new set may have.

    >>> known = NamedAnimals("", np.array([3, 3]), np.array([2.0, 2.0]))
    >>> count_animals(8, 12, [known], seed=0)
    (4, 4)
    """
    usable = [known for known in sets if np.any(known.visits_I > 1)]
    if not usable or groups == 0:
        return None

    def animals(known: NamedAnimals, drawn: np.ndarray) -> float:
        more = float((known.visits_I[drawn] - 1).sum())
        rate = float((known.groups_I[drawn] - 1).sum()) / more if more else 0.0
        rate = min(rate, HIGHEST_RATE)
        return float(np.clip((groups - rate * visits) / (1 - rate), 1, visits))

    rng, counts = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        known = usable[int(rng.integers(len(usable)))]
        like_known = rng.integers(len(known.visits_I), size=len(known.visits_I))
        expected = round(animals(known, like_known))
        counts.append(animals(known, like_known[rng.integers(len(like_known), size=expected)]))
    low, high = np.quantile(counts, [0.025, 0.975])
    return math.floor(round(low, 6)), math.ceil(round(high, 6))
