"""A linear classifier of the gallery's animals on embeddings, the baseline of published tables.

Multinomial logistic regression: an image's scores of the C animals are ``W x + b``, with x its
embedding, normalised and then standardised by the gallery's mean and spread. It minimises the
cross-entropies, each times n / (C n_c) so that every animal counts the same, plus |W|^2 / 2. That
is scikit-learn's ``LogisticRegression(class_weight="balanced")``.

Letters: N images, D vector length, C animals, B queries of a block, G gallery images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax

from exreid.errors import MetadataError
from exreid.metrics.ranking import (
    Exclude,
    blocks,
    concatenate_rankings,
    index_gallery,
    rank_block,
)
from exreid.records import Ranking, RetrievalSide

MOST_STEPS = 1000
"""Of L-BFGS, which ends earlier: where no slope of the mean loss is above `LEAST_SLOPE`."""
LEAST_SLOPE = 1e-7


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier; float64."""

    mean_D: np.ndarray
    spread_D: np.ndarray
    weight_CD: np.ndarray
    bias_C: np.ndarray
    identity_C: np.ndarray
    """The identity code of each animal, rising."""

    def log_probabilities(self, vectors_BD: np.ndarray) -> np.ndarray:
        """log P(animal), (B, C): of a closed set, so that each row sums to 1 when exponentiated."""
        scores_BC = _standard(vectors_BD, self.mean_D, self.spread_D) @ self.weight_CD.T
        return log_softmax(torch.from_numpy(scores_BC + self.bias_C), dim=1).numpy()

    def rank(
        self,
        query_vectors_QD: np.ndarray,
        queries: RetrievalSide,
        gallery: RetrievalSide,
        *,
        exclude: Exclude,
        keep: int,
    ) -> Ranking:
        """The gallery's images by the log probability of their animal; ties by their position.

        ``gallery`` has no animal that the classifier was not fitted on.
        """
        index = index_gallery(gallery, exclude=exclude)
        column_G = np.searchsorted(self.identity_C, gallery.identity_N)
        parts, start = [], 0
        for block in blocks(queries):
            vectors_BD = query_vectors_QD[start : start + len(block)]
            scores_BG = self.log_probabilities(vectors_BD)[:, column_G]
            parts.append(rank_block(scores_BG, block, index, keep=keep))
            start += len(block)
        return concatenate_rankings(parts)


def fit_classifier(vectors_ND: np.ndarray, identity_N: np.ndarray) -> Classifier:
    """Fit on images of known animals. MetadataError for fewer than two animals."""
    identity_C, column_N, count_C = np.unique(identity_N, return_inverse=True, return_counts=True)
    if len(identity_C) < 2:
        raise MetadataError(
            "benchmark.method=classifier needs two animals or more in the database. Set "
            "dataset.database_split_value."
        )
    normal_ND = _normal(vectors_ND)
    mean_D, spread_D = normal_ND.mean(0), normal_ND.std(0)
    spread_D[spread_D == 0] = 1.0
    x_ND = torch.from_numpy(_standard(vectors_ND, mean_D, spread_D))
    y_N = torch.from_numpy(column_N.astype(np.int64))
    balance_C = torch.from_numpy(len(identity_N) / (len(identity_C) * count_C))
    weight_CD = torch.zeros(len(identity_C), x_ND.shape[1], dtype=torch.float64, requires_grad=True)
    bias_C = torch.zeros(len(identity_C), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_CD, bias_C],
        max_iter=MOST_STEPS,
        tolerance_grad=LEAST_SLOPE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores_NC = x_ND @ weight_CD.T + bias_C
        fit = cross_entropy(scores_NC, y_N, weight=balance_C, reduction="sum")
        total = (fit + weight_CD.square().sum() / 2) / len(identity_N)
        total.backward()
        return total

    optimizer.step(loss)
    return Classifier(
        mean_D, spread_D, weight_CD.detach().numpy(), bias_C.detach().numpy(), identity_C
    )


def _normal(vectors_ND: np.ndarray) -> np.ndarray:
    vectors_ND = vectors_ND.astype(np.float64)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def _standard(vectors_ND: np.ndarray, mean_D: np.ndarray, spread_D: np.ndarray) -> np.ndarray:
    return (_normal(vectors_ND) - mean_D) / spread_D
