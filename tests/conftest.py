"""What many tests share: a small real data set on disk, and one Ray for the whole run."""

import os

import pytest

# Threads that wait for each other by spinning stand still on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Six synthetic animals, six photographs each, in the CzechLynx layout."""
    from exreid.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("data") / "synthetic"
    write_dataset(folder, identities=6, images_per_identity=6, seed=1)
    return folder


@pytest.fixture(scope="session")
def local_ray():
    """One Ray on this machine, with more CPUs than it has so that three actors fit."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        object_store_memory=300 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
