"""A finished run's files, read back after a disk or a hand has changed them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exreid.config.probe import ProbeConfig
from exreid.errors import RunError
from exreid.storage.run_files import (
    NUMBER,
    TEXT,
    TRUTH,
    WHOLE,
    damage_named,
    read_run_json,
    read_run_table,
)
from exreid.storage.run_folder import RunFolder, write_table

ROWS = {"query_id": ["a", "b"], "rank": [1, 2], "is_match": [True, None]}


def _written(folder, rows=None, **changed):
    file = folder / "rankings.parquet"
    pq.write_table(pa.table({**(rows or ROWS), **changed}), file)
    return file


def _read(file):
    columns = {"query_id": TEXT, "rank": WHOLE}
    return read_run_table(file, columns, empty={"is_match": TRUTH}, key="query_id")


def test_a_whole_table_comes_back_with_its_columns_as_asked(tmp_path):
    assert _read(_written(tmp_path, rank=[1.0, 2.0])).to_pydict() == ROWS


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"query_id": ["a", None]}, "1 empty cell in its column 'query_id'"),
        ({"query_id": ["a", "a"]}, "the same 'query_id' comes more than once"),
        ({"rank": ["x", "1"]}, "its column 'rank' has string, not int64"),
        ({"rank": [1.5, 2.0]}, "its column 'rank' has double, not int64"),
        ({"is_match": [[1], [2]]}, "its column 'is_match' has list"),
        ({"query_id": pa.array([b"\xff", b"b"])}, "its column 'query_id' has binary"),
    ],
)
def test_a_column_that_cannot_be_right_is_named(tmp_path, changed, said):
    with pytest.raises(RunError, match=r"rankings\.parquet.*" + said):
        _read(_written(tmp_path, **changed))


def test_a_lost_column_is_named(tmp_path):
    rows = {name: cells for name, cells in ROWS.items() if name != "rank"}
    with pytest.raises(RunError, match="has no column 'rank'"):
        _read(_written(tmp_path, rows))


def test_bytes_that_are_no_table_are_named(tmp_path):
    file = _written(tmp_path)
    whole = file.read_bytes()
    for damaged in (b"", whole[:40], whole[:-30] + bytes(30), whole[:-9] + b"\xff" * 9):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=r"rankings\.parquet: (cannot be read|what is in it)"):
            _read(file)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "\ud800"])
def test_a_json_file_that_is_none_is_named(tmp_path, text):
    file = tmp_path / "result.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=r"result\.json"):
        read_run_json(file)


def test_what_the_system_refuses_is_not_called_damage(tmp_path):
    with pytest.raises(PermissionError), damage_named(tmp_path):
        raise PermissionError(13, "Permission denied", "x")
    with pytest.raises(RunError, match="does not fit together"), damage_named(tmp_path):
        raise IndexError("list index out of range")


@pytest.mark.parametrize("place", [0.1, 0.4, 0.7])
def test_a_flipped_bit_in_a_table_is_noticed(tmp_path, place):
    file = tmp_path / "rows.parquet"
    write_table(file, pa.table({"score": np.random.default_rng(0).random(10_000)}))
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match=r"rows\.parquet"):
        read_run_table(file, {"score": NUMBER})


def test_what_a_killed_run_left_half_written_goes_when_the_run_goes_on(tmp_path):
    config = ProbeConfig()
    first = RunFolder(tmp_path, "one", config, "cosine")
    first.fail(KeyboardInterrupt())
    (first.path / ".rankings.parquet.0123abcd.tmp").touch()
    second = RunFolder(tmp_path, "one", config, "cosine")
    assert not [*second.path.glob(".*.tmp*")]
    second.fail(KeyboardInterrupt())
