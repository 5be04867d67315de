"""Which rankings go over GPUs."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.distributed import placement as placing
from exreid.distributed import session
from exreid.distributed.placement import Placement
from exreid.matching.cosine import rank_by_cosine
from exreid.pipeline import rank
from tests.matching.test_cosine import vectors_and_sides


@pytest.mark.parametrize(
    ("gpus", "actors", "work", "over_gpus"),
    [
        (1.0, None, "much", True),
        (0.5, 3, "much", True),
        (1.0, None, "little", False),
        (1.0, 0, "much", False),
        (0.0, 2, "much", False),
        (1.0, None, "much, and all are kept", False),
    ],
)
def test_much_work_ranks_on_gpus_where_the_run_has_some(monkeypatch, gpus, actors, work, over_gpus):
    from exreid.distributed import rank as over_ray

    query_QD, gallery_GD, queries, gallery = vectors_and_sides(1, 4, 20, 8)
    vectors_ND = np.concatenate([gallery_GD, query_QD])
    monkeypatch.setattr(rank, "GPU_WORK_FLOP", 2 * 4 * 20 * 8 + (work == "little"))
    monkeypatch.setattr(session, "ray_session", lambda *a, **b: nullcontext())
    monkeypatch.setattr(placing, "place_actors", lambda config: Placement(2, 1.0, gpus))
    asked, keep = [], 20 if "kept" in work else 3

    def ranked(*sides, placement, **options):
        asked.append((placement.gpus, ended.copy()))
        return rank_by_cosine(*sides, **options)

    monkeypatch.setattr(over_ray, "rank_over_gpus", ranked)
    overrides = [f"ray.gpus_per_worker={gpus}", "dataset.root=nowhere"]
    overrides += [] if actors is None else [f"ray.num_actors={actors}"]
    ended: list[str] = []
    matchers = SimpleNamespace(close=lambda: ended.append("matchers"))
    scoring = SimpleNamespace(
        config=load_config(ProbeConfig, None, overrides),
        features=SimpleNamespace(vectors=(vectors_ND,)),
        local=(SimpleNamespace(matchers=matchers),),
        log=SimpleNamespace(progress=lambda *a: None, verbose=False),
    )
    found = rank._by_cosine(scoring, queries, gallery, exclude="image", keep=keep)
    expected = rank_by_cosine(query_QD, gallery_GD, queries, gallery, keep=keep)
    assert np.array_equal(found.candidate_index_QK, expected.candidate_index_QK)
    assert asked == ([(gpus, ["matchers"])] if over_gpus else []), (
        "actors hold GPUs: they end first"
    )
