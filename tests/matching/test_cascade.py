"""Which pairs go on from stage to stage."""

import numpy as np

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.matching.cascade import (
    EXACT_STAGE,
    FIRST_STAGE,
    FULL_STAGE,
    NEAREST_STAGE,
    Stage,
    best_of_each_query,
    cascade_of,
    run_cascade,
)
from exreid.matching.lightglue import MatchSettings
from exreid.matching.nearest import NearestSettings
from exreid.records import PairEvidence

QUERY_P, GALLERY_P = np.repeat([0, 1], 6), np.tile(np.arange(6), 2)


def _stages(*options):
    overrides = [f"benchmark.fast.{option}" for option in options]
    return cascade_of(load_config(ProbeConfig, None, ["benchmark.precision=fast", *overrides]))


def test_each_saving_is_a_look_or_a_setting_of_one():
    stages = [NEAREST_STAGE, FIRST_STAGE, FULL_STAGE, EXACT_STAGE]
    assert [stage.name for stage in _stages()] == stages
    assert [stage.name for stage in _stages("nearest_share=null")] == stages[1:]
    assert [stage.name for stage in _stages("look_layers=null")] == [NEAREST_STAGE, *stages[2:]]
    assert [stage.name for stage in _stages("exact_best=0")] == stages[:3]
    assert _stages()[-1].settings == MatchSettings(), "the last look is exact"
    assert _stages("prune_after=5", "prune_to=64", "dtype=fp32")[2].settings == MatchSettings(
        prune_after=5, prune_to=64
    )
    exact = cascade_of(load_config(ProbeConfig, None, []))
    assert [(stage.name, stage.settings) for stage in exact] == [(FULL_STAGE, MatchSettings())]


def test_without_a_first_look_the_nearest_neighbours_choose():
    full = _stages("look_layers=null", "nearest_share=0.3")[1]
    assert full.share == 0.3


def _evidence(scores):
    """Looks whose evidence is made up: scores by stage, of the pairs 6 * query + gallery."""

    def of(stage, query_P, gallery_P):
        score_P = np.array(scores[stage.name], float)[6 * query_P + gallery_P]
        return PairEvidence(score_P.astype(np.int32), score_P, np.zeros(len(score_P), np.int32))

    return of


def test_shares_are_of_all_candidates_and_earlier_looks_count():
    stages = [
        Stage("a", NearestSettings(), by_confidence=True),
        Stage("b", NearestSettings(), 0.5, 1, by_confidence=True, adds_to_last=True),
        Stage("c", MatchSettings(), 0.3, 1),
        Stage("d", MatchSettings(), 1e-9, 1),
    ]
    scores = {
        "a": [6, 5, 4, 3, 2, 1] * 2,
        # Alone, the second stage would send on candidates 1 and 2; with the first, 0 and 1.
        "b": [2.0, 3.0, 2.1, 9, 9, 9] * 2,
        "c": [7, 8, 0, 0, 0, 0] * 2,
        "d": [5, 5, 0, 0, 0, 0] * 2,
    }
    stage_P, score_P = run_cascade(
        stages, QUERY_P, GALLERY_P, evidence_of=_evidence(scores), local_score="matches"
    )
    # Half of six, three tenths of six rounded up, one.
    assert stage_P.reshape(2, 6).tolist() == [[2, 3, 1, 0, 0, 0]] * 2
    assert score_P.reshape(2, 6).tolist() == [[7, 5, 2.1, 3, 2, 1]] * 2


def test_a_decided_leader_ends_the_search():
    stages = [
        Stage("a", NearestSettings(), by_confidence=True),
        Stage("b", MatchSettings(), 1.0, 6, decided_sd=2.0),
    ]
    scores = {"a": [100, 81, 79, 0, 0, 0, 4, 3, 2, 1, 0.1, 0], "b": [1] * 12}
    stage_P, _ = run_cascade(
        stages, QUERY_P, GALLERY_P, evidence_of=_evidence(scores), local_score="matches"
    )
    # 2 * sqrt(100) = 20 below 100; 2 * sqrt(4) = 4 below 4.
    assert stage_P.reshape(2, 6).tolist() == [[1, 1, 0, 0, 0, 0], [1] * 6]


def test_best_of_a_query_that_lost_some_and_of_none():
    left = best_of_each_query(
        np.array([2, 2]), np.array([1.0, 2.0]), np.array([0, 1]),
        share=0.1, least=1, count_Q=np.array([0, 0, 20]), decided_sd=1.0,
    )  # fmt: skip
    assert left.tolist() == [True, True]
    nothing = np.zeros(0, int)
    assert best_of_each_query(nothing, np.zeros(0), nothing, share=1, least=1).tolist() == []
