"""Part of `two_nodes.py`: matching on one node, to which another comes."""

import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from exreid.distributed import match
from exreid.distributed.match import MatchReport, match_over_actors
from exreid.distributed.placement import Placement
from exreid.matching.tiles import match_in_process, plan_tiles, score_tile
from exreid.records import PairEvidence
from tests.matching import fakes

QUERY_P, GALLERY_P = (a.ravel() for a in np.mgrid[:20, :30])


class Named(fakes.EqualDescriptors):
    """Says in which process it was, and dawdles until there are so many processes."""

    def __init__(self, marks, wanted):
        self.marks, self.wanted, self.tiles = marks, wanted, 0
        (marks / str(os.getpid())).touch()

    def score(self, queries, gallery, pair_P2):
        self.tiles += 1
        end = time.monotonic() + (300 if self.tiles > 5 else 0)
        while len(list(self.marks.iterdir())) < self.wanted and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.05)
        found = super().score(queries, gallery, pair_P2)
        where_P = np.full(len(pair_P2), float(os.getpid()))
        return PairEvidence(found.match_count_P, where_P, found.inlier_count_P)


def tiles():
    return plan_tiles(QUERY_P, GALLERY_P, pairs_per_tile=5)


def run(cluster, most, sides):
    marks = Path(tempfile.mkdtemp())
    make = partial(Named, marks, most or 2)
    placement = Placement(1, 2.0, 0.0, most=most)
    counts, processes, report = np.full(len(QUERY_P), -1), set(), MatchReport()
    for done, (tile, evidence) in enumerate(
        match_over_actors(tiles(), make, score_tile, placement=placement, report=report, **sides)
    ):
        assert (counts[tile.place_P] == -1).all()
        counts[tile.place_P] = evidence.match_count_P
        processes.update(evidence.confidence_sum_P.tolist())
        if done == 3 and len(cluster.list_all_nodes()) == 1:
            cluster.add_node(num_cpus=2, num_gpus=1)
    shutil.rmtree(marks)
    assert report.failed == []
    assert report.actors_lost == 0
    return counts, processes


def check(cluster):
    """On a cluster of one node with two CPUs, room for one actor; the second one has as many."""
    match.GROW_EVERY_S = 0.5
    sides = {
        "queries": fakes.random_features(20, seed=1).take,
        "gallery": fakes.random_features(30, seed=2).take,
    }
    expected = np.full(len(QUERY_P), -1)
    for tile, evidence in match_in_process(tiles(), fakes.EqualDescriptors(), score_tile, **sides):
        expected[tile.place_P] = evidence.match_count_P
    counts, processes = run(cluster, None, sides)
    assert np.array_equal(counts, expected)
    assert len(processes) == 2, processes
    counts, processes = run(cluster, 1, sides)
    assert np.array_equal(counts, expected)
    assert len(processes) == 1, "ray.num_actors is the most"
