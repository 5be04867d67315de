"""``python -m tests.chaos``: as many kills as asked, and what came of them."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.kills import plan, run
from tests.chaos.scenes import SCENES, World, make_world


def main():
    """Exit code 1 where any run was not as a quiet one."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--disks", type=int, help="as many full disks; a fifth of the kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scene", action="append", default=[], choices=list(SCENES))
    parser.add_argument("--only", type=int, help="with --scene: this kill alone")
    parser.add_argument("--world", type=Path, help="a folder made before, to spare making it")
    parser.add_argument("--keep", action="store_true", help="keep each run's folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no disk stays mounted
    folder = Path(tempfile.mkdtemp(prefix="exreid-chaos-"))
    world = World(options.world) if options.world else make_world(folder / "world")
    tasks = plan(options.kills, options.scene)
    if options.only is not None:
        tasks = [(options.scene[0], options.only)]

    def say(line):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    how = {"seed": options.seed, "keep": options.keep, "say": say}
    report = run(tasks, world, folder, **how)
    say(report.text())
    disks = options.kills // 5 if options.disks is None else options.disks
    try:
        full = run(
            plan(disks, options.scene, disks=True), world, folder / "disks", disks=True, **how
        )
    except OSError as error:
        say(f"no full disks: {error}")
        return 1 if report.faults else 0
    say(full.text())
    return 1 if report.faults or full.faults else 0


if __name__ == "__main__":
    sys.exit(main())
