"""Answers by animal and by visit, against plain loops."""

import numpy as np
import pytest

from exreid.metrics.identities import _ranking, identity_answers, pool_encounters, top_identities


def _random(seed=0, queries=20, kept=8, gallery=30):
    rng = np.random.default_rng(seed)
    identity_G = rng.integers(0, 6, gallery).astype(np.int32)
    index = np.stack([rng.permutation(gallery)[:kept] for _ in range(queries)])
    score = -np.sort(-np.round(rng.random((queries, kept)), 1), axis=1)
    index[3, 5:], score[3, 5:] = -1, np.nan
    return _ranking(index.tolist(), score.tolist()), identity_G


@pytest.mark.parametrize(("how", "top"), [("max", 3), ("mean_top", 1), ("mean_top", 2)])
def test_animals_by_their_images(how, top):
    ranking, identity_G = _random()
    for q, answer in enumerate(identity_answers(ranking, identity_G, how=how, top=top)):
        images = {}
        for place, index in enumerate(ranking.candidate_index_QK[q]):
            if index >= 0:
                score = float(ranking.candidate_score_QK[q, place])
                images.setdefault(identity_G[index], []).append((score, place, index))
        count = top if how == "mean_top" else 1
        score_of = {code: np.mean([s for s, _, _ in rows[:count]]) for code, rows in images.items()}
        expected = sorted(images, key=lambda code: (-score_of[code], images[code][0][1]))
        if how == "max":
            expected = sorted(images, key=lambda code: images[code][0][1])
        assert answer.identity_A.tolist() == expected
        assert answer.score_A == pytest.approx([score_of[code] for code in expected])
        assert answer.best_A.tolist() == [images[code][0][2] for code in expected]
        assert answer.images_A.tolist() == [len(images[code]) for code in expected]


def test_leaders_with_and_without_an_animal():
    ranking, identity_G = _random()
    without_Q = identity_G[ranking.candidate_index_QK[:, 0]]
    one = top_identities(ranking, identity_G)
    two = top_identities(ranking, identity_G, without_Q=without_Q)
    assert np.array_equal(one.identity_Q, without_Q)
    for q in range(ranking.query_count):
        rows = [
            (identity_G[index], float(score))
            for index, score in zip(
                ranking.candidate_index_QK[q], ranking.candidate_score_QK[q], strict=True
            )
            if index >= 0
        ]
        rest = [row for row in rows if row[0] != without_Q[q]]
        assert (two.identity_Q[q], two.score_Q[q]) == rest[0]
        assert one.margin_Q[q] == pytest.approx(rows[0][1] - rest[0][1])


def test_a_query_whose_candidates_are_all_of_one_animal():
    ranking = _ranking([[0, 1], [-1, -1]], [[0.9, 0.6], [np.nan, np.nan]])
    found = top_identities(ranking, np.array([4, 4]), without_Q=np.array([4, 4]))
    assert found.identity_Q.tolist() == [-1, -1]
    assert found.score_Q.tolist() == [pytest.approx(0.6), -np.inf]
    assert top_identities(ranking, np.array([4, 4])).margin_Q[0] == pytest.approx(0.3)


def test_a_visit_pools_its_photos():
    ranking = _ranking([[0, 1], [1, 0], [2, 0]], [[0.9, 0.2], [0.5, 0.4], [0.8, 0.7]])
    identity_G = np.array([7, 8, 9], np.int32)
    found = list(pool_encounters(ranking, identity_G, np.array([3, 3, -1])))
    assert [group for group, _, _ in found] == [3]
    _, members, answer = found[0]
    assert members.tolist() == [0, 1]
    assert answer.identity_A.tolist() == [7, 8]
    assert answer.score_A == pytest.approx([(0.9 + 0.4) / 2, (0.2 + 0.5) / 2])
    assert answer.best_A.tolist() == [0, 1]
    # Second in every photo and on average the best, but no photo says so.
    split = _ranking([[0, 2, 1], [1, 2, 0]], [[0.9, 0.8, 0.1], [0.9, 0.8, 0.2]])
    ((_, _, answer),) = pool_encounters(split, identity_G, np.array([3, 3]))
    assert answer.identity_A.tolist() == [7, 8, 9]
    assert answer.score_A == pytest.approx([0.55, 0.5, 0.8])
    # An animal that a photo does not show counts that photo's last kept score.
    both = list(pool_encounters(ranking, identity_G, np.array([3, 5, 3])))
    assert both[0][2].identity_A.tolist() == [7, 9, 8]
    assert both[0][2].score_A == pytest.approx([(0.9 + 0.7) / 2, (0.2 + 0.8) / 2, (0.2 + 0.7) / 2])
