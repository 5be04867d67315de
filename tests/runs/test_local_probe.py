"""local_lightglue as a user runs it: its files, its caches, its bad inputs."""

import numpy as np
import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import Columns, read_image_table
from exreid.features.local_extraction import LocalPreprocessing
from exreid.pipeline import match as local
from exreid.pipeline import matchers
from exreid.runs.probe import recompute_metrics, run_probe
from tests.run_schema import published_record

LOCAL = [
    *("benchmark.method=local_lightglue", "benchmark.local_top_k=32", "benchmark.local_size=96"),
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=20"),
    "dataset.encounter_cols=[source,encounter]",
]


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *LOCAL, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def dataset(few):
    """All pairs are matched here."""
    return few


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """All pairs, exact."""
    out = tmp_path_factory.mktemp("local")
    folder, result = run_probe(_config(dataset, out))
    return out, folder, result


def test_all_pairs_are_matched_and_nothing_else_is_computed(whole):
    out, folder, result = whole
    counts = result.counts
    assert counts["pairs_matched"] == counts["queries"] * counts["gallery_images"]
    assert counts["keypoints_extracted"] == counts["queries"] + counts["gallery_images"]
    assert "images_extracted" not in counts, "no global features"
    assert not (out / ".exreid_cache" / "embeddings").exists()
    assert "mAP" in result.metrics
    rankings = pd.read_parquet(folder / "rankings.parquet")
    assert (rankings["score"] == rankings["score"].round()).all(), "numbers of matches"
    first = rankings[rankings["rank"] == 1]
    assert first["is_match"].mean() == result.metrics["top_1"]
    for _, rows in rankings.groupby("query_id"):
        assert rows.sort_values("rank")["score"].is_monotonic_decreasing
    assert recompute_metrics(folder, _config(".", out)).metrics == result.metrics


def test_ties_fall_to_the_image_that_stands_first(whole, dataset):
    _, folder, _ = whole
    table, _ = read_image_table(str(dataset), columns=Columns(split="split-time_closed"))
    place = {image: i for i, image in enumerate(table.rows["image_id"])}
    ties = 0
    for _, rows in pd.read_parquet(folder / "rankings.parquet").groupby("query_id"):
        ranked = rows.sort_values("rank")
        for score, tied in ranked.groupby("score"):
            places = [place[image] for image in tied["gallery_id"]]
            assert places == sorted(places), score
            ties += len(places) > 1
    assert ties, "small counts tie"


def test_a_shortlist_reads_the_same_pairs_and_keeps_the_rest_below(whole, dataset):
    out, _, result = whole
    folder, short = run_probe(_config(dataset, out, "benchmark.candidate_k=6"))
    assert short.counts["pairs_known"] == short.counts["pairs_matched"]
    assert short.counts["pairs_matched"] == 6 * short.counts["queries"]
    assert short.counts["keypoints_extracted"] == 0
    assert {"mAP_at_k", "shortlist_recall", "shortlist_hit"} < set(short.metrics)
    assert not {"mAP", "mINP"} & set(short.metrics)
    assert short.metrics["top_1"] <= short.metrics["shortlist_hit"]
    rankings = pd.read_parquet(folder / "rankings.parquet")
    kept = rankings[rankings["rank"] <= 6]
    assert kept["score"].notna().all()
    assert rankings[rankings["rank"] > 6]["score"].isna().all(), "not scored is not a zero"
    again = recompute_metrics(folder, _config(".", out, "benchmark.candidate_k=6"))
    assert again.metrics == short.metrics
    everything, _ = run_probe(_config(dataset, out, "benchmark.candidate_k=1000"))
    full = published_record(everything)["metrics"]
    for name in ("top_1", "top_5", "identity_top_1", "balanced_top_1"):
        assert full[name] == result.metrics[name]


def test_a_killed_matching_goes_on_with_the_unfinished_tiles(whole, dataset, tmp_path, monkeypatch):
    _, folder, result = whole
    monkeypatch.setattr(local, "PAIRS_PER_TILE", {"cpu": 4})
    plain, tiles = matchers.match_in_process, []

    def killed(*arguments, **named):
        for tile, evidence in plain(*arguments, **named):
            tiles.append(tile.number)
            yield tile, evidence
            if len(tiles) == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(matchers, "match_in_process", killed)
    with pytest.raises(KeyboardInterrupt):
        run_probe(_config(dataset, tmp_path))
    again, resumed = run_probe(_config(dataset, tmp_path))
    assert resumed.counts["pairs_known"] == 4 * 4
    assert resumed.counts["keypoints_extracted"] == 0
    assert resumed.metrics == result.metrics
    assert pd.read_parquet(again / "rankings.parquet").equals(
        pd.read_parquet(folder / "rankings.parquet")
    )


def test_fast_looks_at_all_and_matches_the_best_exactly(whole, dataset):
    out, folder, _ = whole
    more = ["benchmark.precision=fast", "benchmark.fast.look_share=0.25"]
    more += ["benchmark.fast.nearest_share=0.4"]
    more += ["benchmark.fast.look_least=3", "benchmark.fast.prune_after=3"]
    more += ["benchmark.fast.prune_to=16", "benchmark.fast.full_decided_sd=null"]
    undecided = [*more, "benchmark.fast.look_decided_sd=null"]
    quick, fast = run_probe(_config(dataset, out, *undecided, "benchmark.fast.exact_best=2"))
    queries, gallery = fast.counts["queries"], fast.counts["gallery_images"]
    assert fast.counts["pairs_compared"] == queries * gallery
    assert fast.counts["pairs_looked_at"] == queries * max(3, int(np.ceil(0.4 * gallery)))
    assert fast.counts["pairs_matched"] == queries * max(3, int(np.ceil(0.25 * gallery)))
    assert fast.counts["pairs_exact"] == fast.counts["pairs_known"] == 2 * queries
    scores = [
        pd.read_parquet(run / "rankings.parquet").set_index(["query_id", "gallery_id"])
        for run in (quick, folder)
    ]
    best = scores[0][scores[0]["rank"] <= 2]["score"]
    assert (best == scores[1]["score"].loc[best.index]).all(), "exact, whatever came before"
    again, _ = run_probe(_config(dataset, out, *undecided, "benchmark.fast.exact_best=0"))
    two = pd.read_parquet(again / "rankings.parquet")
    two = two[two["rank"] <= 2].groupby("query_id")["gallery_id"].agg(set)
    one = scores[0].reset_index()
    one = one[one["rank"] <= 2].groupby("query_id")["gallery_id"].agg(set)
    assert (one == two).all(), "the same two, in the exact order"
    _, decided = run_probe(_config(dataset, out, *more, "benchmark.fast.look_decided_sd=0.5"))
    assert queries <= decided.counts["pairs_matched"] < fast.counts["pairs_matched"]


def test_nearest_needs_no_lightglue_and_its_matches_make_its_score(dataset, tmp_path):
    more = ["benchmark.precision=nearest", "benchmark.local_features=aliked-t16"]
    folder, result = run_probe(_config(dataset, tmp_path, *more, "benchmark.keep_matches=2"))
    queries, gallery = result.counts["queries"], result.counts["gallery_images"]
    assert result.counts["pairs_compared"] == queries * gallery
    assert "pairs_matched" not in result.counts
    assert _config(dataset, tmp_path, *more).benchmark.counted_from == 0.0, "all are in the score"
    rankings = pd.read_parquet(folder / "rankings.parquet")
    score = rankings[rankings["rank"] <= 2].set_index(["query_id", "gallery_id"])["score"]
    matches = pd.read_parquet(folder / "matches.parquet")
    assert len(matches) == len(score)
    for row in matches.itertuples():
        total = (row.confidence.astype(np.float64) ** 3).sum()
        assert score[(row.query_id, row.gallery_id)] == pytest.approx(total, rel=1e-4)


def test_matched_keypoints_are_kept_where_they_are_asked_for(whole, dataset, local_ray):
    out, _, _ = whole
    more = ["benchmark.keep_matches=2", "benchmark.geometry=homography"]
    here, _ = run_probe(_config(dataset, out, *more, "benchmark.candidate_k=4"))
    matches = pd.read_parquet(here / "matches.parquet")
    rankings = pd.read_parquet(here / "rankings.parquet")
    best = rankings[rankings["rank"] <= 2].set_index(["query_id", "gallery_id"])["score"]
    assert len(matches) == len(best)
    for row in matches.itertuples():
        assert (row.confidence > 0.5).sum() == best[(row.query_id, row.gallery_id)]
        assert len(row.query_xy) == len(row.gallery_xy) == 2 * len(row.confidence)
        assert (np.diff(row.confidence) <= 0).all()
        for points, size in ((row.query_xy, row.query_wh_px), (row.gallery_xy, row.gallery_wh_px)):
            assert (points.reshape(-1, 2) < size).all()
            assert max(size) == 96
    assert sum(row.inlier.sum() for row in matches.itertuples()) > 0
    more += ["ray.num_actors=1", "ray.cpus_per_worker=0.5"]
    spread, _ = run_probe(_config(dataset, out, *more, "benchmark.candidate_k=4"))
    again = pd.read_parquet(spread / "matches.parquet")
    assert again[["query_id", "gallery_id"]].equals(matches[["query_id", "gallery_id"]])
    for ours, theirs in zip(again["confidence"], matches["confidence"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_actors_give_the_numbers_of_one_process(whole, dataset, local_ray, tmp_path):
    _, folder, result = whole
    # The actors that score the pairs stay up for the keypoints of the best.
    more = ["ray.num_actors=2", "ray.cpus_per_worker=0.5", "benchmark.keep_matches=1"]
    again, spread = run_probe(_config(dataset, tmp_path, *more))
    assert len(pd.read_parquet(again / "matches.parquet")) == spread.counts["queries"]
    assert spread.metrics == result.metrics
    assert pd.read_parquet(again / "rankings.parquet").equals(
        pd.read_parquet(folder / "rankings.parquet")
    )
    assert 0 <= spread.counts["actors_wait_share"] < 1


def test_the_features_of_a_changed_mask_or_setting_are_not_served(whole, dataset):
    out, _, first = whole
    for more in (["benchmark.local_masks=none"], ["benchmark.local_features=disk"]):
        _, other = run_probe(_config(dataset, out, *more, "benchmark.candidate_k=2"))
        assert other.counts["keypoints_extracted"] == first.counts["keypoints_extracted"]
        assert other.counts["pairs_known"] == 0


def test_the_size_that_keypoints_are_looked_for_in(dataset):
    rows = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    row = rows.iloc[0]
    data = (dataset / row["path"]).read_bytes()
    kept = LocalPreprocessing(128, False, "filter", "none", 0.1).prepare(data, row["mask"])
    assert max(kept[0].shape[:2]) == 128 > min(kept[0].shape[:2])
    assert kept[1].shape == kept[0].shape[:2]
    assert 0 < kept[1].mean() < 1
    square = LocalPreprocessing(128, True, "blank", "none", 0.1).prepare(data, row["mask"])
    assert square[0].shape == (128, 128, 3)
    assert square[1] is None
    assert (square[0][0, 0] == 128).all(), "the background is filled"
    close = LocalPreprocessing(128, False, "filter", "mask", 0.0).prepare(data, row["mask"])
    assert close[1].mean() > kept[1].mean(), "the animal fills what is cropped to it"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["benchmark.local_score=inliers"], "benchmark.geometry"),
        (["benchmark.precision=nearest", "benchmark.geometry=homography"], "exact or fast"),
        (["benchmark.precision=nearest", "benchmark.matcher_checkpoint=x.pth"], "exact or fast"),
        (["benchmark.cache=off"], "benchmark.cache=off"),
        (["benchmark.local_features=orb"], "aliked-n16"),
        (
            ["benchmark.local_features=aliked-t16"],
            "no LightGlue is trained for aliked-t16",
        ),
        (["benchmark.local_masks=blank", "dataset.mask_col=null"], "dataset.mask_col"),
    ],
)
def test_mistakes_say_what_to_do(dataset, tmp_path, capsys, overrides, message):
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *LOCAL, *overrides]
    assert main(["probe", *arguments]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_an_unreadable_photograph_is_left_out_of_both_features(dataset, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    frame = pd.read_csv(next(data.glob("*Real.csv")), dtype=str)
    (data / frame["path"][0]).write_bytes(b"no photo")
    for more in ([], ["benchmark.candidate_k=3"]):
        folder, _ = run_probe(_config(data, tmp_path, "dataset.on_error=skip", *more))
        assert pd.read_csv(folder / "rejected.csv")["path"].tolist() == [frame["path"][0]]
    assert main(["probe", f"dataset.root={data}", f"output.root={tmp_path}", *LOCAL]) == 1
