"""Mined pairs against a naive twin, and their file."""

import numpy as np
import pytest

from exreid.matching.mining import draw_batch, mine_pairs, read_mined, unordered_pairs

IMAGES = 14
IDS = tuple(f"image-{i}" for i in range(IMAGES))


@pytest.fixture(scope="module")
def scored():
    random = np.random.default_rng(3)
    identity_N = random.integers(0, 4, IMAGES)
    identity_N[-1] = 9  # its animal has one image
    encounter_N = random.integers(-1, 6, IMAGES)
    every = np.stack(np.meshgrid(np.arange(IMAGES), np.arange(IMAGES)), axis=-1).reshape(-1, 2)
    pair_P2 = unordered_pairs(random.permutation(every)[: IMAGES * 9], encounter_N)
    # Whole numbers tie often.
    return pair_P2, random.integers(0, 5, len(pair_P2)).astype(float), identity_N, encounter_N


def mined_of(scored, **more):
    options = {"positives": 2, "negatives": 3, "random": 2, "seed": 0, **more}
    return mine_pairs(*scored, IDS, **options)


def apart(encounter_N, i, j):
    return i != j and (encounter_N[i] != encounter_N[j] or encounter_N[i] == -1)


def test_each_anchor_has_the_best_images_of_its_animal_and_of_others(scored):
    pair_P2, score_P, identity_N, encounter_N = scored
    mined = mined_of(scored)
    score_of = {
        frozenset(pair): score for pair, score in zip(pair_P2.tolist(), score_P, strict=True)
    }
    wanted = []
    for i in range(IMAGES):
        near = [j for j in range(IMAGES) if frozenset((i, j)) in score_of and i != j]
        assert all(apart(encounter_N, i, j) for j in near)
        near.sort(key=lambda j: (-score_of[frozenset((i, j))], j))
        own = [j for j in near if identity_N[j] == identity_N[i]][:2]
        other = [j for j in near if identity_N[j] != identity_N[i]][:3]
        if own:
            wanted.append((i, own, other))
    assert [i for i, *_ in wanted] == mined.anchor_A.tolist()
    assert IMAGES - 1 not in mined.anchor_A
    for (i, own, other), own_c, other_c in zip(wanted, mined.own_A, mined.other_A, strict=True):
        assert own_c.tolist() == own
        assert other_c[: len(other)].tolist() == other
        drawn = other_c[len(other) :].tolist()
        assert len(drawn) == len({*drawn} - {*other}) == 2
        assert all(apart(encounter_N, i, j) and identity_N[j] != identity_N[i] for j in drawn)


def test_no_order_of_the_pairs_changes_what_is_mined(scored):
    pair_P2, score_P, *rest = scored
    order = np.random.default_rng(1).permutation(len(pair_P2))
    assert mined_of((pair_P2[order], score_P[order], *rest)).table == mined_of(scored).table
    assert mined_of(scored, seed=1).table != mined_of(scored).table


def test_the_file_gives_the_pairs_back_and_refuses_other_images(scored):
    mined = mined_of(scored)
    again = read_mined(mined.table, IDS)
    assert again.anchor_A.tolist() == mined.anchor_A.tolist()
    for ours, theirs in ((mined.own_A, again.own_A), (mined.other_A, again.other_A)):
        assert [part.tolist() for part in ours] == [part.tolist() for part in theirs]
    with pytest.raises(KeyError):
        read_mined(mined.table, IDS[1:])


def test_a_draw_takes_each_other_image_once_before_any_again(scored):
    mined = mined_of(scored, negatives=1, random=1)
    random = np.random.default_rng(0)
    items = np.arange(len(mined))
    pairs = draw_batch(mined, items, random.random((len(items), 5)))
    for item, pairs_U2 in zip(items, pairs, strict=True):
        assert set(pairs_U2[:, 0]) == {mined.anchor_A[item]}
        assert pairs_U2[0, 1] in mined.own_A[item]
        others = sorted(mined.other_A[item].tolist())
        assert sorted(pairs_U2[1:3, 1].tolist()) == others == sorted(pairs_U2[3:, 1].tolist())
