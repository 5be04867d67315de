"""Query expansion, by hand."""

import numpy as np
import pytest

from exreid.matching.expansion import expanded_vectors


def test_the_mean_of_unit_vectors_by_hand():
    gallery = np.array([[0, 5], [3, 4], [-1, 0]], np.float32)
    query = np.array([[2, 0]], np.float32)
    order = np.array([[1, 0, 2]])
    plain = expanded_vectors(query, gallery, order, best=2)
    assert plain[0] == pytest.approx([1.6, 1.8])
    # cosines 0.6 and 0: the second weighs nothing once they are squared.
    squared = expanded_vectors(query, gallery, order, best=2, power=2)
    assert squared[0] == pytest.approx([1 + 0.36 * 0.6, 0.36 * 0.8])
    # The opposite direction is not subtracted.
    assert expanded_vectors(query, gallery, order, best=3, power=1)[0] == pytest.approx(
        [1 + 0.6 * 0.6, 0.6 * 0.8]
    )


def test_missing_candidates_count_for_nothing():
    gallery = np.array([[0, 5]], np.float32)
    query = np.array([[2, 0], [0, 1]], np.float32)
    got = expanded_vectors(query, gallery, np.array([[-1], [0]]), best=3)
    assert got.tolist() == [[1, 0], [0, 2]]
    with pytest.raises(ValueError, match="1 candidate or more"):
        expanded_vectors(query, gallery, np.array([[0], [0]]), best=0)
