"""Several nodes: the numbers of one, whichever comes or goes, and no disk that they share."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from exreid.data.synthetic import write_dataset
from exreid.storage import mirror
from tests.s3 import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
LIMIT_S = 1400
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """As few as a calibration can be fitted on."""
    folder = tmp_path_factory.mktemp("animals") / "synthetic"
    write_dataset(folder, identities=5, images_per_identity=5, seed=1)
    return folder


def _run(script, *arguments, folder, environment=()):
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            mirror.FOLDER_VARIABLE: str(folder / "mirrors"),
            **dict(environment),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_node_that_joins_is_used(tmp_path):
    assert "the node that joined was used" in _run("join_a_node.py", folder=tmp_path)


@pytest.mark.parametrize(
    "pipeline", ["cosine", "local_lightglue", "wildfusion", "finetune", "tune"]
)
def test_three_nodes_and_a_bucket_give_the_numbers_of_one(animals, tmp_path, pipeline):
    with s3_server() as environment:
        system = fsspec.filesystem("s3", use_listings_cache=False)
        system.put(f"{animals}/", "my-bucket/animals/", recursive=True)
        out = f"s3://my-bucket/{pipeline}"
        printed = _run(
            "three_nodes.py", pipeline, animals, out, folder=tmp_path, environment=environment
        )
        written = system.find(out)
    # A cosine probe sends what it reads and finds through Ray alone.
    copies = any(any((tmp_path / f"node{i}").rglob("*")) for i in range(3))
    assert copies == (pipeline != "cosine"), "nodes keep copies of their own"
    assert f"{pipeline}: the numbers of one node" in printed
    # A sweep writes its own, those of four trials, and that of the best one's test.
    runs = 6 if pipeline == "tune" else 1
    assert sum(file.endswith("/result.json") for file in written) == runs
    assert not any(".ray_train" in file for file in written), "Ray's own state is gone"


@pytest.mark.parametrize("pipeline", ["local_lightglue", "finetune", "tune"])
def test_a_node_that_is_lost_costs_its_work_only(animals, tmp_path, pipeline):
    printed = _run("three_nodes.py", pipeline, animals, tmp_path / "out", "lose", folder=tmp_path)
    assert f"{pipeline}: the numbers of one node" in printed


def test_images_are_decoded_on_the_cpus_of_other_nodes_in_their_order(animals, tmp_path):
    assert "on two others in" in _run(
        "stream_over_nodes.py", animals, tmp_path, "0.05", folder=tmp_path
    )
