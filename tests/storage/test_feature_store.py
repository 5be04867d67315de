"""The cache: what goes in comes out, whole files only, and nothing twice."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from exreid.storage.feature_store import FeatureStore, SignatureMemo, is_racy
from exreid.storage.files import THIS_MACHINE, temporary_beside, written_whole


def _vectors(count, start=0):
    return np.arange(start, start + count * 5, dtype=np.float32).reshape(count, 5)


def test_vectors_come_back_in_the_order_asked_for_across_files(tmp_path):
    store = FeatureStore(tmp_path, {"stage": "test"})
    store.append(["a", "b"], _vectors(2))
    store.append(["c"], _vectors(1, start=100))
    again = FeatureStore(tmp_path, {"stage": "test"})
    expected = np.concatenate([_vectors(1, 100), _vectors(2)])
    np.testing.assert_array_equal(again.gather(["c", "a", "b"]), expected)
    assert "d" not in again
    assert len(again) == 3


def test_a_known_key_keeps_its_first_vector(tmp_path):
    store = FeatureStore(tmp_path, {})
    store.append(["a"], _vectors(1))
    store.append(["a", "b"], _vectors(2, start=50))
    np.testing.assert_array_equal(store.gather(["a"]), _vectors(1))
    np.testing.assert_array_equal(store.gather(["b"]), _vectors(2, start=50)[1:])


def test_two_runs_may_write_at_once(tmp_path):
    def write(number):
        store = FeatureStore(tmp_path, {})
        for i in range(10):
            store.append([f"{number}-{i}"], _vectors(1, start=1000 * number + i))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = FeatureStore(tmp_path, {})
    assert len(store) == 40
    np.testing.assert_array_equal(store.gather(["3-7"]), _vectors(1, start=3007))


def test_a_half_written_file_is_never_read(tmp_path):
    store = FeatureStore(tmp_path, {})
    store.append(["a"], _vectors(1))
    (tmp_path / ".part-9.arrow.123.tmp").write_bytes(b"half")
    assert len(FeatureStore(tmp_path, {})) == 1


def _cut(data):
    return data[: len(data) // 2]


def _zeroed(data):
    return data[:200] + bytes(len(data) - 200)


def _one_bit(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


DAMAGES = pytest.mark.parametrize("damage", [_cut, _zeroed, _one_bit, lambda data: b""])


@DAMAGES
def test_a_damaged_file_is_set_aside_and_said_and_the_others_are_read(tmp_path, damage, caplog):
    for key in "ab":
        FeatureStore(tmp_path, {}).append([key], _vectors(1))
    file = min(tmp_path.glob("part-*.arrow"))
    file.write_bytes(damage(file.read_bytes()))
    store = FeatureStore(tmp_path, {})
    assert ("a" in store, "b" in store) == (False, True)
    assert file.name in caplog.text
    assert file.with_name(f"{file.name}.damaged").exists()
    store.append(["a"], _vectors(1, start=3))
    caplog.clear()
    np.testing.assert_array_equal(FeatureStore(tmp_path, {}).gather(["a"]), _vectors(1, start=3))
    assert not caplog.text


@DAMAGES
def test_a_damaged_memo_is_set_aside_and_said(tmp_path, damage, caplog):
    SignatureMemo(tmp_path).remember(["s1"], ["k1"])
    file = next(tmp_path.glob("signatures-*.arrow"))
    file.write_bytes(damage(file.read_bytes()))
    assert SignatureMemo(tmp_path).get("s1") is None
    assert file.name in caplog.text


def test_a_half_written_file_goes_once_its_writer_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    own = temporary_beside(tmp_path / "part-1.arrow")
    left = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    other = own.with_name(own.name.replace(f".{THIS_MACHINE}-", ".00000000-"))
    old = other.with_name(other.name.replace("part-1", "part-2"))
    for file in (own, left, other, old):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    FeatureStore(tmp_path, {})
    assert (own.exists(), left.exists(), other.exists(), old.exists()) == (True, False, True, False)


def test_the_memo_survives_and_the_latest_wins(tmp_path):
    SignatureMemo(tmp_path).remember(["s1", "s2"], ["k1", "k2"])
    SignatureMemo(tmp_path).remember(["s2"], ["k3"])
    memo = SignatureMemo(tmp_path)
    assert (memo.get("s1"), memo.get("s2"), memo.get("s3")) == ("k1", "k3", None)


def test_a_file_changed_just_now_is_not_trusted():
    assert is_racy(modified_s=100.0, read_s=101.0)
    assert not is_racy(modified_s=100.0, read_s=103.0)


def test_a_file_that_cannot_be_written_leaves_nothing_and_the_one_before(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")

    def fail_halfway():
        with written_whole(file) as temporary:
            temporary.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail_halfway()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
    with written_whole(file) as temporary:
        temporary.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]
