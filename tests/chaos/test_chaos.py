"""Twelve runs killed at random moments, and two full disks; `make chaos` tries more."""

import pytest

from tests.chaos.kills import mounted, run
from tests.chaos.scenes import make_world

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]
IN_PROCESS = ("local", "finetune", "build", "add", "identify", "extract", "report", "cosine")
KILLS = [*((scene, 0) for scene in IN_PROCESS), *(("ray-local", n) for n in (1, 4, 6, 33))]
"""Scene and number. The last ones lose an actor, the driver, the head and the raylet; the others
the process itself."""
DISKS = [("local", 0), ("add", 0)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def quiet_runs():
    """Of both tests, by scene."""
    return {}


def test_a_killed_run_that_is_run_again_has_the_numbers_of_a_quiet_one(world, quiet_runs, tmp_path):
    report = run(KILLS, world, tmp_path, quiet_runs=quiet_runs)
    assert not report.faults, report.text()
    assert report.equal == len(KILLS)
    assert report.late < len(KILLS), "no run was killed"
    assert report.kills["ray-local: driver with a Ray"] == 1, "its words were not looked at"


def test_a_full_disk_is_said_and_the_run_goes_on_where_there_is_room_again(
    world, quiet_runs, tmp_path
):
    probe = tmp_path / "mount"
    probe.mkdir()
    try:
        with mounted(probe, 1):
            pass
    except OSError as error:
        pytest.skip(f"no file system of a test's own: {error}")
    report = run(DISKS, world, tmp_path, disks=True, quiet_runs=quiet_runs)
    assert not report.faults, report.text()
