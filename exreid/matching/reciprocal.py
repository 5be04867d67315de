r"""k-reciprocal re-ranking (Zhong et al. 2017, "Re-ranking person re-identification with
k-reciprocal encoding"): two images are alike when they have the same neighbours.

The set that a query is encoded in has the query and the gallery images that may answer it, and
nothing else: no other query, and no image that the protocol excludes. So an answer depends on its
query and the gallery alone. Gallery images are neighbours of each other whatever their encounters.

Nothing of size N x N exists: the k nearest neighbours of each gallery image are found once, in
tiles; a query is inserted into the lists that it belongs in, and the encoding is computed for its
candidates and the images within three steps of them.

Letters: N gallery images, D vector length, K neighbours, C candidates of one query, B images that
are encoded, F images within reach, U images that an encoding gives weight to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exreid.matching.cosine import cosine_of_pairs, rank_by_cosine
from exreid.matching.expansion import unit_vectors
from exreid.records import RetrievalSide

NOBODY = -1
"""Fills a list with fewer neighbours than places."""


@dataclass(frozen=True)
class ReciprocalSettings:
    """The names are those of the paper."""

    k1: int = 20
    """Neighbours among which two images must name each other."""
    k2: int = 6
    """Images, the image itself included, whose encodings are averaged."""
    cosine_share: float = 0.3
    """The paper's lambda: the share of the cosine in the new score."""

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.cosine_share <= 1:
            raise ValueError(f"k1 and k2 are 1 or more, and the share is from 0 to 1: {self}.")


class ReciprocalGallery:
    """A gallery with the neighbours of each image, for `scores`."""

    def __init__(
        self,
        vectors_ND: np.ndarray,
        gallery: RetrievalSide,
        settings: ReciprocalSettings,
        *,
        most_excluded: int = 1,
    ) -> None:
        """``most_excluded``: gallery images that may be excluded for one query, at most. Lists are
        as much longer, so that they are whole without them."""
        self.vectors_ND, self.gallery, self.settings = vectors_ND, gallery, settings
        keep = settings.k1 + most_excluded
        nearest = rank_by_cosine(vectors_ND, vectors_ND, gallery, gallery, keep=max(keep, 1))
        self._lists_NK = nearest.candidate_index_QK
        self._cosine_NK = np.full(self._lists_NK.shape, -np.inf)
        for row in range(len(self._lists_NK)):
            places = np.flatnonzero(self._lists_NK[row] >= 0)
            near = self._lists_NK[row, places]
            self._cosine_NK[row, places] = _cosines(vectors_ND, vectors_ND[row], near)

    def scores(
        self,
        query_D: np.ndarray,
        position: int,
        neighbour_K: np.ndarray,
        candidate_C: np.ndarray,
        excluded: np.ndarray,
    ) -> np.ndarray:
        r"""How alike the query and each candidate are: float64 (C,), from -1 to 1, higher is more.

        :math:`(1 - \lambda) J + \lambda \cos`, with J the Jaccard similarity of the encodings.
        That is 1 minus the paper's final distance, with 1 - cos, half the squared distance of
        unit vectors, as the original distance.

        ``position`` is the query's place in the table, which decides ties; ``neighbour_K`` its k1
        best allowed gallery images, best first (fewer where there are no more); ``candidate_C``
        and ``excluded`` are gallery indices.
        """
        graph = _QueryGraph(self, query_D, position, neighbour_K, excluded)
        query = np.array([graph.query])
        encoded_BU = graph.encodings(np.concatenate([query, candidate_C]))
        shared_C = np.minimum(encoded_BU[:1], encoded_BU[1:]).sum(axis=1)
        # Each encoding adds up to 1, so the union of two is 2 minus what they share.
        jaccard_C = shared_C / (2.0 - shared_C)
        share = self.settings.cosine_share
        return (1 - share) * jaccard_C + share * _cosines(self.vectors_ND, query_D, candidate_C)


class _QueryGraph:
    """The neighbours of one query and its gallery images; the query has the index N."""

    def __init__(
        self,
        whole: ReciprocalGallery,
        query_D: np.ndarray,
        position: int,
        neighbour_K: np.ndarray,
        excluded: np.ndarray,
    ) -> None:
        self.whole, self.query_D, self.query = whole, query_D, len(whole.gallery)
        self.position, self.excluded = position, np.asarray(excluded)
        wide = whole.settings.k1 + 1
        self.own_list_K = np.full(wide, NOBODY)
        own = np.concatenate([[self.query], neighbour_K[: wide - 1]])
        self.own_list_K[: len(own)] = own

    def lists(self, index_F: np.ndarray) -> np.ndarray:
        """Each image itself, then its k1 nearest others, best first: (F, k1 + 1)."""
        wide = self.whole.settings.k1 + 1
        lists_FK = np.full((len(index_F), wide), NOBODY)
        lists_FK[index_F == self.query] = self.own_list_K
        rows = np.flatnonzero((index_F != self.query) & (index_F >= 0))
        index = index_F[rows]
        near = self.whole._lists_NK[index].astype(np.int64)
        cosine = np.where(np.isin(near, self.excluded), -np.inf, self.whole._cosine_NK[index])
        to_query = _cosines(self.whole.vectors_ND, self.query_D, index)
        near = np.column_stack([near, np.full(len(rows), self.query)])
        cosine = np.column_stack([cosine, to_query])
        place = np.append(self.whole.gallery.position_N, self.position)[near]
        order = np.lexsort((place, -cosine))[:, : wide - 1]
        near = np.take_along_axis(near, order, axis=1)
        near[np.isneginf(np.take_along_axis(cosine, order, axis=1))] = NOBODY
        lists_FK[rows, 0] = index
        lists_FK[rows, 1 : 1 + near.shape[1]] = near
        return lists_FK

    def encodings(self, index_B: np.ndarray) -> np.ndarray:
        """The averaged encodings of these images, over the images that any gives weight to."""
        near_BK = self.lists(index_B)[:, : self.whole.settings.k2]
        near = np.unique(near_BK[near_BK >= 0])
        encoded_BU = self._single_encodings(near)
        row_BK = np.searchsorted(near, np.maximum(near_BK, 0))
        real_BK1 = (near_BK >= 0)[:, :, None]
        total_BU = np.where(real_BK1, encoded_BU[np.minimum(row_BK, len(near) - 1)], 0).sum(axis=1)
        return np.asarray(total_BU / real_BK1.sum(axis=1))

    def _single_encodings(self, index_B: np.ndarray) -> np.ndarray:
        """exp(cos - 1) for each image of the expanded reciprocal set, scaled to add up to 1."""
        member_BK, lists_BK = self._reciprocal(index_B, self.whole.settings.k1)
        set_BK = np.where(member_BK, lists_BK, NOBODY)
        asked = np.unique(set_BK[set_BK >= 0])
        half = int(np.around(self.whole.settings.k1 / 2))
        half_member_FH, half_lists_FH = self._reciprocal(asked, half)
        half_set_FH = np.where(half_member_FH, half_lists_FH, NOBODY)
        rows, columns = [], []
        for b, own_K in enumerate(set_BK):
            own = own_K[own_K >= 0]
            theirs_FH = half_set_FH[np.searchsorted(asked, own)]
            shared_F = (np.isin(theirs_FH, own) & (theirs_FH >= 0)).sum(axis=1)
            joins_F = shared_F > 2 / 3 * (theirs_FH >= 0).sum(axis=1)
            joined = theirs_FH[joins_F]
            members = np.unique(np.concatenate([own, joined[joined >= 0]]))
            rows.append(np.full(len(members), b))
            columns.append(members)
        row, column = np.concatenate(rows), np.concatenate(columns)
        used, place = np.unique(column, return_inverse=True)
        cosine_BU = self._unit(index_B) @ self._unit(used).T
        encoded_BU = np.zeros(cosine_BU.shape)
        encoded_BU[row, place] = np.exp(cosine_BU[row, place] - 1.0)
        return np.asarray(encoded_BU / encoded_BU.sum(axis=1, keepdims=True))

    def _reciprocal(self, index_F: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of each image's k nearest (and itself) have it among their k nearest, and who they
        are: two arrays (F, k + 1)."""
        lists_FK = self.lists(index_F)[:, : k + 1]
        named = np.unique(lists_FK[lists_FK >= 0])
        theirs_MK = self.lists(named)[:, : k + 1]
        row_FK = np.searchsorted(named, np.maximum(lists_FK, 0))
        theirs_FKK = theirs_MK[np.minimum(row_FK, len(named) - 1)]
        names_back_FK = (theirs_FKK == index_F[:, None, None]).any(axis=2)
        return names_back_FK & (lists_FK >= 0), lists_FK

    def _unit(self, index_U: np.ndarray) -> np.ndarray:
        vectors_UD = np.empty((len(index_U), self.whole.vectors_ND.shape[1]), np.float32)
        is_query_U = index_U == self.query
        vectors_UD[is_query_U] = self.query_D
        vectors_UD[~is_query_U] = self.whole.vectors_ND[index_U[~is_query_U]]
        return unit_vectors(vectors_UD)


def _cosines(vectors_ND: np.ndarray, query_D: np.ndarray, index_C: np.ndarray) -> np.ndarray:
    """The cosine of one vector and each of some others, float64."""
    both = np.concatenate([query_D[None], vectors_ND[index_C]])
    return cosine_of_pairs(both, np.zeros(len(index_C), np.int64), np.arange(1, len(both)))
