"""Other tools' answers and ours are read and scored alike."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from benchmarks._rival import read_task
from benchmarks._rivals import read_probe, read_rival, score

GALLERY = ["g0", "g1", "g2", "g3", "g4", "g5"]
ANIMALS = np.array(list("AABBCC"))
ASKED = np.array(list("ABCA"))
RANDOM = np.random.default_rng(3)
SCORES_QG = RANDOM.permutation(24).reshape(4, 6) / 7
MATCH_QG = ASKED[:, None] == ANIMALS


def _torch_metric(metric, scores_QG):
    query_QG = np.broadcast_to(np.arange(4)[:, None], (4, 6))
    flat = [torch.tensor(array.ravel()) for array in (scores_QG, MATCH_QG, query_QG)]
    return metric(flat[0], flat[1], indexes=flat[2]).item()


def _task(folder):
    (folder / "task.json").write_text(json.dumps({"keypoints": 64, "shortlist": 5}))
    rows = {"path": ["a.png", "b.png"], "unique_name": ["1", "2"], "split": ["test", "train"]}
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return read_task(folder)


def test_a_tools_scores_come_through_its_file_and_get_the_metrics_of_two_libraries(tmp_path):
    task = _task(tmp_path)
    assert task.is_query.tolist() == [True, False]
    assert task.table["path"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    with task.timed("features_s"), task.timed("answers_s"):
        pass
    task.save("way", SCORES_QG, 24)
    answers = read_rival(tmp_path / "way.npz")
    assert answers.pairs == 24
    assert answers.features_s >= answers.answers_s >= 0
    found = score(answers, ASKED, ANIMALS)
    assert found.top_1 == pytest.approx(_torch_metric(RetrievalHitRate(top_k=1), SCORES_QG))
    assert found.top_5 == pytest.approx(_torch_metric(RetrievalHitRate(top_k=5), SCORES_QG))
    average = label_ranking_average_precision_score(MATCH_QG, SCORES_QG)
    assert found.mean_average_precision == pytest.approx(average)
    assert average == pytest.approx(_torch_metric(RetrievalMAP(), SCORES_QG))
    assert found.low <= found.top_1 <= found.high


def test_what_a_shortlist_leaves_comes_last_and_there_is_no_mean_average_precision(tmp_path):
    few_QG = np.where(np.argsort(np.argsort(-SCORES_QG)) < 3, SCORES_QG, np.nan)
    task = _task(tmp_path)
    with task.timed("features_s"), task.timed("answers_s"):
        pass
    task.save("way", few_QG, 12)
    found = score(read_rival(tmp_path / "way.npz"), ASKED, ANIMALS)
    assert found.mean_average_precision is None
    assert found.top_1 == pytest.approx(_torch_metric(RetrievalHitRate(top_k=1), SCORES_QG))


def _probe(folder, order_QG, pairs=24):
    rank, rows = np.argsort(order_QG), []
    for q, row in enumerate(rank):
        rows += [(f"q{q}", int(r) + 1, GALLERY[g], 0.0) for g, r in enumerate(row)]
    names = ["query_id", "rank", "gallery_id", "score"]
    pd.DataFrame(rows, columns=names).sample(frac=1, random_state=0).to_parquet(
        folder / "rankings.parquet"
    )
    result = {
        "counts": {"keypoints_extracted": 10, "pairs_matched": pairs},
        "timings_s": {"keypoints": 2.0, "ranking": 0.5, "matching": 1.5, "metrics": 9.0},
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_a_probes_ranking_is_scored_as_the_scores_that_it_came_from(tmp_path):
    _probe(tmp_path, np.argsort(-SCORES_QG))
    answers = read_probe(tmp_path, ["q0", "q1", "q2", "q3"], GALLERY)
    assert (answers.features_s, answers.answers_s, answers.pairs) == (2.0, 2.0, 24)
    average = label_ranking_average_precision_score(MATCH_QG, SCORES_QG)
    assert score(answers, ASKED, ANIMALS).mean_average_precision == pytest.approx(average)


def test_of_a_shortlist_only_its_first_ranks_were_compared(tmp_path):
    order_QG = np.argsort(-SCORES_QG)
    _probe(tmp_path, order_QG, pairs=8)
    answers = read_probe(tmp_path, ["q0", "q1", "q2", "q3"], GALLERY)
    assert answers.pairs == np.isfinite(answers.scores_QG).sum() == 8
    assert (np.nanargmax(answers.scores_QG, axis=1) == order_QG[:, 0]).all()
    assert score(answers, ASKED, ANIMALS).mean_average_precision is None


def test_a_ranking_that_lacks_a_pair_is_refused(tmp_path):
    _probe(tmp_path, np.argsort(-SCORES_QG))
    ranking = pd.read_parquet(tmp_path / "rankings.parquet")
    ranking[ranking["rank"] < 6].to_parquet(tmp_path / "rankings.parquet")
    with pytest.raises(ValueError, match="not all of it"):
        read_probe(tmp_path, ["q0", "q1", "q2", "q3"], GALLERY)
    with pytest.raises(ValueError, match="not the ranking"):
        read_probe(tmp_path, ["q0", "q1", "q2", "x"], GALLERY)
