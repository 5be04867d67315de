"""``python -m tests.fuzz``: as many cases as asked, and a table of what they found."""

import argparse
import sys

from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import plan, run


def main():
    """Exit code 1 where any case found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[], choices=list(KINDS))
    parser.add_argument("--only", type=int, help="with --kind: this case alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--world", help="a folder made before, to spare making it")
    parser.add_argument("--keep", action="store_true", help="keep each case's folder")
    options = parser.parse_args()
    tasks = plan(options.cases, options.kind)
    if options.only is not None:
        tasks = [(options.kind[0], options.only)]
    report = run(
        tasks, seed=options.seed, workers=options.workers, world=options.world, keep=options.keep
    )
    sys.stdout.write(report.text() + "\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
