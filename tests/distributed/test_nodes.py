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

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]
LIMIT_S = 1400
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """As few as a calibration can be fitted on."""
    folder = tmp_path_factory.mktemp("animals") / "synthetic"
    write_dataset(folder, identities=5, images_per_identity=5, seed=1)
    return folder


def _run(script, *arguments, folder, environment=()):
    """What a script printed, line by line, and the end of what it said of itself."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "RAY_USAGE_STATS_ENABLED": "0",
            mirror.FOLDER_VARIABLE: str(folder / "mirrors"),
            **dict(environment),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.stdout.splitlines(), f"exit code {done.returncode}: {done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    return _run("two_nodes.py", folder=tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three_nodes(animals, tmp_path_factory):
    """Also the names of all files that were written to the bucket."""
    with s3_server() as environment:
        system = fsspec.filesystem("s3", use_listings_cache=False)
        system.put(f"{animals}/", "my-bucket/animals/", recursive=True)
        folder = tmp_path_factory.mktemp("three")
        arguments = ("three_nodes.py", animals, "s3://my-bucket")
        said = _run(*arguments, folder=folder, environment=environment)
        return *said, system.find("my-bucket")


@pytest.mark.parametrize(
    "line",
    ["the node that joined was used", "all GPUs placed", "identical after losing a node"],
)
def test_a_node_comes_its_gpus_are_given_and_it_goes(two_nodes, line):
    printed, error = two_nodes
    assert line in printed, error


@pytest.mark.parametrize("pipeline", ["cosine", "wildfusion", "finetune", "tune"])
def test_three_nodes_and_a_bucket_give_the_numbers_of_one(three_nodes, pipeline):
    printed, error, files = three_nodes
    assert f"{pipeline}: the numbers of one node" in printed, error
    written = [file for file in files if file.startswith(f"my-bucket/{pipeline}/")]
    # A sweep writes its own, those of two trials, and that of the best one's test.
    runs = 4 if pipeline == "tune" else 1
    assert sum(file.endswith("/result.json") for file in written) == runs
    assert not any(".ray_train" in file for file in written), "Ray's own state is gone"


@pytest.mark.parametrize("pipeline", ["local_lightglue", "finetune", "tune"])
def test_a_node_that_is_lost_costs_its_work_only(three_nodes, pipeline):
    printed, error, _ = three_nodes
    assert f"{pipeline}: the numbers of one node, though another was lost" in printed, error


def test_images_are_decoded_on_the_cpus_of_other_nodes_in_their_order(three_nodes):
    printed, error, _ = three_nodes
    assert "streamed on its own CPU, and on two others" in printed, error
