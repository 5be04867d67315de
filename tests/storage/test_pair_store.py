"""What was matched once is found again, and nothing else is."""

import numpy as np
import pytest

from exreid.errors import CacheError
from exreid.records import PairEvidence
from exreid.storage.pair_store import FRAME, PairStore, image_words, pair_words, read_log


def _evidence(count, seed=0):
    random = np.random.default_rng(seed)
    return PairEvidence(
        random.integers(0, 500, count).astype(np.int32),
        random.random(count) * 100,
        random.integers(-1, 50, count).astype(np.int32),
    )


def _words(count, side=""):
    return image_words([f"{side}{i}" for i in range(count)])


def test_words_tell_all_ordered_pairs_apart():
    words = _words(300)
    q, g = (a.ravel() for a in np.mgrid[:300, :300])
    pairs = pair_words(words[q], words[g])
    for half in pairs.T:
        assert len(np.unique(half)) == 90_000
    # Every bit is a fair coin, or the keys are worse than they look.
    bits = np.unpackbits(pairs.view(np.uint8), axis=1).mean(axis=0)
    assert bits.min() > 0.48
    assert bits.max() < 0.52


def test_evidence_comes_back_and_unknown_pairs_are_unknown(tmp_path):
    words, evidence = _words(40), _evidence(40)
    store = PairStore(tmp_path / "pairs")
    store.append(words[:25], PairEvidence(*(getattr(evidence, n)[:25] for n in _NAMES)))
    store.append(words[25:30], PairEvidence(*(getattr(evidence, n)[25:30] for n in _NAMES)))
    again = PairStore(tmp_path / "pairs")
    assert len(again) == 30
    order = np.random.default_rng(1).permutation(40)
    known, found = again.find(words[order])
    assert np.array_equal(known, order < 30)
    for name in _NAMES:
        expected = np.where(order < 30, getattr(evidence, name)[order], 0)
        assert np.array_equal(getattr(found, name), expected)


_NAMES = ("match_count_P", "confidence_sum_P", "inlier_count_P")


def test_half_a_key_is_not_enough(tmp_path):
    words = _words(1)
    PairStore(tmp_path).append(words, _evidence(1))
    other = words.copy()
    other[0, 1] += np.uint64(1)
    known, _ = PairStore(tmp_path).find(other)
    assert not known[0]


@pytest.mark.parametrize("cut", [1, 20, 33])
def test_a_torn_frame_costs_only_itself(tmp_path, cut):
    store, words = PairStore(tmp_path), _words(6)
    store.append(words[:4], _evidence(4))
    store.append(words[4:], _evidence(2))
    (file,) = tmp_path.glob("part-*.pairs")
    file.write_bytes(file.read_bytes()[:-cut])
    assert PairStore(tmp_path).find(words)[0].tolist() == [True] * 4 + [False] * 2


def test_a_flipped_bit_is_noticed(tmp_path):
    store, words = PairStore(tmp_path), _words(4)
    store.append(words, _evidence(4))
    (file,) = tmp_path.glob("part-*.pairs")
    data = bytearray(file.read_bytes())
    data[FRAME.size + 3] ^= 1
    file.write_bytes(data)
    assert len(read_log(file)) == 0


def test_two_processes_add_side_by_side(tmp_path):
    one, two = PairStore(tmp_path), PairStore(tmp_path)
    words = _words(4)
    one.append(words[:2], _evidence(2))
    two.append(words[2:], _evidence(2))
    one.append(words[:2], _evidence(2))
    assert PairStore(tmp_path).find(words)[0].all()
    assert len(list(tmp_path.glob("part-*"))) == 2


def test_a_full_disk_says_what_is_kept(tmp_path, monkeypatch):
    store = PairStore(tmp_path)

    def full(*unused):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(CacheError, match=r"No space left.*is kept"):
        store.append(_words(1), _evidence(1))


def test_a_log_behind_a_url_is_found_by_another_machine(tmp_path, monkeypatch):
    import fsspec

    from exreid.storage import mirror

    memory = fsspec.filesystem("memory")
    words = np.arange(8, dtype=np.uint64).reshape(4, 2)
    evidence = PairEvidence(np.arange(4, dtype=np.int32), np.arange(4.0), np.zeros(4, np.int32))
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "one"))
    store = PairStore(mirror.local_root("memory://pairs") / "stage")
    for row in range(3):
        store.append(
            words[row : row + 1],
            PairEvidence(
                *(
                    column[row : row + 1]
                    for column in (
                        evidence.match_count_P,
                        evidence.confidence_sum_P,
                        evidence.inlier_count_P,
                    )
                )
            ),
        )
        if row < 2:
            store.publish()
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "two"))
    known, found = PairStore(mirror.local_root("memory://pairs") / "stage").find(words)
    assert known.tolist() == [True, True, False, False], "the last was not published"
    assert found.match_count_P[:2].tolist() == [0, 1]
    # The first machine, run again, brings what it could not bring before.
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "one"))
    PairStore(mirror.local_root("memory://pairs") / "stage")
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "three"))
    known, _ = PairStore(mirror.local_root("memory://pairs") / "stage").find(words)
    assert known.tolist() == [True, True, True, False]
    memory.rm("/pairs", recursive=True)


@pytest.mark.parametrize("place", [0, 4, 9, 30])
def test_a_damaged_frame_costs_its_own_pairs_and_is_said(tmp_path, place, caplog):
    words, evidence = _words(6), _evidence(6)
    store = PairStore(tmp_path)
    for start in (0, 2, 4):
        part = PairEvidence(*(getattr(evidence, n)[start : start + 2] for n in _NAMES))
        store.append(words[start : start + 2], part)
    file = next(tmp_path.glob("*.pairs"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3 + place] ^= 8
    file.write_bytes(data)
    known, _ = PairStore(tmp_path).find(words)
    assert known.tolist() == [True, True, False, False, True, True]
    assert file.name in caplog.text
