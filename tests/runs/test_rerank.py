"""benchmark.rerank and model.flip_augmentation as a user runs them."""

import numpy as np
import pandas as pd
import pytest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.errors import ConfigError
from exreid.features.embedding import Embedder
from exreid.models.backbones import build_backbone
from exreid.runs.probe import recompute_metrics, run_probe
from tests.reference.naive_reciprocal import naive_scores

SETTINGS = [
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"),
    "dataset.encounter_cols=[source,encounter]",
]
RECIPROCAL = ["benchmark.rerank.method=k_reciprocal", "benchmark.rerank.k1=6"]
EXPANSION = ["benchmark.rerank.method=query_expansion", "benchmark.rerank.power=2"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("rerank")


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *SETTINGS, *more]
    return load_config(ProbeConfig, None, overrides)


def _rankings(folder):
    return pd.read_parquet(folder / "rankings.parquet")


def test_the_rankings_are_those_of_the_paper_told_naively(dataset, out):
    from exreid.runs.extract import run_extract

    config = _config(dataset, out, *RECIPROCAL, "benchmark.exclude=encounter")
    folder, result = run_probe(config)
    run_extract(config, out / "vectors.parquet")
    vectors = pd.read_parquet(out / "vectors.parquet").set_index("image_id")["vector"]
    rows = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    visit = (rows["source"] + "/" + rows["encounter"]).to_numpy()
    ids = rows["path"].to_numpy()
    gallery = np.flatnonzero(rows["split-time_closed"] == "train")
    gallery_ND = np.stack([vectors[i] for i in ids[gallery]])
    for query, got in _rankings(folder).groupby("query_id"):
        place = int(np.flatnonzero(ids == query)[0])
        allowed = np.flatnonzero(visit[gallery] != visit[place])
        scores = naive_scores(
            np.asarray(vectors[query]), gallery_ND, place, gallery, allowed.tolist(), 6, 6, 0.3
        )
        want = sorted(allowed, key=lambda g: (-scores[g], g))
        assert got["gallery_id"].tolist() == [ids[gallery][g] for g in want]
        assert got["score"].to_numpy() == pytest.approx([scores[g] for g in want], abs=1e-6)
    assert recompute_metrics(folder, config).metrics == result.metrics


@pytest.mark.parametrize("more", [RECIPROCAL, EXPANSION], ids=["k_reciprocal", "expansion"])
def test_an_answer_depends_on_no_other_query(dataset, out, tmp_path, more):
    folder, _ = run_probe(_config(dataset, out, *more))
    rows = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    is_query = (rows["split-time_closed"] == "test").to_numpy()
    kept = np.flatnonzero(is_query)[::3]
    rows.loc[np.setdiff1d(np.flatnonzero(is_query), kept), "split-time_closed"] = "left out"
    (tmp_path / "fewer.csv").write_text(rows.to_csv(index=False))
    for image in {path.split("/")[0] for path in rows["path"]}:
        (tmp_path / image).symlink_to(dataset / image)
    fewer, _ = run_probe(_config(tmp_path, out, *more, "dataset.metadata_file=fewer.csv"))
    alone, all_rows = _rankings(fewer), _rankings(folder)
    again = all_rows[all_rows["query_id"].isin(alone["query_id"])].reset_index(drop=True)
    assert alone["gallery_id"].tolist() == again["gallery_id"].tolist()
    assert alone["score"].to_numpy() == pytest.approx(again["score"].to_numpy(), abs=1e-6)


@pytest.mark.parametrize("more", [RECIPROCAL, EXPANSION], ids=["k_reciprocal", "expansion"])
def test_fusion_is_fitted_on_the_re_ranked_scores(dataset, out, more):
    small = ["benchmark.local_top_k=48", "benchmark.local_size=128", "benchmark.candidate_k=3"]
    small += ["benchmark.method=wildfusion", "benchmark.calibration.pairs=40"]
    folder, _ = run_probe(_config(dataset, out, *more, *small))
    evidence = pd.read_parquet(folder / "fusion.parquet")
    plain, _ = run_probe(_config(dataset, out, *more))
    ranked = _rankings(plain).set_index(["query_id", "gallery_id"])
    for query, rows in evidence.groupby("query_id"):
        own = ranked.loc[query].sort_values("rank")
        assert set(rows["gallery_id"]) == set(own.index[:3]), "the re-ranked shortlist"
        got = rows["raw:cosine:efficientnet-lite0"].to_numpy()
        assert got == pytest.approx(own.loc[rows["gallery_id"], "score"].to_numpy(), abs=1e-6)
    pairs = pd.read_parquet(folder / "calibration_pairs.parquet")
    assert pairs["raw:cosine:efficientnet-lite0"].nunique() > 10


def test_a_mirror_image_has_the_same_vector_with_flips():
    backbone = build_backbone("efficientnet-lite0", image_size=64)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    both = np.concatenate([images, images[:, :, ::-1]])
    plain = Embedder(backbone, batch_size=2)(both)
    flipped = Embedder(backbone, batch_size=2, flip=True)(both)
    unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    assert flipped[:3] == pytest.approx((unit[:3] + unit[3:]) / 2, abs=1e-6)
    assert flipped[:3] == pytest.approx(flipped[3:], abs=1e-6)
    assert np.abs(unit[:3] - unit[3:]).max() > 1e-3


def test_flipped_vectors_are_cached_under_a_key_of_their_own(dataset, out):
    run_probe(_config(dataset, out))
    flip = "model.flip_augmentation=true"
    _, first = run_probe(_config(dataset, out, flip))
    assert first.counts["images_cached"] == 0
    _, again = run_probe(_config(dataset, out, flip))
    assert again.counts["images_extracted"] == 0
    assert again.metrics == first.metrics


def test_what_has_nothing_to_re_rank_says_so(tmp_path):
    with pytest.raises(ConfigError, match="set benchmark.candidate_k"):
        _config(".", ".", *RECIPROCAL, "benchmark.method=local_lightglue")
    with pytest.raises(ConfigError, match="flip_augmentation is for probes"):
        load_config(FinetuneConfig, None, ["model.flip_augmentation=true"])
