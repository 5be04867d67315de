"""A matrix of scores is measured as a plain loop over its definition measures it."""

import numpy as np
import pandas as pd
import pytest

from exreid import metrics
from exreid.records import RetrievalSide
from tests.reference.naive_retrieval import naive_metrics, naive_ranking


def _side(start, identities, encounters):
    count = len(identities)
    ids = tuple(map(str, range(count)))
    return RetrievalSide(ids, start + np.arange(count), identities, encounters)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("encounters", [True, False])
def test_metrics_are_those_of_a_plain_loop(alone, encounters):
    rng = np.random.default_rng(3)
    query, gallery = rng.integers(0, 6, 20), rng.integers(0, 5, 20 if alone else 30)
    gallery = query if alone else gallery
    scores_QG = rng.integers(0, 9, (20, len(gallery))).astype(float)  # with ties
    visit_Q, visit_G = rng.integers(0, 8, 20), rng.integers(0, 8, len(gallery))
    visit_G = visit_Q if alone else visit_G
    given = {"query_encounters": visit_Q} if encounters else {}
    if encounters and not alone:
        given["gallery_encounters"] = visit_G
    found = metrics.evaluate(
        scores_QG,
        [f"animal {i}" for i in query],
        None if alone else [f"animal {i}" for i in gallery],
        resamples=0,
        **given,
    )
    rows = naive_ranking(
        scores_QG,
        _side(0 if alone else 99, query, visit_Q),
        _side(0, gallery, visit_G),
        "encounter" if encounters else "image",
    )
    expected = naive_metrics(rows, query.tolist())
    assert {"mAP", "mINP", "top_1", "balanced_top_1"} <= set(expected)
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value), name
    assert found.intervals == {}
    assert found.counts["queries"] == 20


def test_intervals_hold_the_number_and_the_seed_decides():
    rng = np.random.default_rng(0)
    scores_QG, identity_Q = rng.normal(size=(30, 30)), rng.integers(0, 8, 30)
    found = metrics.evaluate(scores_QG, identity_Q)
    low, high = found.intervals["mAP"]
    assert low <= found.metrics["mAP"] <= high
    assert metrics.evaluate(scores_QG, identity_Q).intervals == found.intervals
    assert metrics.evaluate(scores_QG, identity_Q, seed=1).intervals != found.intervals


@pytest.mark.parametrize("unknown", [None, float("nan"), pd.NA, pd.NaT])
def test_what_cannot_be_measured_is_named(unknown):
    scores = np.eye(2)
    with pytest.raises(ValueError, match="identity of query image 1 is unknown"):
        metrics.evaluate(scores, ["Ada", unknown])
    with pytest.raises(ValueError, match="identity of gallery image 0 is unknown"):
        metrics.evaluate(scores, ["Ada", "Bo"], [unknown, "Ada"])
    with pytest.raises(ValueError, match="gallery_encounters"):
        metrics.evaluate(scores, ["a", "b"], ["a", "b"], query_encounters=[1, 2])
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        metrics.evaluate(scores, ["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="not finite"):
        metrics.evaluate(np.full((2, 2), np.nan), ["a", "b"], ["a", "b"])
