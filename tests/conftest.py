"""What many tests share: a small real data set on disk, and one Ray for the whole run."""

import gc
import os
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

# One thread in each process: several processes share the CPUs, and the last bits of a sum depend on
# the number of threads. Threads that wait for each other by spinning stand still on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray's workers stand back from other processes by default: here those are other tests.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray's own 30 s are too few beside other work.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# One process fewer for each training; those of `test_long_runs.py` have it.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Six synthetic animals, six photographs each, in the CzechLynx layout."""
    from exreid.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("data") / "synthetic"
    write_dataset(folder, identities=6, images_per_identity=6, seed=1)
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """Four animals, four photographs each: 39 pairs of a query and a gallery image."""
    from exreid.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("few") / "synthetic"
    write_dataset(folder, identities=4, images_per_identity=4, seed=1)
    return folder


@pytest.fixture
def impatient_hub(monkeypatch):
    """The hub's client asks a network that does not answer five times more, and this does not wait
    23 s for it."""
    clock = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)


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


# Under xdist (`make test`) the tests of a file share a process with its fixtures, and all files
# that use `local_ray` share one, so that there is one such Ray. These come first, and then the slow
# ones, the longest first: what is left at the end is short.
LONGEST = ("test_chaos", "test_nodes", "test_notebook", "test_long_runs", "test_submitted_jobs")
"""A process with two tests left is given another file: the short one waits behind the first."""
WITH_RAY = ("gw0", "gw1")
"""Three Rays that start at once on two cores can fail: other processes have files without Ray, and
the cores while those wait."""
STANDS_BACK = 5
"""Added to the niceness of the other processes: what has Ray takes longest, and goes first."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "ray" if _uses_ray(config.rootpath / file) else file

        def _assign_work_unit(self, node):
            scope = self._next_for(node)
            if scope is not None:
                self.workqueue.move_to_end(scope, last=False)
                super()._assign_work_unit(node)

        def _reschedule(self, node):
            if self.workqueue and self._next_for(node) is None and not node.shutting_down:
                node.shutdown()
            super()._reschedule(node)

        def _next_for(self, node):
            every = node.gateway.id in WITH_RAY
            return next((s for s in self.workqueue if every or not self._has_ray(s)), None)

        def _has_ray(self, scope):
            return scope == "ray" or _starts_rays(config.rootpath / scope)

    return ByFile(config, log)


def pytest_configure():
    gc.disable()  # until all is imported, which is never freed
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") not in WITH_RAY:
        os.nice(STANDS_BACK)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_place)


def _place(item):
    if _uses_ray(item.path):
        return 0
    if item.get_closest_marker("slow") is None:
        # Files without Ray come last: all processes can share those.
        return len(LONGEST) + (1 if _starts_rays(item.path) else 2)
    return 1 + (LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def _uses_ray(file):
    return "local_ray" in _text(file)


def _starts_rays(file):
    return "mark.ray" in _text(file)


@cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
