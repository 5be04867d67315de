"""wildfusion as a user runs it: fused ranks, where each score comes from, saved calibrations."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from exreid.calibration.fusion import Fusion
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import CalibrationError
from exreid.metrics.reliability import brier_score, expected_calibration_error
from exreid.runs.probe import recompute_metrics, run_probe
from tests.explain.test_plots import BLUE, GREEN, ORANGE, pixels_of
from tests.run_schema import published_record

FUSED = [
    *("benchmark.method=wildfusion", "benchmark.local_top_k=32", "benchmark.local_size=96"),
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=20"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.calibration.pairs=120"),
]
NAMES = ("cosine:efficientnet-lite0", "aliked-n16")


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *FUSED, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def fused(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("fused")
    folder, result = run_probe(_config(dataset, out, "benchmark.candidate_k=8"))
    return out, folder, result


def test_the_ranking_is_by_the_fused_score_and_each_score_is_explained(fused):
    _, folder, result = fused
    evidence = pd.read_parquet(folder / "fusion.parquet")
    rankings = pd.read_parquet(folder / "rankings.parquet")
    assert len(evidence) == 8 * result.counts["queries"]
    parts = evidence[[f"contribution:{name}" for name in NAMES]].to_numpy()
    assert (parts[:, 0] + parts[:, 1] == evidence["score"]).all()
    for _, rows in evidence.groupby("query_id"):
        assert rows["rank"].tolist() == list(range(1, 9))
        assert rows["score"].is_monotonic_decreasing
        assert rows["probability"].is_monotonic_decreasing
    short = rankings[rankings["rank"] <= 8].reset_index(drop=True)
    assert short["gallery_id"].equals(evidence["gallery_id"])
    assert np.array_equal(short["score"], evidence["score"].astype(np.float32))
    assert rankings[rankings["rank"] > 8]["score"].isna().all()
    fusion = Fusion.from_json(json.loads((folder / "fusion.json").read_text())["fusion"])
    raw = evidence[[f"raw:{name}" for name in NAMES]].to_numpy()
    assert np.array_equal(fusion.apply(raw).score_P, evidence["score"])
    first = rankings[rankings["rank"] == 1]
    assert first["is_match"].mean() == result.metrics["top_1"]
    assert recompute_metrics(folder, _config(".", ".", "benchmark.candidate_k=8")).metrics == (
        result.metrics
    )
    assert published_record(folder)["metrics"] == result.metrics


def test_the_calibration_saw_database_pairs_alone(fused, dataset):
    _, folder, result = fused
    rows = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str).set_index("path")
    pairs = pd.read_parquet(folder / "calibration_pairs.parquet")
    assert result.counts["calibration_pairs"] == len(pairs) <= 120
    sides = [rows.loc[pairs[name]] for name in ("query_id", "gallery_id")]
    for side in sides:
        assert (side["split-time_closed"] == "train").all()
    together = [side["source"] + side["encounter"] for side in sides]
    assert (together[0].to_numpy() != together[1].to_numpy()).all()
    same = sides[0]["unique_name"].to_numpy() == sides[1]["unique_name"].to_numpy()
    assert np.array_equal(same, pairs["is_match"])
    assert result.counts["calibration_positives"] == same.sum() > 0
    for colour in (BLUE, ORANGE, GREEN):
        assert pixels_of(folder / "reliability.png", colour).sum() > 100, "a curve for each"
    figures = json.loads((folder / "fusion.json").read_text())["held_out"]
    for name in (*NAMES, "fused"):
        answers = pairs[f"held_out:{name}"], pairs["is_match"]
        again = expected_calibration_error(*answers, weight_P=pairs["weight"])
        assert figures[name]["ece"] == pytest.approx(again)
        assert figures[name]["brier"] == pytest.approx(
            brier_score(*answers, weight_P=pairs["weight"])
        )
    assert figures["fused"]["ece"] == result.counts["calibration_error"]


def test_a_saved_calibration_gives_the_same_ranking_without_a_fit(fused, dataset, tmp_path):
    out, folder, result = fused
    more = ["benchmark.candidate_k=8", f"benchmark.calibration.load={folder / 'fusion.json'}"]
    again, loaded = run_probe(_config(dataset, out, *more))
    assert loaded.metrics == result.metrics
    assert "calibration_pairs" not in loaded.counts
    one, two = (pd.read_parquet(run / "fusion.parquet") for run in (folder, again))
    assert one.equals(two)
    for changed in ("benchmark.match_threshold=0.3", "benchmark.fusion.local_features=[disk]"):
        with pytest.raises(CalibrationError, match="settings differ for"):
            run_probe(_config(dataset, out, *more, changed))
    with pytest.raises(CalibrationError, match="not a saved fusion"):
        run_probe(_config(dataset, out, f"benchmark.calibration.load={folder / 'result.json'}"))


def test_global_methods_alone_and_several_local_ones(fused, dataset):
    out, _, _ = fused
    several = "benchmark.fusion.local_features=[aliked-n16,disk]"
    more = ["benchmark.candidate_k=4", several, "benchmark.fusion.weights=learned"]
    folder, _ = run_probe(_config(dataset, out, *more))
    evidence = pd.read_parquet(folder / "fusion.parquet")
    total = 0.0
    for name in (*NAMES, "disk"):
        total = total + evidence[f"contribution:{name}"]
    assert (total == evidence["score"]).all()
    assert sum(json.loads((folder / "fusion.json").read_text())["fusion"]["weights"]) == (
        pytest.approx(1)
    )
    alone, only = run_probe(_config(dataset, out, "benchmark.fusion.local_features=[]"))
    plain, cosine = run_probe(_config(dataset, out, "benchmark.method=cosine"))
    orders = [
        pd.read_parquet(run / "rankings.parquet").sort_values(["query_id", "rank"])["gallery_id"]
        for run in (alone, plain)
    ]
    assert orders[0].tolist() == orders[1].tolist(), "one calibrated method ranks as it did"
    assert only.metrics["top_1"] == cosine.metrics["top_1"]


def test_fast_leaves_pairs_below_those_with_all_scores(fused, dataset):
    out, _, _ = fused
    more = ["benchmark.precision=fast", "benchmark.fast.look_share=0.25"]
    more += ["benchmark.fast.look_least=3", "benchmark.candidate_k=8"]
    more += ["benchmark.fast.look_decided_sd=null", "benchmark.keep_matches=2"]
    folder, _ = run_probe(_config(dataset, out, *more))
    evidence = pd.read_parquet(folder / "fusion.parquet")
    counts = evidence.set_index(["query_id", "gallery_id"])["raw:aliked-n16"]
    for row in pd.read_parquet(folder / "matches.parquet").itertuples():
        assert (row.confidence > 0.5).sum() == counts[(row.query_id, row.gallery_id)]
    for _, rows in evidence.groupby("query_id"):
        scored = rows["raw:aliked-n16"].notna().tolist()
        assert scored == [True] * 3 + [False] * 5
        assert rows["probability"].isna().tolist() == [not one for one in scored]


def test_actors_fuse_to_the_same_numbers(fused, dataset, local_ray, tmp_path):
    out, folder, result = fused
    left = shutil.ignore_patterns("pairs", "embeddings")
    shutil.copytree(out / ".exreid_cache", tmp_path / ".exreid_cache", ignore=left)
    more = ["benchmark.candidate_k=8", "ray.num_actors=2", "ray.cpus_per_worker=0.5"]
    again, spread = run_probe(_config(dataset, tmp_path, *more))
    assert spread.metrics == result.metrics
    assert spread.counts["images_extracted"] == result.counts["images_extracted"] > 0
    one, two = (pd.read_parquet(run / "fusion.parquet") for run in (folder, again))
    assert one["gallery_id"].equals(two["gallery_id"])
    assert one["score"].to_numpy() == pytest.approx(two["score"].to_numpy(), abs=1e-5)
