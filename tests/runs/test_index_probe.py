"""local_index as a user runs it: its scores against loops, its cache, over actors, with others."""

import json

import numpy as np
import pandas as pd
import pytest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError
from exreid.pipeline import local_index as indexing
from exreid.pipeline import matchers
from exreid.runs.probe import recompute_metrics, run_probe

KEYS = [
    *("benchmark.local_top_k=32", "benchmark.local_size=96", "dataset.image_size=64"),
    *("ray.num_actors=0", "benchmark.bootstrap_resamples=0", "benchmark.top_k=[1,3]"),
    "dataset.encounter_cols=[source,encounter]",
]
INDEX = "benchmark.method=local_index"


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *KEYS, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def dataset(few):
    return few


@pytest.fixture(scope="module")
def descriptors(dataset):
    """The descriptors of each photograph at length 1, float64, by the public function."""
    import exreid

    table = exreid.load_images(None, {"dataset.root": str(dataset)})
    keys = {"benchmark.local_top_k": 32, "benchmark.local_size": 96}
    every = exreid.local_features(table["path"].tolist(), keys, masks=table["mask"].tolist())
    return {
        image: each.descriptors_KL.astype(float)
        / np.linalg.norm(each.descriptors_KL.astype(float), axis=1, keepdims=True)
        for image, each in zip(table["image_id"], every, strict=True)
    }


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("index")
    folder, result = run_probe(_config(dataset, out, INDEX, "benchmark.keep_matches=3"))
    return out, folder, result


def _naive(descriptors, query, gallery, neighbours=3):
    """The score of each gallery image: loops, without any of the engine's code."""
    scores = dict.fromkeys(gallery, 0.0)
    for own in descriptors[query]:
        near = sorted(
            (min(float(np.linalg.norm(own - other)) for other in descriptors[image]), image)
            for image in gallery
            if len(descriptors[image])
        )
        background = min(near[neighbours][0], 2**0.5) if len(near) > neighbours else 2**0.5
        for distance, image in near[:neighbours]:
            scores[image] += max(background - distance, 0.0) ** 3 / len(descriptors[query])
    return {image: score ** (1 / 3) for image, score in scores.items()}


def _ranked(folder):
    return pd.read_parquet(folder / "rankings.parquet").sort_values(["query_id", "rank"])


def test_scores_are_those_of_loops_over_all_descriptors(run, descriptors):
    out, folder, result = run
    for query, rows in _ranked(folder).groupby("query_id"):
        scores = _naive(descriptors, query, rows["gallery_id"].tolist())
        assert rows["score"].tolist() == pytest.approx(
            [scores[image] for image in rows["gallery_id"]], rel=1e-3, abs=1e-4
        )
        assert rows["score"].is_monotonic_decreasing
    counts = result.counts
    assert counts["pairs_searched"] == counts["queries"] * counts["gallery_images"]
    assert "images_extracted" not in counts, "no backbone"
    assert recompute_metrics(folder, _config(".", out, INDEX)).metrics == result.metrics
    assert {"top_1", "mAP"} < set(result.metrics)


def test_the_encounter_is_left_out_of_the_background_too(dataset, run, descriptors):
    more = ["benchmark.exclude=encounter", "dataset.query_split_value=train"]
    folder, _ = run_probe(_config(dataset, run[0], INDEX, *more))
    for query, rows in _ranked(folder).groupby("query_id"):
        scores = _naive(descriptors, query, rows["gallery_id"].tolist())
        assert rows["score"].tolist() == pytest.approx(
            [scores[image] for image in rows["gallery_id"]], rel=1e-3, abs=1e-4
        )


def test_kept_matches_are_what_a_score_is_made_of(run, descriptors):
    _, folder, _ = run
    kept = pd.read_parquet(folder / "matches.parquet").set_index(["query_id", "gallery_id"])
    assert len(kept) == 3 * kept.index.get_level_values(0).nunique()
    for query, rows in _ranked(folder).groupby("query_id"):
        for _, row in rows[rows["rank"] <= 3].iterrows():
            matches = kept.loc[(query, row["gallery_id"])]
            assert len(matches["query_xy"]) == len(matches["gallery_xy"])
            assert len(matches["confidence"]) <= len(descriptors[query])
            assert (len(matches["confidence"]) > 0) == (row["score"] > 0)
            assert all(0 < share <= 1 for share in matches["confidence"])


def test_a_killed_search_goes_on_and_a_second_run_searches_nothing(
    run, dataset, tmp_path, monkeypatch
):
    _, folder, result = run
    monkeypatch.setattr(indexing, "QUERIES_AT_A_TIME", 1)
    monkeypatch.setattr(indexing, "PAIRS_PER_TILE", {"cpu": 4})
    plain, asked = matchers.match_in_process, []

    def killed(*arguments, **named):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(*arguments, **named)

    monkeypatch.setattr(matchers, "match_in_process", killed)
    with pytest.raises(KeyboardInterrupt):
        run_probe(_config(dataset, tmp_path, INDEX))
    again, resumed = run_probe(_config(dataset, tmp_path, INDEX))
    assert resumed.counts["pairs_known"] == 2 * resumed.counts["gallery_images"]
    assert resumed.metrics == result.metrics
    assert _ranked(again).equals(_ranked(folder)), "whatever the size of the parts"
    _, third = run_probe(_config(dataset, tmp_path, INDEX))
    assert third.counts["pairs_known"] == third.counts["pairs_searched"]


@pytest.mark.usefixtures("local_ray")
def test_an_actor_gives_the_numbers_of_one_process(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "PAIRS_PER_TILE", {"cpu": 6})
    folder, result = run_probe(_config(dataset, tmp_path, INDEX, "ray.num_actors=1"))
    assert result.metrics == run[2].metrics
    assert _ranked(folder).equals(_ranked(run[1]))


def test_shortlists_are_the_indexs_or_taken_in_turn(run, dataset):
    out, folder, _ = run
    more = ["benchmark.method=local_lightglue", "benchmark.candidate_k=4"]
    lists = {}
    for how in ("global", "local", "both"):
        short, result = run_probe(_config(dataset, out, *more, f"benchmark.shortlist={how}"))
        assert ("images_cached" in result.counts) == (how != "local"), "a backbone, or none"
        ranked = _ranked(short)
        listed = ranked[ranked["rank"] <= 4]
        lists[how] = {query: set(rows["gallery_id"]) for query, rows in listed.groupby("query_id")}
        hits = listed.groupby("query_id")["is_match"].any().mean()
        assert result.metrics["shortlist_hit"] == pytest.approx(hits)
    index = {
        query: rows["gallery_id"].tolist() for query, rows in _ranked(folder).groupby("query_id")
    }
    cosine, _ = run_probe(_config(dataset, out))
    by_cosine = {q: rows["gallery_id"].tolist() for q, rows in _ranked(cosine).groupby("query_id")}
    for query, wanted in index.items():
        assert lists["local"][query] == set(wanted[:4])
        assert lists["global"][query] == set(by_cosine[query][:4])
        turns = [image for pair in zip(by_cosine[query], wanted, strict=True) for image in pair]
        assert lists["both"][query] == set(list(dict.fromkeys(turns))[:4])


def test_the_index_is_one_of_the_fused_methods(run, dataset):
    out, folder, _ = run
    more = ["benchmark.method=wildfusion", "benchmark.calibration.pairs=60"]
    fused, _ = run_probe(_config(dataset, out, *more, "benchmark.fusion.local_index=true"))
    evidence = pd.read_parquet(fused / "fusion.parquet").set_index(["query_id", "gallery_id"])
    parts = [name for name in evidence if name.startswith("contribution:")]
    assert len(parts) == 3
    assert "contribution:index:aliked-n16" in parts
    assert evidence[parts].sum(axis=1).to_numpy() == pytest.approx(evidence["score"].to_numpy())
    alone = _ranked(folder).set_index(["query_id", "gallery_id"])["score"]
    raw = evidence["raw:index:aliked-n16"]
    assert raw.to_numpy() == pytest.approx(alone[raw.index].to_numpy(), rel=1e-6)
    # Raw scores, weighted: nothing but the weights is between them and the answer.
    more += ["benchmark.fusion.local_index=true", "benchmark.fusion.weights=listwise"]
    more.append("benchmark.calibration.pairs=400")
    listed, _ = run_probe(_config(dataset, out, *more))
    evidence = pd.read_parquet(listed / "fusion.parquet")
    saved = json.loads((listed / "fusion.json").read_text())["fusion"]
    raws = evidence[[f"raw:{name}" for name in saved["methods"]]].to_numpy()
    assert raws @ saved["weights"] == pytest.approx(evidence["score"].to_numpy())
    pairs = pd.read_parquet(listed / "calibration_pairs.parquet")
    assert pairs.groupby("query_id").size().min() >= 10, "whole lists"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["benchmark.shortlist=local"], "benchmark.candidate_k"),
        (
            ["benchmark.method=local_lightglue", "benchmark.shortlist=both"],
            "benchmark.shortlist=both",
        ),
        ([INDEX, "benchmark.rerank.method=k_reciprocal"], "benchmark.rerank"),
        (
            [
                *("benchmark.method=local_lightglue", "benchmark.candidate_k=5"),
                *("benchmark.shortlist=local", "benchmark.rerank.method=k_reciprocal"),
            ],
            "benchmark.rerank.method=none",
        ),
        ([INDEX, "benchmark.cache=off"], "benchmark.cache=off"),
        (
            ["benchmark.fusion.local_index=true", "benchmark.fusion.local_features=[]"],
            "benchmark.fusion.local_index",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused_with_the_remedy(dataset, tmp_path, keys, words):
    with pytest.raises(ConfigError, match=words):
        _config(dataset, tmp_path, *keys)


def test_features_without_a_matcher_are_enough(dataset, tmp_path):
    _, result = run_probe(_config(dataset, tmp_path, INDEX, "benchmark.local_features=aliked-t16"))
    assert 0 <= result.metrics["top_1"] <= 1
