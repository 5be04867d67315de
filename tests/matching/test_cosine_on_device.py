"""`rank_on_device` ranks as `rank_by_cosine`: here on the CPU, by the code that a GPU runs."""

from functools import partial

import numpy as np
import pytest
import torch

from exreid.matching import cosine_on_device
from exreid.matching.cosine import rank_by_cosine
from exreid.matching.cosine_on_device import product_error, rank_on_device
from tests.matching.test_cosine import vectors_and_sides
from tests.metrics.test_ranking import make_side

CPU = torch.device("cpu")


def assert_ranks_alike(found, expected, d):
    """Ranks, candidates and counts are equal; scores differ by the two sums' error at most."""
    for name in type(found).__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        if "score" not in name:
            assert np.array_equal(ours, theirs), name
    off = np.abs(found.positive_score_P - expected.positive_score_P)
    assert off.max(initial=0.0) <= 2 * product_error(d, torch.float64)
    # As float32 they are equal, unless they are rounded to either side.
    kept, theirs = found.candidate_score_QK, expected.candidate_score_QK
    assert np.array_equal(np.isnan(kept), np.isnan(theirs))
    assert np.nanmax(np.abs(kept - theirs), initial=0.0) <= np.finfo(np.float32).eps


@pytest.fixture
def never_plain(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("ranked by the plain way")

    monkeypatch.setattr(cosine_on_device, "rank_by_cosine", fail)


@pytest.mark.usefixtures("never_plain")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exclude", ["image", "encounter"])
@pytest.mark.parametrize("keep", [1, 20])
def test_ranks_as_the_plain_way(dtype, exclude, keep, monkeypatch):
    """bfloat16 is off by so much that most of the order is decided by what is computed again."""
    monkeypatch.setattr(cosine_on_device, "MANY", np.inf)
    monkeypatch.setattr(cosine_on_device, "TILE_SCORES", 4000)
    monkeypatch.setattr(cosine_on_device, "GALLERY_ROWS", 64)
    q, g, d = 37, 300, 48
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(1, q, g, d, identities=40)
    # Copies, near copies, and queries that are in the gallery.
    gallery_GD[200:230] = gallery_GD[:30]
    gallery_GD[230:260] = gallery_GD[:30] * (1 + 1e-6)
    query_QD[:10] = gallery_GD[:10] + np.float32(1e-4)
    queries.position_N[:5] = np.arange(5)
    expected = rank_by_cosine(query_QD, gallery_GD, queries, gallery, exclude=exclude, keep=keep)
    ranked = partial(
        rank_on_device,
        *(query_QD, gallery_GD, queries, gallery),
        device=CPU,
        exclude=exclude,
        keep=keep,
    )
    found = ranked(dtype=dtype)
    assert_ranks_alike(found, expected, d)
    again = ranked()
    assert again.positive_score_P.tobytes() == found.positive_score_P.tobytes()
    assert again.candidate_score_QK.tobytes() == found.candidate_score_QK.tobytes()


@pytest.mark.usefixtures("never_plain")
@pytest.mark.parametrize("animals", [0, 1])
def test_no_or_all_images_show_the_animal(animals, monkeypatch):
    monkeypatch.setattr(cosine_on_device, "MANY", np.inf)
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(2, 5, 60, 16)
    queries = make_side(queries.position_N, np.full(5, 3))
    gallery = make_side(gallery.position_N, np.full(60, 3 if animals else 4))
    found = rank_on_device(query_QD, gallery_GD, queries, gallery, device=CPU, keep=3)
    expected = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=3)
    assert_ranks_alike(found, expected, 16)


@pytest.mark.parametrize("why", ["all are kept", "all are alike", "no queries"])
def test_the_plain_way_where_that_is_less_work(why):
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(3, 6, 50, 8)
    keep = 50 if why == "all are kept" else 5
    if why == "all are alike":
        gallery_GD[:] = gallery_GD[0]
    if why == "no queries":
        query_QD, queries = query_QD[:0], make_side(np.zeros(0, int), np.zeros(0, int))
    done: list[int] = []
    found = rank_on_device(
        query_QD, gallery_GD, queries, gallery, device=CPU, keep=keep, on_progress=done.append
    )
    expected = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=keep)
    assert found.candidate_score_QK.tobytes() == expected.candidate_score_QK.tobytes()
    assert np.array_equal(found.candidate_index_QK, expected.candidate_index_QK)
    assert sum(done) == len(queries)


@pytest.mark.parametrize("when", ["the gallery is sent", "its second tile is ranked"])
def test_what_does_not_fit_the_memory_is_ranked_on_the_cpu(when, monkeypatch, caplog):
    monkeypatch.setattr(cosine_on_device, "TILE_SCORES", 120)
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(4, 6, 40, 8)
    expected = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=4)
    calls: list[slice] = []
    rank_tile = cosine_on_device._rank_tile

    def full(*args):
        calls.append(args[-1])
        if when == "the gallery is sent" or args[-1].start >= 3:
            raise torch.OutOfMemoryError
        return rank_tile(*args)

    name = "_Gallery" if when == "the gallery is sent" else "_rank_tile"
    monkeypatch.setattr(cosine_on_device, name, full)
    found = rank_on_device(query_QD, gallery_GD, queries, gallery, device=CPU, keep=4)
    assert_ranks_alike(found, expected, 8)
    assert "the CPU ranks the rest" in caplog.text
    if name == "_rank_tile":
        assert [(rows.start, rows.stop) for rows in calls] == [(0, 3), (3, 6), (3, 4)]


def test_the_mode_of_a_deterministic_training_is_left_for_the_ranking_alone(monkeypatch):
    """On a GPU that mode refuses `scatter_add_`."""
    modes: list[bool] = []
    identity_ranks = cosine_on_device._identity_ranks

    def noted(*args):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return identity_ranks(*args)

    monkeypatch.setattr(cosine_on_device, "_identity_ranks", noted)
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(6, 6, 40, 8)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        rank_on_device(query_QD, gallery_GD, queries, gallery, device=CPU, keep=1)
        assert modes == [False]
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", [3, 768, 2048])
def test_no_product_is_off_by_more_than_stated(dtype, d):
    """Against sums without rounding, of vectors that point the same way: the largest sums."""
    random = np.random.default_rng(5)
    one_ND = random.uniform(0.5, 1, (50, d)) * 10.0 ** random.uniform(-3, 0, (50, d))
    other_ND = one_ND * random.uniform(0.9, 1.1, (50, d))
    one_ND, other_ND = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (one_ND, other_ND))
    exact = one_ND.astype(np.longdouble) @ other_ND.astype(np.longdouble).T
    one, other = (torch.from_numpy(v).to(dtype) for v in (one_ND, other_ND))
    off = np.abs((one @ other.T).numpy().astype(np.longdouble) - exact)
    assert 0 < off.max() < product_error(d, dtype)
