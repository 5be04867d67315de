"""`ray job submit -- python jobs/probe.py`, against a Ray head that was started for it."""

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
