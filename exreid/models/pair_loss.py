"""A score of matched pairs that has a gradient, and the losses that teach it to tell animals apart.

Letters: b anchors, n other animals' images of each, P pairs, M and N keypoints of a pair's images.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

SOFTNESS = 0.1
"""Width of the step in which `soft_matches` counts a match, in probability."""


def pair_scores(log_PMN: torch.Tensor, match_threshold: float | None = None) -> torch.Tensor:
    """log(1 + c) of each pair, where c is a relaxed number of its matches: (P,).

    ``log_PMN`` is the log of LightGlue's assignment (`exreid.models.lightglue.Assignment`), -inf
    for padding. Two keypoints are candidates where each is the other's best. c sums over them: the
    probabilities, or with ``match_threshold`` their `soft_matches`; at hard 0 and 1 both are the
    number that a probe counts. The logarithm gives a pair of 10 matches and one of 100 about the
    same say. A pair without keypoints has 0.
    """
    best_PM, column_PM = log_PMN.max(dim=2)
    row_PN = log_PMN.max(dim=1).indices
    own_M = torch.arange(log_PMN.shape[1], device=log_PMN.device)
    mutual_PM = (row_PN.gather(1, column_PM) == own_M) & torch.isfinite(best_PM)
    # exp before the choice: the gradient at -inf would be no number.
    confidence_PM = torch.where(mutual_PM, best_PM, -torch.inf).exp()
    if match_threshold is not None:
        confidence_PM = soft_matches(confidence_PM, match_threshold)
    return torch.log1p(confidence_PM.sum(dim=1))


def soft_matches(confidence: torch.Tensor, match_threshold: float) -> torch.Tensor:
    """How far each match counts: a logistic step at the threshold t that has a gradient everywhere,
    (f(p) - f(0)) / (f(1) - f(0)) with f(p) = sigmoid((p - t) / SOFTNESS).

    >>> counted = soft_matches(torch.tensor([0.0, 0.4, 0.5, 1.0]), 0.5)
    >>> [round(value, 2) for value in counted.tolist()]
    [0.0, 0.27, 0.5, 1.0]
    """
    ends = torch.tensor([0.0, 1.0], dtype=confidence.dtype, device=confidence.device)
    low, high = torch.sigmoid((ends - match_threshold) / SOFTNESS)
    return (torch.sigmoid((confidence - match_threshold) / SOFTNESS) - low) / (high - low)


class PairLoss(nn.Module):
    """The loss of each anchor from its pairs: one with an image of its animal, then n with others.

    Two parts are added. Triplets: the mean over the others of max(0, margin - (score of its animal
    - score of the other)) (Schroff et al. 2015). Log-loss: a pair shows one animal with the
    probability sigmoid(scale * score + offset), scale and offset learned; its animal's pair weighs
    as much as the n others together. ``match_threshold`` is that of `pair_scores`.
    """

    def __init__(
        self, *, margin: float, log_loss_weight: float, match_threshold: float | None = None
    ) -> None:
        super().__init__()
        self.margin, self.log_loss_weight = margin, log_loss_weight
        self.match_threshold = match_threshold
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self, log_PMN: torch.Tensor, label_b: torch.Tensor, margin_factor: float = 1.0
    ) -> torch.Tensor:
        """(b,), fp32; the P = b (1 + n) pairs are anchor by anchor, of each its animal's first."""
        score_bn = pair_scores(log_PMN, self.match_threshold).unflatten(0, (len(label_b), -1))
        own_b1, other_bn = score_bn[:, :1], score_bn[:, 1:]
        triplet_bn = functional.relu(margin_factor * self.margin - (own_b1 - other_bn))
        logit_bn = self.scale * score_bn + self.offset
        own_b, other_b = (
            -functional.logsigmoid(logit_bn[:, 0]),
            functional.softplus(logit_bn[:, 1:]),
        )
        log_loss_b = 0.5 * (own_b + other_b.mean(dim=1))
        return triplet_bn.mean(dim=1) + self.log_loss_weight * log_loss_b
