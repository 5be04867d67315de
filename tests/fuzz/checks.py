"""Commands whose results can be added up, and whether they do."""

import csv
import json

from tests.fuzz.outcome import call


def extracted(folder, keys, counted):
    """``exreid extract``, and whether what came out adds up."""
    import pyarrow.parquet as pq

    ended = call("extract", "--out", folder / "e.parquet", *keys)
    if ended.faults or ended.code != 0:
        return ended.faults
    there = pq.read_table(folder / "e.parquet").num_rows
    left_out = lines_of(folder / "e.rejected.csv")
    found = []
    said = " ".join(ended.out.split())
    if not any(f" {left_out:,} {one} left out" in said for one in ("image", "images")):
        found.append(
            f"rejected.csv has {left_out} rows, and the last line says: {ended.out[-90:]!r}"
        )
    if counted is not None and there + left_out != counted:
        found.append(f"accounting: {counted} rows in, {there} vectors, {left_out} left out")
    return found


def identified(world, folder, photos, count, *more, gallery=None):
    """``exreid identify``, and whether every photograph has its line."""
    gallery = gallery or world.folder / "gallery"
    ended = call(
        *("identify", photos, "--gallery", gallery, "--csv", folder / "a.csv"),
        *(f"output.root={folder / 'out'}", *more),
    )
    if ended.faults or not (folder / "a.csv").exists():
        return ended.faults
    lines = lines_of(folder / "a.csv")
    if count is not None and lines != count:
        return [f"accounting: {count} photographs in, {lines} lines of answers"]
    return []


def probe_adds_up(run, ended):
    import pyarrow.parquet as pq

    if ended.code != 0:
        return []
    counts = json.loads((run / "result.json").read_text())["counts"]
    found = []
    if counts["images_left_out"] != lines_of(run / "rejected.csv"):
        found.append("accounting: rejected.csv and images_left_out differ")
    if counts["queries"] != pq.read_table(run / "queries.parquet").num_rows:
        found.append("accounting: queries.parquet and queries differ")
    return found


def lines_of(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return len(list(csv.reader(stream))) - 1


def names_it(ended, *words):
    said = "".join((ended.err + ended.out).split())
    if any(word in said for word in words):
        return []
    return [f"the error names no part: {ended.err[:200]!r}"]


def numbers(run):
    """All ranks and scores of a run, and its metrics."""
    import pyarrow.parquet as pq

    result = json.loads((run / "result.json").read_text())
    table = pq.read_table(run / "rankings.parquet").to_pylist()
    return repr((result["metrics"], result["intervals"], table))  # as text, since NaN is not NaN


def vectors_of(file):
    import numpy as np
    import pyarrow.parquet as pq

    return np.array(pq.read_table(file)["vector"].to_pylist(), np.float32)
