"""Made splits: whole encounters, and the promise of each kind kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exreid.data.splits import closed_set_split, identity_disjoint_split, time_aware_split
from exreid.errors import MetadataError

# Each encounter belongs to one animal, or (every seventh) to any.
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=2, max_size=60)


def _columns(rows):
    identities = [f"animal {i}" for i, _ in rows]
    encounters = [None if e == 0 else f"{e}" if e == 8 else f"{i}-{e}" for i, e in rows]
    return identities, encounters


def _cut(encounters, split):
    sides = {}
    for name, side in zip(encounters, split, strict=True):
        if name is not None:
            sides.setdefault(name, set()).add(side)
    return [name for name, both in sides.items() if len(both) > 1]


@given(ROWS, st.integers(0, 3))
def test_closed_keeps_every_animal_in_train_and_every_encounter_whole(rows, seed):
    identities, encounters = _columns(rows)
    split = closed_set_split(identities, encounters, test_fraction=0.3, seed=seed)
    assert _cut(encounters, split) == []
    apart = [e for e in encounters if e != "8"]  # an encounter of several animals may bind them
    if len(apart) == len(encounters):
        train = {i for i, side in zip(identities, split, strict=True) if side == "train"}
        assert train == set(identities)


@given(ROWS, st.integers(0, 3))
def test_disjoint_shares_no_animal_and_no_encounter(rows, seed):
    identities, encounters = _columns(rows)
    try:
        split = identity_disjoint_split(identities, encounters, test_fraction=0.3, seed=seed)
    except MetadataError:
        return
    assert _cut(encounters, split) == []
    assert _cut(identities, split) == []
    assert set(split) == {"train", "test"}


def test_time_aware_puts_the_latest_visits_in_test():
    identities = ["a"] * 6
    encounters = ["1", "1", "2", "2", "3", "3"]
    dates = np.array(["2020-05-01"] * 2 + ["2020-01-01"] * 2 + ["2020-03-01"] * 2, "datetime64[s]")
    split = time_aware_split(identities, encounters, dates, test_fraction=0.3)
    assert split.tolist() == ["test", "test", "train", "train", "train", "train"]


def test_what_cannot_be_split_says_so():
    with pytest.raises(MetadataError, match="two identities"):
        identity_disjoint_split(["a", "a"], [None, None], test_fraction=0.5)
    with pytest.raises(MetadataError, match="dates"):
        time_aware_split(["a"], [None], np.array(["NaT"], "datetime64[s]"), test_fraction=0.5)
