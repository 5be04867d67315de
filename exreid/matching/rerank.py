"""The second ranking by global features that a config sets, and the scores of its pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exreid.config.methods import RerankConfig
from exreid.matching.cosine import cosine_of_pairs, rank_by_cosine
from exreid.matching.expansion import expanded_vectors
from exreid.matching.reciprocal import ReciprocalGallery, ReciprocalSettings
from exreid.matching.shortlist import rerank_shortlist
from exreid.metrics.ranking import Exclude, GalleryIndex, excluded_images, index_gallery
from exreid.records import Ranking, RetrievalSide


@dataclass(frozen=True)
class Reranker:
    """Ranks one gallery a second time; see `exreid.config.benchmark.RerankConfig`."""

    options: RerankConfig
    vectors_ND: np.ndarray
    """float32, of all images in the table's order."""
    images: RetrievalSide
    """All of them."""
    gallery: RetrievalSide

    @cached_property
    def _gallery_vectors(self) -> np.ndarray:
        return self.vectors_ND[self.gallery.position_N]

    @cached_property
    def _reciprocal(self) -> ReciprocalGallery:
        options, encounter_N = self.options, self.gallery.encounter_N
        largest = np.bincount(encounter_N[encounter_N >= 0], minlength=1).max()
        return ReciprocalGallery(
            self._gallery_vectors,
            self.gallery,
            ReciprocalSettings(options.k1, options.k2, options.cosine_share),
            most_excluded=int(largest) + 1,
        )

    @property
    def needs(self) -> int:
        """Candidates of each query that a ranking must have kept before."""
        options = self.options
        if options.method == "query_expansion":
            return options.best
        return max(options.depth, options.k1)

    def rerank(
        self,
        ranking: Ranking,
        queries: RetrievalSide,
        exclude: Exclude,
        on_progress: Callable[[int], object],
    ) -> Ranking:
        """The ranking by cosine, ranked again, with as many candidates kept. Query expansion ranks
        the whole gallery, the other method the kept candidates."""
        query_QD = self.vectors_ND[queries.position_N]
        if self.options.method == "query_expansion":
            return rank_by_cosine(
                self._expanded(query_QD, ranking),
                self._gallery_vectors,
                queries,
                self.gallery,
                exclude=exclude,
                keep=ranking.candidate_index_QK.shape[1],
                on_progress=on_progress,
            )
        scores = []
        index = index_gallery(self.gallery, exclude=exclude)
        for q, row_K in enumerate(ranking.candidate_index_QK):
            candidate_C = row_K[row_K >= 0]
            scores.append(self._reciprocal_scores(queries, q, index, candidate_C, candidate_C))
            on_progress(1)
        score_P = np.concatenate([np.zeros(0), *scores])
        depth = ranking.candidate_index_QK.shape[1]
        return rerank_shortlist(ranking, self.gallery, max(depth, 1), score_P)

    def pair_scores(
        self, first_P: np.ndarray, second_P: np.ndarray, *, exclude: Exclude
    ) -> np.ndarray:
        """The re-ranked score of each pair of table positions, float64; the first image is the
        query, the second one of the gallery."""
        first, place_P = np.unique(first_P, return_inverse=True)
        queries = self.images.take(first)
        query_QD = self.vectors_ND[first]
        keep = max(self.options.k1, self.options.best)
        ranking = rank_by_cosine(
            query_QD, self._gallery_vectors, queries, self.gallery, exclude=exclude, keep=keep
        )
        if self.options.method == "query_expansion":
            both_ND = np.concatenate([self._expanded(query_QD, ranking), self.vectors_ND])
            return cosine_of_pairs(both_ND, place_P, len(first) + second_P)
        score_P = np.empty(len(first_P))
        index = index_gallery(self.gallery, exclude=exclude)
        asked_P = np.searchsorted(self.gallery.position_N, second_P)
        order_P = np.argsort(place_P, kind="stable")
        for q, rows in enumerate(np.split(order_P, np.cumsum(np.bincount(place_P))[:-1])):
            near_K = ranking.candidate_index_QK[q]
            near_K = near_K[near_K >= 0]
            score_P[rows] = self._reciprocal_scores(queries, q, index, near_K, asked_P[rows])
        return score_P

    def _expanded(self, query_QD: np.ndarray, ranking: Ranking) -> np.ndarray:
        return expanded_vectors(
            query_QD,
            self._gallery_vectors,
            ranking.candidate_index_QK,
            best=self.options.best,
            power=self.options.power,
        )

    def _reciprocal_scores(
        self,
        queries: RetrievalSide,
        q: int,
        index: GalleryIndex,
        neighbour_K: np.ndarray,
        candidate_C: np.ndarray,
    ) -> np.ndarray:
        position = int(queries.position_N[q])
        return self._reciprocal.scores(
            self.vectors_ND[position],
            position,
            neighbour_K[: self.options.k1],
            candidate_C,
            excluded_images(queries, q, index),
        )
