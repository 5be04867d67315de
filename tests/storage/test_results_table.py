"""The table beside the runs: no line is lost and none stands twice, also behind a URL."""

import csv
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from exreid.errors import StorageError
from exreid.storage import mirror, results_table
from exreid.storage.results_table import add_row
from exreid.storage.run_record import RunRecord

ROOT = "memory://table"


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/table", recursive=True)


def _machine(monkeypatch, folder):
    """Be on a machine with copies of its own; its table."""
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(folder))
    return mirror.local_root(ROOT) / "all.csv"


def _record(run_id, status="completed", **counts):
    return RunRecord(
        run_id=run_id,
        status=status,
        method="cosine",
        metrics={"top_1": 0.5},
        counts=counts,
        config_fingerprint="f",
        versions={},
        written="now",
    )


def _folder(memory, run_id, status="completed"):
    memory.pipe(f"/table/{run_id}/result.json", _record(run_id, status).to_json().encode())


def _lines(memory):
    return list(csv.DictReader(memory.cat("/table/all.csv").decode().splitlines()))


def test_a_line_holds_metrics_and_plain_counts():
    row = results_table.row_of(_record("a", images=3, left_out={"decode": 1}))
    assert row == {
        "run_id": "a",
        "method": "cosine",
        "top_1": 0.5,
        "images": 3,
        "config_fingerprint": "f",
    }


def test_runs_of_one_machine_may_end_at_once_and_a_run_has_one_line(tmp_path):
    file = tmp_path / "all.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add_row(file, {"run_id": i, f"only_{i % 3}": i}), range(30)))
    add_row(file, {"run_id": "7", "only_1": "anew"})
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(int(row["run_id"]) for row in rows) == list(range(30))
    for row in rows:
        number = int(row["run_id"])
        assert row[f"only_{number % 3}"] == ("anew" if number == 7 else row["run_id"])


def test_two_machines_that_end_in_one_moment_lose_no_line(memory, tmp_path, monkeypatch):
    """The second one writes the table between the first one's reading and its writing."""
    put, done = mirror.put, []

    def put_late(file):
        if not done:
            done.append(file)
            theirs = _machine(monkeypatch, tmp_path / "second")
            _folder(memory, "second")
            add_row(theirs, results_table.row_of(_record("second")))
            _machine(monkeypatch, tmp_path / "first")
        put(file)

    monkeypatch.setattr(mirror, "put", put_late)
    ours = _machine(monkeypatch, tmp_path / "first")
    _folder(memory, "first")
    add_row(ours, results_table.row_of(_record("first")))
    assert sorted(line["run_id"] for line in _lines(memory)) == ["first", "second"]


def test_a_failure_is_a_warning_and_the_next_run_writes_the_line(
    memory, tmp_path, monkeypatch, caplog
):
    def refuse(file):
        raise StorageError("nobody there")

    file = _machine(monkeypatch, tmp_path)
    _folder(memory, "a")
    with monkeypatch.context() as broken:
        broken.setattr(mirror, "put", refuse)
        add_row(file, results_table.row_of(_record("a")))
    assert "memory://table/all.csv lacks the line of run a" in caplog.text
    for name, status in (("b", "completed"), ("c", "stopped"), ("d", "failed"), ("e", "running")):
        _folder(memory, name, status)
    memory.pipe("/table/other/notes.txt", b"x")
    memory.pipe("/table/half/result.json", b"{")
    add_row(file, results_table.row_of(_record("b")))
    assert [line["run_id"] for line in _lines(memory)] == ["b", "a", "c"]
