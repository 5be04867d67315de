"""Ranking over tasks gives the plain ranking, and errors that name the image."""

import sys

import numpy as np
import pytest

from exreid.distributed.placement import Placement
from exreid.matching.cosine import rank_by_cosine
from tests.matching.test_cosine import vectors_and_sides
from tests.matching.test_cosine_on_device import assert_ranks_alike


def gpu_that_fails(*sides, **options):
    raise RuntimeError("CUDA error: unspecified launch failure")


def test_tasks_rank_as_one_process_does(local_ray, monkeypatch, caplog):
    import ray.cloudpickle

    from exreid.distributed import rank

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    monkeypatch.setattr(rank, "LEAST_QUERIES", 10)
    query_QD, gallery_GD, queries, gallery = vectors_and_sides(1, 35, 90, 12)
    sides = query_QD, gallery_GD, queries, gallery
    expected = rank_by_cosine(*sides, exclude="encounter", keep=7)
    done: list[int] = []
    options = {"placement": Placement(2, 0.5, 0.0), "on_progress": done.append}
    found = rank.rank_over_gpus(*sides, exclude="encounter", keep=7, **options)
    assert_ranks_alike(found, expected, 12)
    assert sorted(done) == [11, 12, 12]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank, "_rank", gpu_that_fails)
        found = rank.rank_over_gpus(*sides, exclude="encounter", keep=7, **options)
    assert_ranks_alike(found, expected, 12)
    [told] = [record for record in caplog.records if record.name == rank.log.name]
    assert told.getMessage().endswith("so the CPU ranks: CUDA error: unspecified launch failure")
    gallery_GD[4] = np.nan
    with pytest.raises(ValueError, match=f"'{gallery.image_ids[4]}'"):
        rank.rank_over_gpus(*sides, placement=options["placement"])
