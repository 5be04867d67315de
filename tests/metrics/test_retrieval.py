"""Every metric: by hand, against the naive twin, and against torchmetrics and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, top_k_accuracy_score
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from exreid.metrics.ranking import rank_scores
from exreid.metrics.retrieval import (
    QueryValues,
    average_precision,
    average_values,
    first_rank,
    hit,
    inverse_negative_penalty,
    query_values,
    retrieval_counts,
    retrieval_metrics,
)
from tests.metrics.test_ranking import make_side, random_sides
from tests.reference.naive_retrieval import naive_metrics, naive_ranking


@pytest.mark.parametrize("exclude", ["image", "encounter"])
@pytest.mark.parametrize(("q", "g"), [(40, 30), (1, 12), (12, 1), (1, 1), (3, 0)])
@pytest.mark.parametrize("identities", [2, 40])
def test_equals_the_definitions(exclude, q, g, identities):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        queries, gallery = random_sides(rng, q, g, identities=identities)
        scores_QG = rng.integers(0, 4, (q, g)).astype(np.float32)
        ranking = rank_scores(scores_QG, queries, gallery, exclude=exclude, keep=3)
        metrics = retrieval_metrics(ranking, queries.identity_N, top_k=(1, 2, 7))
        rows = naive_ranking(scores_QG, queries, gallery, exclude)
        expected = naive_metrics(rows, queries.identity_N.tolist(), top_k=(1, 2, 7))
        assert metrics == pytest.approx(expected, rel=1e-12)


def by_hand():
    """Four queries of three animals: hit at 1, at 2 and 4, nowhere, and no positive at all."""
    gallery = make_side([0, 1, 2, 3, 4], [1, 1, 2, 3, 3])
    queries = make_side([10, 11, 12, 13], [2, 1, 2, 9])
    scores = [[1, 2, 9, 3, 4], [7, 2, 8, 3, 1], [5, 4, 1, 3, 2], [1, 1, 1, 1, 1]]
    return rank_scores(np.array(scores, np.float32), queries, gallery), queries, gallery


def test_by_hand():
    ranking, queries, _ = by_hand()
    assert ranking.positive_rank_P.tolist() == [1, 2, 4, 5]
    metrics = retrieval_metrics(ranking, queries.identity_N, top_k=(1, 2, 5))
    assert metrics == pytest.approx(
        {
            "top_1": 1 / 4,
            "top_2": 2 / 4,
            "top_5": 3 / 4,
            "mAP": (1 + (1 / 2 + 2 / 4) / 2 + 1 / 5 + 0) / 4,
            "mAP_with_positive": (1 + (1 / 2 + 2 / 4) / 2 + 1 / 5) / 3,
            "mINP": (1 + 2 / 4 + 1 / 5 + 0) / 4,
            "mINP_with_positive": (1 + 2 / 4 + 1 / 5) / 3,
            "balanced_top_1": (0 / 1 + 1 / 2 + 0 / 1) / 3,
            "identity_top_1": 1 / 4,
            "identity_top_2": 2 / 4,
            "identity_top_5": 3 / 4,
        }
    )
    assert ranking.identity_rank_Q.tolist() == [1, 2, 3, 0]


def test_counts_by_hand():
    assert retrieval_counts(*by_hand()) == {
        "queries": 4,
        "gallery_images": 5,
        "query_identities": 3,
        "gallery_identities": 3,
        "queries_without_positive": 1,
        "identities_without_positive": 1,
        "positives": 4,
        "candidates_min": 5,
        "candidates_max": 5,
    }


def test_metrics_that_no_query_counts_for_are_left_out():
    queries, gallery = make_side([5], [1]), make_side([0, 1], [2, 3])
    ranking = rank_scores(np.ones((1, 2), np.float32), queries, gallery)
    metrics = retrieval_metrics(ranking, queries.identity_N, top_k=(1,))
    assert metrics == {
        "top_1": 0.0,
        "mAP": 0.0,
        "mINP": 0.0,
        "balanced_top_1": 0.0,
        "identity_top_1": 0.0,
    }
    none = make_side([], [])
    ranking = rank_scores(np.ones((0, 2), np.float32), none, gallery)
    assert retrieval_metrics(ranking, none.identity_N) == {}
    assert retrieval_counts(ranking, none, gallery)["queries"] == 0


def test_an_open_split_counts_known_animals_apart():
    ranking, queries, _ = by_hand()
    first_Q = first_rank(ranking.positive_offset_Q1, ranking.positive_rank_P)
    found = retrieval_metrics(ranking, queries.identity_N, top_k=(1, 2), open_split=True)
    assert (first_Q == 0).any()
    for k in (1, 2):
        hits = [rank <= k for rank in first_Q if rank > 0]
        assert found[f"top_{k}_with_positive"] == sum(hits) / len(hits) > found[f"top_{k}"]
    some = ranking_of_known(ranking, first_Q > 0)
    closed = retrieval_metrics(some, queries.identity_N[first_Q > 0], top_k=(1,), open_split=True)
    assert "top_1_with_positive" not in closed


def ranking_of_known(ranking, known_Q):
    """The ranking of the queries with a positive alone."""
    count_Q = np.diff(ranking.positive_offset_Q1)[known_Q]
    names = [n for n in ranking.__dataclass_fields__ if n.endswith(("_Q", "_QK"))]
    return replace(
        ranking,
        positive_offset_Q1=np.concatenate([[0], np.cumsum(count_Q)]),
        **{name: getattr(ranking, name)[known_Q] for name in names},
    )


def test_mean_ap_can_be_left_out():
    ranking, queries, _ = by_hand()
    names = retrieval_metrics(ranking, queries.identity_N, top_k=(3,), mean_ap=False)
    assert list(names) == ["top_3", "balanced_top_1", "identity_top_3"]


def test_wrong_arguments():
    ranking, queries, _ = by_hand()
    with pytest.raises(ValueError, match="top-k"):
        query_values(ranking, top_k=(0,))
    with pytest.raises(ValueError, match="4 values, 3 query identities"):
        retrieval_metrics(ranking, queries.identity_N[:3])
    with pytest.raises(ValueError, match="one value and one mark"):
        QueryValues(np.zeros(3), np.ones(2, bool))


def test_per_query_values_without_any_query():
    none, offset = np.zeros(0, np.int64), np.zeros(1, np.int64)
    for function in (first_rank, average_precision, inverse_negative_penalty):
        assert function(offset, none).shape == (0,)
    assert hit(none, 1).shape == (0,)


def untied_case(seed=0, q=25, g=60, identities=9):
    rng = np.random.default_rng(seed)
    queries, gallery = random_sides(rng, q, g, identities=identities, overlap=False)
    scores_QG = rng.permutation(q * g).reshape(q, g).astype(np.float32)
    is_match_QG = queries.identity_N[:, None] == gallery.identity_N[None]
    ranking = rank_scores(scores_QG, queries, gallery)
    return ranking, queries, scores_QG, is_match_QG


def test_agrees_with_torchmetrics():
    ranking, _, scores_QG, is_match_QG = untied_case()
    values = query_values(ranking, top_k=(1, 5))
    for q in range(len(scores_QG)):
        pair = torch.from_numpy(scores_QG[q]), torch.from_numpy(is_match_QG[q])
        ap = retrieval_average_precision(*pair).item()
        assert values["mAP"].value_Q[q] == pytest.approx(ap, rel=1e-5)
        for k in (1, 5):
            assert values[f"top_{k}"].value_Q[q] == retrieval_hit_rate(*pair, top_k=k).item()


def test_agrees_with_scikit_learn():
    ranking, _, scores_QG, is_match_QG = untied_case(seed=1)
    ap_Q = average_precision(ranking.positive_offset_Q1, ranking.positive_rank_P)
    for q in np.flatnonzero(is_match_QG.any(axis=1)):
        expected = average_precision_score(is_match_QG[q], scores_QG[q])
        assert ap_Q[q] == pytest.approx(expected, rel=1e-9)


def test_top_k_agrees_with_scikit_learn_when_each_identity_has_one_image():
    rng = np.random.default_rng(2)
    g, q = 12, 40
    gallery = make_side(np.arange(g), np.arange(g))
    queries = make_side(np.arange(g, g + q), rng.integers(0, g, q))
    scores_QG = rng.permutation(q * g).reshape(q, g).astype(np.float32)
    ranking = rank_scores(scores_QG, queries, gallery)
    metrics = retrieval_metrics(ranking, queries.identity_N, top_k=(1, 3))
    for k in (1, 3):
        expected = top_k_accuracy_score(queries.identity_N, scores_QG, k=k, labels=np.arange(g))
        assert metrics[f"top_{k}"] == pytest.approx(expected)
        assert metrics[f"identity_top_{k}"] == pytest.approx(expected)


def test_ties_are_broken_by_place_and_not_averaged():
    # scikit-learn gives tied images one common threshold; here the first in the table wins.
    gallery, queries = make_side([0, 1], [1, 2]), make_side([5, 6], [1, 2])
    ranking = rank_scores(np.ones((2, 2), np.float32), queries, gallery)
    ap_Q = average_precision(ranking.positive_offset_Q1, ranking.positive_rank_P)
    assert ap_Q.tolist() == [1.0, 0.5]


def test_averages_weigh_what_they_say():
    value_Q = np.array([1.0, 1.0, 1.0, 0.0, 5.0])
    counted_Q = np.array([True, True, True, True, False])
    identity_Q = np.array([4, 4, 4, 2, 3])
    table = {
        "queries": QueryValues(value_Q, counted_Q),
        "identities": QueryValues(value_Q, counted_Q, average="identities"),
    }
    assert average_values(table, identity_Q) == {"queries": 0.75, "identities": 0.5}
