"""What exreid itself wrote, or others trained: weights, caches, runs, galleries."""

import csv
import json
import math
import os
import shutil
import zipfile

from tests.fuzz import mutation
from tests.fuzz.checks import names_it, numbers, vectors_of
from tests.fuzz.outcome import call
from tests.fuzz.world import LOCAL


def checkpoints(world, rng, folder):
    """Weights: damaged files, other layouts, other dtypes, numbers that are none."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    file, same = folder / "w.pth", None
    state = torch.load(world.weights, weights_only=True)
    match rng.randrange(8):
        case 0 | 1 | 2:
            damage = mutation.damaged_bytes if rng.random() < 0.5 else mutation.mutated_bytes
            file.write_bytes(damage(world.weights.read_bytes(), rng))
            same = True
        case 3:
            file = folder / "w.safetensors"
            save_file(state, file)
            file.write_bytes(mutation.mutated_bytes(file.read_bytes(), rng))
        case 4:
            with zipfile.ZipFile(world.weights) as old, zipfile.ZipFile(file, "w") as new:
                for name in old.namelist():
                    data = old.read(name)
                    if name.endswith("data.pkl"):
                        data = mutation.mutated_bytes(data, rng, 1)
                    new.writestr(name, data)
        case 5:
            key = rng.choice(sorted(state))
            value = state[key]
            state[key] = rng.choice(
                (
                    value * float("nan"),
                    value * float("inf"),
                    value.half(),
                    value.double(),
                    value.int(),
                    value[:1],
                    value.flatten(),
                    "text",
                    None,
                    [1],
                    value.numpy(),
                    value.to_sparse(),
                    3.0,
                )
            )
            torch.save(state, file)
        case 6:
            prefix = rng.choice(
                ("module.", "backbone.", "net.", "encoder.", "trunk.", "0.", "x.y.")
            )
            state = {prefix + key: value for key, value in state.items()}
            if rng.random() < 0.5:
                state["head.weight"] = torch.zeros(4, 64)
            torch.save(state, file)
        case _:
            key = rng.choice(
                ("state_dict", "model", "teacher", "net", "weights", "state_dict_ema", "q")
            )
            tree = {key: state, "epoch": rng.choice(mutation.VALUES[:10]), "lr": np.float64(0.1)}
            tree["rng"] = rng.choice(
                (None, np.random.RandomState(1).get_state(), {"a": torch.zeros(1)})
            )
            torch.save(rng.choice((tree, [tree], {"a": {"b": tree}}, (state, state))), file)
    keys = [*world.keys(folder / "out"), "benchmark.cache=off", f"model.checkpoint={file}"]
    ended = call("extract", "--out", folder / "e.parquet", *keys)
    if ended.faults or ended.code != 0:
        return ended.faults
    vectors = vectors_of(folder / "e.parquet")
    if not np.isfinite(vectors).all():
        return ["silent: vectors that are not finite, exit 0"]
    if same and not np.array_equal(vectors, vectors_of(_plain_vectors(world))):
        return ["silent: other vectors from a damaged weight file, exit 0"]
    return []


def _plain_vectors(world):
    file = world.folder / f"plain-{os.getpid()}.parquet"
    if not file.exists():
        keys = [*world.keys(world.folder / "plain-out"), "benchmark.cache=off"]
        assert call("extract", "--out", file, *keys).code == 0
    return file


def caches(world, rng, folder):
    """One damaged file of a cache: the same numbers, or an error that names the file."""
    name, more = rng.choice((("cosine", []), ("cosine", []), ("local", LOCAL)))
    cache = folder / "out" / ".exreid_cache"
    shutil.copytree(world.cache, cache)
    files = sorted(file for file in cache.rglob("*") if file.is_file())
    wanted = ("local", "pairs") if name == "local" else ("embeddings", "signatures")
    file = rng.choice([f for f in files if f.relative_to(cache).parts[0] in wanted] or files)
    _damage(file, rng)
    arguments = ["probe", *world.keys(folder / "out"), *more]
    for run in ("r", "again"):
        ended = call(*arguments, f"output.run_id={run}")
        if ended.faults:
            return [f"{line} ({file.relative_to(cache).parts[0]})" for line in ended.faults]
        if ended.code != 0:
            return names_it(ended, file.parent.name, "cache")
        if numbers(folder / "out/benchmark_runs" / run) != numbers(world.run(name)):
            return [f"silent: other numbers with a damaged {file.relative_to(cache)}, exit 0"]
    return []


def _damage(file, rng):
    if rng.random() < 0.08:
        file.unlink()
    else:
        file.write_bytes(mutation.damaged_bytes(file.read_bytes(), rng))


def runs(world, rng, folder):
    """A damaged folder of a run, read by metrics, compare and report."""
    name = rng.choice(("cosine", "local", "open", "identify"))
    run = folder / "benchmark_runs" / name
    shutil.copytree(world.run(name), run)
    files = [file for file in sorted(run.iterdir()) if file.is_file() and file.name != ".lock"]
    for file in rng.sample(files, rng.choice((1, 1, 2))):
        _mutate(file, rng)
    other = world.run(rng.choice(("cosine", "local")))
    way = rng.randrange(10)
    if way < 7:
        return call("metrics", run, *(["--json"] if way < 3 else [])).faults
    if way < 9:
        pair = [run, other] if rng.random() < 0.5 else [other, run]
        return call("compare", *pair, "--out", folder / "c", "--json").faults
    return call("report", run, "--workers", 1).faults


def _mutate(file, rng):
    """Damage to the bytes, or to what they say."""
    if not file.exists():
        return
    if file.suffix == ".json" and rng.random() < 0.7:
        tree = mutation.mutated_tree(json.loads(file.read_text()), rng)
        file.write_text(json.dumps(tree))
    elif file.suffix in (".csv", ".yaml") and rng.random() < 0.6:
        text = mutation.mutated_text(file.read_text(encoding="utf-8"), rng)
        file.write_text(text, encoding="utf-8", errors="replace")
    elif file.suffix == ".parquet" and rng.random() < 0.5:
        _mutate_parquet(file, rng)
    else:
        _damage(file, rng)


def _mutate_parquet(file, rng):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    if not table.num_columns:
        return
    place = rng.randrange(table.num_columns)
    name = table.column_names[place]
    match rng.randrange(5):
        case 0:
            table = table.drop([name])
        case 1:
            table = table.slice(rng.randrange(table.num_rows + 1))
        case 2:
            table = table.set_column(place, name, pa.nulls(table.num_rows, table[name].type))
        case 3:
            values = rng.choice((["x"], [-1], [math.nan], [2**40], [True], [[1.0]]))
            table = table.set_column(place, name, pa.array(values * table.num_rows))
        case _:
            table = pa.concat_tables([table, table.slice(0, 1)])
    pq.write_table(table, file)


def galleries(world, rng, folder):
    """A damaged gallery: the same answers, or an error that names the part."""
    kind = rng.choice(("gallery", "gallery", "gallery-local"))
    gallery = folder / "animals.gallery"
    shutil.copytree(world.folder / kind, gallery)
    files = sorted(f for f in gallery.rglob("*") if f.is_file())
    plain = [f for f in files if f.suffix != ".jpg"]
    file = rng.choice(plain if rng.random() < 0.9 else files)
    told = file.suffix == ".json" and rng.random() < 0.5
    if told:
        _mutate(file, rng)
    else:
        _damage(file, rng)
    match rng.randrange(6):
        case 0:
            return call("gallery", "info", gallery, *rng.choice(([], ["--json"]))).faults
        case 1:
            keys = [
                f"dataset.root={world.data}",
                f"output.root={folder / 'out'}",
                "ray.num_actors=0",
            ]
            return call("gallery", "add", gallery, *keys).faults
    ended = _answers(world.new, gallery, folder)
    if ended.faults:
        return [f"{line} ({file.name})" for line in ended.faults]
    if ended.code != 0:
        return names_it(ended, file.name, file.parent.name)
    if not told and _table(folder / "a.csv") != _right_answers(world, kind):
        return [f"silent: other answers with a damaged {file.relative_to(gallery)}, exit 0"]
    return []


def _answers(photos, gallery, folder):
    out = f"output.root={folder / 'out'}"
    return call("identify", photos, "--gallery", gallery, "--csv", folder / "a.csv", out)


def _table(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def _right_answers(world, kind):
    folder = world.folder / f"right-{kind}-{os.getpid()}"
    if not folder.exists():
        folder.mkdir()
        assert _answers(world.new, world.folder / kind, folder).code == 0
    return _table(folder / "a.csv")
