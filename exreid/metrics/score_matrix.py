"""The metrics of retrieval from a matrix of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exreid.metrics.ranking import Exclude, rank_scores
from exreid.metrics.retrieval import average_values, query_values, retrieval_counts
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.records import RetrievalSide

Labels = Sequence[object] | np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`."""

    metrics: dict[str, float]
    """Fractions, as `retrieval_metrics` defines them."""
    intervals: dict[str, tuple[float, float]]
    """The ends of each metric's 95% interval; empty without resamples."""
    counts: dict[str, int]
    """Queries, gallery images, animals, and queries without a positive."""


def evaluate(
    scores_QG: np.ndarray,
    query_identities: Labels,
    gallery_identities: Labels | None = None,
    *,
    query_encounters: Labels | None = None,
    gallery_encounters: Labels | None = None,
    top_k: Sequence[int] = (1, 5, 10),
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """The metrics of a probe, from a float matrix of scores (Q, G), where higher is more alike.

    Identities are names or numbers, one for each row and each column. Without those of a gallery
    the queries are the gallery, and none is answered by itself. With encounters, no query is
    answered by an image of its own encounter either; None is an unknown one. Equal scores keep
    the gallery's order. Intervals are bootstraps over identities; ``resamples=0``: none.
    ValueError for an unknown identity, a wrong shape, or a score that is not finite.

    >>> scores = np.array([[0.0, 0.9, 0.2], [0.9, 0.0, 0.3], [0.2, 0.3, 0.0]])
    >>> evaluate(scores, ["Ada", "Ada", "Bo"], resamples=0).metrics["top_1"]
    0.6666666666666666
    """
    alone = gallery_identities is None
    others = query_identities if gallery_identities is None else gallery_identities
    identity_Q, identity_G = _codes(query_identities, others, "identity")
    encounter_Q = np.full(len(identity_Q), -1, np.int32)
    encounter_G = np.full(len(identity_G), -1, np.int32)
    exclude: Exclude = "image"
    if query_encounters is not None:
        exclude = "encounter"
        theirs = query_encounters if alone else gallery_encounters
        if theirs is None:
            raise ValueError("query_encounters need gallery_encounters.")
        encounter_Q, encounter_G = _codes(query_encounters, theirs, None)
    count, start = len(identity_G), 0 if alone else len(identity_G)
    queries = _side("query", start, identity_Q, encounter_Q)
    gallery = _side("gallery image", 0, identity_G, encounter_G)
    scores = np.asarray(scores_QG)
    scores = scores if scores.dtype == np.float32 else scores.astype(np.float64)
    ranking = rank_scores(scores, queries, gallery, exclude=exclude, keep=max(1, min(count, 100)))
    values = query_values(ranking, top_k=top_k, open_split=True)
    intervals = (
        bootstrap_intervals(values, identity_Q, resamples=resamples, seed=seed) if resamples else {}
    )
    counts = retrieval_counts(ranking, queries, gallery)
    return Evaluation(average_values(values, identity_Q), intervals, counts)


def _side(what: str, start: int, identity_N: np.ndarray, encounter_N: np.ndarray) -> RetrievalSide:
    ids = tuple(f"{what} {i}" for i in range(len(identity_N)))
    return RetrievalSide(ids, start + np.arange(len(ids)), identity_N, encounter_N)


def _codes(first: Labels, second: Labels, needed: str | None) -> tuple[np.ndarray, np.ndarray]:
    """int32 codes that both share, in the order of their text; -1 for None and NaN, which is a
    ValueError where the label is ``needed``."""
    labels = [*first, *second]
    known = sorted({label for label in labels if not _is_unknown(label)}, key=str)
    code_of = {label: code for code, label in enumerate(known)}
    code_N = np.array([code_of.get(label, -1) for label in labels], np.int32)
    if needed and (code_N < 0).any():
        place = int(np.flatnonzero(code_N < 0)[0])
        side, at = ("query", place) if place < len(first) else ("gallery", place - len(first))
        raise ValueError(f"the {needed} of {side} image {at} is unknown: leave it out.")
    return code_N[: len(first)], code_N[len(first) :]


def _is_unknown(label: object) -> bool:
    # pandas has two more, which are equal to nothing.
    no_number = isinstance(label, float) and math.isnan(label)
    return label is None or no_number or type(label).__name__ in ("NAType", "NaTType")
