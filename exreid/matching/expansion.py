"""Query expansion: rank again by the sum of a query and its best candidates.

The best candidates are those of the first ranking: gallery images that may answer the query, and no
other query. So an answer depends on its query and the gallery alone.

Letters: Q queries, G gallery images, n best candidates, D vector length.
"""

from __future__ import annotations

import numpy as np


def expanded_vectors(
    query_vectors_QD: np.ndarray,
    gallery_vectors_GD: np.ndarray,
    candidate_index_QK: np.ndarray,
    *,
    best: int,
    power: float = 0.0,
) -> np.ndarray:
    r"""Each query's vector and those of its ``best`` first candidates, added up; float32 (Q, D).

    All vectors count with length 1. With the cosines :math:`c_i` of the candidates the sum is
    :math:`q + \sum_i \max(c_i, 0)^\alpha g_i`: for ``power`` :math:`\alpha = 0` the average query
    expansion of Chum et al. 2007 ("Total recall"), above that alpha query expansion (Radenovic,
    Tolias & Chum 2018, "Fine-tuning CNN image retrieval with no human annotation"), in which
    resembling candidates weigh more. ``candidate_index_QK`` is best first, -1 where there are
    fewer; vectors are not zero.

    >>> gallery = np.array([[0.0, 2.0], [3.0, 0.0]], np.float32)
    >>> expanded_vectors(np.array([[1, 0]], np.float32), gallery, np.array([[1, 0]]), best=2)
    array([[2., 1.]], dtype=float32)
    """
    if best < 1 or power < 0:
        raise ValueError(
            f"an expansion takes 1 candidate or more, and a power of 0 or more, not "
            f"{best} and {power}."
        )
    expanded_QD = np.empty(query_vectors_QD.shape, np.float32)
    for q, query_D in enumerate(query_vectors_QD):
        index = candidate_index_QK[q, :best]
        unit_D = unit_vectors(query_D[None])[0]
        near_nD = unit_vectors(gallery_vectors_GD[index[index >= 0]])
        weight_n = np.maximum(near_nD @ unit_D, 0.0) ** power
        expanded_QD[q] = unit_D + weight_n @ near_nD
    return expanded_QD


def unit_vectors(vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors in float64, scaled to length 1."""
    vectors_ND = vectors_ND.astype(np.float64)
    return np.asarray(vectors_ND / np.sqrt(np.square(vectors_ND).sum(axis=1, keepdims=True)))
