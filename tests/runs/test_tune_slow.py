"""Whole sweeps over Ray: early stops, trials of several workers; the best beats the default."""

import json
import shlex
import time

import pytest

from exreid.cli import main
from exreid.data.synthetic import write_dataset

pytestmark = pytest.mark.slow
SMALL = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"),
    "validation.fraction=0.4",
]
SPACE = "tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}"


@pytest.mark.timeout(1800)
def test_the_best_of_four_trials_beats_the_default(local_ray, tmp_path, capsys):
    write_dataset(tmp_path / "data", identities=12, images_per_identity=10, seed=3)
    arguments = [
        *(f"dataset.root={tmp_path / 'data'}", f"output.root={tmp_path}", "output.run_id=s"),
        *("dataset.image_size=96", "dataset.encounter_cols=[source,encounter]"),
        *("validation.fraction=0.3", "train.epochs=6", "train.batch_size=16"),
        *("tune.num_samples=4", "tune.scheduler=asha", "tune.max_concurrent=2"),
        "tune.grace_epochs=3",
        "tune.space.optimizer.lr={loguniform: [0.0003, 0.003]}",
        "tune.space.loss.scale={choice: [8, 16, 64]}",
        "tune.space.loss.margin_rad={uniform: [0.0, 0.6]}",
    ]
    assert main(["tune", *arguments]) == 0, capsys.readouterr().err
    folder = tmp_path / "sweeps" / "s"
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    states = [trial["state"] for trial in trials]
    assert states[0] == "completed"
    assert set(states) == {"completed", "stopped"}
    for trial in trials:
        epochs = max(map(int, trial["scores"]))
        assert (epochs == 6) == (trial["state"] == "completed")
        assert epochs in (3, 6), "the one rung is after epoch 3"
    result = json.loads((folder / "result.json").read_text())
    baseline = result["metrics"]["validation_mAP_baseline"]
    assert result["metrics"]["validation_mAP"] > baseline == trials[0]["score"]
    assert len(list((folder / "trials").glob("*/result.json"))) == 4
    assert (folder / "test" / "result.json").exists()


@pytest.mark.timeout(1800)
def test_trials_of_several_workers_train_with_ray_train_and_leave_nothing_behind(
    dataset, local_ray, tmp_path, capsys
):
    arguments = [f"dataset.root={dataset}", f"output.root={tmp_path}", *SMALL, SPACE]
    arguments += ["train.epochs=2", "ray.num_workers=2", "ray.cpus_per_worker=0.5"]
    arguments += ["tune.num_samples=2", "tune.max_concurrent=2", "output.run_id=s"]
    assert main(["tune", *arguments]) == 0, capsys.readouterr().err
    trials = json.loads((tmp_path / "sweeps" / "s" / "sweep.json").read_text())["trials"]
    assert [trial["state"] for trial in trials].count("failed") == 0, shlex.join(map(str, trials))
    assert sorted(map(int, trials[0]["scores"])) == [1, 2]
    import ray

    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 4.0 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 4.0
