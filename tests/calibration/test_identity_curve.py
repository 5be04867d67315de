"""The probability that an animal is the photograph's, from practice answers."""

import numpy as np
import pytest

from exreid.calibration.identity_curve import fit_identity_curve
from exreid.errors import CalibrationError
from exreid.metrics.ranking import rank_scores
from exreid.records import RetrievalSide

GALLERY = RetrievalSide(
    ("a", "b", "c", "d"), np.arange(4), np.array([0, 0, 1, 2], np.int32), np.full(4, -1)
)


def _practice(scores_QG, identities):
    count = len(identities)
    queries = RetrievalSide(
        tuple(map(str, range(count))),
        np.arange(10, 10 + count),
        np.array(identities, np.int32),
        np.full(count, -1),
    )
    return rank_scores(np.array(scores_QG, np.float32), queries, GALLERY), queries


def test_each_animal_counts_once_by_its_best_image_and_new_animals_count_too():
    # One photograph of animal 0: animals 0, 1, 2 score 0.75, 0.5, 0.25 as known (weight 0.8 each),
    # and animals 1 and 2 again as if it were new (weight 0.2).
    ranking, queries = _practice([[0.625, 0.75, 0.5, 0.25]], [0])
    curve = fit_identity_curve(ranking, queries, GALLERY, new_share=0.2)
    assert (curve.pair_count, curve.positive_count) == (5, 1)
    assert curve.knot_score_M.tolist() == [0.25, 0.5, 0.75]
    # One pair more of either: right ones weigh 0.8, wrong ones 0.5 on average.
    low, high = 0.8 / (2 + 0.8 + 0.5), 1.6 / (0.8 + 0.8 + 0.5)
    assert curve.knot_prob_M == pytest.approx([low, low, high])


def test_the_share_of_new_animals_weighs_in():
    # Two photographs, the score 0.5 right in one and wrong in the other; each wrong one counts
    # again as new. At 0.5: right 0.5 * (1 - share), wrong 0.5 * (1 - share) + 0.5 * share.
    scores = [[0.5, 0.125, 0.25, 0.125], [0.25, 0.125, 0.5, 0.125]]
    ranking, queries = _practice(scores, [0, 0])
    for share in (0.25, 0.75):
        curve = fit_identity_curve(ranking, queries, GALLERY, new_share=share)
        # At 0.25 it is the same, so that both are one step. One pair more of either is there; a
        # wrong one weighs 0.25 on average.
        right = (1 - share) / 2
        assert curve.knot_prob_M[-1] == pytest.approx(3 * right / (3 * right + 2 * 0.5 + 0.25))


def test_practice_without_a_right_animal_teaches_nothing():
    ranking, queries = _practice([[0.5, 0.25, 0.125, 0.0]], [7])
    with pytest.raises(CalibrationError):
        fit_identity_curve(ranking, queries, GALLERY, new_share=0.5)
