"""The methods that are fused: how each one scores pairs of a table's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes
from exreid.errors import CalibrationError
from exreid.matching.classifier import Classifier
from exreid.matching.cosine import cosine_of_pairs
from exreid.matching.rerank import Reranker
from exreid.metrics.ranking import Exclude
from exreid.pipeline.embed import Features
from exreid.pipeline.inputs import methods_of
from exreid.pipeline.local_index import LeftOut, LocalIndex
from exreid.pipeline.match import LocalMethod, full_scores
from exreid.records import ImageTable, RetrievalSide


class ScorePairs(Protocol):
    """Raw scores of pairs of table positions, float64; NaN for a pair that the cascade dropped."""

    def __call__(
        self, first_P: np.ndarray, second_P: np.ndarray, /, *, all_pairs: bool, exclude: LeftOut
    ) -> np.ndarray:
        """``all_pairs``: none is dropped. ``exclude``: images that may not answer a first image,
        for scores that depend on its other candidates."""


@dataclass(frozen=True)
class GallerySearch:
    """What is made once for a gallery, whatever the queries."""

    reranker: Reranker | None
    """The second ranking by global features; None without benchmark.rerank."""
    index: LocalIndex | None
    """None where nothing asks for it."""
    classifier: Classifier | None = None
    """Of the gallery's animals; None unless the method is that."""


@dataclass(frozen=True)
class Method:
    """One of the methods that are fused."""

    name: str
    kind: Literal["global", "index", "local"]
    """local: matched pair by pair. The others: at no cost for a pair."""
    score: ScorePairs


def fused_methods(
    features: Features,
    config: ProbeConfig,
    local: Sequence[LocalMethod],
    search: GallerySearch,
) -> tuple[Method, ...]:
    """The methods of benchmark.fusion, the global ones first; CalibrationError for one twice.
    With a reranker the first method's scores are those of the second ranking."""
    methods = [
        Method(f"cosine:{model.type}", "global", cosine_scores(vectors_ND))
        for model, vectors_ND in zip(methods_of(config)[0], features.vectors, strict=True)
    ]
    if search.reranker is not None:
        methods[0] = Method(methods[0].name, "global", _reranked_scores(search.reranker))
    if config.benchmark.fusion.local_index and search.index is not None:
        name = f"index:{search.index.method.images.name}"
        methods.append(Method(name, "index", _index_scores(search.index)))
    methods += [Method(method.images.name, "local", _local_scores(method)) for method in local]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise CalibrationError(
            f"the methods to fuse are {', '.join(names)}: each may be there once. "
            "Change benchmark.fusion."
        )
    return tuple(methods)


def score_all_methods(
    methods: Sequence[Method],
    first_P: np.ndarray,
    second_P: np.ndarray,
    *,
    all_pairs: bool,
    exclude: LeftOut,
) -> np.ndarray:
    """Raw scores by each method, float64 (P, M)."""
    columns = [
        method.score(first_P, second_P, all_pairs=all_pairs, exclude=exclude) for method in methods
    ]
    return np.stack(columns, axis=1)


def side_of_all(table: ImageTable) -> RetrievalSide:
    """All images as one side whose identities do not matter."""
    count = len(table)
    ids = tuple(table.rows["image_id"])
    encounter_N, _ = codes(table.rows["encounter"].tolist(), [])
    return RetrievalSide(ids, np.arange(count), np.zeros(count, np.int32), encounter_N)


def cosine_scores(vectors_ND: np.ndarray) -> ScorePairs:
    """The cosines of these vectors, a row for each image of the table."""

    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: LeftOut
    ) -> np.ndarray:
        del all_pairs, exclude
        return cosine_of_pairs(vectors_ND, first_P, second_P)

    return score


def _reranked_scores(reranker: Reranker) -> ScorePairs:
    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: LeftOut
    ) -> np.ndarray:
        del all_pairs
        among: Exclude = "image" if exclude == "identity" else exclude
        return reranker.pair_scores(first_P, second_P, exclude=among)

    return score


def _index_scores(index: LocalIndex) -> ScorePairs:
    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: LeftOut
    ) -> np.ndarray:
        del all_pairs
        return index.pair_scores(first_P, second_P, exclude=exclude)

    return score


def _local_scores(method: LocalMethod) -> ScorePairs:
    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: LeftOut
    ) -> np.ndarray:
        del exclude
        return full_scores(method, first_P, second_P, all_pairs=all_pairs)

    return score
