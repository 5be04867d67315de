"""The methods of a benchmark: what each needs, and how it scores pairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from exreid.config.benchmark import ModelConfig
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes
from exreid.matching.cosine import cosine_of_pairs
from exreid.metrics.ranking import Exclude
from exreid.pipeline.match import PairMatching
from exreid.pipeline.reranking import Reranker
from exreid.records import ImageTable, RetrievalSide


class ScorePairs(Protocol):
    """Raw scores of pairs of table positions, float64; NaN for a pair not worth a full look."""

    def __call__(
        self, first_P: np.ndarray, second_P: np.ndarray, /, *, all_pairs: bool, exclude: Exclude
    ) -> np.ndarray:
        """``all_pairs``: none is left out. ``exclude``: what a first image may not be answered
        with, for scores that depend on its other candidates."""


@dataclass(frozen=True)
class Method:
    """One of the methods that are fused."""

    name: str
    kind: Literal["global", "local"]
    score: ScorePairs
    rounds: Callable[[], AbstractContextManager[None]] = nullcontext
    """Open while many small lists of pairs are scored."""


def methods_of(config: ProbeConfig) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    """The backbones and the local features that the benchmark's method needs."""
    benchmark, fusion = config.benchmark, config.benchmark.fusion
    if benchmark.method == "wildfusion":
        names = fusion.local_features
        local = (benchmark.local_features,) if names is None else names
        return (config.model, *fusion.models), local
    local = () if benchmark.method == "cosine" else (benchmark.local_features,)
    needs_model = not local or benchmark.candidate_k is not None
    return (config.model,) if needs_model else (), local


def with_local(config: ProbeConfig, name: str) -> ProbeConfig:
    """The config of one local method."""
    benchmark = config.benchmark.model_copy(update={"local_features": name})
    return config.model_copy(update={"benchmark": benchmark})


def side_of_all(table: ImageTable) -> RetrievalSide:
    """All images as one side whose identities do not matter."""
    count = len(table)
    ids = tuple(table.rows["image_id"])
    encounter_N, _ = codes(table.rows["encounter"].tolist(), [])
    return RetrievalSide(ids, np.arange(count), np.zeros(count, np.int32), encounter_N)


def cosine_scores(vectors_ND: np.ndarray) -> ScorePairs:
    """The cosines of these vectors, a row for each image of the table."""

    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: Exclude
    ) -> np.ndarray:
        del all_pairs, exclude
        return cosine_of_pairs(vectors_ND, first_P, second_P)

    return score


def reranked_scores(reranker: Reranker) -> ScorePairs:
    """The scores of the second ranking."""

    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: Exclude
    ) -> np.ndarray:
        del all_pairs
        return reranker.pair_scores(first_P, second_P, exclude=exclude)

    return score


def local_scores(matching: PairMatching) -> ScorePairs:
    """The scores of matched pairs; ``matching`` is of the table's images on both sides."""

    def score(
        first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: Exclude
    ) -> np.ndarray:
        del exclude
        return matching.full_scores(first_P, second_P, all_pairs=all_pairs)

    return score
