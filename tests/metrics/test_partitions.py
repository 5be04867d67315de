"""The figures of a grouping are scikit-learn's, and BCubed's those of loops over images."""

import numpy as np
import pytest
import sklearn.metrics
from sklearn.metrics.cluster import pair_confusion_matrix

from exreid.metrics.partitions import (
    adjusted_mutual_information,
    bcubed,
    grouping_metrics,
    pairwise,
)


def _partitions(count, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, max(2, count // 5), count)
    moved = rng.integers(0, max(2, count // 3), count)
    return truth, np.where(rng.random(count) < 0.6, truth, moved)


@pytest.mark.parametrize("count", [2, 7, 60, 400])
def test_they_agree_with_scikit_learn(count):
    truth, group = _partitions(count, seed=count)
    assert adjusted_mutual_information(truth, group) == pytest.approx(
        sklearn.metrics.adjusted_mutual_info_score(truth, group), abs=1e-8
    )
    (_, wrong), (missed, both) = pair_confusion_matrix(truth, group)
    expected = (
        both / (both + wrong) if both + wrong else 1.0,
        both / (both + missed) if both + missed else 1.0,
    )
    assert pairwise(truth, group) == pytest.approx(expected)
    assert grouping_metrics(truth, group)["ari"] == pytest.approx(
        sklearn.metrics.adjusted_rand_score(truth, group)
    )


def test_bcubed_is_the_mean_over_images():
    truth, group = _partitions(50, seed=3)
    precision, recall = [], []
    for i in range(50):
        both = sum((truth[i] == truth) & (group[i] == group))
        precision.append(both / sum(group == group[i]))
        recall.append(both / sum(truth == truth[i]))
    assert bcubed(truth, group) == pytest.approx((np.mean(precision), np.mean(recall)))


def test_one_group_and_all_alone_say_nothing_of_the_animals():
    truth = np.array([0, 0, 1, 1, 2])
    together, alone = np.zeros(5, int), np.arange(5)
    assert adjusted_mutual_information(truth, together) == pytest.approx(0, abs=1e-12)
    assert pairwise(truth, alone) == (1.0, 0.0)
    assert grouping_metrics(truth, together)["count_error"] == pytest.approx(1 / 3 - 1)
    assert grouping_metrics(truth, alone)["count_error"] == pytest.approx(5 / 3 - 1)


def test_labels_of_other_images_are_refused():
    with pytest.raises(ValueError, match="one label per image"):
        pairwise(np.zeros(3, int), np.zeros(2, int))
