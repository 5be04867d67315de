"""Starting a command, killing one of its processes at a random moment, and running it again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.chaos.forked import Forked, start_server
from tests.chaos.scenes import IN_PROCESS, SCENES

ROOT = Path(__file__).parents[2]
MARK = "EXREID_CHAOS"
END_S = 400
"""After so long a command that lost a process must have ended, or gone on to its end."""
LEFT_S = 60
"""After so long nothing that a killed command started may be there any more."""
WORDLESS = ("Traceback (most recent", "object at 0x")


def _environment():
    kept = {n: t for n, t in os.environ.items() if not n.startswith(("RAY_", "WANDB"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@cache
def _forks(hash_seed):
    return start_server({**_environment(), "PYTHONHASHSEED": str(hash_seed)})


def start(arguments, folder, mark="", *, ray=False, hash_seed=1):
    """``exreid ARGUMENTS`` in a session of its own; all that it starts carries the mark."""
    if not ray:
        return Forked(_forks(hash_seed), arguments, folder, {MARK: mark})
    return subprocess.Popen(
        [sys.executable, "-m", "exreid.cli", *map(str, arguments)],
        env={**_environment(), MARK: mark},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def quiet(arguments, folder, *, ray=False):
    """A run that nothing disturbs; how long it took. Sets have another order than in other runs."""
    _forks(2)
    began = time.monotonic()
    process = start(arguments, folder, ray=ray, hash_seed=2)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, (arguments, said)
    return time.monotonic() - began


def marked(mark, session):
    """Command lines, by process id, of all that was started with this mark or in this session."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            own = int((file.parent / "stat").read_text().rpartition(")")[2].split()[3])
            if own == session or f"{MARK}={mark}".encode() in file.read_bytes():
                words = (file.parent / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(file.parent.name)] = words.decode(errors="replace").strip()
        except OSError:
            continue
    return {pid: words for pid, words in found.items() if words}  # an ended one has none


@dataclass
class Report:
    """What was killed, and what came of it."""

    kills: Counter = field(default_factory=Counter)
    equal: int = 0
    late: int = 0
    """The run was over before the kill came."""
    faults: list = field(default_factory=list)

    def text(self):
        """Counts, and each fault with how to see it again."""
        total = sum(self.kills.values())
        lines = [f"{what:<24}{count:>5}" for what, count in sorted(self.kills.items())]
        lines.append(
            f"{total} kills, {self.equal} runs with equal numbers afterwards, "
            f"{self.late} were over before; {len(self.faults)} faults"
        )
        return "\n".join(lines + self.faults)


def plan(kills, only=(), *, disks=False):
    """(scene, number) of each kill, or of each full disk, by the scenes' shares."""
    names = [name for name, scene in SCENES.items() for _ in range(scene.share)]
    names = [name for name in names if not only or name in only]
    names = [name for name in names if not (disks and SCENES[name].ray)]
    random.Random(0).shuffle(names)
    counted, tasks = Counter(), []
    for i in range(kills):
        name = names[i % len(names)]
        tasks.append((name, counted[name]))
        counted[name] += 1
    return tasks


def run(
    tasks, world, folder, *, seed=0, disks=False, quiet_runs=None, keep=False, say=lambda line: None
):
    """Kill, or fill the disk, and run again; ``quiet_runs``, by scene, are made where missing."""
    report = Report()
    quiet_runs = {} if quiet_runs is None else quiet_runs
    for name, number in tasks:
        scene, place = SCENES[name], folder / f"{name}-{number}"
        like = scene.like or name
        if like not in quiet_runs:
            quiet_runs[like] = _quiet_run(SCENES[like], world, folder / f"{like}-quiet")
        place.mkdir(parents=True)
        rng = random.Random(f"{seed} {name} {number}")
        one = _full_disk if disks else _one
        target, found, late = one(scene, world, place, rng, quiet_runs[like])
        report.kills[f"{name}: {target}"] += 1
        report.late += late
        report.equal += not found
        report.faults += [f"--scene {name} --seed {seed} --only {number}: {f}" for f in found]
        say(f"{name} {number} {target}: {'; '.join(found) or ('over before' if late else 'equal')}")
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    return report


def _quiet_run(scene, world, folder):
    folder.mkdir(parents=True)
    scene.prepare(world, folder)
    before = _bytes_in(folder)
    seconds = quiet(scene.command(world, folder), folder, ray=scene.ray)
    return seconds, scene.result(folder), _bytes_in(folder) - before


def _bytes_in(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def mounted(folder, megabytes=256):
    """A file system of its own in the folder; OSError where this user may not mount."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.decode().strip() or "this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _full_disk(scene, world, folder, rng, quiet_run):
    """As `_one`, with a disk that has room for a part of the run alone."""
    _, wanted, needed = quiet_run
    with mounted(folder):
        scene.prepare(world, folder)
        ballast = folder / "ballast"
        free = shutil.disk_usage(folder).free
        ballast.write_bytes(bytes(int(free - rng.uniform(0, 0.9) * needed)))
        arguments = scene.command(world, folder)
        process = start(arguments, folder)
        try:
            _, said = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return "disk", ["hangs on a full disk"], False
        found = _wordless(said)
        if process.returncode not in (0, 1):
            found.append(f"exit code {process.returncode} on a full disk: {said[-300:]!r}")
        if process.returncode == 1 and "full" not in said:
            found.append(f"does not say that the disk is full: {said[-300:]!r}")
        ballast.unlink()
        found += scene.check(folder)
        if process.returncode != 0:
            found += _again(arguments, folder, ray=scene.ray)
        found += _compared(scene, folder, wanted)
        return "disk", found, process.returncode == 0


def _one(scene, world, folder, rng, quiet_run):
    """(what was killed, what is wrong, whether the run was over before)."""
    seconds, wanted = quiet_run[0] * scene.times, quiet_run[1]
    scene.prepare(world, folder)
    arguments, mark = scene.command(world, folder), uuid.uuid4().hex
    target = rng.choice(("driver", "actor", "actor", "raylet", "head")) if scene.ray else "driver"
    here = scene.like and rng.random() < 0.5
    process = start(arguments, folder, mark, ray=scene.ray)
    found = []
    try:
        hit, ray_is_up = _kill(process, mark, target, rng, seconds, with_ray=scene.ray)
        try:
            _, said = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            found.append(f"hangs: not at its end {END_S} s after the {target} was killed")
        found += _wordless(said) if target != "driver" else []
        if process.returncode == 1 and not said.strip():
            found.append("ended with exit code 1 and without a word")
        found += _left_behind(mark, process.pid)
        if target == "driver" and ray_is_up and process.returncode == -signal.SIGKILL:
            target = "driver with a Ray"
            found += _not_told(said, folder)
    finally:
        for pid in marked(mark, process.pid):
            _signal(pid)
    found += scene.check(folder)
    if process.returncode != 0 and here:
        found += _again([*arguments, IN_PROCESS], folder, ray=False)
    elif process.returncode != 0:
        found += _again(arguments, folder, ray=scene.ray)
    found += _compared(scene, folder, wanted)
    return target, found, not hit


def _kill(process, mark, target, rng, seconds, *, with_ray):
    """Wait for the moment, then kill the target; whether there was one, and whether Ray was up."""
    # How long Ray takes to start depends on what else the machine does: half of the drivers over
    # Ray are killed some time after that.
    if target == "driver" and not (with_ray and rng.random() < 0.5):
        moment = rng.uniform(0.15, 1.0) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            there = marked(mark, process.pid).values()
            process.kill()
            return True, any(_is(words, "raylet") for words in there)
        return False, False
    names = {"actor": "ray::", "raylet": "raylet", "head": "gcs_server", "driver": "raylet"}
    delay = rng.uniform(0, 0.5) * seconds
    seen = None
    while process.poll() is None:
        pids = [
            pid for pid, words in marked(mark, process.pid).items() if _is(words, names[target])
        ]
        if pids and seen is None:
            seen = time.monotonic()
        if pids and time.monotonic() - seen >= delay:
            if target == "driver":
                process.kill()
                return True, True
            return _signal(rng.choice(sorted(pids))), True
        time.sleep(0.1)
    return False, False


def _is(words, name):
    return words.startswith(name) or Path(words.split(" ")[0]).name == name


def _signal(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _wordless(said):
    return [f"raw words {said[-500:]!r}"] if any(word in said for word in WORDLESS) else []


def _not_told(said, folder):
    """Who has a Ray, and is killed, is spoken for."""
    (file,) = folder.rglob("result.json")
    status = json.loads(file.read_text())["status"]
    # It may have been killed while it ended its Ray, after its last word was written.
    told = "exreid: this process was ended" in said and status in ("failed", "completed")
    return [] if told else [f"its death is not told: {status}, {said[-300:]!r}"]


def _left_behind(mark, session):
    end = time.monotonic() + LEFT_S
    while time.monotonic() < end:
        left = marked(mark, session)
        if not left:
            return []
        time.sleep(0.5)
    return [f"left behind: {sorted({words[:60] for words in left.values()})}"]


def _again(arguments, folder, *, ray):
    process = start(arguments, folder, ray=ray)
    try:
        _, said = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        return ["the second run hangs"]
    # It may have been killed after its last word was written.
    over = process.returncode == 2 and "completed" in said
    return [] if process.returncode == 0 or over else [f"the second run failed: {said[-600:]!r}"]


def _compared(scene, folder, wanted):
    try:
        got = scene.result(folder)
    except Exception as error:  # noqa: BLE001 - reported
        return [f"no result: {type(error).__name__} {error}"]
    found = [] if got == wanted else [f"other numbers than a quiet run's: {_first(wanted, got)}"]
    left = [str(file.relative_to(folder)) for file in folder.rglob(".*tmp*")]
    return found + ([f"temporary files stay: {left[:3]}"] if left else [])


def _first(wanted, got):
    """The first place where two trees of plain values differ."""
    if isinstance(wanted, dict) and isinstance(got, dict) and set(wanted) == set(got):
        pairs = [(key, wanted[key], got[key]) for key in wanted]
    elif isinstance(wanted, list | tuple) and len(wanted) == len(got):
        pairs = [(key, *both) for key, both in enumerate(zip(wanted, got, strict=True))]
    else:
        return f"{str(wanted)[:100]} became {str(got)[:100]}"
    key, one, other = next(pair for pair in pairs if pair[1] != pair[2])
    return f"[{key}] {_first(one, other)}"
