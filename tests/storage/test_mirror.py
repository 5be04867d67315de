"""The local copy of a folder behind a URL, kept level with it."""

import pickle

import fsspec
import numpy as np
import pytest

from exreid.errors import ConfigError, StorageError
from exreid.storage import at_url, mirror
from exreid.storage.array_store import ArrayStore, write_part


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "mirrors"))
    monkeypatch.setattr(at_url, "WAITS_S", ())
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_local_folder_is_itself_and_is_left_alone(tmp_path):
    for root in (str(tmp_path), f"file://{tmp_path}"):
        assert mirror.local_root(root) == tmp_path
    file = tmp_path / "a.txt"
    _write(file, "x")
    assert mirror.url_of(file) is None
    assert mirror.shown(file) == str(file)
    mirror.publish(file)
    mirror.publish_folder(tmp_path)
    mirror.synchronise(tmp_path, "*")
    assert not mirror.fetch(file)
    assert not mirror.exists_at_url(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_the_copys_name_says_what_it_is_a_copy_of(memory, tmp_path):
    root = mirror.local_root("memory://bucket/some runs/")
    assert root.parent == tmp_path / "mirrors"
    assert mirror.url_of(root / "a" / "b.txt") == "memory://bucket/some runs/a/b.txt"
    assert mirror.shown(root) == "memory://bucket/some runs"


@pytest.mark.parametrize("url", ["nosuch://bucket", "memory://" + "long/" * 60])
def test_a_url_that_nothing_opens_is_refused(url):
    with pytest.raises(ConfigError, match=r"output\.root"):
        mirror.local_root(url)


def test_files_go_there_whole_and_come_back(memory):
    root = mirror.local_root("memory://bucket")
    _write(root / "run" / "result.json", "one")
    _write(root / "run" / "part" / "figure.png", "two")
    _write(root / "run" / ".lock", "")
    mirror.publish_folder(root / "run")
    assert sorted(memory.find("/bucket")) == [
        "/bucket/run/part/figure.png",
        "/bucket/run/result.json",
    ]
    (root / "run" / "result.json").unlink()
    assert mirror.exists_at_url(root / "run")
    assert mirror.fetch(root / "run" / "result.json")
    assert (root / "run" / "result.json").read_text() == "one"
    assert not mirror.fetch(root / "run" / "nothing.json")
    assert not (root / "run" / "nothing.json").exists()


def test_only_what_changed_is_published_and_the_result_last(memory, monkeypatch):
    root = mirror.local_root("memory://bucket2")
    for name in ("result.json", "z.parquet", "history.csv", "checkpoint-latest-full.pth"):
        _write(root / name, name)
    seen = []
    publish = mirror.publish
    monkeypatch.setattr(mirror, "publish", lambda file: (seen.append(file.name), publish(file)))
    mirror.publish_folder(root)
    assert seen == ["z.parquet", "checkpoint-latest-full.pth", "history.csv", "result.json"]
    _write(root / "z.parquet", "longer than before")
    mirror.publish_folder(root)
    assert seen[4:] == ["z.parquet"]


def test_of_a_caches_files_the_longer_one_wins_both_ways(memory):
    folder = mirror.local_root("memory://bucket3") / "cache"
    _write(folder / "part-a.pairs", "here is more")
    _write(folder / "part-b.pairs", "short")
    _write(folder / "part-d.npy", "array")
    _write(folder / "part-d.keys", "key")
    memory.pipe("/bucket3/cache/part-a.pairs", b"here")
    memory.pipe("/bucket3/cache/part-b.pairs", b"short, and longer there")
    memory.pipe("/bucket3/cache/part-c.pairs", b"only there")
    mirror.synchronise(folder, "part-*.pairs")
    for name in "abc":
        text = (folder / f"part-{name}.pairs").read_text()
        assert memory.cat(f"/bucket3/cache/part-{name}.pairs").decode() == text
    assert (folder / "part-a.pairs").read_text() == "here is more"
    assert (folder / "part-b.pairs").read_text() == "short, and longer there"
    assert not memory.exists("/bucket3/cache/part-d.keys")
    mirror.synchronise(folder, "part-*.keys", beside=".npy")
    assert memory.cat("/bucket3/cache/part-d.npy") == b"array"


def test_a_storage_that_fails_is_tried_again_and_then_named(memory, monkeypatch):
    root = mirror.local_root("memory://bucket4")
    _write(root / "a.txt", "x")
    failures = []

    def put_file(self, *arguments, **options):
        failures.append(1)
        if len(failures) < 3:
            raise ConnectionResetError("gone for a moment")
        return type(self)._real_put(self, *arguments, **options)

    monkeypatch.setattr(type(memory), "_real_put", type(memory).put_file, raising=False)
    monkeypatch.setattr(type(memory), "put_file", put_file)
    with pytest.raises(StorageError, match=r"memory://bucket4/a\.txt.*gone for a moment"):
        mirror.publish(root / "a.txt")
    monkeypatch.setattr(at_url, "WAITS_S", (0.0, 0.0))
    mirror.publish(root / "a.txt")
    assert len(failures) == 3
    assert memory.cat("/bucket4/a.txt") == b"x"


def test_where_puts_are_not_whole_a_file_gets_its_name_last(memory, monkeypatch):
    monkeypatch.setattr(at_url, "WHOLE_PUTS", frozenset())
    root = mirror.local_root("memory://bucket5")
    _write(root / "deep" / "a.txt", "x")
    moved = []
    move = type(memory).mv
    monkeypatch.setattr(
        type(memory), "mv", lambda self, a, b, **o: (moved.append((a, b)), move(self, a, b, **o))
    )
    mirror.publish(root / "deep" / "a.txt")
    ((temporary, name),) = moved
    assert temporary.startswith(name + ".")
    assert memory.find("/bucket5") == ["/bucket5/deep/a.txt"]


def test_what_a_worker_writes_elsewhere_is_found_and_fetched_when_it_is_read(
    memory, tmp_path, monkeypatch
):
    arrays = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3)
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "worker"))
    write_part(mirror.local_root("memory://bucket6") / "decoded", ["a", "b"], arrays[:2])
    write_part(mirror.local_root("memory://bucket6") / "decoded", ["c", "d"], arrays[2:])
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "driver"))
    folder = mirror.local_root("memory://bucket6") / "decoded"
    store = ArrayStore(folder)
    assert "c" in store
    assert not list(folder.glob("*.npy")), "arrays come when they are asked for"
    assert np.array_equal(store.gather(["d", "c"]), arrays[[3, 2]])
    assert len(list(folder.glob("*.npy"))) == 1
    assert np.array_equal(store.gather(["a"]), arrays[:1])


def test_a_path_that_is_sent_to_another_machine_is_the_one_of_its_own_copy(tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "driver"))
    path = (mirror.local_root("memory://bucket7/deep") / "runs" / "a.txt").with_suffix(".csv")
    sent = pickle.dumps({"folder": path.parent, "file": path, "plain": tmp_path})
    monkeypatch.setenv(mirror.FOLDER_VARIABLE, str(tmp_path / "worker"))
    here = pickle.loads(sent)
    root = mirror.local_root("memory://bucket7/deep")
    assert root.is_relative_to(tmp_path / "worker")
    assert here == {"folder": root / "runs", "file": root / "runs" / "a.csv", "plain": tmp_path}
    assert mirror.url_of(here["file"]) == "memory://bucket7/deep/runs/a.csv"


@pytest.fixture
def cut_off(memory, monkeypatch):
    """A run's folder on a machine that could not publish what it wrote last, in a new process."""
    root = mirror.local_root("memory://bucket8")
    _write(root / "history.csv", "1 epoch")
    _write(root / "result.json", "running")
    mirror.publish_folder(root)
    _write(root / "history.csv", "2 epochs")
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", _refuse)
        with pytest.raises(StorageError):
            mirror.publish_folder(root)
    _write(root / "result.json", "failed, and killed before that was published")
    mirror._published.clear()
    return root


def _refuse(*arguments, **options):
    raise ConnectionResetError("gone")


def test_what_could_not_be_published_is_newer_and_goes_there_next_time(memory, cut_off):
    assert mirror.fetch_folder(cut_off) == 2
    assert (cut_off / "history.csv").read_text() == "2 epochs"
    mirror.publish_folder(cut_off)
    assert memory.cat("/bucket8/history.csv") == b"2 epochs"
    assert memory.cat("/bucket8/result.json").startswith(b"failed")


def test_what_another_machine_wrote_since_is_newer_still(memory, cut_off):
    memory.pipe("/bucket8/result.json", b"running elsewhere")
    mirror.fetch_folder(cut_off)
    assert (cut_off / "history.csv").read_text() == "1 epoch", "a run's files belong together"
    assert (cut_off / "result.json").read_text() == "running elsewhere"
    memory.pipe("/bucket8/history.csv", b"3 epochs")
    mirror.fetch_folder(cut_off, "history.csv")
    assert (cut_off / "history.csv").read_text() == "3 epochs"


def test_a_kill_while_a_file_goes_there_leaves_it_this_machines(memory, cut_off, monkeypatch):
    class Killed(BaseException):
        """Nothing handles it."""

    put_file = type(memory).put_file

    def killed(self, *arguments, **options):
        put_file(self, *arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", killed)
        with pytest.raises(Killed):
            mirror.publish(cut_off / "history.csv")
    _write(cut_off / "history.csv", "3 epochs")
    mirror._published.clear()
    mirror.fetch_folder(cut_off)
    assert (cut_off / "history.csv").read_text() == "3 epochs"
