"""The cache: what goes in comes out, whole files only, and nothing twice."""

import threading

import numpy as np
import pytest

from exreid.errors import CacheError
from exreid.features.store import FeatureStore, SignatureMemo, is_racy


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


def test_a_damaged_file_is_named_with_the_remedy(tmp_path):
    FeatureStore(tmp_path, {}).append(["a"], _vectors(1))
    file = next(tmp_path.glob("part-*.arrow"))
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(CacheError, match=r"part-.*Delete it"):
        FeatureStore(tmp_path, {})


def test_the_memo_survives_and_the_latest_wins(tmp_path):
    SignatureMemo(tmp_path).remember(["s1", "s2"], ["k1", "k2"])
    SignatureMemo(tmp_path).remember(["s2"], ["k3"])
    memo = SignatureMemo(tmp_path)
    assert (memo.get("s1"), memo.get("s2"), memo.get("s3")) == ("k1", "k3", None)


def test_a_file_changed_just_now_is_not_trusted():
    assert is_racy(modified_s=100.0, read_s=101.0)
    assert not is_racy(modified_s=100.0, read_s=103.0)
