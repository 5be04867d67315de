"""The score of a pair and its losses: naive twins, the matcher's own counts, gradients."""

import math

import numpy as np
import pytest
import torch

from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.models.lightglue import ImagePairs, load_lightglue
from exreid.models.pair_loss import PairLoss, pair_scores
from exreid.records import LocalFeatures

COUNTS = (24, 9, 16)
PAIRS = np.array([[0, 1], [1, 2], [2, 2], [0, 0]])


def log_assignments(pairs=3, rows=5, columns=4):
    logits = torch.randn(pairs, rows, columns, generator=torch.Generator().manual_seed(0))
    logits = logits.double() * 3
    return logits.log_softmax(1) + logits.log_softmax(2)


def naive_score(log_MN, count=lambda p: p):
    total = 0.0
    rows, columns = log_MN.shape
    for i in range(rows):
        for j in range(columns):
            best_of_row = all(log_MN[i, j] > log_MN[i, k] for k in range(columns) if k != j)
            best_of_column = all(log_MN[i, j] > log_MN[k, j] for k in range(rows) if k != i)
            if best_of_row and best_of_column:
                total += count(math.exp(log_MN[i, j]))
    return math.log(1 + total)


def test_the_score_is_the_naive_one_and_padding_adds_nothing():
    log_PMN = log_assignments()
    expected = [naive_score(log_MN) for log_MN in log_PMN]
    assert pair_scores(log_PMN).tolist() == pytest.approx(expected)
    padded = torch.nn.functional.pad(log_PMN, (0, 2, 0, 3), value=-torch.inf).requires_grad_()
    scores = pair_scores(padded)
    assert scores.tolist() == pytest.approx(expected)
    scores.sum().backward()
    assert torch.isfinite(padded.grad).all()
    assert not padded.grad[:, 5:].any()
    assert pair_scores(torch.full((1, 2, 2), -torch.inf)).tolist() == [0.0]


def test_matches_are_counted_by_a_step_that_is_soft_at_the_threshold():
    def step(p):
        return 1 / (1 + math.exp(-(p - 0.3) / 0.1))

    def count(p):
        return (step(p) - step(0)) / (step(1) - step(0))

    log_PMN = log_assignments()
    expected = [naive_score(log_MN, count) for log_MN in log_PMN]
    assert pair_scores(log_PMN, 0.3).tolist() == pytest.approx(expected)
    # Sure matches and sure misses are counted as a probe does it.
    sure = torch.full((1, 3, 4), -40.0)
    sure[0, 0, 1] = sure[0, 2, 3] = -1e-6
    assert pair_scores(sure, 0.3).expm1().tolist() == pytest.approx([2.0], abs=1e-3)
    assert not pair_scores(torch.full((1, 2, 2), -torch.inf), 0.3).any()


def test_gradients_are_those_of_finite_differences():
    # Away from ties and from the triplets' edge the loss is smooth.
    loss = PairLoss(margin=5.0, log_loss_weight=0.7).double()
    log_PMN = log_assignments(pairs=6).requires_grad_()
    assert torch.autograd.gradcheck(pair_scores, log_PMN)
    assert torch.autograd.gradcheck(lambda log: pair_scores(log, 0.5), log_PMN)
    labels = torch.arange(2)
    assert torch.autograd.gradcheck(lambda log: loss(log, labels), log_PMN)
    loss(log_PMN, labels).sum().backward()
    for weight in loss.parameters():
        before, step = weight.item(), 1e-6
        ends = []
        for moved in (before - step, before + step):
            weight.data.fill_(moved)
            ends.append(loss(log_PMN, labels).sum().item())
        weight.data.fill_(before)
        assert weight.grad.item() == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_the_loss_is_the_naive_one(factor):
    log_PMN, margin, weight = log_assignments(pairs=6), 0.4, 0.7
    loss = PairLoss(margin=margin, log_loss_weight=weight).double()
    score = [naive_score(log_MN) for log_MN in log_PMN]
    expected = []
    for own, *others in (score[:3], score[3:]):
        triplets = [max(0.0, factor * margin - (own - other)) for other in others]
        sure = [1 / (1 + math.exp(2 - s)) for s in (own, *others)]
        others_loss = sum(-math.log(1 - p) for p in sure[1:]) / 2
        expected.append(sum(triplets) / 2 + weight * (-math.log(sure[0]) + others_loss) / 2)
    assert loss(log_PMN, torch.arange(2), factor).tolist() == pytest.approx(expected)


def local_features(length):
    random = np.random.default_rng(1)
    descriptors = random.normal(size=(3, max(COUNTS), length))
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    points = random.uniform(0, 100, (3, max(COUNTS), 2))
    # The second and third image have keypoints of the first, a little moved.
    for i in (1, 2):
        descriptors[i, : COUNTS[i]] = descriptors[0, : COUNTS[i]]
        points[i, : COUNTS[i]] = points[0, : COUNTS[i]] + random.normal(size=(COUNTS[i], 2))
    for i, count in enumerate(COUNTS):
        descriptors[i, count:], points[i, count:] = 0, 0
    return LocalFeatures(
        points.astype(np.float32),
        descriptors.astype(np.float16),
        np.array(COUNTS, np.int32),
        np.full((3, 2), 100, np.int32),
    )


@pytest.mark.parametrize("name", ["aliked", "disk"])
def test_the_network_in_training_scores_a_pair_as_the_matcher_does(name):
    network, features = load_lightglue(name), local_features(128)
    arrays = (
        *(features.keypoints_NK2, features.descriptors_NKL, features.count_N),
        *(features.image_wh_px_N2, features.frame_NKF, PAIRS),
    )
    score_P = pair_scores(network(ImagePairs(*map(torch.from_numpy, arrays))))
    matcher = LightGlueMatcher(network, MatchSettings(filter_threshold=0.0))
    evidence = matcher.score(features, features, PAIRS.astype(np.int32))
    assert evidence.confidence_sum_P.min() > 1, "there is something to compare"
    assert score_P.numpy() == pytest.approx(np.log1p(evidence.confidence_sum_P), rel=1e-4)
