"""Runs cases in one process: a line of JSON in for each, a line out."""

import json
import os
import random
import resource
import shutil
import sys
import warnings
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.outcome import where
from tests.fuzz.runner import MEMORY_BYTES
from tests.fuzz.world import World


def main():
    """Until stdin ends."""
    world, folder, keep = World(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3] == "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        kind, seed, number = json.loads(line)
        place = folder / f"{kind}-{number}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        os.chdir(place)
        found = one(kind, seed, number, world, place)
        answers.write(json.dumps(found) + "\n")
        answers.flush()
        os.chdir(folder)
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def one(kind, seed, number, world, place):
    """The faults of one case; an error of the case itself is one too."""
    import traceback

    try:
        return KINDS[kind][0](world, random.Random(f"{seed} {kind} {number}"), place)
    except Exception:  # noqa: BLE001 - reported
        trace = traceback.format_exc()
        return [f"the case itself: {where(trace)} {trace.strip().splitlines()[-3].strip()}"]


if __name__ == "__main__":
    main()
