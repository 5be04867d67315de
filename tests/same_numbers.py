"""Proof that a change moves no number: each command on fixed data, stored, and compared later.

    python -m tests.same_numbers --store before.json       # on the code as it was
    python -m tests.same_numbers --against before.json     # exit code 1 and a list of what differs
    python -m tests.same_numbers --against before.json --only gallery --keep

Commands are run through the command line alone, and what they print and write is read by the kind
of file, so that nothing here depends on how the package is laid out: floats to the last digit,
tables and tensors value by value, pages and texts line by line, pictures other than plots by their
pixels, and of every other file that it is there. A stored file is for one machine and one set of
installed libraries: another CPU or PyTorch has other last digits.

Not compared, because two runs of the same code differ in it: dates, times, rates and what is
computed from them (`VOLATILE_KEY`, `VOLATILE_TEXT`), lines of waiting (`PASSING`), the checksum of
a gallery's gallery.json, pictures of plots, where a learning curve shows seconds, and a config's
fingerprint, which in a sweep holds the folder. Nor versions, lock files, names of modules in
messages, and the cache, whose files are named by the code's own versions.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
SHOWN = 12
"""Differences of one file that are listed; the others are counted."""

VOLATILE_KEY = re.compile(
    r"(_s|seconds|wait_share|versions|^schema_version|written|exreid|config_fingerprint)$"
)
VOLATILE_TEXT = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?([+-]\d\d:\d\d|Z)?"), "<time>"),
    (re.compile(r"\b[\d,.]+(e[+-]?\d+)? (per (second|minute|hour)|images/s)\b"), "<rate>"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|min|h|seconds?|minutes?|hours?)\b"), "<seconds>"),
    (re.compile(r"<seconds>( <seconds>)+"), "<seconds>"),
    (re.compile(r"\b(\w+[ _]per[ _]s|\w+[ _]wait[ _]share) \d+(\.\d+)?"), r"\1 <times>"),
    (re.compile(r"\bexreid(\.\w+)+:"), "exreid:"),
)

PASSING = re.compile(
    r"\bWaiting for |<rate>, about .* left\.$|: none of .* yet, after <seconds>\.$"
    r"|^At work for <seconds>\.$|^Warning:$"
)
"""Lines that are there on a busy machine and not on another, and their heading."""

PART = re.compile(r"part-\d{20}-[0-9a-f]{8}")
"""Parts of stores are named by their time and writer."""

DATA = "dataset.root=data 'dataset.encounter_cols=[source,encounter]' output.root={here} "
SMALL = f"{DATA} ray.num_actors=0 dataset.image_size=96 benchmark.bootstrap_resamples=50 "
PROBE = f"probe {SMALL} output.run_id=r "
KEYPOINTS = "benchmark.local_top_k=64 benchmark.local_size=128 "
LOCAL = f"{KEYPOINTS} benchmark.method=local_lightglue "
FUSED = f"{KEYPOINTS} benchmark.method=wildfusion benchmark.calibration.pairs=60 "
KNOWN = "benchmark.open_set.queries=60 benchmark.open_set.false_match_rate=0.3 "
FEW = "benchmark.open_set.queries=16 "
OPEN = f"dataset.split_col=split-time_open benchmark.open_set.enabled=true {KNOWN} "
EXPAND = "benchmark.rerank.method=query_expansion benchmark.rerank.power=2 "
RECIPROCAL = "benchmark.rerank.method=k_reciprocal benchmark.rerank.k1=6 "
CASCADE = "benchmark.precision=fast benchmark.candidate_k=20 benchmark.fast.look_least=4 "
GEOMETRY = "benchmark.geometry=fundamental benchmark.local_score=inliers "
ONE_SPLIT = "dataset.query_split_value=train dataset.database_split_value=train "
TEST_VIT = "{type: timm:test_vit, checkpoint: weights.pth}"
TRAIN = f"""{DATA} dataset.image_size=64 model.type=timm:test_vit model.checkpoint=weights.pth
    train.batch_size=16 train.deterministic=true validation.fraction=0.3 ray.num_workers=0 """
FINETUNE = f"finetune {TRAIN} scheduler.epochs=2 output.run_id=r "
OTHER_TRAINING = """loss.type=softmax optimizer.type=sgd optimizer.lr=0.01 train.ema_decay=0.9
    train.sampler=identity_balanced validation.source=identities augment.background=0.5
    augment.horizontal_flip=0.5 train.accumulation_steps=2 optimizer.clip_norm=1 """
SWEEP = "tune.num_samples=2 tune.max_concurrent=1 output.run_id=r "
RATES = "'tune.space={optimizer.lr: {loguniform: [1e-4, 1e-2]}, loss.scale: {choice: [8, 64]}}'"
GRID = "'tune.space={benchmark.rerank.best: {grid: [1, 3]}}' tune.search=grid "
BUILD = f"gallery build --out {{here}}/gallery {SMALL} {OPEN} benchmark.method=cosine "
ASK = "identify more/CzechLynx --gallery {here}/gallery output.root={here} ray.num_actors=0 "


@dataclass(frozen=True)
class Scene:
    """Commands, run one after the other; ``{here}`` is the scene's own folder, beside ``data``."""

    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """Scenes that are run before, since this one reads what they wrote."""


SCENES = {
    "synth": Scene(("synth --out {here}/data --identities 3 --images-per-identity 3 --seed 4",)),
    "validate": Scene(
        (
            f"validate {DATA} ",
            f"validate {DATA} dataset.root=broken",
            f"validate {DATA} dataset.root=broken dataset.on_error=skip",
            f"{PROBE} dataset.root=broken",
            "probe dataset.rot=data",
        )
    ),
    "extract": Scene((f"extract {SMALL} --out {{here}}/vectors.parquet",)),
    "cosine": Scene(
        (
            f"{PROBE} visualization.enabled=true visualization.num_queries=3",
            "metrics {here}/benchmark_runs/r",
            "metrics {here}/benchmark_runs/r --json",
        )
    ),
    "settings": Scene(
        (
            f"""{PROBE} dataset.make_split=time_aware dataset.crop_to_mask=true
            dataset.no_background=true dataset.root=broken dataset.on_error=skip
            benchmark.exclude=encounter benchmark.identity_score=mean_top""",
            f"""probe {SMALL} output.run_id=vit model.type=timm:test_vit
            model.checkpoint=weights.pth model.flip_augmentation=true benchmark.mAP=false""",
            f"""probe {SMALL} output.run_id=strict safety=strict dataset.root=broken
            dataset.on_error=skip""",
        )
    ),
    "expansion": Scene((f"{PROBE} {EXPAND}",)),
    "reciprocal": Scene((f"{PROBE} {RECIPROCAL} benchmark.exclude=encounter",)),
    "leave_one_out": Scene(
        (
            f"{PROBE} {ONE_SPLIT} {EXPAND}",
            f"""probe {SMALL} output.run_id=folds {ONE_SPLIT} {KNOWN} {RECIPROCAL}
            benchmark.open_set.enabled=true benchmark.method=wildfusion
            'benchmark.fusion.local_features=[]'""",
        )
    ),
    "local": Scene(
        (
            f"""{PROBE} {LOCAL} benchmark.candidate_k=6 benchmark.keep_matches=3
            visualization.enabled=true visualization.num_queries=3""",
        )
    ),
    "all_pairs": Scene(
        (f"{PROBE} {LOCAL} {ONE_SPLIT} dataset.root=more benchmark.local_score=confidence",)
    ),
    "fast": Scene((f"{PROBE} {LOCAL} {CASCADE} benchmark.keep_matches=2",)),
    "geometry": Scene((f"{PROBE} {LOCAL} {CASCADE} {GEOMETRY} benchmark.fast.prune_after=5",)),
    "wildfusion": Scene(
        (
            f"""{PROBE} {FUSED} {OPEN} {FEW} benchmark.candidate_k=4 benchmark.keep_matches=2
            'benchmark.fusion.models=[{TEST_VIT}]' benchmark.fusion.weights=learned""",
            "metrics {here}/benchmark_runs/r --json",
        )
    ),
    "adaptive": Scene(
        (
            f"""{PROBE} {FUSED} {OPEN} {FEW} benchmark.candidate_k=8 benchmark.adaptive.enabled=true
            benchmark.adaptive.batch=2 benchmark.adaptive.least=2""",
        )
    ),
    "loaded": Scene(
        (
            f"""{PROBE} {FUSED} benchmark.candidate_k=4 'benchmark.fusion.models=[{TEST_VIT}]'
            benchmark.calibration.load=wildfusion/benchmark_runs/r/fusion.json""",
        ),
        needs=("wildfusion",),
    ),
    "open": Scene((f"{PROBE} {OPEN} benchmark.open_set.rule=balanced",)),
    "over_ray": Scene((f"{PROBE} {LOCAL} benchmark.candidate_k=2 ray.num_actors=1",)),
    "finetune": Scene(
        (
            f"{FINETUNE} train.epochs=2",
            f"{FINETUNE} train.epochs=1 output.run_id=first",
            f"""{FINETUNE} train.epochs=2 output.run_id=resumed
            train.resume_checkpoint={{here}}/results/first/checkpoint-latest-full.pth""",
            f"{FINETUNE} {OTHER_TRAINING} train.epochs=1 output.run_id=other",
        )
    ),
    "tune": Scene((f"tune {TRAIN} {RATES} {SWEEP} train.epochs=2",)),
    "tune_probe": Scene((f"tune {SMALL} tune.run=probe {EXPAND} {GRID} output.run_id=r",)),
    "gallery": Scene(
        (
            BUILD,
            "gallery info {here}/gallery",
            f"{ASK} output.run_id=before --csv {{here}}/before.csv",
            "gallery add {here}/gallery dataset.root=more output.root={here} ray.num_actors=0",
            "gallery info {here}/gallery --json",
            f"{ASK} output.run_id=after --json",
        )
    ),
    "gallery_fused": Scene(
        (
            f"{BUILD} {FUSED} benchmark.candidate_k=3",
            f"{ASK} output.run_id=r benchmark.keep_matches=2 --visits folder --report",
        )
    ),
    "compare": Scene(
        (
            f"probe {SMALL} output.run_id=plain",
            f"probe {SMALL} {EXPAND} output.run_id=expanded",
            """compare {here}/benchmark_runs/plain {here}/benchmark_runs/expanded --group trap_id
            --out {here}/comparison""",
        )
    ),
    "report": Scene(
        (
            "report wildfusion/benchmark_runs/r --out {here}/fused --site trap_id",
            "report local/benchmark_runs/r --compare cosine/benchmark_runs/r --out {here}/local",
        ),
        needs=("wildfusion", "local", "cosine"),
    ),
}


def make_data(work):
    """``data``, ``more`` photographs of its animals, ``broken`` in five ways, and weights."""
    import timm
    import torch

    for name, each, seed in (("data", 8, 5), ("more", 2, 2)):
        words = f"synth --out {name} --identities 10 --images-per-identity {each} --seed {seed}"
        run = _exreid(words, work)
        if run.returncode:
            raise SystemExit(run.stderr)
    for file in work.glob("more/*.csv"):
        file.write_text(file.read_text().replace("synthetic_", "second_"))
    for source in sorted((work / "more").rglob("synthetic_*")):
        source.rename(source.with_name(source.name.replace("synthetic_", "second_")))
    shutil.copytree(work / "data", work / "broken")
    (table,) = (work / "broken").glob("*.csv")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (work / "broken" / rows[3]["path"]).unlink()
    (work / "broken" / rows[7]["path"]).write_bytes(b"no photograph")
    last = {row["split-time_closed"]: row["path"] for row in rows}
    shutil.copy(work / "broken" / last["train"], work / "broken" / last["test"])
    rows[20]["mask"], rows[25]["date"], rows[30]["unique_name"] = "no mask", "no date", ""
    rows.append(rows[40])
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=64).state_dict(), work / "weights.pth")


def _exreid(words, work, scene=""):
    kept = {n: t for n, t in os.environ.items() if not n.startswith(("RAY_", "WANDB", "EXREID"))}
    fixed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    fixed |= {"COLUMNS": "160", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    arguments = [word.replace("{here}", scene) for word in shlex.split(words)]
    return subprocess.run(
        [sys.executable, "-m", "exreid.cli", *arguments],
        env=kept | fixed,
        cwd=work,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def play(name, work):
    """What a scene's commands said and left: text by place, e.g. of a file, a column and a row."""
    seen = {}
    for number, words in enumerate(SCENES[name].commands, 1):
        run = _exreid(words, work, name)
        said = f"command {number} ({words.split()[0]})"
        seen[f"{said} exit code"] = str(run.returncode)
        seen |= _lines(f"{said} output", run.stdout, work)
        seen |= _lines(f"{said} messages", run.stderr, work)
    for file in sorted((work / name).rglob("*")):
        place = PART.sub("part", file.relative_to(work / name).as_posix())
        if file.is_file() and not ({".exreid_cache", ".lock"} & {*file.parts, file.suffix}):
            seen[place] = "there"
            seen |= READERS.get(file.suffix, lambda *_: {})(place, file, work)
    return seen


def _clean(text, work):
    """Without what differs from run to run: the folder, times, durations."""
    text = text.replace(str(work), "<work>").replace(work.name, "<work>")
    for pattern, word in VOLATILE_TEXT:
        text = pattern.sub(word, text)
    return text


def _lines(place, text, work):
    lines = _clean(text, work).splitlines()
    kept = [line for line in lines if line.strip() and not PASSING.search(line)]
    return {f"{place}: line {n}": _short(line) for n, line in enumerate(kept, 1)}


def _short(line):
    return line if len(line) < 500 else f"{line[:400]} ... {_hash(line.encode())}"


def _text(place, file, work):
    return _lines(place, file.read_text(encoding="utf-8"), work)


def _tree(place, value, work):
    """Each leaf of JSON or YAML, by its keys."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not VOLATILE_KEY.search(str(k))}
        parts = [_tree(f"{place}: {key}", part, work) for key, part in kept.items()]
        return {k: v for part in parts for k, v in part.items()} | {
            f"{place}: keys": ", ".join(str(key) for key in value if key != "schema_version")
        }
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        return _tree(place, dict(enumerate(value)), work)
    if isinstance(value, list):
        value = [one for one in value if not PASSING.search(str(one))]
    return {place: _clean(repr(value), work)}


def _json(place, file, work):
    content = json.loads(file.read_text(encoding="utf-8"))
    if file.name == "checksums.json":  # of a gallery: one of its files has the time
        content.pop("gallery.json", None)
    return _tree(place, content, work)


def _yaml(place, file, work):
    import yaml

    return _tree(place, yaml.safe_load(file.read_text(encoding="utf-8")), work)


def _columns(place, columns, work):
    """Each value of a table, by its column and row, without columns of times."""
    kept = {name: values for name, values in columns.items() if not VOLATILE_KEY.search(name)}
    seen = {f"{place}: columns": ", ".join(columns)}
    for name, values in kept.items():
        for row, value in enumerate(values):
            seen[f"{place}: {name}, row {row}"] = _cell(value, work)
    return seen


def _cell(value, work):
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} values {value[:3]} {_hash(repr(value).encode())}"
    return _clean(repr(value), work)


def _hash(content):
    return hashlib.sha256(content).hexdigest()[:10]


def _parquet(place, file, work):
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    types = {f"{place}: {f.name} type": str(f.type) for f in table.schema}
    return types | _columns(place, table.to_pydict(), work)


def _csv(place, file, work):
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    names = rows[0] if rows else []
    return _columns(place, {n: [row[i] for row in rows[1:]] for i, n in enumerate(names)}, work)


def _array(value):
    value = np.ascontiguousarray(value)
    first = value.ravel()[:3].tolist()
    return f"{value.dtype} {value.shape} {first} {_hash(value.tobytes())}"


def _npy(place, file, work):
    return {f"{place}: values": _array(np.load(file))}


def _tensors(place, file, work):
    """A checkpoint: tensors as arrays, all else as it is."""
    import torch

    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        tree = load_file(file)
    else:
        tree = torch.load(file, map_location="cpu", weights_only=True)

    def plain(value):
        if isinstance(value, torch.Tensor):
            return _array(value.numpy())
        if isinstance(value, dict):
            return {str(key): plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    return _tree(place, plain(tree), work)


def _pixels(place, file, work):
    from PIL import Image

    with Image.open(file) as image:
        return {f"{place}: pixels": _array(np.asarray(image))}


READERS = {
    **dict.fromkeys((".html", ".txt", ".js", ".css", ".md"), _text),
    **dict.fromkeys((".pth", ".safetensors"), _tensors),
    **dict.fromkeys((".jpg", ".jpeg", ".webp"), _pixels),
    ".json": _json,
    ".yaml": _yaml,
    ".parquet": _parquet,
    ".csv": _csv,
    ".npy": _npy,
}


def differences(before, now):
    """What differs, by scene and file: how many places, and the first few of them."""
    lines = []
    for scene, seen in now.items():
        old, groups = before.get(scene, {}), {}
        for place in dict.fromkeys((*old, *seen)):
            if old.get(place) != seen.get(place):
                groups.setdefault(place.split(":")[0], []).append(place)
        for group, places in groups.items():
            lines.append(f"{scene}: {group}: {len(places)} differ")
            for place in [group] if group in places else places[:SHOWN]:
                was, got = (str(side.get(place, "(not there)"))[:150] for side in (old, seen))
                lines.append(f"    {place[len(group) :].lstrip(': ') or group}: {was} -> {got}")
    return lines


def main():
    """Exit code 1 where a number, a text or a file is another than before."""
    parser = argparse.ArgumentParser(prog="python -m tests.same_numbers", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--store", type=Path, metavar="FILE.json")
    what.add_argument("--against", type=Path, metavar="FILE.json")
    parser.add_argument("--only", action="append", choices=list(SCENES), help="this scene alone")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all outputs")
    options = parser.parse_args()
    before = json.loads(options.against.read_text()) if options.against else {}
    wanted = options.only or list(SCENES)
    needed = {need for name in wanted for need in SCENES[name].needs}
    work = Path(tempfile.mkdtemp(prefix="exreid-numbers-"))
    now = {}
    try:
        make_data(work)
        for name in SCENES:
            if name in wanted or name in needed:
                began = time.monotonic()
                now[name] = play(name, work)
                _say(f"{name}: {len(now[name])} places in {time.monotonic() - began:.0f} s")
                if options.store:
                    options.store.write_text(json.dumps(now, indent=0))
    finally:
        if options.keep:
            _say(f"kept: {work}")
        else:
            shutil.rmtree(work)
    if options.store:
        return 0
    lines = differences(before, now)
    _say("\n".join(lines) or f"all as before: {', '.join(now)}")
    return 1 if lines else 0


def _say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
