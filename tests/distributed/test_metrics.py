"""Ray's own endpoint says how far a run is."""

import time
import urllib.request
from contextlib import suppress

from exreid.distributed import metrics
from exreid.distributed.metrics import count_lost, with_metrics
from exreid.progress import no_progress

STAGE, LOST = "A stage of this test", "work of this test"  # the Ray is that of other tests too


def _exported():
    """What Prometheus would read of exreid's metrics, by name and the tag's value."""
    import ray

    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    lines = urllib.request.urlopen(address, timeout=10).read().decode().splitlines()
    ours = [line for line in lines if line.startswith("ray_exreid_")]
    return {
        (line.partition("{")[0], tag): float(line.rpartition(" ")[2])
        for line in ours
        for tag in (STAGE, LOST)
        if f'="{tag}"' in line
    }


def test_a_run_without_ray_counts_for_nobody(monkeypatch):
    monkeypatch.setattr(metrics, "_ray_runs", lambda: False)
    seen = []
    with_metrics(lambda stage, total: lambda count: seen.append((stage, total, count)))("a", 3)(2)
    count_lost(LOST)
    assert seen == [("a", 3, 2)]


def test_done_left_and_lost_are_exported(local_ray):
    count = with_metrics(no_progress)(STAGE, 10)
    count(4)
    count(3)
    count_lost(LOST, 2)
    wanted = {
        ("ray_exreid_done_total", STAGE): 7.0,
        ("ray_exreid_left", STAGE): 3.0,
        ("ray_exreid_lost_total", LOST): 2.0,
    }
    deadline_s, found = time.monotonic() + 90, {}
    while found != wanted and time.monotonic() < deadline_s:
        with suppress(OSError):  # Ray's endpoint may start after the first task
            found |= _exported()
        time.sleep(1)
    assert found == wanted
