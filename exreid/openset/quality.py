"""How well a gallery tells its own animals apart, by its answers to calibration queries.

Letters: Q answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exreid.config.methods import OpenSetConfig
from exreid.metrics.identities import top_identities
from exreid.metrics.openset import Answers, balanced_accuracies, detection_auroc
from exreid.metrics.retrieval import average_values
from exreid.openset.decide import CalibrationQueries, Decider
from exreid.records import GalleryQuality, QualityLevel, RetrievalSide


@dataclass(frozen=True)
class Floor:
    """The least of each number of a gallery for a level."""

    recognised: float
    top_1: float
    new_auroc: float


FLOORS: dict[QualityLevel, Floor] = {
    "good": Floor(0.75, 0.8, 0.9),
    "usable": Floor(0.25, 0.35, 0.7),
}
"""The best level comes first. AUROC from 0.7 is acceptable discrimination, from 0.9 outstanding
(Hosmer, Lemeshow & Sturdivant 2013, "Applied Logistic Regression", section 5.2.4). Good: three of
four known animals are recognised without a person. Usable: one of three first answers is right, so
that a person finds the animal among a few; below, its pictures are not worth looking at first."""


def gallery_quality(
    answers: Answers, decider: Decider, gallery: RetrievalSide, options: OpenSetConfig
) -> GalleryQuality:
    """The quality from the answers behind the decider's threshold (see `fit_decider`), each scored
    by a fit on other animals."""
    known_Q = answers.known_Q
    shares = average_values(balanced_accuracies(answers, decider.threshold), answers.identity_Q)
    recognised, top_1 = shares["BAKS"], float(answers.right_Q[known_Q].mean())
    new_auroc = detection_auroc(answers)
    promised = options.rule == "false_match_rate" and not decider.reason
    encounters = bool((gallery.encounter_N >= 0).all())
    level = level_of(recognised, top_1, new_auroc)
    return GalleryQuality(
        # Photographs of one encounter answer each other too easily to call it good.
        level if encounters or level != "good" else "usable",
        recognised,
        top_1,
        new_auroc,
        1 - shares["BAUS"],
        options.false_match_rate if promised else None,
        len(np.unique(answers.identity_Q[known_Q])),
        encounters,
        decider.reason,
    )


def level_of(recognised: float, top_1: float, new_auroc: float) -> QualityLevel:
    """The best level of which all floors are reached.

    >>> level_of(0.8, 0.9, 0.95), level_of(0.8, 0.9, 0.8), level_of(0.8, 0.2, 0.8)
    ('good', 'usable', 'poor')
    """
    for level, floor in FLOORS.items():
        if recognised >= floor.recognised and top_1 >= floor.top_1 and new_auroc >= floor.new_auroc:
            return level
    return "poor"


def quality_without_fit(calibration: CalibrationQueries, gallery: RetrievalSide) -> GalleryQuality:
    """The quality where no decision can be fitted: no animal could be answered by another
    encounter, or none was answered rightly."""
    own_Q = calibration.queries.identity_N
    known_Q = np.diff(calibration.ranking.positive_offset_Q1) > 0
    encounters = bool((gallery.encounter_N >= 0).all())
    if not known_Q.any() or len(np.unique(gallery.identity_N)) < 2:
        return GalleryQuality("unknown", encounters_known=encounters)
    right_Q = top_identities(calibration.ranking, gallery.identity_N).identity_Q == own_Q
    return GalleryQuality(
        "poor",
        recognised=0.0,
        top_1=float(right_Q[known_Q].mean()),
        known_animals=len(np.unique(own_Q[known_Q])),
        encounters_known=encounters,
    )


def mean_quality(parts: Sequence[GalleryQuality]) -> GalleryQuality:
    """The mean over folds that were each fitted on other animals, and its level."""
    recognised, top_1, new_auroc, passed = (
        float(np.mean([getattr(part, name) for part in parts]))
        for name in ("recognised", "top_1", "new_auroc", "passed")
    )
    reasons = [part.no_rate for part in parts if part.no_rate]
    level = level_of(recognised, top_1, new_auroc)
    return GalleryQuality(
        level if parts[0].encounters_known or level != "good" else "usable",
        recognised,
        top_1,
        new_auroc,
        passed,
        None if reasons else parts[0].false_match_rate,
        round(np.mean([part.known_animals for part in parts])),
        parts[0].encounters_known,
        reasons[0] if reasons else "",
    )
