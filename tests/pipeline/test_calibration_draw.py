"""Where looks choose which pairs are matched in full, probabilities are those of chosen pairs."""

import numpy as np
import pytest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.matching.cosine import rank_by_cosine
from exreid.pipeline.calibrate import calibrated
from exreid.pipeline.calibration_draw import draw_pairs
from exreid.pipeline.methods import Method, cosine_scores
from exreid.records import RetrievalSide

ANIMALS, PHOTOS, KEPT = 40, 6, 3
COUNT = ANIMALS * PHOTOS


def _config(*more):
    keys = ["benchmark.method=wildfusion", "benchmark.candidate_k=30"]
    keys += ["benchmark.fast.look_share=0.05", f"benchmark.fast.look_least={KEPT}"]
    return load_config(ProbeConfig, None, [*keys, "benchmark.calibration.pairs=400", *more])


def _ranked_by(vectors):
    def rank(queries, gallery, *, exclude, keep):
        sides = vectors[queries.position_N], vectors[gallery.position_N]
        return rank_by_cosine(*sides, queries, gallery, exclude=exclude, keep=keep)

    return rank


@pytest.fixture(scope="module")
def world():
    """Images whose animal two looks tell, each a little: the cheap one that chooses, and the full
    one, which is all that a curve is fitted on."""
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(ANIMALS), PHOTOS).astype(np.int32)
    same_NN = identity[:, None] == identity
    cheap_NN, full_NN = (rng.normal(same_NN * rise, 1.0) for rise in (2.5, 1.5))
    vectors = rng.normal(size=(ANIMALS, 8))[identity] + 1.5 * rng.normal(size=(COUNT, 8))
    ids = tuple(f"{i:03}" for i in range(COUNT))
    side = RetrievalSide(ids, np.arange(COUNT), identity, np.arange(COUNT, dtype=np.int32))

    def score(first_P, second_P, *, all_pairs, exclude):
        del exclude
        score_P = full_NN[first_P, second_P]
        if all_pairs:
            return score_P
        chosen_P = np.zeros(len(first_P), bool)
        for query in np.unique(first_P):
            mine = np.flatnonzero(first_P == query)
            best = np.argsort(-cheap_NN[query, second_P[mine]], kind="stable")[:KEPT]
            chosen_P[mine[best]] = True
        return np.where(chosen_P, score_P, np.nan)

    return side, vectors.astype(np.float32), score


def test_what_is_stated_of_chosen_pairs_holds_for_chosen_pairs(world, tmp_path):
    side, vectors, score = world
    cosine = Method("cosine", "global", cosine_scores(vectors))
    methods = (cosine, Method("full", "local", score))
    config = _config("benchmark.precision=fast")
    fitted, counts = calibrated(config, methods, side, _ranked_by(vectors), folder=tmp_path)
    # All photographs ask, each its 30 best by the cosine, as a probe does.
    cosine_NN = vectors @ vectors.T / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    np.fill_diagonal(cosine_NN, -np.inf)
    first_P = np.repeat(np.arange(COUNT), 30)
    second_P = np.argsort(-cosine_NN, axis=1)[:, :30].ravel()
    raw_PM = np.stack(
        [cosine_NN[first_P, second_P], score(first_P, second_P, all_pairs=False, exclude="image")],
        axis=1,
    )
    chosen = ~np.isnan(raw_PM[:, 1])
    assert chosen.sum() == KEPT * COUNT
    truth = side.identity_N[first_P[chosen]] == side.identity_N[second_P[chosen]]
    stated = fitted.fusion.apply(raw_PM[chosen]).probability_P
    # Fitted on pairs that nobody chose, it was 0.10 for 0.44.
    assert stated.mean() == pytest.approx(truth.mean(), abs=0.05)
    assert counts["brier_shown"] < counts["brier_base_rate_shown"]


def test_all_pairs_are_drawn_where_all_are_matched(world):
    side, vectors, score = world

    def scores(first_P, second_P, *, all_pairs, exclude):
        assert all_pairs
        return score(first_P, second_P, all_pairs=True, exclude=exclude)

    methods = [Method("full", "local", scores)]
    rank = _ranked_by(vectors)
    drawn = draw_pairs(_config(), side, rank, methods, left_out=None, whole_lists=False)
    assert len(drawn.pairs) == 400
    assert np.isfinite(drawn.score_PM).all()
    # Shown is who stands among the ten best of all by the cosine, the image itself left out.
    cosine_NN = vectors @ vectors.T / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    np.fill_diagonal(cosine_NN, -np.inf)
    best_NK = np.argsort(-cosine_NN, axis=1)[:, :10]
    rows = zip(drawn.pairs.first_P, drawn.pairs.second_P, strict=True)
    assert drawn.shown_P.tolist() == [second in best_NK[first] for first, second in rows]
    assert 0 < drawn.shown_P.sum() < 400
    # On the shortlist of 30 are those among the 30 best; of other two animals' pairs there are few.
    best_NK = np.argsort(-cosine_NN, axis=1)[:, :30]
    rows = zip(drawn.pairs.first_P, drawn.pairs.second_P, strict=True)
    assert drawn.listed_P.tolist() == [second in best_NK[first] for first, second in rows]


def test_what_is_stated_of_a_shortlist_holds_for_a_shortlist(world, tmp_path):
    # What makes the shortlist is no part of the score, so that the score alone says too little.
    side, vectors, score = world
    noise_NN = np.random.default_rng(1).normal(size=(COUNT, COUNT))

    def noise(first_P, second_P, *, all_pairs, exclude):
        return noise_NN[first_P, second_P]

    methods = (Method("noise", "global", noise), Method("full", "local", score))
    config = _config("benchmark.calibration.pairs=2000")
    fitted, _ = calibrated(config, methods, side, _ranked_by(vectors), folder=tmp_path)
    cosine_NN = vectors @ vectors.T / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    np.fill_diagonal(cosine_NN, -np.inf)
    first_P = np.repeat(np.arange(COUNT), 30)
    second_P = np.argsort(-cosine_NN, axis=1)[:, :30].ravel()
    local_P = score(first_P, second_P, all_pairs=True, exclude="image")
    fused = fitted.fusion.apply(np.stack([noise_NN[first_P, second_P], local_P], axis=1))
    truth = side.identity_N[first_P] == side.identity_N[second_P]
    # Fitted on all pairs, it was 0.027 for 0.058.
    assert fused.probability_P.mean() == pytest.approx(truth.mean(), abs=0.012)


def test_an_animal_that_is_left_out_is_on_no_side(world):
    side, vectors, score = world

    methods = [Method("full", "local", score)]
    for choose in (False, True):
        config = _config("benchmark.precision=fast")
        left_out = np.array([3, 5])
        drawn = draw_pairs(
            config, side, _ranked_by(vectors), methods, left_out=left_out, whole_lists=choose
        )
        for index in (drawn.pairs.first_P, drawn.pairs.second_P):
            assert not np.isin(drawn.gallery.identity_N[index], left_out).any()
        same = drawn.gallery.identity_N[drawn.pairs.first_P]
        same = same == drawn.gallery.identity_N[drawn.pairs.second_P]
        assert np.array_equal(same, drawn.pairs.same_P)


def test_probabilities_no_better_than_the_base_rate_are_said(world, tmp_path, caplog):
    side, vectors, _ = world
    noise = np.random.default_rng(1).normal(size=(COUNT, COUNT))

    def score(first_P, second_P, *, all_pairs, exclude):
        return noise[first_P, second_P]

    methods = (Method("noise", "global", score),)
    _, counts = calibrated(_config(), methods, side, _ranked_by(vectors), folder=tmp_path)
    assert counts["brier_shown"] >= counts["brier_base_rate_shown"]
    assert "no better than stating the same" in caplog.text
