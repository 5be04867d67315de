"""Calibration pairs: which ones may be drawn, and that the weighted ones stand for all."""

import numpy as np
import pytest

from exreid.calibration import pairs as module
from exreid.calibration.pairs import calibration_pairs
from exreid.errors import CalibrationError
from exreid.records import RetrievalSide


def _side(seed=0, identities=12, images=8, encounters=3, unknown=0.1):
    rng = np.random.default_rng(seed)
    count = identities * images
    identity_N = rng.permutation(np.repeat(np.arange(identities), images)).astype(np.int32)
    encounter_N = (identity_N * encounters + rng.integers(0, encounters, count)).astype(np.int32)
    encounter_N[rng.random(count) < 0.1] = 0
    encounter_N[rng.random(count) < unknown] = -1
    names = tuple(f"i{i}" for i in range(count))
    return RetrievalSide(names, np.arange(count), identity_N, encounter_N)


def _nearest(first_A, second_B):
    rng = np.random.default_rng(9)
    chosen = [rng.permutation(second_B)[:5] for _ in first_A]
    padded = np.array(chosen)
    padded[:, -1] = -1
    return padded


def _allowed(side, first, second, exclude):
    if first == second:
        return False
    known = side.encounter_N[first] >= 0
    together = known and side.encounter_N[first] == side.encounter_N[second]
    return not (exclude == "encounter" and together)


@pytest.mark.parametrize("mode", ["disjoint_sets", "same_set"])
@pytest.mark.parametrize("exclude", ["encounter", "image"])
@pytest.mark.parametrize("listed", [0, 10**6])
def test_pairs_obey_the_rules_and_weigh_as_much_as_all_pairs(mode, exclude, listed, monkeypatch):
    monkeypatch.setattr(module, "LISTED_PAIRS", listed)
    side = _side()
    seen = []

    def nearest(first_A, second_B):
        seen.append((first_A, second_B))
        return _nearest(first_A, second_B)

    drawn = calibration_pairs(side, nearest, pairs=200, mode=mode, exclude=exclude, seed=3)
    first_A, second_B = seen[0]
    if mode == "disjoint_sets":
        assert not set(first_A) & set(second_B)
        assert sorted([*first_A, *second_B]) == list(range(len(side)))
    every = [(a, b) for a in first_A for b in second_B if _allowed(side, a, b, exclude)]
    same = [(a, b) for a, b in every if side.identity_N[a] == side.identity_N[b]]
    chosen = list(zip(drawn.first_P.tolist(), drawn.second_P.tolist(), strict=True))
    assert len(set(chosen)) == len(chosen) <= 200
    assert set(chosen) <= set(every)
    assert drawn.weight_P[drawn.same_P].sum() == pytest.approx(len(same))
    assert drawn.weight_P.sum() == pytest.approx(len(every))
    assert [pair in set(same) for pair in chosen] == drawn.same_P.tolist()
    assert drawn.same_P.sum() == min(100, len(same))
    again = calibration_pairs(side, _nearest, pairs=200, mode=mode, exclude=exclude, seed=3)
    assert np.array_equal(again.second_P, drawn.second_P)
    other = calibration_pairs(side, _nearest, pairs=200, mode=mode, exclude=exclude, seed=4)
    assert not np.array_equal(other.second_P, drawn.second_P)


def test_encounters_are_not_cut_and_folds_hold_whole_animals():
    side = _side(unknown=0.0)
    sets = []
    drawn = calibration_pairs(side, lambda a, b: sets.append((a, b)) or _nearest(a, b), pairs=300)
    for code in np.unique(side.identity_N):
        mine = [set(side.encounter_N[part][side.identity_N[part] == code]) for part in sets[0]]
        assert not mine[0] & mine[1]
        assert abs(len(mine[0]) - len(mine[1])) <= 1
    for code in np.unique(side.identity_N[drawn.first_P]):
        assert len(set(drawn.fold_P[side.identity_N[drawn.first_P] == code])) == 1
    assert len(set(drawn.fold_P)) == module.CALIBRATION_FOLDS


def test_near_pairs_stand_for_themselves_alone():
    side = _side()
    drawn = calibration_pairs(side, _nearest, pairs=4000, mode="same_set")
    near = {
        (a, b) for a, row in enumerate(_nearest(*2 * [np.arange(len(side))])) for b in row if b >= 0
    }
    for a, b, same, weight in zip(
        drawn.first_P, drawn.second_P, drawn.same_P, drawn.weight_P, strict=True
    ):
        if not same and (a, b) in near:
            assert weight == 1


def test_a_database_without_pairs_says_what_to_do():
    names = ("a", "b")
    one = RetrievalSide(names, np.arange(2), np.zeros(2, np.int32), np.full(2, -1))
    two = RetrievalSide(names, np.arange(2), np.arange(2, dtype=np.int32), np.full(2, -1))
    together = RetrievalSide(names, np.arange(2), np.zeros(2, np.int32), np.zeros(2, np.int32))
    for side, message in ((one, "two animals"), (two, "one animal"), (together, "one encounter")):
        with pytest.raises(CalibrationError, match=message):
            calibration_pairs(side, lambda a, b: np.full((len(a), 1), -1), pairs=10)
