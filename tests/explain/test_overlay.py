"""Match overlays: what is drawn is what was found, and the words count it."""

import numpy as np
import pytest

from exreid.explain.canvas import colours_of
from exreid.explain.overlay import (
    MatchedKeypoints,
    draw_matches,
    match_counts_in_words,
    outside_masks,
    scale_matches,
    thin_evenly,
)
from exreid.explain.pair_layout import ImagePair


def _matches(query, gallery, confidence, inlier=None):
    return MatchedKeypoints.from_lists(query, gallery, confidence, inlier)


def _photographs():
    random = np.random.default_rng(0)
    return (random.integers(90, 110, (60, 96, 3), dtype=np.uint8) for _ in range(2))


def test_points_follow_the_photograph_to_another_size_and_into_its_box():
    found = _matches([0, 0, 9, 4], [3.5, 1.5, 0, 0], [0.9, 0.8])
    scaled = scale_matches(found, ((10, 5), (8, 4)), ((20, 15), (8, 4)))
    assert scaled.query_xy_X2.tolist() == [[0.5, 1.0], [18.5, 13.0]], "by 2 and by 3, from edges"
    assert scaled.gallery_xy_X2.tolist() == found.gallery_xy_X2.tolist()
    boxed = scale_matches(
        found, ((10, 5), (8, 4)), ((100, 100), (8, 4)), boxes_px=((40, 60, 50, 65), None)
    )
    assert boxed.query_xy_X2.tolist() == [[40, 60], [49, 64]]


def test_matches_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="not the same matches"):
        _matches([1, 2], [1, 2, 3, 4], [0.5])


def test_thinning_keeps_the_spread_and_the_share_of_inliers():
    random = np.random.default_rng(1)
    xy = random.uniform(0, 100, (1000, 2))
    found = _matches(xy, xy, random.uniform(0, 1, 1000), random.random(1000) < 0.3)
    thin = thin_evenly(found, 100)
    assert len(thin) == 100
    assert thin.inlier_X.mean() == pytest.approx(found.inlier_X.mean(), abs=0.015)
    quadrant = 2 * (thin.query_xy_X2[:, 0] > 50) + (thin.query_xy_X2[:, 1] > 50)
    assert np.abs(np.bincount(quadrant) - 25).max() <= 5
    kept = {tuple(one) for one in thin.query_xy_X2.tolist()}
    assert kept < {tuple(one) for one in found.query_xy_X2.tolist()}
    assert thin_evenly(thin, 100) is thin


def test_counts_in_words_are_of_the_matches_not_of_the_lines():
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    found = _matches([1, 1, 4, 4, 7, 7], [1, 1, 9, 9, 1, 1], [0.9] * 3, [True, False, True])
    outside = outside_masks(found, mask, mask)
    assert outside.tolist() == [False, True, True], "either end counts"
    assert match_counts_in_words(found, outside) == "3 matches, 2 inliers, 2 outside the mask"
    assert outside_masks(found, None, mask).tolist() == [False, True, False]
    beyond = _matches([-3, 0], [1, 1], [0.9])
    assert outside_masks(beyond, mask, None).tolist() == [True], "off the image is off the animal"
    assert match_counts_in_words(found.take(np.zeros(0, int)), None) == "0 matches, 0 inliers"


def test_the_photographs_stand_untouched_above_and_lines_have_their_colours_below():
    query, gallery = _photographs()
    found = _matches([20, 30], [70, 30], [0.75])
    overlay = draw_matches(ImagePair(query, gallery), found, width_px=2 * 96 + 6, threshold=0.5)
    picture = overlay.image_rgb
    assert picture.shape[1] == 2 * 96 + 6
    top = next(y for y in range(60) if np.array_equal(picture[y, :96], query[0]))
    assert np.array_equal(picture[top : top + 60, :96], query)
    assert np.array_equal(picture[top : top + 60, 102:], gallery)
    below = top + 60 + 6
    middle = picture[below + 30, (20 + 102 + 70) // 2]
    assert np.abs(middle.astype(int) - colours_of(np.array([0.5]))[0]).max() < 25, (
        "0.75 is half way from 0.5 to 1"
    )
    assert overlay.caption == "1 match with a confidence over 0.5."


def test_outliers_are_faint_weak_ones_are_left_out_and_many_are_thinned_and_said_so():
    query, gallery = _photographs()
    solid = _matches([20, 30], [70, 30], [0.9], [True])
    faint = _matches([20, 30], [70, 30], [0.9], [False])
    nothing = solid.take(np.zeros(0, int))

    def drawn(found, masks=(), **options):
        return draw_matches(ImagePair(query, gallery, *masks), found, width_px=300, **options)

    plain = drawn(nothing).image_rgb.astype(int)
    strength = [np.abs(drawn(one).image_rgb - plain).sum() for one in (solid, faint)]
    assert strength[0] > 3 * strength[1] > 0
    many = _matches(np.tile([20, 30], 50), np.tile([70, 30], 50), [0.9] * 40 + [0.3] * 10)
    caption = drawn(many, threshold=0.5, most_lines=12).caption
    assert caption == (
        "40 matches with a confidence over 0.5. 10 weaker ones not drawn. 12 of the 40 are drawn, "
        "thinned evenly."
    )
    mask = np.zeros((60, 96), bool)
    assert "1 inlier, 1 outside the mask" in drawn(solid, [mask]).caption
    assert "none outside the mask" in drawn(solid, [~mask, ~mask]).caption
    # Of keypoints on the animal alone none is off it, however coarse the mask.
    assert drawn(solid, [mask], on_animal=True).caption.startswith("1 match, 1 inlier.")


def test_titles_of_any_length_stay_over_their_own_photograph():
    grey = np.full((60, 96, 3), 200, np.uint8)
    long = "Zita · a/long/folder/of/photographs/with/names/DSC_0001.JPG"
    pair = ImagePair(grey, grey, None, None, (long, long))
    picture = draw_matches(pair, _matches([], [], []), width_px=600).image_rgb
    heading = picture[: int((picture[:, 5] == 200).all(axis=1).argmax())]
    middle = picture.shape[1] // 2
    dark = (heading < 128).any(axis=(0, 2))
    assert dark[: middle - 20].any()
    assert not dark[middle - 6 : middle + 2].any(), "there is room between the two"
    assert not dark[-4:].any()


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_only_pictures_are_drawn_on(bad):
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_matches(ImagePair(good, bad), _matches([], [], []))
