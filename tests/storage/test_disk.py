"""An error of the operating system names the path that failed, what it is, and the remedy."""

import errno
import os

import pytest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.storage import disk, files
from exreid.storage.disk import places_of, storage_error

PLACES = {"output.root": "/runs", "dataset.root": "/data", "--out": "/else/where/g"}


@pytest.mark.parametrize(
    ("number", "path", "says"),
    [
        (errno.ENOSPC, "/runs/r/result.json", "(output.root): the disk is full"),
        (errno.EDQUOT, "/runs/r/result.json", "another output.root"),
        (errno.EROFS, "/else/where/g/images", "(--out): can only be read, not written"),
        (errno.EACCES, "/data/a.jpg", "/data/a.jpg (dataset.root): permission is missing"),
        (errno.EACCES, "/else/where/.g.lock", "/else/where/.g.lock (--out)"),
        (errno.ENOSPC, "/else/where/.g.1b2c-7.tmp/photos/a.jpg", "a.jpg (--out): the disk is full"),
        (errno.EACCES, "/else", "/else (--out): permission is missing"),
        (errno.ENAMETOOLONG, "/runs/" + "x" * 300, "Set a shorter output.root"),
        (errno.ENOTDIR, "/runs/r", "is a file where a folder is needed. Check output.root"),
        (errno.EMFILE, "/data/a.jpg", "too many files are open. Raise their number"),
        (errno.ESTALE, "/runs/r", "Check that output.root can be reached"),
        (errno.ENOSPC, "/nowhere/named", "Make room there"),
    ],
)
def test_the_path_and_its_role_are_named(number, path, says):
    told = str(storage_error(OSError(number, os.strerror(number), path), PLACES))
    assert says in told
    assert path in told
    assert "\n" not in told


def test_a_copy_that_finds_no_room_names_the_copy():
    copied = OSError(errno.ENOSPC, "full", "/data/a.jpg", None, "/else/where/g/a.jpg")
    assert str(storage_error(copied, PLACES)).startswith("/else/where/g/a.jpg (--out): the disk is")
    missing = OSError(errno.ENOENT, "none", "/data/a.jpg", None, "/else/where/g/a.jpg")
    assert str(storage_error(missing, PLACES)).startswith("/data/a.jpg (dataset.root): there is no")


def test_what_only_another_path_mends_is_the_users():
    assert storage_error(FileNotFoundError(2, "No such file", "/runs/r"), PLACES).by_user
    assert not storage_error(OSError(errno.ENOSPC, "full", "/runs/r"), PLACES).by_user


def test_the_temporary_folder_is_a_place_too(monkeypatch, tmp_path):
    monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: str(tmp_path))
    told = storage_error(OSError(errno.ENOSPC, "full", str(tmp_path / "x")), PLACES)
    assert f"{tmp_path}/x (TMPDIR)" in str(told)

    def none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/nonexistent']")

    monkeypatch.setattr(disk.tempfile, "gettempdir", none)
    with pytest.raises(FileNotFoundError) as error:
        none()
    assert "no such file or folder" in str(storage_error(error.value, PLACES))


@pytest.mark.parametrize(
    "error",
    [
        OSError("[Errno 30] Failed to open local file '/runs/e.parquet'. Detail: [errno 30] Read"),
        OSError(errno.EROFS, "[Errno 30] Failed to open local file '/runs/e.parquet'"),
    ],
)
def test_a_librarys_own_words_are_read(error):
    told = str(storage_error(error, PLACES))
    assert told.startswith("/runs/e.parquet (output.root): can only be read")


def test_errors_that_are_about_no_file_are_left_alone_unless_a_disk_is_full(monkeypatch):
    plain = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    rust = Exception("Error while serializing: I/O error: No space left (os error 28)")
    monkeypatch.setattr(disk, "_free_bytes", lambda path: 2**40)
    assert storage_error(plain, PLACES) is None
    assert storage_error(ValueError("no"), PLACES) is None
    assert "the disk is full" in str(storage_error(rust, PLACES))
    monkeypatch.setattr(disk, "_free_bytes", lambda path: 0 if "runs" in str(path) else 2**40)
    assert str(storage_error(plain, PLACES)).startswith("/runs (output.root): the disk is full")
    # Where nothing was to be written, a full disk explains nothing.
    monkeypatch.setattr(disk, "_free_bytes", lambda path: 0 if "data" in str(path) else 2**40)
    assert storage_error(plain, PLACES) is None


def test_an_error_of_a_worker_is_read_through(tmp_path):
    class OfWorkerError(Exception):
        cause = OSError(errno.ENOSPC, "No space left on device", "/runs/r/x")

    assert "/runs/r/x (output.root): the disk is full" in str(
        storage_error(OfWorkerError(), PLACES)
    )


def test_the_places_of_a_config_are_its_paths():
    more = ["dataset.root=/d", "dataset.metadata_file=m.csv", "output.root=s3://bucket/x"]
    assert places_of(load_config(ProbeConfig, None, [*more, "benchmark.cache=/c"])) == {
        "dataset.root": "/d",
        "dataset.metadata_file": "/d/m.csv",
        "benchmark.cache": "/c",
    }
    places = places_of(load_config(FinetuneConfig, None, ["train.resume_checkpoint=/r.pth"]))
    assert places == {"output.root": ".", "dataset.root": ".", "train.resume_checkpoint": "/r.pth"}


def test_nobody_is_killed_where_a_signal_of_0_would_end_a_process(monkeypatch):
    monkeypatch.setattr(files.os, "kill", lambda process, number: pytest.fail("a signal was sent"))
    monkeypatch.setattr(files.os, "name", "nt")
    assert files._is_running(1)
