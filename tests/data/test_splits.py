"""Made splits: whole encounters, and the promise of each kind kept."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exreid.data.splits import closed_set_split, identity_disjoint_split, time_aware_split
from exreid.errors import MetadataError

# Animal, encounter (0: unknown, 8: one that any animal may share), day.
ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 30)), min_size=2, max_size=60
)
FRACTIONS = st.floats(0.05, 0.9)


def _columns(rows):
    identities = [f"animal {i}" for i, _, _ in rows]
    encounters = [None if e == 0 else f"{e}" if e == 8 else f"{i}-{e}" for i, e, _ in rows]
    days = np.array([day for _, _, day in rows]) * np.timedelta64(1, "D")
    dates = (np.datetime64("2020-01-01") + days).astype("datetime64[s]")
    return identities, encounters, dates


def _split_of(kind, rows, fraction, seed):
    identities, encounters, dates = _columns(rows)
    if kind == "closed":
        make = partial(closed_set_split, identities, encounters, seed=seed)
    elif kind == "disjoint":
        make = partial(identity_disjoint_split, identities, encounters, seed=seed)
    else:
        make = partial(time_aware_split, identities, encounters, dates)
    try:
        return make(test_fraction=fraction)
    except MetadataError:
        return None


def _on_both_sides(names, split):
    sides = {}
    for name, side in zip(names, split, strict=True):
        if name is not None:
            sides.setdefault(name, set()).add(side)
    return [name for name, both in sides.items() if len(both) > 1]


@pytest.mark.parametrize("kind", ["closed", "disjoint", "time"])
@given(ROWS, FRACTIONS, st.integers(0, 3))
def test_no_split_cuts_through_an_encounter_and_none_is_one_sided(kind, rows, fraction, seed):
    split = _split_of(kind, rows, fraction, seed)
    if split is not None:
        assert set(split) == {"train", "test"}
        assert _on_both_sides(_columns(rows)[1], split) == []


@pytest.mark.parametrize("kind", ["closed", "time"])
@given(ROWS, FRACTIONS, st.integers(0, 3))
def test_every_animal_in_test_is_in_train(kind, rows, fraction, seed):
    split = _split_of(kind, rows, fraction, seed)
    if split is not None:
        identities = np.array(_columns(rows)[0])
        assert set(identities[split == "train"]) == set(identities)


@given(ROWS, FRACTIONS, st.integers(0, 3))
def test_disjoint_shares_no_animal(rows, fraction, seed):
    split = _split_of("disjoint", rows, fraction, seed)
    if split is not None:
        assert _on_both_sides(_columns(rows)[0], split) == []


@given(ROWS, FRACTIONS)
def test_time_aware_tests_no_encounter_that_ended_before_a_training_one(rows, fraction):
    split = _split_of("time", rows, fraction, 0)
    if split is None:
        return
    identities, encounters, dates = _columns(rows)
    end = {}
    for i, name in enumerate(encounters):
        key = name if name is not None else i
        end[key] = max(end.get(key, dates[i]), dates[i])
    ends = np.array([end[n if n is not None else i] for i, n in enumerate(encounters)])
    for animal in set(identities):
        own = np.array(identities) == animal
        tested = ends[own & (split == "test")]
        assert len(tested) == 0 or tested.min() >= ends[own & (split == "train")].max()


@pytest.mark.parametrize("kind", ["closed", "disjoint", "time"])
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(kind, rows, random):
    identities, encounters, dates = _columns(rows)
    ids = [f"{i}.jpg" for i in range(len(rows))]

    def split_of(order):
        columns = [[column[i] for i in order] for column in (identities, encounters, ids)]
        options = {"test_fraction": 0.3, "image_ids": columns[2]}
        if kind == "time":
            return time_aware_split(columns[0], columns[1], dates[order], **options)
        make = closed_set_split if kind == "closed" else identity_disjoint_split
        return make(columns[0], columns[1], seed=1, **options)

    order = list(range(len(rows)))
    try:
        expected = split_of(order)
    except MetadataError:
        return
    random.shuffle(order)
    assert split_of(order).tolist() == expected[order].tolist()


def test_the_share_of_test_is_the_one_asked_for():
    identities = [f"animal {i // 12}" for i in range(600)]
    encounters = [f"{i // 2}" for i in range(600)]
    for fraction in (0.1, 0.25, 0.5):
        for make in (closed_set_split, identity_disjoint_split):
            split = make(identities, encounters, test_fraction=fraction, seed=3)
            assert np.mean(split == "test") == pytest.approx(fraction, abs=0.02)


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    identities, encounters = [f"a{i % 9}" for i in range(90)], [f"{i}" for i in range(90)]
    for make in (closed_set_split, identity_disjoint_split):
        first = make(identities, encounters, test_fraction=0.3, seed=0)
        assert (first == make(identities, encounters, test_fraction=0.3, seed=0)).all()
        assert (first != make(identities, encounters, test_fraction=0.3, seed=1)).any()


def test_time_aware_puts_the_latest_visits_in_test():
    identities = ["a"] * 6
    encounters = ["1", "1", "2", "2", "3", "3"]
    dates = np.array(["2020-05-01"] * 2 + ["2020-01-01"] * 2 + ["2020-03-01"] * 2, "datetime64[s]")
    split = time_aware_split(identities, encounters, dates, test_fraction=0.3)
    assert split.tolist() == ["test", "test", "train", "train", "train", "train"]


def test_without_dates_the_numbers_of_the_encounters_are_the_order():
    encounters = ["visit 10", "visit 9", "visit 8"]
    split = time_aware_split(["a"] * 3, encounters, None, test_fraction=0.3)
    assert split.tolist() == ["test", "train", "train"]


def test_an_encounter_without_a_date_counts_as_the_earliest():
    dates = np.array(["NaT", "2020-01-01"], "datetime64[s]")
    split = time_aware_split(["a", "a"], ["2", "1"], dates, test_fraction=0.5)
    assert split.tolist() == ["train", "test"]


def test_an_animal_seen_once_and_one_of_unknown_name_stay_in_train():
    identities, encounters = ["a", "a", "b", None], ["1", "2", "3", "4"]
    split = closed_set_split(identities, encounters, test_fraction=0.9)
    assert split[2:].tolist() == ["train", "train"]
    assert sorted(split[:2]) == ["test", "train"]


def test_animals_of_one_encounter_go_together():
    identities, encounters = ["a", "b", "b", "c"], ["1", "1", "2", "3"]
    for seed in range(5):
        split = identity_disjoint_split(identities, encounters, test_fraction=0.4, seed=seed)
        assert len(set(split[:3])) == 1
        assert split[3] != split[0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: identity_disjoint_split(["a", "a", None], [None] * 3, test_fraction=0.5),
            "two identities.*there is 1.*closed_set",
        ),
        (
            lambda: identity_disjoint_split(["a", "b"], ["1", "1"], test_fraction=0.5),
            "share no encounter",
        ),
        (
            lambda: closed_set_split(["a", "b"], ["1", "2"], test_fraction=0.5),
            "two encounters.*identity_disjoint",
        ),
        (
            lambda: time_aware_split(["a"] * 2, [None] * 2, None, test_fraction=0.5),
            "dates or encounters.*date_col",
        ),
    ],
)
def test_what_cannot_be_split_says_so(make, says):
    with pytest.raises(MetadataError, match=says):
        make()


def test_a_fraction_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        closed_set_split(["a", "a"], ["1", "2"], test_fraction=1.5)
