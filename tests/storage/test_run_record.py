"""``result.json``: the published schema is what is written; older, newer and damaged ones."""

import json

import pytest

from exreid.config.probe import ProbeConfig
from exreid.errors import RunError
from exreid.records import Result
from exreid.storage.run_folder import RunFolder
from exreid.storage.run_record import published_schema, read_record
from tests.run_schema import FILE, published_record


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path, "r", ProbeConfig(), "cosine")
    counts = {"queries": 2, "share": 0.5, "rule": "all", "left_out_by_stage": {"mask": 1}}
    folder.finish(Result("cosine", {"top_1": 0.5}, {"top_1": (0.1, 0.9)}, counts))
    return folder.path


def _change(run, **keys):
    written = json.loads((run / "result.json").read_text()) | keys
    kept = {key: value for key, value in written.items() if value is not None}
    (run / "result.json").write_text(json.dumps(kept))


def test_the_published_schema_is_that_of_the_code():
    assert FILE.read_text() == published_schema(), (
        f"{FILE} is not what exreid.storage.run_record.published_schema() gives: write it anew."
    )


def test_what_was_found_is_read_as_it_was_written(run):
    written = published_record(run)
    record = read_record(run)
    assert (record.metrics, record.intervals) == ({"top_1": 0.5}, {"top_1": (0.1, 0.9)})
    assert record.counts == written["counts"]
    assert record.to_json() == (run / "result.json").read_text()
    assert not {"kind", "error"} & set(written)


def test_an_error_that_is_no_text_is_still_written(tmp_path):
    folder = RunFolder(tmp_path, "r", ProbeConfig(), "cosine")
    published_record(folder.path)
    folder.fail(RuntimeError("file \udcff"))
    assert published_record(folder.path)["error"] == r"file \udcff"


def test_a_folder_of_before_the_schema_is_read(run):
    _change(run, schema_version=None, leaks=None, unknown=[1])
    assert read_record(run).schema_version == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"metrics": {"top_1": "high"}}, r"metrics\.top_1"),
        ({"intervals": {"top_1": [0.1]}}, r"intervals\.top_1"),
        ({"counts": {"queries": []}}, r"counts\.queries"),
        ({"status": "well"}, "status"),
        ({"run_id": None}, "run_id"),
    ],
)
def test_what_cannot_be_right_is_named(run, change, said):
    _change(run, **change)
    with pytest.raises(RunError, match=rf"result\.json: {said}.*another version"):
        read_record(run)
