"""Published figures of a public data set beside exreid's, on the files at hand.

The methods of the set's published table that exreid has run with the nearest equal settings, on the
split that the table is of; `exreid datasets NAME` says where the set is had. Below the table are
what a probe of exreid does in another way, and the figures of methods that exreid does not have.
Without --root, generated animals in the layout of CzechLynx show how it works, with small weights:
their figures say nothing about the published ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from _anchors import anchors, show
from _report import Report

from exreid.config.public import public_set
from exreid.data.synthetic import write_dataset

GENERATED = ("model.type=efficientnet-lite0", "benchmark.candidate_k=10", "ray.num_actors=0")
"""What a run on generated animals changes, so that nothing is downloaded and it ends soon."""


def main() -> None:
    """Run the methods, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="dataset.root; default: generated animals")
    parser.add_argument("--preset", default="czechlynx-v2", help="a name of exreid datasets")
    parser.add_argument("--out", help="where runs and caches go; default: thrown away")
    parser.add_argument("--methods", nargs="+", default=[], help="only these benchmark.method")
    parser.add_argument("--quick", action="store_true", help="cosine alone")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("overrides", nargs="*", help="keys of the probes, such as ray.address=auto")
    options = parser.parse_intermixed_args()
    methods = ["cosine"] if options.quick else options.methods
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root, overrides = options.root, options.overrides
        if root is None:
            options.preset, overrides = "czechlynx-v2", [*GENERATED, *overrides]
            root = str(folder / "animals")
            write_dataset(Path(root), identities=8, images_per_identity=6, seed=4)
        out = options.out or str(folder / "runs")
        rows = anchors(options.preset, root, out, methods=methods, overrides=overrides)
    show(rows, public_set(options.preset).published, changed=overrides)
    if options.json is not None:
        report = Report("anchors")
        for row in rows:
            report.add(
                f"{row.method}: {row.metric}",
                100 * row.ours,
                "%",
                f"published {100 * row.published:.1f} %",
                row.ours / row.published,
                interval=row.interval and (100 * row.interval[0], 100 * row.interval[1]),
            )
        report.write(options.json)


if __name__ == "__main__":
    main()
