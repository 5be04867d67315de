"""Which candidates are implausible, whatever they look like: another flank or sex, or too far away.

Unknown is plausible. An implausible candidate is not matched and ranks below all others; nothing is
taken out, so that the exact rank of every positive stays known.

Letters: B queries of one block, Q queries, G gallery images, N images of the table, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exreid.data.traits import Traits
from exreid.records import Counts, Ranking, RetrievalSide

EARTH_KM = 6371.0088
"""The mean radius."""
FLANK, SEX, SPEED = 1, 2, 4
CHECKS = {"flank": FLANK, "sex": SEX, "speed": SPEED}
SAMPLED = 512
"""Images whose pairs with all others are counted for what a gate spares."""


@dataclass(frozen=True, eq=False)
class Gate:
    """The checks, for pairs of images of one table."""

    traits: Traits
    flank: bool
    sex: bool
    max_km_per_day: float | None

    @property
    def checks(self) -> list[str]:
        """The names of those that are on."""
        on = (self.flank, self.sex, self.max_km_per_day is not None)
        return [name for name, is_on in zip(CHECKS, on, strict=True) if is_on]

    def marks(self, first_B: np.ndarray, second_G: np.ndarray) -> np.ndarray:
        """uint8 (B, G): for each pair of table positions the sum of `FLANK`, `SEX` and `SPEED`, as
        far as they apply; 0 for a plausible pair."""
        traits, marks_BG = self.traits, np.zeros((len(first_B), len(second_G)), np.uint8)
        if self.flank:
            marks_BG[_differ(traits.flank_N, first_B, second_G)] |= FLANK
        if self.sex:
            marks_BG[_differ(traits.sex_N, first_B, second_G)] |= SEX
        if self.max_km_per_day is not None:
            km_BG = distances_km(traits, first_B, second_G)
            far_BG = km_BG > self.max_km_per_day * days_between(traits, first_B, second_G)
            marks_BG[far_BG] |= SPEED
        return marks_BG

    def reason(self, first: int, second: int) -> str:
        """In words why a pair is implausible; empty for a plausible one."""
        pair = np.array([first]), np.array([second])
        mark, words = int(self.marks(*pair)[0, 0]), []
        if mark & FLANK:
            words.append("the other flank")
        if mark & SEX:
            words.append("the other sex")
        if mark & SPEED:
            km = float(distances_km(self.traits, *pair)[0, 0])
            days = abs(float(np.diff(self.traits.day_N[[first, second]])[0]))
            words.append(f"{km:.0f} km away within {days:.3g} days")
        return ", ".join(words)


def _differ(code_N: np.ndarray, first_B: np.ndarray, second_G: np.ndarray) -> np.ndarray:
    """bool (B, G): both codes are known, and not the same."""
    one_B1, other_G = code_N[first_B][:, None], code_N[second_G]
    return np.asarray((one_B1 >= 0) & (other_G >= 0) & (one_B1 != other_G))


def distances_km(traits: Traits, first_B: np.ndarray, second_G: np.ndarray) -> np.ndarray:
    """float64 (B, G): the least distance of two places; NaN where one is unknown. On the sphere by
    coordinates (the haversine formula), and where a pair lacks these between the nearest points of
    its grid cells."""
    radians_N2 = np.radians(traits.degrees_N2)
    one_B12, other_G2 = radians_N2[first_B][:, None], radians_N2[second_G]
    half_BG2 = np.sin((one_B12 - other_G2) / 2) ** 2
    cosines_BG = np.cos(one_B12[..., 0]) * np.cos(other_G2[:, 0])
    chord_BG = half_BG2[..., 0] + cosines_BG * half_BG2[..., 1]
    km_BG = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(chord_BG, 0, 1)))
    apart_BG2 = np.abs(traits.cell_km_N2[first_B][:, None] - traits.cell_km_N2[second_G])
    between_BG = np.hypot(*np.moveaxis(np.maximum(apart_BG2 - traits.cell_size_km, 0), -1, 0))
    return np.asarray(np.where(np.isnan(km_BG), between_BG, km_BG))


def days_between(traits: Traits, first_B: np.ndarray, second_G: np.ndarray) -> np.ndarray:
    """float64 (B, G): the longest time that may lie between two images; NaN where a date is
    unknown. A date without a time is some time of that day."""
    days_BG = np.abs(traits.day_N[first_B][:, None] - traits.day_N[second_G])
    timed_BG = traits.timed_N[first_B][:, None] & traits.timed_N[second_G]
    return np.asarray(np.where(timed_BG, days_BG, days_BG + 1))


def gated_last(
    whole: Ranking, gated_QG: np.ndarray, identity_G: np.ndarray, *, keep: int
) -> Ranking:
    """The ranking with its gated candidates below all others, in their order; of the others the
    best ``keep`` stay candidates. ``whole`` has every candidate; ``gated_QG`` is bool."""
    count, width = whole.query_count, min(keep, len(identity_G))
    index_QK = np.full((count, width), -1, np.int32)
    score_QK = np.full((count, width), np.nan, np.float32)
    order_P = np.arange(len(whole.positive_index_P))
    rank_P, identity_rank_Q = whole.positive_rank_P.copy(), whole.identity_rank_Q.copy()
    place_G = np.zeros(len(identity_G), np.int64)
    for q in range(count):
        row = whole.candidate_index_QK[q]
        index = row[row >= 0]
        gated = gated_QG[q, index]
        kept = np.flatnonzero(~gated)
        best = kept[:width]
        index_QK[q, : len(best)] = index[best]
        score_QK[q, : len(best)] = whole.candidate_score_QK[q, best]
        order = index[np.concatenate([kept, np.flatnonzero(gated)])]
        place_G[order] = np.arange(1, len(order) + 1)
        own = slice(whole.positive_offset_Q1[q], whole.positive_offset_Q1[q + 1])
        new_rank = place_G[whole.positive_index_P[own]]
        sort = np.argsort(new_rank)
        order_P[own], rank_P[own] = order_P[own][sort], new_rank[sort]
        if len(sort):
            ahead = order[: new_rank[sort[0]] - 1]
            identity_rank_Q[q] = 1 + len(np.unique(identity_G[ahead]))
    return replace(
        whole,
        candidate_index_QK=index_QK,
        candidate_score_QK=score_QK,
        positive_index_P=whole.positive_index_P[order_P],
        positive_rank_P=rank_P,
        positive_score_P=whole.positive_score_P[order_P],
        identity_rank_Q=identity_rank_Q,
    )


def gate_figures(gate: Gate, database: RetrievalSide) -> Counts:
    """What each check, and all together, cost and spare on the database, as shares: ``lost``, of
    the pairs of one animal on two encounters (on two images, where encounters are unknown), and
    ``spared``, of the pairs of two animals, by `SAMPLED` images with all others."""
    masks = {f"gate_{name}": CHECKS[name] for name in gate.checks} | {"gate": 255}
    gated, pairs = dict.fromkeys(masks, 0), 0
    identity_G, encounter_G = database.identity_N, database.encounter_N
    order = np.argsort(identity_G, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(identity_G[order])) + 1):
        encounter = encounter_G[members]
        same = (encounter[:, None] == encounter) & (encounter >= 0)
        counts = ~same & ~np.eye(len(members), dtype=bool)
        marks = gate.marks(database.position_N[members], database.position_N[members])
        pairs += int(counts.sum())
        for name, mask in masks.items():
            gated[name] += int(((marks & mask) > 0)[counts].sum())
    some = np.unique(np.linspace(0, len(database) - 1, min(SAMPLED, len(database))).astype(int))
    marks_SG = gate.marks(database.position_N[some], database.position_N)
    others_SG = identity_G[some][:, None] != identity_G
    figures: Counts = {"gate_true_pairs": pairs // 2}
    for name, mask in masks.items():
        spared = int(((marks_SG & mask) > 0)[others_SG].sum())
        figures[f"{name}_lost"] = round(gated[name] / max(pairs, 1), 4)
        figures[f"{name}_spared"] = round(spared / max(int(others_SG.sum()), 1), 4)
    return figures
