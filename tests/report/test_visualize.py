"""Seed outputs as a user gets them: what is pictured, in which order, and that numbers survive."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.report import visualize
from exreid.report.run_answers import outcomes, verdicts
from exreid.runs.probe import run_probe

SMALL = [
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"),
    *("dataset.encounter_cols=[source,encounter]", "dataset.viewpoint_col=pose"),
    *("visualization.enabled=true", "visualization.num_queries=3", "visualization.top_k=2"),
]
LOCAL = [
    *("benchmark.method=local_lightglue", "benchmark.local_top_k=48", "benchmark.local_size=128"),
    *("benchmark.candidate_k=2", "benchmark.geometry=homography"),
]


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *SMALL, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def drawn(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("visualize")
    folder, result = run_probe(_config(dataset, out, "output.run_id=one"))
    return out, folder, result


def test_the_pictures_of_a_run_lie_beside_an_index_of_what_they_show(drawn):
    out, folder, _ = drawn
    pictures = out / "visualizations" / "one"
    index = pd.read_csv(pictures / "index.csv")
    assert index["picture"].tolist() == [f"predictions_{n:04d}.png" for n in (1, 2, 3)]
    rankings = pd.read_parquet(folder / "rankings.parquet")
    for row in index.to_dict("records"):
        own = rankings[rankings["query_id"] == row["query_id"]].sort_values("rank")
        assert row["best_gallery_id"] == own["gallery_id"].iloc[0]
        assert (row["verdict"] == "right") == own["is_match"].iloc[0]
        assert row["first_right_rank"] == own[own["is_match"]]["rank"].min()
        assert row["best_identity"] in row["best_gallery_id"], "the path names the animal"
        assert Image.open(pictures / row["picture"]).size[0] > 600
        assert row["similarity_picture"] == row["picture"].replace("predictions", "similarity")
        assert Image.open(pictures / row["similarity_picture"]).size[0] == 1200
    for name in ("contact_sheet.png", "failures.png"):
        assert Image.open(pictures / name).size[0] > 300
    assert not (pictures / "problems.csv").exists()
    assert not list(pictures.glob("*.tmp"))


def test_failures_come_most_confident_first(drawn, dataset, monkeypatch):
    _, folder, result = drawn
    sheets = {}

    def kept(title, pairs, **options):
        sheets[title] = [(float(head.split()[-1]), first.is_match) for head, _, first in pairs]
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(visualize, "draw_contact_sheet", kept)
    out = folder.parent.parent
    run_probe(_config(dataset, out, "output.run_id=two", "visualization.num_queries=100"))
    wrong = round((1 - result.metrics["top_1"]) * result.counts["queries"])
    title = f"{wrong} of {wrong} wrong answers, the most confident first"
    confidences, matches = zip(*sheets[title], strict=True)
    assert list(confidences) == sorted(confidences, reverse=True)
    assert not any(matches)
    everything = sheets[next(name for name in sheets if name.startswith("The first"))]
    assert len(everything) == result.counts["queries"]
    assert np.mean([match for _, match in everything]) == result.metrics["top_1"]


def test_matched_keypoints_are_drawn_where_there_are_some(dataset, tmp_path):
    folder, _ = run_probe(_config(dataset, tmp_path, *LOCAL, "output.run_id=local"))
    pictures = tmp_path / "visualizations" / "local"
    index = pd.read_csv(pictures / "index.csv")
    assert index["match_pictures"].tolist() == [f"matches_{n:04d}_1.png" for n in (1, 2, 3)]
    assert len(pd.read_parquet(folder / "matches.parquet")) == len(
        pd.read_parquet(folder / "queries.parquet")
    ), "the first candidate of each query is kept for them"
    assert index["evidence_picture"].tolist() == [f"evidence_{n:04d}.png" for n in (1, 2, 3)]
    for name in [*index["match_pictures"], *index["evidence_picture"]]:
        assert Image.open(pictures / name).size[0] == 1200


def test_a_picture_that_fails_costs_no_number_and_is_listed(drawn, dataset, monkeypatch, caplog):
    out, _, result = drawn
    plain, calls = visualize.draw_predictions, []

    def failing(answered):
        calls.append(answered)
        if len(calls) == 2:
            raise ValueError("no ink")
        return plain(answered)

    monkeypatch.setattr(visualize, "draw_predictions", failing)
    again, same = run_probe(_config(dataset, out, "output.run_id=three"))
    assert same.metrics == result.metrics
    assert json.loads((again / "result.json").read_text())["status"] == "completed"
    pictures = out / "visualizations" / "three"
    problems = pd.read_csv(pictures / "problems.csv")
    assert problems.to_dict("records") == [{"picture": "predictions_0002.png", "problem": "no ink"}]
    assert len(pd.read_csv(pictures / "index.csv")) == 2
    assert "1 pictures could not be drawn" in caplog.text


def test_pictures_that_cannot_be_written_at_all_cost_no_number_either(dataset, tmp_path, caplog):
    (tmp_path / "visualizations").write_text("a file in the way")
    folder, _ = run_probe(_config(dataset, tmp_path, "output.run_id=one"))
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"
    assert "could not be drawn" in caplog.text


def test_a_new_animal_is_no_failure_unless_it_was_called_known(tmp_path):
    def written(decision):
        folder = tmp_path / str(decision)
        folder.mkdir()
        queries = {"query_id": ["q", "r"], "identity": ["Luna", "Mira"], "positives": [1, 0]}
        pd.DataFrame(queries).to_parquet(folder / "queries.parquet")
        rows = {
            "query_id": ["q", "q", "r"],
            "rank": [1, 2, 1],
            "gallery_id": ["x", "y", "x"],
            "score": [0.9, 0.8, 0.7],
            "is_match": [False, True, False],
        }
        pd.DataFrame(rows).to_parquet(folder / "rankings.parquet")
        if decision:
            decided = {"query_id": ["q", "r"], "known_probability": [0.4, 0.9]}
            decided["decision"] = ["new", decision]
            pd.DataFrame(decided).to_parquet(folder / "open_set.parquet")
        return visualize.read_answers(folder, {"x": "Otto", "y": "Luna"})

    assert written(None)["verdict"].tolist() == ["wrong", "new"]
    table = written("known")
    assert table["verdict"].tolist() == ["wrong", "wrong"]
    assert table["confidence"].tolist() == [0.4, 0.9]
    assert table["first_right_rank"].tolist()[0] == 2
    assert table["best_identity"].tolist() == ["Otto", "Otto"]


def test_pictures_and_reports_give_one_verdict():
    told, in_gallery, right = np.array(
        [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], bool
    ).T
    outcome = outcomes(told, in_gallery, right)
    assert outcome.tolist() == ["right", "wrong", "new", "new", "new", "open"]
    decision = np.array([None, None, "known", "new", None, "known"], object)
    verdict = verdicts(outcome, decision)
    assert verdict.tolist() == ["right", "wrong", "wrong", "new", "new", "open"]
