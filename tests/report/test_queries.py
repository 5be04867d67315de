"""Neighbours by identity: order, right and wrong, and what is not known."""

import numpy as np

from exreid.report.queries import neighbours

IDENTITY_N = np.array(["Luna", "Mira", "Luna", None, None], object)


def test_identities_stand_where_their_best_image_stands():
    image_R, score_R = np.array([1, 2, 0, 3, 4]), np.array([0.9, 0.8, 0.7, 0.6, np.nan])
    mira, luna, *unknown = neighbours(image_R, score_R, IDENTITY_N, own="Luna", most=6)
    assert (mira.identity, mira.images, mira.score, mira.is_match) == ("Mira", [1], 0.9, False)
    assert (luna.identity, luna.images, luna.score, luna.is_match) == ("Luna", [2, 0], 0.8, True)
    assert [near.images for near in unknown] == [[3], [4]], "unknown ones are not thrown together"
    assert [near.is_match for near in unknown] == [None, None]
    assert np.isnan(unknown[1].score)


def test_a_query_of_unknown_identity_has_no_right_and_wrong():
    near = neighbours(np.array([0, 1]), np.array([0.9, 0.8]), IDENTITY_N, own=None, most=1)
    assert [(each.identity, each.is_match) for each in near] == [("Luna", None)]
