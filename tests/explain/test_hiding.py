"""Hidden parts: of the area that was asked for, filled without a trace, the rest untouched."""

import numpy as np

from benchmarks._hiding import densest_region, hidden, random_points, region_of_points


def test_the_densest_region_is_within_the_part():
    density, whole = np.array([[0.1, 0.9, 0.4, 0.8]]), np.ones((1, 4), bool)
    assert densest_region(density, 0.5, whole).tolist() == [[False, True, False, True]]
    part = np.array([[True, False, True, False]])
    assert densest_region(density, 0.5, part).tolist() == [[False, False, True, False]]


def test_the_region_lies_where_the_points_are_and_has_its_area():
    within = np.zeros((60, 80), bool)
    within[10:50, 10:70] = True
    points = np.array([[20.0, 20.0], [21.0, 22.0], [60.0, 40.0]])
    region = region_of_points(points, np.array([1.0, 1.0, 0.01]), 0.05, within)
    assert region.sum() == round(0.05 * within.sum())
    assert not (region & ~within).any()
    row, column = np.nonzero(region)
    assert np.hypot(row - 21, column - 20.5).max() < 12, "the light point is left alone"


def test_random_points_lie_in_the_part():
    within = np.zeros((60, 80), bool)
    within[10:50, 10:70] = True
    points = random_points(within, 500, np.random.default_rng(0)).astype(int)
    assert within[points[:, 1], points[:, 0]].all()
    assert points.std(axis=0).min() > 8


def test_hiding_a_spot_leaves_its_surroundings_and_no_spot():
    image = np.full((60, 80, 3), 200, np.uint8)
    image[20:30, 30:40] = 10
    region = np.zeros((60, 80), bool)
    region[18:32, 28:42] = True
    clean = hidden(image, region)
    assert clean.min() > 195, "filled from outside, not with the spot's own dark"
    other = image.copy()
    other[50:, :] = 90
    far = hidden(other, region)
    assert np.array_equal(far[42:], other[42:]), "what is farther than the edge is untouched"


def test_everything_and_nothing_can_be_hidden():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(hidden(image, np.zeros((20, 30), bool)), image)
    gone = hidden(image, np.ones((20, 30), bool))
    assert gone.std(axis=(0, 1)).max() < 1
    half = np.zeros((400, 600), bool)
    half[:, 100:] = True
    large = np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    assert np.isfinite(hidden(large, half)).all()
