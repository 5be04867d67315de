"""A whole sweep over Ray with early stops, whose best trial beats the config as it stood."""

import json

import pytest

from exreid.cli import main
from exreid.data.synthetic import write_dataset

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
def test_the_best_of_six_trials_beats_the_default(local_ray, tmp_path, capsys):
    write_dataset(tmp_path / "data", identities=12, images_per_identity=10, seed=3)
    arguments = [
        *(f"dataset.root={tmp_path / 'data'}", f"output.root={tmp_path}", "output.run_id=s"),
        *("dataset.image_size=96", "dataset.encounter_cols=[source,encounter]"),
        *("validation.fraction=0.3", "train.epochs=12", "train.batch_size=16"),
        *("tune.num_samples=6", "tune.scheduler=asha", "tune.max_concurrent=2"),
        "tune.grace_epochs=4",
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
        assert (epochs == 12) == (trial["state"] == "completed")
        assert epochs in (4, 12), "the one rung is after epoch 4"
    result = json.loads((folder / "result.json").read_text())
    baseline = result["metrics"]["validation_mAP_baseline"]
    assert result["metrics"]["validation_mAP"] > baseline == trials[0]["score"]
    assert len(list((folder / "trials").glob("*/result.json"))) == 6
    assert (folder / "test" / "result.json").exists()
