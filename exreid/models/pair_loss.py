"""A score of matched pairs that has a gradient, and the losses that teach it to tell animals apart.

Letters: b anchors, n other animals' images of each, P pairs, M and N keypoints of a pair's images.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def pair_scores(log_PMN: torch.Tensor) -> torch.Tensor:
    """log(1 + c) of each pair, where c is the summed confidence of its mutual candidates: (P,).

    ``log_PMN`` is the log of LightGlue's assignment (`exreid.models.lightglue.Assignment`), -inf
    for padding. Two keypoints are candidates where each is the other's best. Their probabilities
    are a relaxed number of matches: at hard 0 and 1 it is the number that a probe counts. The
    logarithm gives a pair of 10 matches and one of 100 about the same say. A pair without keypoints
    has 0.
    """
    best_PM, column_PM = log_PMN.max(dim=2)
    row_PN = log_PMN.max(dim=1).indices
    own_M = torch.arange(log_PMN.shape[1], device=log_PMN.device)
    mutual_PM = (row_PN.gather(1, column_PM) == own_M) & torch.isfinite(best_PM)
    # exp before the choice: the gradient at -inf would be no number.
    confidence_PM = torch.where(mutual_PM, best_PM, -torch.inf).exp()
    return torch.log1p(confidence_PM.sum(dim=1))


class PairLoss(nn.Module):
    """The loss of each anchor from its pairs: one with an image of its animal, then n with others.

    Two parts are added. Triplets: the mean over the others of max(0, margin - (score of its animal
    - score of the other)) (Schroff et al. 2015). Log-loss: a pair shows one animal with the
    probability sigmoid(scale * score + offset), scale and offset learned; its animal's pair weighs
    as much as the n others together.
    """

    def __init__(self, *, margin: float, log_loss_weight: float) -> None:
        super().__init__()
        self.margin, self.log_loss_weight = margin, log_loss_weight
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self, log_PMN: torch.Tensor, label_b: torch.Tensor, margin_factor: float = 1.0
    ) -> torch.Tensor:
        """(b,), fp32; the P = b (1 + n) pairs are anchor by anchor, of each its animal's first."""
        score_bn = pair_scores(log_PMN).unflatten(0, (len(label_b), -1))
        own_b1, other_bn = score_bn[:, :1], score_bn[:, 1:]
        triplet_bn = functional.relu(margin_factor * self.margin - (own_b1 - other_bn))
        logit_bn = self.scale * score_bn + self.offset
        own_b, other_b = (
            -functional.logsigmoid(logit_bn[:, 0]),
            functional.softplus(logit_bn[:, 1:]),
        )
        log_loss_b = 0.5 * (own_b + other_b.mean(dim=1))
        return triplet_bn.mean(dim=1) + self.log_loss_weight * log_loss_b
