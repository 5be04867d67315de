"""What exreid gives and takes on a GPU: a CPU's numbers, and how near it comes to the limits.

Three parts, one table. *Correct*: keypoints, match counts, embeddings, trainings and probes on the
GPU beside those of the CPU of the same machine. *Fast*: LightGlue, extraction, backbones and
training by themselves, as shares of what the card reaches in one large matrix product in the same
run, and beside the published LightGlue. *End to end*: pairs and trainings through Ray, features
coming from the cache. Photographs are drawn, large backbones have random weights: nothing is
downloaded.

Without a GPU the same runs on the CPU, with small sizes: that is this script's own test.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from _gpu_correct import embeddings_agree, index_agrees, keypoints_agree, matches_agree, runs_agree
from _gpu_fast import (
    backbones,
    extraction,
    fast_cascade,
    lightglue,
    peaks,
    published,
    too_little_memory,
    training,
)
from _gpu_through_ray import pairs_through_ray, training_through_ray
from _gpu_world import Bench
from _report import Report

SECTIONS: dict[str, Callable[[Bench], None]] = {
    "peaks": peaks,
    "keypoints": keypoints_agree,
    "matches": matches_agree,
    "index": index_agrees,
    "embeddings": embeddings_agree,
    "lightglue": lightglue,
    "published": published,
    "cascade": fast_cascade,
    "memory": too_little_memory,
    "extraction": extraction,
    "backbones": backbones,
    "training": training,
    "pairs": pairs_through_ray,
    "trainings": training_through_ray,
    "runs": runs_agree,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    return parser.parse_args()


def main() -> None:
    """Measure part after part; a part that fails is told, and the others go on."""
    options = arguments()
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    if options.device == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} CPU threads"
    report = Report(f"exreid on {name}, torch {torch.__version__}", as_it_goes=options.json)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(report, device, Path(folder), quick=options.quick or not cuda)
        for section in options.only:
            start = time.perf_counter()
            try:
                SECTIONS[section](bench)
            except Exception:  # noqa: BLE001 - the other parts are worth having
                traceback.print_exc()
                report.add(f"{section}: FAILED, see above", 0.0, "")
            print(f"-- {section}: {time.perf_counter() - start:.1f} s", flush=True)
            if cuda:
                torch.cuda.empty_cache()
    report.show(options.json)
    failed = [row["name"] for row in report.rows if "FAILED" in str(row["name"])]
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
