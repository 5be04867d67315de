"""The evidence's density against a naive sum, and what the layer leaves untouched."""

import numpy as np
import pytest

from exreid.explain.heatmap import blend, draw_evidence, evidence_density, heat_layer
from exreid.explain.overlay import MatchedKeypoints
from exreid.explain.pair_layout import ImagePair


def _naive(xy, weight, wh, sigma):
    density = np.zeros((wh[1], wh[0]))
    for row in range(wh[1]):
        for column in range(wh[0]):
            for (x, y), w in zip(xy, weight, strict=True):
                away = (column - x) ** 2 + (row - y) ** 2
                density[row, column] += w * np.exp(-0.5 * away / sigma**2)
    return density / density.max()


@pytest.mark.parametrize("sigma", [3.0, 20.0])
def test_it_is_the_weighted_sum_of_gaussians(sigma):
    xy = np.array([[10.0, 12.0], [30.5, 8.25], [31.0, 9.0]])
    weight = np.array([0.9, 0.4, 0.6])
    density = evidence_density(xy, weight, (48, 36), sigma_px=sigma)
    assert density.dtype == np.float32
    assert density.max() == 1
    assert density == pytest.approx(_naive(xy, weight, (48, 36), sigma), abs=0.02)


def test_a_large_photograph_is_computed_small_and_its_peak_stays_in_place():
    density = evidence_density(np.array([[1501.0, 703.0]]), np.array([0.5]), (2400, 1600))
    row, column = np.unravel_index(density.argmax(), density.shape)
    assert density.shape == (1600, 2400)
    assert np.hypot(column - 1501, row - 703) < 6


def test_the_mask_cuts_and_the_densest_place_left_is_one():
    mask = np.zeros((36, 48), bool)
    mask[:, 24:] = True
    xy, weight = np.array([[10.0, 12.0], [34.0, 12.0]]), np.array([1.0, 0.3])
    density = evidence_density(xy, weight, (48, 36), mask_HW=mask, sigma_px=3)
    assert density[~mask].max() == 0
    assert density.max() == 1
    assert density[12, 34] > 0.99
    with pytest.raises(ValueError, match="does not fit"):
        evidence_density(xy, weight, (36, 48), mask_HW=mask)


def test_no_evidence_is_no_heat():
    density = evidence_density(np.zeros((0, 2)), np.zeros(0), (20, 10))
    assert density.shape == (10, 20)
    assert not density.any()


def test_the_layer_over_the_photograph_is_the_blend_and_clear_where_nothing_is():
    random = np.random.default_rng(0)
    photograph = random.integers(0, 255, (36, 48, 3), dtype=np.uint8)
    density = np.zeros((36, 48), np.float32)
    density[10:20, 10:20] = random.uniform(0.1, 1, (10, 10))
    layer = heat_layer(density)
    assert layer.shape == (36, 48, 4)
    assert not layer[density == 0, 3].any()
    assert layer[density > 0, 3].min() > 0
    alpha = layer[..., 3:] / 255
    over = photograph * (1 - alpha) + layer[..., :3] * alpha
    blended = blend(photograph, density)
    assert np.abs(blended - over).max() <= 1
    assert np.array_equal(blended[density == 0], photograph[density == 0])


def test_the_picture_shows_the_plain_coat_above():
    random = np.random.default_rng(0)
    query, gallery = (random.integers(0, 255, (60, 96, 3), dtype=np.uint8) for _ in range(2))
    found = MatchedKeypoints.from_lists([20, 30], [70, 30], [0.9])
    overlay = draw_evidence(ImagePair(query, gallery), found, width_px=198)
    picture = overlay.image_rgb
    top = next(y for y in range(60) if np.array_equal(picture[y, :96], query[0]))
    assert np.array_equal(picture[top : top + 60, :96], query)
    below = picture[top + 66 : top + 126, :96]
    assert np.array_equal(below[0, 90:], query[0, 90:]), "far from the point nothing is laid over"
    assert not np.array_equal(below[30, 20], query[30, 20])
