"""What exreid gives and takes on a GPU: a CPU's numbers, and how near it comes to the limits.

Three parts, one table. *Correct*: keypoints, match counts, embeddings, rankings, trainings and
probes on the GPU beside those of the CPU of the same machine. *Fast*: LightGlue, extraction,
backbones and training by themselves, as shares of what the card reaches in one large matrix product
in the same run, and beside the published LightGlue. *End to end*: pairs and trainings through Ray,
features coming from the cache. Photographs are drawn, large backbones have random weights: nothing
is downloaded.

All of it shares one Ray and `--minutes`: what would not end within them is left out, and the table
says so. Without a GPU the same runs on the CPU, with small sizes: that is this script's own test.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from _gpu_correct import (
    embeddings_agree,
    index_agrees,
    keypoints_agree,
    matches_agree,
    ranking_agrees,
)
from _gpu_fast import (
    backbones,
    extraction,
    fast_cascade,
    lightglue,
    peaks,
    published,
)
from _gpu_memory import too_little_memory
from _gpu_through_ray import pairs_through_ray, runs_agree, trainings_through_ray
from _gpu_world import Bench
from _report import Report

from exreid.distributed.session import one_ray

SECTIONS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "peaks": (peaks, 5),
    "keypoints": (keypoints_agree, 15),
    "matches": (matches_agree, 40),
    "index": (index_agrees, 10),
    "embeddings": (embeddings_agree, 10),
    "ranking": (ranking_agrees, 20),
    "runs": (runs_agree, 100),
    "pairs": (pairs_through_ray, 60),
    "trainings": (trainings_through_ray, 90),
    "cascade": (fast_cascade, 60),
    "extraction": (extraction, 15),
    "memory": (too_little_memory, 15),
    "backbones": (backbones, 25),
    "lightglue": (lightglue, 90),
    "published": (published, 15),
}
"""Each part, and the seconds that a card is expected to take for it: what is right first, then what
goes through Ray."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="for all parts together (default 8)"
    )
    return parser.parse_args()


def measure(bench: Bench, section: str) -> None:
    """One part, where there is time for it; one that fails is told, and the others go on."""
    work, expected_s = SECTIONS[section]
    if not bench.has_time(section, expected_s):
        return
    start = time.perf_counter()
    try:
        work(bench)
    except Exception:  # noqa: BLE001 - the other parts are worth having
        traceback.print_exc()
        bench.report.add(f"{section}: FAILED, see above", 0.0, "")
    print(f"-- {section}: {time.perf_counter() - start:.1f} s", flush=True)
    if bench.cuda:
        torch.cuda.empty_cache()


def main() -> None:
    """Measure part after part."""
    options = arguments()
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    if options.device == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} CPU threads"
    report = Report(f"exreid on {name}, torch {torch.__version__}", as_it_goes=options.json)
    ends_s = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, one_ray():
        quick = options.quick or not cuda
        bench = Bench(report, device, Path(folder), quick=quick, ends_s=ends_s)
        for section in options.only:
            measure(bench, section)
    report.show(options.json)
    failed = [row["name"] for row in report.rows if "FAILED" in str(row["name"])]
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
