"""Grouping what was called new: planted animals are found, and no truth of a query is used."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from exreid.config.methods import OpenSetConfig
from exreid.metrics.grouping import adjusted_rand_index
from exreid.openset.group import (
    Grouper,
    Grouping,
    NewAnimals,
    near_pairs,
    new_animals_table,
    sparing_choice,
    visit_pairs,
    whole_identities,
)
from exreid.records import ImageTable, RetrievalSide


def _side(identity, encounter=None, start=0):
    count = len(identity)
    encounter = np.full(count, -1) if encounter is None else np.asarray(encounter)
    ids = tuple(f"i{start + i}" for i in range(count))
    return RetrievalSide(ids, start + np.arange(count), np.asarray(identity), encounter)


def _planted(seed=0, animals=24, photos=5, noise=0.35):
    """Vectors around one direction per animal: the first half of the animals is the database."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(animals), photos)
    centre = rng.normal(size=(animals, 16))
    vectors = (centre[identity] + noise * rng.normal(size=(len(identity), 16))).astype(np.float32)
    half = len(identity) // 2
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def score(first, second):
        assert (first < second).all(), "one order of each pair, so that the cache knows it"
        return (unit[first] * unit[second]).sum(axis=1).astype(float)

    return vectors, score, _side(identity[:half]), _side(identity[half:], start=half)


@pytest.mark.parametrize("with_vectors", [True, False])
def test_planted_animals_are_found_again(with_vectors):
    vectors, score, gallery, queries = _planted()
    grouper = Grouper(score, vectors if with_vectors else None, OpenSetConfig(group_nearest=10))
    grouping = grouper.fit(gallery, seed=0)
    assert grouping.fitted_ari > 0.9
    assert grouping.fitted_identities == 12
    every = np.arange(len(queries))
    group = grouper.group(every, queries, grouping).group_N
    assert adjusted_rand_index(queries.identity_N, group) > 0.9
    hidden = replace(queries, identity_N=np.zeros(len(queries), int))
    assert grouper.group(every, hidden, grouping).group_N.tolist() == group.tolist(), (
        "no truth is used"
    )


def test_scores_that_say_nothing_leave_the_visits():
    _, _, gallery, queries = _planted()
    queries = replace(queries, encounter_N=np.repeat(np.arange(30), 2))
    gallery = replace(gallery, encounter_N=np.arange(100, 100 + len(gallery)))
    level = Grouper(lambda first, second: np.full(len(first), 3.0), None, OpenSetConfig())
    grouping = level.fit(gallery, seed=0)
    assert grouping.curve is None
    group = level.group(np.arange(len(queries)), queries, grouping).group_N
    assert group.tolist() == np.repeat(np.arange(30), 2).tolist()


def test_visits_are_linked_as_the_database_or_the_key_says():
    vectors, score, gallery, _ = _planted()
    one_each = replace(gallery, encounter_N=np.arange(len(gallery)) // 5)
    mixed = replace(gallery, encounter_N=np.arange(len(gallery)) // 4)
    for side, key, linked in [
        *((one_each, "auto", True), (mixed, "auto", False), (gallery, "auto", True)),
        *((one_each, "off", False), (mixed, "on", True)),
    ]:
        options = OpenSetConfig(link_visits=key)
        assert Grouper(score, vectors, options).fit(side, seed=0).linked is linked
    assert OpenSetConfig(link_visits=False).link_visits == "off"


def test_practice_takes_whole_animals_and_few_of_a_large_one():
    side = _side(np.repeat([0, 1, 2, 3], [50, 4, 6, 30]))
    for count in (10, 40, 200):
        chosen = whole_identities(side, count, seed=1)
        names, sizes = np.unique(chosen.identity_N, return_counts=True)
        assert len(names) >= 2
        whole = {0: 20, 1: 4, 2: 6, 3: 20}
        assert [whole[int(name)] for name in names] == sizes.tolist()
    assert len(chosen) == 50
    assert whole_identities(side, 200, 1).image_ids == chosen.image_ids


def test_pairs_of_the_nearest_once_each():
    vectors, _, gallery, _ = _planted()
    pairs = near_pairs(gallery, vectors, 3, linked=False)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = (unit @ unit.T)[: len(gallery), : len(gallery)] - 2 * np.eye(len(gallery))
    near = np.argsort(-cosine, axis=1)[:, :3]
    assert set(map(tuple, pairs.tolist())) == {
        (min(i, j), max(i, j)) for i in range(len(gallery)) for j in near[i].tolist()
    }
    visits = replace(gallery, encounter_N=np.where(np.arange(60) < 30, np.arange(60) // 3, -1))
    kept = near_pairs(visits, vectors, 3, linked=True)
    code = visits.encounter_N[kept]
    assert not ((code[:, 0] == code[:, 1]) & (code[:, 0] >= 0)).any()
    assert len(visit_pairs(visits)) == 10 * 3
    assert near_pairs(_side([0]), None, 3, linked=False).shape == (0, 2)


def test_a_score_that_barely_helps_joins_nothing():
    truth = np.repeat(np.arange(10), 4)
    visits = np.arange(40) // 2
    perfect = truth.copy()
    by_chance = np.where(np.isin(visits, [3, 8]), 3, visits)  # two visits of two animals
    by_chance = np.where(np.isin(by_chance, [10, 11]), 10, by_chance)  # and two of one
    assert sparing_choice(truth, [visits, perfect], seed=0) == 1
    assert sparing_choice(truth, [visits, by_chance], seed=0) == 0
    assert sparing_choice(truth, [visits, by_chance, perfect], seed=0) == 2


def test_a_visit_of_several_animals_is_no_visit_of_a_new_animal():
    """Photograph b shows two animals, one of them known: visit v says nothing of the other."""
    rows = pd.DataFrame({
        "path": ["a", "b", "b", "c", "d"],
        "encounter": pd.Series(["v", "v", "v", "w", None], dtype=object),
        "identity": ["x", "x", "y", "z", "z"],
    })  # fmt: skip
    for name in ("image_id", "split", "mask", "date", "viewpoint", "row"):
        rows[name] = None
    table = ImageTable(rows, rows, ".", "table")
    found = NewAnimals(np.array([0, 1, 3, 4]), np.zeros(4, int), Grouping(None, 1.0, True, 0, 0, 0))
    made = new_animals_table(found, _side([0, 0, 1, 2, 2]), table, np.zeros(5))
    assert made["encounter"].to_pylist() == [None, None, "w", None]
