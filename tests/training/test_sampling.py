"""Orders and shares of an epoch: nothing lost or twice, the same for any number of workers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exreid.training.sampling import epoch_order, epoch_shares, model_seed, uniforms

LABELS = np.array([0] * 7 + [1] * 2 + [2] * 1 + [3] * 11)


def test_a_plain_epoch_holds_each_image_once_in_a_new_order():
    orders = [epoch_order(LABELS, sampler="plain", seed=3, epoch=epoch) for epoch in range(4)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(len(LABELS)))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    again = epoch_order(LABELS, sampler="plain", seed=3, epoch=2)
    np.testing.assert_array_equal(again, orders[2])
    other = epoch_order(LABELS, sampler="plain", seed=4, epoch=2)
    assert (other != orders[2]).any()


def test_a_balanced_epoch_draws_each_identity_equally_often():
    order = epoch_order(LABELS, sampler="identity_balanced", seed=0, epoch=1)
    assert len(order) == len(LABELS)
    per_identity = Counter(LABELS[order].tolist())
    assert set(per_identity) == {0, 1, 2, 3}
    assert max(per_identity.values()) - min(per_identity.values()) <= 1
    for identity in range(4):
        own = Counter(order[LABELS[order] == identity].tolist())
        available = int((identity == LABELS).sum())
        # None again before all others of its own were drawn.
        counts = [*own.values(), *[0] * (available - len(own))]
        assert max(counts) - min(counts) <= 1


@given(
    st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(0, 9)
)
def test_shares_of_any_world_make_up_the_same_batches(images, batch, steps, size, seed):
    order = np.random.default_rng(seed).permutation(images)
    options = {"batch_size": batch, "accumulation_steps": steps}
    whole = epoch_shares(order, **options, rank=0, world_size=1)
    parts = [epoch_shares(order, **options, rank=r, world_size=size) for r in range(size)]
    assert {len(part) for part in parts} == {len(whole)}
    for i, one in enumerate(whole):
        together = np.concatenate([part[i].image_b for part in parts])
        np.testing.assert_array_equal(together, one.image_b)
        sizes = [len(part[i].image_b) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert {(part[i].weight, part[i].last_of_step) for part in parts} == {
            (one.weight, one.last_of_step)
        }
        for part in parts:
            np.testing.assert_array_equal(order[part[i].draw_b], part[i].image_b)
    np.testing.assert_array_equal(np.concatenate([s.image_b for s in whole]), order)
    assert sum(s.last_of_step for s in whole) == -(-images // (batch * steps))
    assert whole[-1].last_of_step


def test_the_weights_of_a_step_add_up_to_one():
    order = np.arange(23)
    shares = epoch_shares(order, batch_size=4, accumulation_steps=3, rank=0, world_size=1)
    total, step = 0.0, 0
    for share in shares:
        total += share.weight * len(share.image_b)
        if share.last_of_step:
            assert total == pytest.approx(1.0)
            assert round(1 / share.weight) == len(order[step * 12 : (step + 1) * 12])
            total, step = 0.0, step + 1
    assert step == 2


def test_random_numbers_belong_to_the_draw():
    together = uniforms(5, 2, [4, 9, 1], 6)
    np.testing.assert_array_equal(uniforms(5, 2, [9], 6)[0], together[1])
    assert (uniforms(5, 3, [9], 6)[0] != together[1]).all()
    assert (uniforms(6, 2, [9], 6)[0] != together[1]).all()
    assert uniforms(5, 2, [], 6).shape == (0, 6)
    seeds = {model_seed(0, epoch, rank) for epoch in range(5) for rank in range(3)}
    assert len(seeds) == 15
