"""How well a gallery tells its animals apart: the numbers, counted by hand, and the level."""

import numpy as np
import pytest

from exreid.config.methods import OpenSetConfig
from exreid.metrics.openset import Answers
from exreid.openset.decide import Decider
from exreid.openset.quality import gallery_quality, mean_quality
from exreid.records import RetrievalSide


def _side(encounters):
    count = len(encounters)
    ids = tuple(f"g{i}" for i in range(count))
    return RetrievalSide(ids, np.arange(count), np.arange(count) % 2, np.array(encounters))


def _decider(threshold, reason=""):
    return Decider((1.0, 0.0), 0.0, (1.0, 1.0), (0.0, 1.0), threshold, reason)


# Animal 0 has two photographs, animals 1 and 2 one each; then each once more as a new one.
ANSWERS = Answers(
    np.array([0.9, 0.4, 0.8, 0.7, 0.3, 0.2, 0.6, 0.1]),
    np.array([True, True, True, True, False, False, False, False]),
    np.array([True, True, True, False, False, False, False, False]),
    np.array([0, 0, 1, 2, 10, 10, 11, 12]),
)


def test_each_number_is_as_counted_by_hand():
    found = gallery_quality(ANSWERS, _decider(0.5), _side([0, 1, 2]), OpenSetConfig())
    assert found.top_1 == 3 / 4
    # Of animal 0 one of two is accepted and right, of animal 1 all, of animal 2 none.
    assert found.recognised == pytest.approx((0.5 + 1 + 0) / 3)
    # 0.9, 0.8 and 0.7 are above all four new ones, 0.4 above three.
    assert found.new_auroc == pytest.approx((4 + 4 + 4 + 3) / 16)
    # Of three new animals one passes, at 0.6.
    assert found.passed == pytest.approx(1 / 3)
    assert (found.known_animals, found.encounters_known) == (3, True)
    assert (found.level, found.false_match_rate) == ("usable", 0.05)


def test_what_is_not_promised_or_not_known_is_said():
    few = gallery_quality(ANSWERS, _decider(0.5, "too few"), _side([0, -1, 2]), OpenSetConfig())
    assert (few.false_match_rate, few.no_rate, few.encounters_known) == (None, "too few", False)


def test_only_encounters_make_a_gallery_good():
    sure = Answers(
        np.array([0.9, 0.9, 0.1, 0.1]), *np.array([[1, 1, 0, 0]] * 2, bool), np.arange(4)
    )
    known, unknown = (
        gallery_quality(sure, _decider(0.5), _side(encounters), OpenSetConfig())
        for encounters in ([0, 1], [0, -1])
    )
    assert (known.level, unknown.level) == ("good", "usable")
    assert mean_quality([unknown]).level == "usable"


def test_no_better_than_chance_is_poor():
    rng = np.random.default_rng(0)
    known = np.repeat([True, False], 100)
    right = known & (rng.random(200) < 1 / 20)
    chance = Answers(rng.random(200), known, right, np.arange(200) // 2)
    found = gallery_quality(chance, _decider(0.95), _side([0, 1]), OpenSetConfig())
    assert found.level == "poor"


def test_folds_are_averaged_and_judged_together():
    one = gallery_quality(ANSWERS, _decider(0.5), _side([0, 1]), OpenSetConfig())
    none = gallery_quality(ANSWERS, _decider(0.95), _side([0, 1]), OpenSetConfig())
    both = mean_quality([one, none])
    assert both.recognised == pytest.approx(one.recognised / 2)
    assert both.level == "usable"
    assert mean_quality([none]).level == "poor"
