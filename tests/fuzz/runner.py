"""Cases shared out to worker processes, which may die or hang without ending the whole."""

import json
import os
import queue
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.kinds import KINDS

CASE_S = 180
"""After so long a case counts as hanging; on a busy machine a worker imports for a minute first."""
MEMORY_BYTES = 12 * 2**30


@dataclass
class Report:
    """What was tried and what was found."""

    cases: Counter = field(default_factory=Counter)
    faults: list = field(default_factory=list)
    seconds: Counter = field(default_factory=Counter)

    def text(self):
        """A table by kind, then each different fault with how to see it again."""
        bad = Counter(kind for kind, *_ in self.faults)
        lines = [f"{'kind':<14}{'cases':>7}{'faults':>8}{'s/case':>8}"]
        for kind, count in sorted(self.cases.items()):
            each = self.seconds[kind] / count
            lines.append(f"{kind:<14}{count:>7}{bad[kind]:>8}{each:>8.3f}")
        silent = sum("silent" in line or "accounting" in line for _, _, _, line in self.faults)
        lines.append(
            f"{sum(self.cases.values())} cases; {len(self.faults)} faults, {silent} of them silent"
        )
        groups = {}
        for kind, seed, number, line in self.faults:
            groups.setdefault((kind, line[:110]), []).append((seed, number, line))
        for (kind, _), found in sorted(groups.items(), key=lambda item: -len(item[1])):
            seed, number, line = found[0]
            lines.append(f"{len(found):>5} {kind} --seed {seed} --only {number}: {line}")
        return "\n".join(lines)


def plan(cases, only_kinds=()):
    """(kind, number) of all cases, shared out by the kinds' shares."""
    kinds = {
        kind: share for kind, (_, share) in KINDS.items() if not only_kinds or kind in only_kinds
    }
    total = sum(kinds.values())
    tasks = [
        (kind, number)
        for kind, share in kinds.items()
        for number in range(max(1, round(cases * share / total)))
    ]
    random.Random(0).shuffle(tasks)  # so that no worker is left with all slow ones
    return tasks


def run(tasks, *, seed=0, workers=2, world=None, deadline_s=None, keep=False):
    """Run the cases; those that do not come to an end by the deadline are not counted."""
    report, lock, waiting = Report(), threading.Lock(), queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    end = time.monotonic() + deadline_s if deadline_s else None
    folder = Path(tempfile.mkdtemp(prefix="exreid-fuzz-"))
    if world is None:
        world = folder / "world"
        make = f"from tests.fuzz.world import make_world; make_world({str(world)!r})"
        subprocess.run([sys.executable, "-c", make], check=True, env=_environment())

    def work(number):
        worker = None
        while end is None or time.monotonic() < end:
            try:
                kind, case = waiting.get_nowait()
            except queue.Empty:
                break
            worker = worker or _Worker(world, folder / f"w{number}", keep)
            began = time.monotonic()
            found = worker.case(kind, seed, case)
            with lock:
                report.cases[kind] += 1
                report.seconds[kind] += time.monotonic() - began
                report.faults += [(kind, seed, case, line) for line in found]
            if worker.process.poll() is not None:
                worker = None
        if worker:
            worker.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:  # what was tried is told
        while not waiting.empty():
            waiting.get_nowait()
        for thread in threads:
            thread.join()
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return report


class _Worker:
    """A process that runs cases, one after the other."""

    def __init__(self, world, folder, keep):
        words = [sys.executable, "-m", "tests.fuzz.worker", str(world), str(folder), str(int(keep))]
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=_environment(),
        )
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.process.stdout, selectors.EVENT_READ)

    def case(self, kind, seed, number):
        """Its faults; the end of the process is one."""
        self.process.stdin.write(json.dumps([kind, seed, number]).encode() + b"\n")
        self.process.stdin.flush()
        if not self.ready.select(CASE_S):
            self.process.kill()
            self.process.wait()
            return [f"hangs for {CASE_S} s"]
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()[-1:]
            return [f"process died, exit {code} {' '.join(last)[:200]}"]
        return json.loads(line)

    def close(self):
        """Let the process end."""
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _environment():
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {
        name: text for name, text in os.environ.items() if not name.startswith(("RAY_", "WANDB"))
    }
    return {
        **kept,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
    }
