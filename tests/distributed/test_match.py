"""Matching over actors gives the plain twin's evidence, whoever dies on the way."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from exreid.distributed.placement import Placement
from exreid.errors import MatchingError
from exreid.matching.tiles import match_in_process, plan_tiles, score_tile
from tests.matching.fakes import EqualDescriptors, random_features

QUERIES, GALLERY = random_features(20, seed=1), random_features(30, seed=2)
QUERY_P, GALLERY_P = (a.ravel() for a in np.mgrid[:20, :30])


class OneGpuIsGone(EqualDescriptors):
    """The second matcher, and any after it, finds none; the first one waits for that."""

    def __init__(self, marks: Path) -> None:
        try:
            (marks / "up").mkdir()
        except FileExistsError:
            (marks / str(os.getpid())).touch()
            raise RuntimeError("No CUDA GPUs are available") from None
        self.marks = marks

    def score(self, queries, gallery, pair_P2):
        while len(list(self.marks.iterdir())) < 2:
            time.sleep(0.05)
        time.sleep(0.05)
        return super().score(queries, gallery, pair_P2)


class Deadly(EqualDescriptors):
    """Kills its process, or raises, on the tiles that hold a certain pair, so many times; with
    ``gpu`` also on all others from then on, as a process does whose GPU has failed it."""

    def __init__(self, marks: Path, times: int, how: str) -> None:
        self.marks, self.times, self.how, self.failed = marks, times, how, False

    def score(self, queries, gallery, pair_P2):
        if self.failed:
            raise RuntimeError("CUDA error: unspecified launch failure")
        poisoned = any(np.array_equal(f, QUERIES.keypoints_NK2[7]) for f in queries.keypoints_NK2)
        if poisoned and self._is_my_turn():
            if self.how == "raise":
                raise ArithmeticError("this tile is poison")
            if self.how == "gpu":
                self.failed = True
                raise RuntimeError("CUDA error: unspecified launch failure\nIt may be told late.")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(queries, gallery, pair_P2)

    def _is_my_turn(self):
        """Two actors that meet such tiles at once do not take the same turn."""
        for number in range(self.times):
            with suppress(FileExistsError):
                (self.marks / str(number)).touch(exist_ok=False)
                return True
        return False


def _match(make_matcher, actors):
    import ray.cloudpickle

    import tests.matching.fakes
    from exreid.distributed.match import MatchReport, match_over_actors

    for module in (sys.modules[__name__], tests.matching.fakes):
        ray.cloudpickle.register_pickle_by_value(module)
    report = MatchReport()
    counts = np.full(len(QUERY_P), -7)
    for tile, evidence in match_over_actors(
        plan_tiles(QUERY_P, GALLERY_P, pairs_per_tile=25),
        make_matcher,
        score_tile,
        queries=QUERIES.take,
        gallery=GALLERY.take,
        placement=Placement(actors, 0.5, 0.0),
        report=report,
    ):
        assert (counts[tile.place_P] == -7).all(), "a tile came twice"
        counts[tile.place_P] = evidence.match_count_P
    return counts, report


@pytest.fixture(scope="module")
def plain():
    counts = np.full(len(QUERY_P), -7)
    for tile, evidence in match_in_process(
        plan_tiles(QUERY_P, GALLERY_P, pairs_per_tile=64),
        EqualDescriptors(),
        score_tile,
        queries=QUERIES.take,
        gallery=GALLERY.take,
    ):
        counts[tile.place_P] = evidence.match_count_P
    return counts


@pytest.mark.parametrize("actors", [1, 3])
def test_actors_give_the_plain_evidence(local_ray, plain, actors):
    counts, report = _match(EqualDescriptors, actors)
    assert np.array_equal(counts, plain)
    assert (report.failed, report.actors_lost) == ([], 0)
    assert 0 < report.busy_s < report.available_s


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_tile_that_fails_twice_is_tried_again(local_ray, plain, tmp_path, how):
    counts, report = _match(lambda: Deadly(tmp_path, 2, how), 2)
    assert np.array_equal(counts, plain)
    assert report.failed == []
    assert report.actors_lost == (2 if how == "kill" else 0)


def test_an_actor_whose_gpu_failed_ends_and_fails_no_other_tile(local_ray, plain, tmp_path, caplog):
    from exreid.distributed.worker_warnings import workers_warnings_told

    with workers_warnings_told():
        counts, report = _match(lambda: Deadly(tmp_path, 1, "gpu"), 2)
    assert np.array_equal(counts, plain)
    assert (report.failed, report.actors_lost) == ([], 1)
    [told] = {record.getMessage() for record in caplog.records}
    assert told.endswith("its GPU failed: CUDA error: unspecified launch failure")


def test_actors_that_are_up_go_on_where_others_cannot_start(
    local_ray, plain, tmp_path, monkeypatch
):
    from exreid.distributed import match
    from exreid.distributed.worker_warnings import workers_warnings_told

    monkeypatch.setattr(match, "START_FAILURES", -2)
    with workers_warnings_told():
        counts, report = _match(lambda: OneGpuIsGone(tmp_path), 2)
    assert np.array_equal(counts, plain)
    assert (report.failed, report.actors_lost) == ([], 1)
    assert len(list(tmp_path.iterdir())) == 2, "another one was started on the GPU that is gone"


def test_poison_costs_its_own_tiles_alone(local_ray, plain, tmp_path):
    counts, report = _match(lambda: Deadly(tmp_path, 10**6, "raise"), 2)
    poisoned = np.zeros(len(QUERY_P), bool)
    for tile, reason in report.failed:
        assert "poison" in reason
        assert 7 in tile.query_M
        poisoned[tile.place_P] = True
    assert poisoned[QUERY_P == 7].all()
    assert np.array_equal(counts[~poisoned], plain[~poisoned])
    assert (counts[poisoned] == -7).all()


def test_a_matcher_that_cannot_be_built_ends_the_matching(local_ray):
    def broken():
        raise FileNotFoundError("no weights here")

    with pytest.raises(MatchingError, match=r"cannot be built.*no weights here"):
        _match(broken, 2)
