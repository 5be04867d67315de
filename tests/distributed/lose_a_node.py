"""Part of `two_nodes.py`: matching on two nodes, one of which is taken away."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from exreid.distributed.match import MatchReport, match_over_actors
from exreid.distributed.placement import Placement
from exreid.matching.tiles import match_in_process, plan_tiles, score_tile
from tests.matching import fakes

QUERY_P, GALLERY_P = (a.ravel() for a in np.mgrid[:20, :30])


class Slow(fakes.EqualDescriptors):
    """Waits until all four actors are up, so that two are there to be lost."""

    def __init__(self, marks):
        self.marks = marks
        (marks / str(os.getpid())).touch()

    def score(self, queries, gallery, pair_P2):
        end = time.monotonic() + 300
        while len(list(self.marks.iterdir())) < 4 and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.15)
        return super().score(queries, gallery, pair_P2)


def tiles():
    return plan_tiles(QUERY_P, GALLERY_P, pairs_per_tile=10)


def check(cluster, second):
    """On two nodes with two CPUs each; the second one is taken away."""
    sides = {
        "queries": fakes.random_features(20, seed=1).take,
        "gallery": fakes.random_features(30, seed=2).take,
    }
    counts, report = np.full(len(QUERY_P), -1), MatchReport()
    make = partial(Slow, Path(tempfile.mkdtemp()))
    matched = match_over_actors(
        tiles(), make, score_tile, placement=Placement(4, 1.0, 0.0), report=report, **sides
    )
    for done, (tile, evidence) in enumerate(matched):
        assert (counts[tile.place_P] == -1).all()
        counts[tile.place_P] = evidence.match_count_P
        if done == 11:
            cluster.remove_node(second, allow_graceful=False)
    expected = np.full(len(QUERY_P), -1)
    for tile, evidence in match_in_process(tiles(), fakes.EqualDescriptors(), score_tile, **sides):
        expected[tile.place_P] = evidence.match_count_P
    assert np.array_equal(counts, expected)
    assert report.failed == []
    assert report.actors_lost == 2, report.actors_lost
