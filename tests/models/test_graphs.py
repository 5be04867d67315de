"""Which calls are replayed, and that a replay changes no number: recordings are played here."""

import numpy as np
import pytest
import torch

from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.models.graphs import MOST, Graphs
from exreid.models.lightglue import load_lightglue
from exreid.records import LocalFeatures


class Tape:
    """Records as a GPU does: a replay reads and writes the same places each time."""

    def __init__(self):
        self.recorded, self.played = [], 0

    def __call__(self, work, inputs):
        self.recorded.append(tuple(inputs[0].shape))
        own = [values.clone() for values in inputs]
        outputs = [values.clone() for values in work(*own)]

        def replay(*given):
            self.played += 1
            for mine, values in zip(own, given, strict=True):
                mine.copy_(values)
            for place, values in zip(outputs, work(*own), strict=True):
                place.copy_(values)
            return tuple(values.clone() for values in outputs)

        return replay


def squared(values):
    return values * values, values + 1


def test_a_shape_is_recorded_when_it_comes_again():
    tape = Tape()
    graphs = Graphs(squared, record=tape)
    first = [graphs(torch.full((4,), float(n))) for n in range(4)]
    graphs(torch.zeros(3))
    assert (tape.recorded, tape.played) == ([(4,)], 3)
    assert [int(twice[0]) for twice, _ in first] == [0, 1, 4, 9], "none is written over"
    for size in (5, 6, 7):
        for _ in range(2):
            graphs(torch.zeros(size))
    assert tape.recorded == [(4,), (5,)]
    assert len(tape.recorded) == MOST
    assert torch.equal(graphs(torch.full((7,), 3.0))[1], torch.full((7,), 4.0))
    # Of another type it is another shape.
    assert graphs(torch.zeros(4, dtype=torch.float64))[0].dtype == torch.float64


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU records it")
def test_what_cannot_be_recorded_goes_the_plain_way_and_is_told_once(caplog):
    graphs = Graphs(squared)
    for n in range(4):
        assert int(graphs(torch.full((2,), float(n)))[0][0]) == n * n
        graphs(torch.zeros(3))
    assert caplog.text.count("No CUDA graph") == 1


def test_a_matcher_that_replays_counts_as_one_that_does_not():
    random = np.random.default_rng(4)
    descriptors = random.standard_normal((6, 24, 128))
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    points = random.uniform(0, 64, (6, 24, 2)).astype(np.float32)
    # One image has fewer keypoints: its pairs are padded, and not replayed.
    counts = np.array([24, 24, 24, 17, 24, 24], np.int32)
    sizes = np.full((6, 2), 64, np.int32)
    features = LocalFeatures(points, descriptors.astype(np.float16), counts, sizes)
    pair_P2 = np.argwhere(~np.eye(6, dtype=bool)).astype(np.int32)
    settings = MatchSettings(batch_pairs=4, layers=2, match_threshold=0.0, filter_threshold=0.0)
    matcher = LightGlueMatcher(load_lightglue("aliked"), settings)
    expected = matcher.score(features, features, pair_P2)
    tape = Tape()
    matcher._assign_whole = Graphs(matcher._assign_all_real, record=tape)
    found = matcher.score(features, features, pair_P2)
    assert tape.played > 0
    assert expected.match_count_P.any()
    for ours, theirs in zip(
        (found.match_count_P, found.confidence_sum_P),
        (expected.match_count_P, expected.confidence_sum_P),
        strict=True,
    ):
        assert np.array_equal(ours, theirs)
