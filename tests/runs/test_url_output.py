"""Runs whose output.root is a URL: the numbers of a local folder, and any machine goes on."""

import json
import pickle
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.errors import StorageError
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.storage import at_url, mirror
from tests.s3 import s3_server

ROOT = "s3://my-bucket/some/runs"
PROBE = [
    *("ray.num_actors=0", "dataset.image_size=64", "benchmark.bootstrap_resamples=20"),
    *("benchmark.local_top_k=32", "benchmark.local_size=96", "benchmark.candidate_k=3"),
]
TRAIN = [
    *("ray.num_workers=0", "dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"),
    *("validation.fraction=0.4", "output.run_id=url"),
]
MATCHER = [
    *("train.what=matcher", "loss.type=pairs", "matcher.layers=1", "output.best_metric=mAP_at_k"),
    *("model.type=efficientnet-lite0", "model.pretrained=true", "benchmark.method=local_lightglue"),
    *("benchmark.local_top_k=32", "benchmark.local_size=96", "benchmark.candidate_k=3"),
    *("benchmark.shortlist=local", "mine.drawn=1", "train.epochs=1"),
]


@pytest.fixture(scope="module")
def bucket():
    with s3_server():
        yield fsspec.filesystem("s3", use_listings_cache=False)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Call it to be on another machine: one that has no copy of anything."""
    machines = []

    def move():
        machines.append(tmp_path / f"machine-{len(machines)}")
        monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(machines[-1]))
        return machines[-1]

    move()
    return move


def _probe(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *PROBE, *more]
    return run_probe(load_config(ProbeConfig, None, overrides))


@pytest.mark.parametrize("method", ["cosine", "local_lightglue"])
def test_a_probe_gives_the_same_numbers_and_another_machine_goes_on(
    dataset, bucket, machine, tmp_path, capsys, method
):
    plain, expected = _probe(dataset, tmp_path / "plain", f"benchmark.method={method}")
    more = (f"benchmark.method={method}", f"output.run_id=first-{method}")
    folder, result = _probe(dataset, ROOT, *more)
    url = f"{ROOT}/benchmark_runs/first-{method}"
    assert mirror.shown(folder) == url
    assert result.metrics == expected.metrics
    assert {Path(file).name for file in bucket.find(url)} == {
        file.name for file in plain.iterdir() if not file.name.startswith(".")
    }
    with bucket.open(f"{url}/rankings.parquet") as stream:
        theirs = pd.read_parquet(stream)
    pd.testing.assert_frame_equal(theirs, pd.read_parquet(plain / "rankings.parquet"))

    machine()
    _, again = _probe(dataset, ROOT, f"benchmark.method={method}")
    assert again.metrics == expected.metrics
    assert again.counts["images_extracted"] == 0
    if method == "local_lightglue":
        assert again.counts["keypoints_extracted"] == 0
        assert again.counts["pairs_known"] == again.counts["pairs_matched"] > 0
    lines = bucket.cat(f"{ROOT}/benchmark_runs/benchmark_results.csv").decode().splitlines()
    assert sum(f",{method}," in line for line in lines) == 2, "one line of each run"
    assert main(["metrics", url]) == 0
    assert f"{100 * expected.metrics['top_1']:.2f} %" in capsys.readouterr().out


def test_a_run_that_stands_there_is_not_written_over(dataset, bucket, machine, capsys):
    arguments = [f"dataset.root={dataset}", f"output.root={ROOT}", *PROBE, "output.run_id=once"]
    assert main(["probe", *arguments]) == 0
    assert f"Written to {ROOT}/benchmark_runs/once" in capsys.readouterr().out
    machine()
    assert main(["probe", *arguments]) == 2
    assert f"{ROOT}/benchmark_runs/once: a completed run" in capsys.readouterr().err


def test_a_training_goes_on_on_another_machine(dataset, bucket, machine, tmp_path, monkeypatch):
    def config(root, *more):
        overrides = [f"dataset.root={dataset}", f"output.root={root}", *TRAIN, *more]
        return load_config(FinetuneConfig, None, overrides)

    more = ("train.epochs=3", "train.deterministic=true")
    plain, expected = run_finetune(config(tmp_path, *more))

    def die_after_two(history):
        if history[-1].epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_finetune(config(ROOT, *more), stop_early=die_after_two)
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    url = f"{ROOT}/results/url"
    status = json.loads(bucket.cat(f"{url}/result.json"))
    assert (status["status"], status["error_type"]) == ("interrupted", "RunInterrupted")
    folder, result = run_finetune(config(ROOT, *more))
    assert result.metrics == expected.metrics
    assert result.counts["images_decoded"] == 0
    names = {Path(file).name for file in bucket.find(url)}
    assert names == {file.name for file in plain.iterdir() if not file.name.startswith(".")}
    assert (
        bucket.cat(f"{url}/checkpoint-final.pth") == (folder / "checkpoint-final.pth").read_bytes()
    )

    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "third"))
    checkpoint = ["model.type=timm:test_vit", f"model.checkpoint={url}/checkpoint-best.pth"]
    ours = _probe(dataset, tmp_path / "a", *checkpoint)[1]
    checkpoint[1] = f"model.checkpoint={plain}/checkpoint-best.pth"
    assert ours.metrics == _probe(dataset, tmp_path / "b", *checkpoint)[1].metrics


@pytest.mark.parametrize("what", ["backbone", "matcher"])
def test_a_worker_on_another_machine_leaves_the_whole_run(
    dataset, bucket, tmp_path, monkeypatch, what
):
    from exreid.runs import finetune

    def config(root):
        overrides = [f"dataset.root={dataset}", f"output.root={root}", *TRAIN, "train.epochs=2"]
        more = MATCHER if what == "matcher" else []
        return load_config(FinetuneConfig, None, [*overrides, *more])

    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "driver"))
    root, train = f"s3://my-bucket/apart-{what}", finetune.train

    def elsewhere(training, world):
        sent = pickle.dumps(training)
        monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "worker"))
        train(pickle.loads(sent), world)

    _, expected = run_finetune(config(tmp_path / "plain"))
    monkeypatch.setattr(finetune, "train", elsewhere)
    folder, result = run_finetune(config(root))
    assert result.metrics == expected.metrics
    assert not (folder / "checkpoint-best.pth").exists(), "it was written on the other machine"
    assert list((tmp_path / "worker").rglob("*.npy")), "what is trained on was fetched"
    names = {Path(file).name for file in bucket.find(f"{root}/results/url")}
    assert {"checkpoint-best.pth", "history.csv", "learning_curve.png", "result.json"} < names


def test_an_unreachable_storage_is_named_before_anything_is_computed(
    dataset, machine, monkeypatch, capsys
):
    monkeypatch.setattr(at_url, "WAITS_S", ())

    def refuse(*arguments, **options):
        raise ConnectionRefusedError("nobody there")

    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "put_file", refuse)
    arguments = [f"dataset.root={dataset}", "output.root=memory://nowhere", *PROBE]
    assert main(["probe", *arguments]) == 1
    assert "memory://nowhere" in capsys.readouterr().err
    with pytest.raises(StorageError, match="nobody there"):
        _probe(dataset, "memory://nowhere")


def test_a_training_that_could_not_publish_goes_on_from_what_stands_here(
    dataset, machine, tmp_path, monkeypatch
):
    from exreid.training import loop

    monkeypatch.setattr(at_url, "WAITS_S", ())
    memory = fsspec.filesystem("memory")
    write_history, train_epoch, trained = loop.write_history, loop.train_epoch, []

    def config(root):
        overrides = [f"dataset.root={dataset}", f"output.root={root}", *TRAIN, "train.epochs=3"]
        return load_config(FinetuneConfig, None, [*overrides, "train.deterministic=true"])

    def gone_after_two(folder, history):
        if history[-1].epoch == 2:
            monkeypatch.setattr(type(memory), "put_file", _gone)
        write_history(folder, history)

    def counted(training, state, *rest, **options):
        trained.append(state.epochs)
        return train_epoch(training, state, *rest, **options)

    expected = run_finetune(config(tmp_path))[1].metrics
    monkeypatch.setattr(loop, "write_history", gone_after_two)
    with pytest.raises(StorageError):
        run_finetune(config("memory://cut"))
    monkeypatch.undo()
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "machine-0"))
    mirror._published.clear()
    assert len(memory.cat("/cut/results/url/history.csv").splitlines()) == 3, "header, 0 and 1"
    monkeypatch.setattr(loop, "train_epoch", counted)
    assert run_finetune(config("memory://cut"))[1].metrics == expected
    assert trained == [2], "the third epoch alone"
    assert json.loads(memory.cat("/cut/results/url/result.json"))["status"] == "completed"
    memory.rm("/cut", recursive=True)


def _gone(*arguments, **options):
    raise ConnectionResetError("gone")


def test_memory_and_file_urls(dataset, machine, tmp_path):
    """``memory://`` holds a run of one process; ``file://`` is the folder itself."""
    expected = _probe(dataset, tmp_path / "plain")[1].metrics
    folder, result = _probe(dataset, f"file://{tmp_path}/by-url", "output.run_id=f")
    assert folder == tmp_path / "by-url" / "benchmark_runs" / "f"
    assert result.metrics == expected
    folder, result = _probe(dataset, "memory://runs", "output.run_id=m")
    assert result.metrics == expected
    memory = fsspec.filesystem("memory")
    written = json.loads(memory.cat("/runs/benchmark_runs/m/result.json"))
    assert written["metrics"] == expected
    memory.rm("/runs", recursive=True)


def test_pictures_and_report_stand_at_the_url(dataset, bucket, machine, tmp_path, capsys):
    arguments = [f"dataset.root={dataset}", f"output.root={ROOT}", *PROBE, "output.run_id=shown"]
    arguments += ["visualization.enabled=true", "visualization.num_queries=2"]
    assert main(["probe", *arguments]) == 0
    assert f"Pictures in {ROOT}/visualizations/shown" in capsys.readouterr().out
    pictures = {Path(file).name for file in bucket.find(f"{ROOT}/visualizations/shown")}
    assert {"index.csv", "contact_sheet.png", "predictions_0001.png"} <= pictures

    machine()
    url = f"{ROOT}/benchmark_runs/shown"
    assert main(["report", url, "--workers", "1"]) == 0
    assert f"Also at {url}/report" in capsys.readouterr().out
    assert bucket.exists(f"{url}/report/index.html")
    assert main(["report", url, "--workers", "1", "--out", f"{ROOT}/pages"]) == 0
    names = {file.split("/pages/")[1] for file in bucket.find(f"{ROOT}/pages")}
    assert names == {file.split("/report/")[1] for file in bucket.find(f"{url}/report")}
    assert main(["report", f"{ROOT}/benchmark_runs/none"]) == 1
    assert f"{ROOT}/benchmark_runs/none: there is no such folder" in capsys.readouterr().err


def test_a_sweep_goes_on_on_another_machine_without_its_finished_trials(
    dataset, bucket, machine, tmp_path, monkeypatch
):
    """The driver is killed: nothing that it would write at its end is there."""
    from exreid.config.sweep import load_sweep
    from exreid.pipeline.sweep import SweepStudy
    from exreid.runs.tune import run_tune

    def config(root):
        overrides = [f"dataset.root={dataset}", f"output.root={root}", *TRAIN[:-1]]
        overrides += ["output.run_id=s", "tune.num_samples=3", "tune.search=random"]
        overrides += ["tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}"]
        return load_sweep(None, [*overrides, "train.epochs=1", "tune.test=true"])

    end = SweepStudy.end

    class KilledError(BaseException):
        """Nothing handles it."""

    def die_with_the_second(self, number, outcome):
        if number == 1:
            raise KilledError
        end(self, number, outcome)

    monkeypatch.setattr(SweepStudy, "end", die_with_the_second)
    monkeypatch.setattr("exreid.storage.run_folder.RunFolder.fail", lambda self, error: None)
    with pytest.raises(KilledError):
        run_tune(config(ROOT))
    monkeypatch.undo()
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    states = [t["state"] for t in json.loads(bucket.cat(f"{ROOT}/sweeps/s/sweep.json"))["trials"]]
    assert states == ["completed", "running"]
    written = [bucket.cat(f"{ROOT}/sweeps/s/trials/00{n}/result.json") for n in range(2)]
    sweep = run_tune(config(ROOT))
    assert [trial.state for trial in sweep.trials] == ["completed"] * 3
    assert written == [bucket.cat(f"{ROOT}/sweeps/s/trials/00{n}/result.json") for n in range(2)], (
        "they were not trained again"
    )
    plain = run_tune(config(tmp_path / "plain"))
    assert [trial.score for trial in sweep.trials] == [trial.score for trial in plain.trials]
    assert sweep.result.metrics == plain.result.metrics
