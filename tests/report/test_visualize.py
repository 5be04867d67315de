"""Seed outputs as a user gets them: what is pictured, in which order, and that numbers survive."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.pipeline.inputs import read_images
from exreid.report import visualize
from exreid.report.outcomes import outcomes, pictured_answers, verdicts
from exreid.report.read import read_run_data
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

    def failing(heading, images):
        calls.append(heading)
        if len(calls) == 2:
            raise ValueError("no ink")
        return plain(heading, images)

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


@pytest.mark.parametrize("kept", [1, 3])
def test_ranks_in_pictures_are_those_of_the_files_and_the_first_right_one_is_added(
    drawn, dataset, tmp_path, monkeypatch, kept
):
    _, folder, _ = drawn
    changed = tmp_path / "run"
    shutil.copytree(folder, changed)
    rankings = pd.read_parquet(folder / "rankings.parquet").sort_values(["query_id", "rank"])
    rankings = rankings[(rankings["rank"] <= kept) | rankings["is_match"]]
    rankings.to_parquet(changed / "rankings.parquet")
    pictured = []
    monkeypatch.setattr(visualize, "draw_predictions", lambda *shown: pictured.append(shown))
    config = _config(dataset, tmp_path, "visualization.num_queries=100")
    visualize.draw_run(changed, read_images(config)[0], config)
    added = deeper = 0
    queries = pd.read_parquet(folder / "queries.parquet")["query_id"]
    for query_id, (heading, images) in zip(queries, pictured, strict=True):
        own = rankings[rankings["query_id"] == query_id]
        expected = own.head(2)
        deeper += (expected["rank"] > 2).sum()
        if not expected["is_match"].any():
            right = own[own["is_match"]].head(1)
            assert f"at rank {right['rank'].item()}." in heading
            expected, added = pd.concat([expected, right]), added + 1
        assert images[0].is_query
        ranks = [int(image.title.split(".")[0]) for image in images[1:]]
        assert ranks == expected["rank"].tolist()
        assert [image.is_match for image in images[1:]] == expected["is_match"].tolist()
        assert [image.lines[-1] for image in images[1:]] == expected["gallery_id"].tolist()
    assert added > 0 if kept == 3 else deeper > 0


def test_a_new_animal_is_no_failure_unless_it_was_called_known(drawn, tmp_path):
    _, folder, _ = drawn
    queries = pd.read_parquet(folder / "queries.parquet")
    ranks = pd.read_parquet(folder / "rankings.parquet")
    new = queries["query_id"].iloc[:2].tolist()

    def answers(*decisions):
        changed = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(folder, changed)
        asked = queries.assign(
            positives=queries["positives"].mask(queries["query_id"].isin(new), 0)
        )
        asked.to_parquet(changed / "queries.parquet")
        hits = ranks["is_match"] & ~ranks["query_id"].isin(new)
        ranks.assign(is_match=hits).to_parquet(changed / "rankings.parquet")
        if decisions:
            columns = {"query_id": queries["query_id"], "decision": "known", "margin": 0.1}
            decided = pd.DataFrame(columns).assign(
                known_probability=np.linspace(0, 1, len(queries))
            )
            decided.loc[:1, "decision"] = decisions
            decided.to_parquet(changed / "open_set.parquet")
        return pictured_answers(read_run_data(changed), "cosine")

    plain = answers()
    assert [answer.verdict for answer in plain[:2]] == ["new", "new"]
    assert plain[0].first_right_rank is None
    assert {answer.confidence_name for answer in plain} == {"cosine"}
    assert all(answer.confidence == answer.score for answer in plain)
    decided = answers("new", "known")
    assert [answer.verdict for answer in decided[:2]] == ["new", "wrong"]
    assert [answer.decision for answer in decided[:2]] == ["new", "known"]
    assert [answer.confidence for answer in decided] == np.linspace(0, 1, len(queries)).tolist()
    assert {answer.confidence_name for answer in decided} == {"probability that it is right"}


def test_pictures_and_reports_give_one_verdict():
    told, in_gallery, right = np.array(
        [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], bool
    ).T
    outcome = outcomes(told, in_gallery, right)
    assert outcome.tolist() == ["right", "wrong", "new", "new", "new", "open"]
    decision = np.array([None, None, "known", "new", None, "known"], object)
    verdict = verdicts(outcome, decision)
    assert verdict.tolist() == ["right", "wrong", "wrong", "new", "new", "open"]
