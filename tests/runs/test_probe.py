"""The probe as a user runs it: its files, its numbers again, and its failures kept."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from exreid.cli import job, main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import RunError
from exreid.runs.probe import recompute_metrics, run_probe
from tests.run_schema import published_record

LOCAL = ["ray.num_actors=0", "dataset.image_size=96", "benchmark.bootstrap_resamples=50"]


def _arguments(dataset, out, *more):
    return [f"dataset.root={dataset}", f"output.root={out}", *LOCAL, *more]


@pytest.fixture(scope="module")
def probed(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    overrides = _arguments(dataset, out, "output.run_id=first", "benchmark.keep_candidates=3")
    return run_probe(load_config(ProbeConfig, None, overrides))


def test_a_run_leaves_its_files_and_they_agree(probed):
    folder, result = probed
    written = published_record(folder)
    assert (written["status"], written["run_id"]) == ("completed", "first")
    assert written["metrics"] == result.metrics
    for name, value in result.metrics.items():
        low, high = written["intervals"][name]
        assert 0 <= low <= high <= 1
        assert low - 0.2 <= value <= high + 0.2
    with (folder.parent / "benchmark_results.csv").open() as stream:
        (row,) = list(csv.DictReader(stream))
    assert float(row["top_1"]) == result.metrics["top_1"]
    assert (folder / "rejected.csv").read_text().startswith("image_id,path,row,stage,reason")
    counts = result.counts
    assert counts["queries"] + counts["gallery_images"] == 36


def test_the_rankings_hold_the_best_and_every_positive(probed, dataset):
    folder, result = probed
    rows = pd.read_parquet(folder / "rankings.parquet")
    assert list(rows.columns) == ["query_id", "rank", "gallery_id", "score", "is_match"]
    per_query = rows.groupby("query_id")
    assert (per_query["rank"].min() == 1).all()
    assert all(set(range(1, 4)) <= set(ranks) for ranks in per_query["rank"].apply(list))
    assert rows["is_match"].sum() == result.counts["positives"]
    ordered = per_query["score"].apply(lambda scores: (np.diff(scores) <= 0).all())
    assert ordered.all()


def test_the_numbers_come_again_from_the_rankings(probed, capsys):
    folder, result = probed
    config = load_config(ProbeConfig, folder / "config.snapshot.yaml")
    again = recompute_metrics(folder, config)
    assert again.metrics == pytest.approx(result.metrics, abs=1e-15)
    assert again.intervals == result.intervals
    assert main(["metrics", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == pytest.approx(result.metrics)


def test_the_same_config_gives_the_same_bits_with_and_without_cache(probed, dataset, tmp_path):
    folder, result = probed
    overrides = _arguments(dataset, tmp_path, "benchmark.keep_candidates=3", "benchmark.cache=off")
    other, again = run_probe(load_config(ProbeConfig, None, overrides))
    assert again.metrics == result.metrics
    first = pd.read_parquet(folder / "rankings.parquet")
    pd.testing.assert_frame_equal(first, pd.read_parquet(other / "rankings.parquet"))


def test_leave_one_out_never_answers_with_the_query_itself(dataset, tmp_path):
    overrides = _arguments(
        dataset,
        tmp_path,
        "dataset.query_split_value=train",
        "dataset.encounter_cols=[source,encounter]",
        "benchmark.exclude=encounter",
    )
    folder, result = run_probe(load_config(ProbeConfig, None, overrides))
    rows = pd.read_parquet(folder / "rankings.parquet")
    assert (rows["query_id"] != rows["gallery_id"]).all()
    assert result.counts["queries"] == result.counts["gallery_images"]


def test_a_made_split_is_kept_with_the_run(dataset, tmp_path):
    overrides = _arguments(
        dataset, tmp_path, "dataset.make_split=time_aware", "dataset.split_col=none"
    )
    folder, _ = run_probe(load_config(ProbeConfig, None, overrides))
    split = pd.read_csv(folder / "split.csv")
    assert set(split["split"]) == {"train", "test"}
    assert len(split) == 36


def test_a_failed_run_keeps_its_folder_with_the_error(dataset, tmp_path, capsys):
    arguments = _arguments(dataset, tmp_path, "dataset.query_split_value=vall", "output.run_id=bad")
    assert main(["probe", *arguments]) == 1
    assert "the splits are" in capsys.readouterr().err.replace("\n", " ")
    written = published_record(tmp_path / "benchmark_runs/bad")
    assert written["status"] == "failed"
    assert "'vall'" in written["error"]


def test_a_corrupt_photo_stops_the_run_or_is_listed(dataset, tmp_path):
    import shutil

    shutil.copytree(dataset, tmp_path / "data")
    photo = sorted((tmp_path / "data").rglob("*.jpg"))[0]
    photo.write_bytes(b"no photo")
    arguments = _arguments(tmp_path / "data", tmp_path)
    assert main(["probe", *arguments]) == 1
    assert main(["probe", *arguments, "dataset.on_error=skip", "output.run_id=s"]) == 0
    rejected = pd.read_csv(tmp_path / "benchmark_runs/s/rejected.csv")
    assert rejected["path"].tolist() == [str(photo.relative_to(tmp_path / "data"))]
    assert main(["validate", *arguments]) == 1
    assert main(["validate", f"dataset.root={dataset}", f"output.root={tmp_path}"]) == 0


def test_exit_codes_and_the_printed_config(dataset, capsys):
    assert main(["probe", "dataset.rot=x"]) == 2
    assert "dataset.root" in capsys.readouterr().err
    assert main(["probe", "--print-config", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert main(["prob"]) == 2
    with pytest.raises(SystemExit):
        main(["probe", "--help-keys"])
    assert "dataset.label_col" in capsys.readouterr().out
    assert job("probe", ["--print-config"]) == 0


def test_embeddings_for_elsewhere(dataset, tmp_path):
    out = tmp_path / "embeddings.parquet"
    assert main(["extract", "--out", str(out), *_arguments(dataset, tmp_path)]) == 0
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["image_id", "vector"]
    assert np.stack(frame["vector"]).shape == (36, 1280)
    assert frame["image_id"].is_unique


def test_photographs_without_names_can_be_extracted(dataset, tmp_path):
    frame = pd.read_csv(next(dataset.glob("*.csv")), dtype=str)
    bare = frame[["path"]].head(5)
    bare.to_csv(dataset / "bare.csv", index=False)
    out = tmp_path / "embeddings.parquet"
    arguments = _arguments(dataset, tmp_path, "dataset.metadata_file=bare.csv")
    assert main(["extract", "--out", str(out), *arguments]) == 0
    assert pd.read_parquet(out)["image_id"].tolist() == bare["path"].tolist()
    assert main(["probe", *arguments, "dataset.make_split=closed_set"]) == 1


def test_where_everything_is_cached_no_ray_is_started(dataset, tmp_path, monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    overrides = _arguments(dataset, tmp_path)
    _, first = run_probe(load_config(ProbeConfig, None, overrides))

    def started(**unused):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    over_actors = [*overrides, "ray.num_actors=2"]
    _, again = run_probe(load_config(ProbeConfig, None, over_actors))
    assert (again.counts["images_cached"], again.metrics) == (36, first.metrics)
    with pytest.raises(RunError, match="Ray was started"):
        run_probe(load_config(ProbeConfig, None, [*over_actors, "benchmark.cache=off"]))


def test_few_images_start_no_ray_and_give_the_same_numbers(dataset, tmp_path, monkeypatch):
    import ray

    from exreid.pipeline import embed, keypoints

    def started(**unused):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def probe(name, *more):
        words = _arguments(dataset, tmp_path / name, "benchmark.method=local_lightglue", *more)
        words += ["benchmark.candidate_k=2", "benchmark.local_top_k=32", "benchmark.local_size=96"]
        asked = [word for word in words if name == "asked" or word != "ray.num_actors=0"]
        return run_probe(load_config(ProbeConfig, None, asked))[1]

    monkeypatch.setattr(keypoints, "FEW_TO_MATCH", 36)
    assert probe("unasked").metrics == probe("asked").metrics
    for name, few, more in (
        ("embedded", (embed, "FEW_TO_EMBED"), []),
        ("matched", (keypoints, "FEW_TO_MATCH"), []),
        ("one", None, ["ray.num_actors=1"]),
    ):
        with monkeypatch.context() as fewer:
            if few is not None:
                fewer.setattr(*few, 35)
            with pytest.raises(RunError, match="Ray was started"):
                probe(name, *more)


def test_wandb_offline_works_without_a_key_and_its_failure_costs_nothing(
    dataset, tmp_path, monkeypatch
):
    import wandb

    overrides = _arguments(dataset, tmp_path, "wandb.enabled=true", "wandb.mode=offline")
    folder, _ = run_probe(load_config(ProbeConfig, None, overrides))
    assert list((folder / "wandb").glob("offline-run-*"))

    def broken(**unused):
        raise ConnectionError("no network")

    monkeypatch.setattr(wandb, "init", broken)
    folder, _ = run_probe(load_config(ProbeConfig, None, overrides))
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"
