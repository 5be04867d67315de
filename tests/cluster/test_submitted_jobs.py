"""`ray job submit` to a local head: jobs/*.py, and the command lines of cluster/ as written.

Those work against a local bucket.
"""

import json
import re
import shlex
from pathlib import Path

import fsspec
import pytest
import yaml

from exreid.data.synthetic import write_dataset
from exreid.storage import mirror
from tests.ray_head import ray_head
from tests.s3 import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]
CLUSTER = Path(__file__).parents[2] / "cluster"
QUICK = ["dataset.image_size=64", "benchmark.local_size=128", "benchmark.local_top_k=64"]
"""Appended to the commands: smaller images. The README's takes as many actors as fit."""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A small data set where the commands look for one."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, identities=2, images_per_identity=3, seed=1)
    with s3_server() as environment:
        system = fsspec.filesystem("s3", use_listings_cache=False)
        system.put(f"{folder}/", "my-bucket/czechlynx/", recursive=True)
        yield system, environment


@pytest.fixture(scope="module")
def head(bucket, tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    environment = {**bucket[1], mirror.FOLDER_VARIABLE: str(folder / "mirrors")}
    with ray_head(folder, environment) as head:
        yield head


def _completed(system, command, head, parent):
    before = set(system.find(f"my-bucket/runs/{parent}"))
    done = head.submit(*shlex.split(command), *QUICK)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "Written to s3://my-bucket/runs/" in done.stdout
    new = set(system.find(f"my-bucket/runs/{parent}")) - before
    (result,) = [file for file in new if file.endswith("/result.json")]
    return json.loads(system.cat(result))


def test_the_rayjobs_entrypoint(bucket, head):
    manifest = yaml.safe_load((CLUSTER / "kuberay-job.yaml").read_text())
    command = f"{manifest['spec']['entrypoint']} ray.num_actors=1"
    result = _completed(bucket[0], command, head, "benchmark_runs")
    assert result["status"] == "completed"
    assert result["method"] == "local_lightglue"
    assert result["counts"]["pairs_matched"] > 0
    assert bucket[0].find("my-bucket/runs/.exreid_cache/pairs")


def test_the_readmes_first_probe(bucket, head):
    text = (CLUSTER / "README.md").read_text()
    command = re.findall(r"^ray job submit --working-dir \. -- (.*)$", text, re.M)[0]
    result = _completed(bucket[0], command, head, "benchmark_runs")
    assert (result["status"], result["method"]) == ("completed", "cosine")


def test_a_usage_that_is_wrong_is_said_and_fails_the_job(head):
    wrong = head.submit("python", "jobs/tune.py", "dataset.rot=x")
    assert wrong.returncode != 0
    assert "dataset.root" in wrong.stdout + wrong.stderr


def test_a_submitted_training(head, few, tmp_path):
    arguments = ["--config", "configs/finetune.yaml", f"dataset.root={few}", "ray.num_workers=1"]
    arguments += [f"output.root={tmp_path}", "output.run_id=submitted", "dataset.image_size=64"]
    arguments += ["model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"]
    arguments += ["train.epochs=2", "validation.source=encounters", "validation.fraction=0.4"]
    done = head.submit("python", "jobs/finetune.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "results" / "submitted" / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["counts"]["epochs"] == 2
