"""Arrays by key: what is damaged is noticed, and no file stays open."""

import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from exreid.errors import CacheError
from exreid.storage import mirror
from exreid.storage.array_store import ArrayStore, write_part
from exreid.storage.files import checksum


def _arrays(count, start=0):
    return np.arange(start, start + 6 * count, dtype=np.uint8).reshape(count, 2, 3)


def _damaged(file, how):
    data = bytearray(file.read_bytes())
    if how == "cut":
        del data[-3:]
    elif how == "longer":
        data += b"more"
    elif how == "zeroed":
        data[-6:] = bytes(6)
    elif how == "bit":
        data[-1] ^= 1
    file.write_bytes(data)
    if how == "gone":
        file.unlink()


@pytest.mark.parametrize("how", ["cut", "longer", "zeroed", "bit", "gone"])
@pytest.mark.parametrize("ending", [".npy", ".keys"])
def test_a_damaged_part_is_set_aside_and_said_and_filled_again(tmp_path, how, ending, caplog):
    write_part(tmp_path, ["a", "b"], _arrays(2))
    write_part(tmp_path, ["c"], _arrays(1, 100))
    file = min(tmp_path.glob(f"*{ending}"))
    _damaged(file, how)
    store = ArrayStore(tmp_path)
    store.set_damaged_aside(["a", "b", "c"])
    assert [key in store for key in "abc"] == [False, False, True]
    assert np.array_equal(store.gather(["c"]), _arrays(1, 100))
    if (how, ending) != ("gone", ".keys"):  # nobody can know that there was one
        assert file.stem in caplog.text
    write_part(tmp_path, ["a", "b"], _arrays(2))
    caplog.clear()
    again = ArrayStore(tmp_path)
    again.set_damaged_aside(["a", "b", "c"])
    assert np.array_equal(again.gather(["b", "a"]), _arrays(2)[[1, 0]])
    assert not caplog.text


@pytest.mark.parametrize("how", ["cut", "zeroed", "bit"])
def test_a_damaged_part_is_never_read(tmp_path, how):
    write_part(tmp_path, ["a", "b"], _arrays(2))
    file = next(tmp_path.glob("*.npy"))
    _damaged(file, how)
    with pytest.raises(CacheError, match=file.name):
        ArrayStore(tmp_path).gather(["a"])


def test_a_part_that_is_damaged_after_it_was_found_whole_is_noticed(tmp_path):
    write_part(tmp_path, ["a", "b"], _arrays(2))
    ArrayStore(tmp_path).gather(["a"])
    _damaged(next(tmp_path.glob("*.npy")), "cut")
    with pytest.raises(CacheError):
        ArrayStore(tmp_path).gather(["a"])


def test_a_key_that_stands_in_two_parts_is_found_in_the_whole_one(tmp_path):
    write_part(tmp_path, ["a"], _arrays(1))
    write_part(tmp_path, ["a"], _arrays(1))
    _damaged(min(tmp_path.glob("*.npy")), "bit")
    store = ArrayStore(tmp_path)
    store.set_damaged_aside(["a"])
    assert np.array_equal(store.gather(["a"]), _arrays(1))


def test_parts_of_an_earlier_version_are_checked_by_their_size(tmp_path):
    np.save(tmp_path / "part-00000000000000000001-0123abcd.npy", _arrays(2))
    (tmp_path / "part-00000000000000000001-0123abcd.keys").write_text("a\nb\n")
    assert np.array_equal(ArrayStore(tmp_path).gather(["b"]), _arrays(2)[1:])
    shutil.copytree(tmp_path, tmp_path / "cut")
    _damaged(next((tmp_path / "cut").glob("*.npy")), "cut")
    with pytest.raises(CacheError, match="header says"):
        ArrayStore(tmp_path / "cut").gather(["b"])


def test_open_files_do_not_grow_with_the_parts(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 200
    for i in range(count):
        write_part(tmp_path, [f"k{i}"], _arrays(1, i))
    before = len([*Path("/proc/self/fd").iterdir()])
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, hard))
    try:
        store = ArrayStore(tmp_path)
        found = store.gather([f"k{i}" for i in range(count)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found, np.concatenate([_arrays(1, i) for i in range(count)]))
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 2


def test_a_machine_that_has_read_nothing_yet_reads_a_part_from_the_url(tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "one"))
    folder = mirror.local_root(f"memory://{tmp_path.name}/cache")
    write_part(folder, ["a" * 32], np.arange(4).reshape(1, 4))
    sent = pickle.dumps(ArrayStore(folder))
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "two"))
    assert pickle.loads(sent).gather(["a" * 32]).tolist() == [[0, 1, 2, 3]]


def test_arrays_with_checksums_are_checked_without_the_rest_of_their_part(tmp_path):
    arrays = _arrays(3)
    write_part(tmp_path, ["a", "b", "c"], arrays)
    sums = {key: checksum([array.tobytes()]) for key, array in zip("ab", arrays, strict=False)}
    file = next(tmp_path.glob("*.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # of c
    file.write_bytes(data)
    store = ArrayStore(tmp_path)
    store.check_singly(sums)
    store = pickle.loads(pickle.dumps(store))
    assert np.array_equal(store.gather(["b", "a"]), arrays[[1, 0]])
    with pytest.raises(CacheError, match="entry c"):
        store.gather(["c"])
    data[-7] ^= 1  # of b
    file.write_bytes(data)
    with pytest.raises(CacheError, match="entry b"):
        store.gather(["b"])
    missing = ArrayStore(tmp_path)
    missing.check_singly({"d": "0" * 16})
    with pytest.raises(CacheError, match="entry d"):
        missing.gather(["d"])
