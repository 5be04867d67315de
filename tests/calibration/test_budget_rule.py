"""The budget rule: against a naive twin, by hand, and its promise on simulated queries."""

import json
from dataclasses import replace

import numpy as np
import pytest

from exreid.calibration.budget_rule import (
    BudgetRule,
    Candidates,
    fit_budget_rule,
    match_by_risk,
    query_state,
)
from exreid.calibration.curves import Calibration
from exreid.calibration.fusion import fit_fusion
from exreid.calibration.pairs import CalibrationPairs
from exreid.errors import CalibrationError

ANIMALS, IMAGES = 20, 5


def _raw(random, same):
    """Global and local raw scores of pairs; half of the images of one animal show the other flank,
    which local features do not recognise."""
    seen = same & (random.random(same.shape) < 0.5)
    glob = random.normal(size=same.shape) + 1.2 * same
    local = np.maximum(np.round(random.normal(4, 2, same.shape) + 7 * seen), 0)
    return np.stack([glob, local], axis=-1)


def _pairs(random, count):
    same = np.arange(count) < count // 2
    weight = np.where(same, 1.0, ANIMALS - 1.0)
    whole = CalibrationPairs(
        np.arange(count), np.arange(count), same, weight, random.integers(0, 5, count)
    )
    return whole, _raw(random, same)


@pytest.fixture(scope="module")
def fitted():
    random = np.random.default_rng(0)
    pairs, raw = _pairs(random, 2000)
    fusion, _ = fit_fusion(raw, pairs, ("global", "local"))
    fused = fusion.apply(raw)
    local_P = fused.contribution_PM[:, 1]
    rule = fit_budget_rule(raw[:, :1], local_P, fused.score_P, pairs.same_P, pairs.weight_P)
    return fusion, rule


def _queries(fitted, count, seed):
    """Shortlists of all images by the global score, and what matching them would give."""
    fusion, rule = fitted
    random = np.random.default_rng(seed)
    shortlists, scores = [], []
    identity = np.repeat(np.arange(ANIMALS), IMAGES)
    for _ in range(count):
        place = random.permutation(len(identity))
        own = _raw(random, identity[place] == 0)
        order = np.argsort(-own[:, 0], kind="stable")
        own, index = own[order], order
        unmatched = own.copy()
        unmatched[:, 1] = np.nan
        part = fusion.apply(unmatched).score_P
        one = Candidates(index, identity[place][order], rule.logits(own[:, :1]), part)
        shortlists.append(one)
        scores.append(fusion.apply(own).score_P)
    return shortlists, np.concatenate(scores)


def _right(shortlists, score_P, matched_P):
    right, end = [], 0
    for one in shortlists:
        rows = slice(end, end := end + len(one.index_B))
        best = np.lexsort((one.index_B, -np.where(matched_P[rows], score_P[rows], -np.inf)))[0]
        right.append(one.identity_B[best] == 0)
    return np.array(right)


def _spend(fitted, simulated, **options):
    shortlists, score_P = simulated
    asked = []

    def score(place):
        asked.append(place)
        return score_P[place]

    spent = match_by_risk(
        fitted[1], shortlists, score, **{"risk": 0.1, "batch": 5, "least": 5, **options}
    )
    assert len(np.unique(np.concatenate(asked))) == len(np.concatenate(asked)), "twice"
    return spent


def test_no_more_right_answers_are_lost_than_stated(fitted):
    simulated = _queries(fitted, 300, seed=1)
    whole = _right(*simulated, np.ones(len(simulated[1]), bool))
    assert 0.6 < whole.mean() < 0.99, "neither hopeless nor trivial"
    shares = []
    for risk in (0.3, 0.1, 0.03):
        spent = _spend(fitted, simulated, risk=risk)
        lost = whole & ~_right(*simulated, spent.matched_P)
        assert lost.mean() <= risk + 2 * np.sqrt(risk * (1 - risk) / 300)
        assert (spent.risk_Q <= risk).all()
        shares.append(spent.matched_P.mean())
    assert shares == sorted(shares)
    assert shares[1] < 0.5


def test_it_beats_a_smaller_shortlist_of_the_same_cost(fitted):
    simulated = _queries(fitted, 300, seed=2)
    spent = _spend(fitted, simulated, risk=0.1)
    top = np.ceil(spent.matched_P.sum() / 300)
    first = np.arange(len(spent.matched_P)) % (ANIMALS * IMAGES) < top
    ours = _right(*simulated, spent.matched_P).mean()
    assert ours > _right(*simulated, first).mean() + 0.02


def test_a_query_s_pairs_depend_on_no_other_query(fitted):
    shortlists, score_P = _queries(fitted, 6, seed=3)
    together = _spend(fitted, (shortlists, score_P)).matched_P
    size = ANIMALS * IMAGES
    for q in range(6):
        rows = slice(q * size, (q + 1) * size)
        alone = _spend(fitted, ([shortlists[q]], score_P[rows])).matched_P
        assert np.array_equal(alone, together[rows])


def test_least_and_most_are_kept(fitted):
    simulated = _queries(fitted, 20, seed=4)
    size = ANIMALS * IMAGES
    spent = _spend(fitted, simulated, least=7, risk=0.999)
    assert set(spent.matched_P.reshape(20, size).sum(axis=1)) == {7}
    spent = _spend(fitted, simulated, most=12, risk=1e-9, batch=4)
    assert spent.matched_P.reshape(20, size).sum(axis=1).max() == 12
    empty = Candidates(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))
    spent = _spend(fitted, ([empty, simulated[0][0]], simulated[1][:size]))
    assert spent.risk_Q[0] == spent.rounds_Q[0] == 0 < spent.rounds_Q[1]


def test_other_images_of_the_leader_are_never_matched_after_it_leads(fitted):
    _, rule = fitted
    one = Candidates(np.arange(4), np.array([7, 7, 7, 8]), np.zeros(4), np.full(4, 0.3))
    state = query_state(rule, one, np.array([0.5, np.nan, np.nan, np.nan]))
    assert state.top == 0
    assert state.part_of_risk_B[:3].tolist() == [0, 0, 0]
    assert state.risk == pytest.approx(state.part_of_risk_B[3])


def _level(probability, size=4):
    """A curve that gives nearly one probability to all scores from 0 to 1."""
    return Calibration("isotonic", np.array([0.0, 1.0]), np.full(2, probability), (), size, 1)


def test_the_risk_is_what_it_says_by_hand():
    # Pairs of one animal get a local part of 0.1, 0.2, 0.3 or 0.4, whatever their global score.
    local = np.array([0.1, 0.3, 0.4, 0.2])
    rule = BudgetRule(np.zeros(1), np.zeros(1), 0.0, np.zeros(4), local, _level(0.6))
    logit = np.log([0.1 / 0.9, 0.2 / 0.8, 0.2 / 0.8, 0.25 / 0.75])
    one = Candidates(np.arange(4), np.array([1, 2, 2, 3]), logit, np.array([0.3, 0.2, 0.1, 0.1]))
    score = np.array([0.45, np.nan, np.nan, np.nan])
    state = query_state(rule, one, score)
    # Odds 1.5, 0.25 (the best image of animal 2) and 1/3 add up to 2.083. Animal 2 passes 0.45 with
    # a local part of 0.25 (half of them) or 0.35 (a quarter), animal 3 with one of 0.35.
    odds = np.array([1.5, 0.25, 1 / 3])
    chance = odds / odds.sum()
    want = [0, chance[1] / 2, chance[1] / 4, chance[2] / 4]
    assert state.part_of_risk_B == pytest.approx(want, abs=1e-4)
    assert state.risk == pytest.approx(chance[1] * 0.75 + chance[2] / 4, abs=1e-4)
    # Of equal scores the smaller gallery index leads.
    same = Candidates(np.array([5, 2]), np.array([1, 2]), np.zeros(2), np.zeros(2))
    assert query_state(rule, same, np.full(2, 0.5)).top == 1
    # Nothing that is unlikely by itself becomes likely because all else is less so.
    low = np.log(np.full(4, 0.01 / 0.99))
    one = Candidates(one.index_B, one.identity_B, low, one.part_B)
    state = query_state(replace(rule, answer=_level(0.01)), one, score)
    assert state.risk == pytest.approx(0.01 / 0.99 * (0.75 + 0.25), abs=1e-4)


def test_the_chance_to_overtake_is_that_of_pairs_with_like_global_scores():
    random = np.random.default_rng(0)
    logit = np.sort(random.normal(size=1000))
    local = np.where(logit > 0, 0.4, 0.1)
    rule = BudgetRule(np.zeros(1), np.ones(1), 0.0, logit, local, _level(0.5))
    got = rule.overtaking(np.array([-9.0, -1.0, 0.0, 1.0, 9.0]), np.full(5, 0.3))
    assert got == pytest.approx([0, 0, 0.5, 1, 1], abs=0.1)


def test_no_leader_is_surer_than_one_more_pair_of_two_animals_would_leave_it(fitted):
    # 100 pairs of one animal, each for itself, above all of two animals, which stand for 20 each.
    same = np.arange(200) < 100
    weight = np.where(same, 1.0, 20.0)
    fused = np.where(same, 0.9, 0.1)
    rule = fit_budget_rule(fused[:, None], fused / 2, fused, same, weight)
    assert rule.answer.apply(np.array([0.9])) == pytest.approx([101 / 121], abs=1e-3)
    assert rule.answer.apply(np.array([0.1])) == pytest.approx([1 / 2021], abs=1e-3)


def test_the_log_odds_are_those_of_the_world_that_made_the_pairs(fitted):
    # Two normal distributions 1.2 apart: the log odds rise by 1.2 for each unit.
    _, rule = fitted
    assert rule.slope_M == pytest.approx([1.2], abs=0.15)
    even = rule.logits(np.array([[0.6]]))[0]
    assert even == pytest.approx(-np.log(ANIMALS - 1), abs=0.15)


def test_a_rule_is_kept_with_every_bit(fitted):
    rule = fitted[1]
    again = BudgetRule.from_json(json.loads(json.dumps(rule.as_json())))
    assert again.answer == rule.answer
    for name in ("centre_M", "slope_M", "intercept", "same_logit_S", "same_local_S"):
        assert np.array_equal(getattr(again, name), getattr(rule, name))
    longer = rule.as_json() | {"same_local_S": [0.5, *rule.same_local_S]}
    for saved in ({}, [], longer):
        with pytest.raises(CalibrationError, match="not a saved budget rule"):
            BudgetRule.from_json(saved)
