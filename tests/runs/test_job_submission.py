"""`ray job submit -- python jobs/*.py`, against a Ray head that was started for it."""

import json

import pytest

from tests.ray_head import JOB_S, START_S, ray_head


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with ray_head(tmp_path_factory.mktemp("head")) as head:
        yield head


@pytest.mark.timeout(START_S + 2 * JOB_S)
def test_a_submitted_probe_and_its_exit_codes(head, dataset, tmp_path):
    arguments = [
        "--config",
        "configs/probe.yaml",
        f"dataset.root={dataset}",
        f"output.root={tmp_path}",
        "output.run_id=submitted",
        "dataset.image_size=64",
        "benchmark.bootstrap_resamples=0",
    ]
    done = head.submit("python", "jobs/probe.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "benchmark_runs/submitted/result.json").read_text())
    assert result["status"] == "completed"
    assert result["counts"]["images_extracted"] == 36
    assert "top_1" in done.stdout
    wrong = head.submit("python", "jobs/probe.py", "dataset.rot=x")
    assert wrong.returncode != 0
    assert "dataset.root" in wrong.stdout + wrong.stderr


@pytest.mark.slow
@pytest.mark.timeout(START_S + 2 * JOB_S)
@pytest.mark.parametrize("command", ["finetune", "tune"])
def test_a_submitted_training_and_sweep_and_their_exit_codes(head, dataset, tmp_path, command):
    arguments = ["--config", f"configs/{command}.yaml", f"dataset.root={dataset}"]
    arguments += [f"output.root={tmp_path}", "output.run_id=submitted", "dataset.image_size=64"]
    arguments += ["model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"]
    arguments += ["train.epochs=2", "validation.source=encounters", "validation.fraction=0.4"]
    space = "tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}}"
    arguments += [space, "tune.num_samples=2"] if command == "tune" else ["ray.num_workers=2"]
    done = head.submit("python", f"jobs/{command}.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / {"finetune": "results", "tune": "sweeps"}[command] / "submitted"
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed"
    if command == "finetune":
        assert result["counts"]["epochs"] == 2
    else:
        trials = sorted(file.parent.name for file in folder.glob("trials/*/result.json"))
        assert trials == ["000", "001"]
        assert (folder / "best.yaml").exists()
    wrong = head.submit("python", f"jobs/{command}.py", "train.epoch=2")
    assert wrong.returncode != 0
    assert "train.epochs" in wrong.stdout + wrong.stderr
