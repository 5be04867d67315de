"""How Ray is started: failures are explained, waits have an end, nothing stays behind."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import ray

from exreid.config.probe import RayConfig
from exreid.distributed import connect as connecting
from exreid.distributed import sentry, session
from exreid.distributed.session import one_ray, ray_session
from exreid.distributed.threads import beside_main
from exreid.errors import ConfigError, RunError
from tests.processes import until


@pytest.fixture
def no_ray(monkeypatch):
    """As if no Ray ran here yet, and none must be started."""

    def started(**unused):
        raise AssertionError("Ray was started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", started)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:8265", "dashboard.*ray job submit --address http://127.0.0.1:8265"),
        ("https://head.example", "dashboard"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("127.0.0.1", "HOST:PORT"),
        ("head:port", "HOST:PORT"),
        ("head:70000", "HOST:PORT"),
        (":6379", "HOST:PORT"),
    ],
)
def test_what_is_no_address_of_a_head_is_refused(no_ray, monkeypatch, address, words):
    with pytest.raises(ConfigError, match=rf"ray\.address={address}.*{words}.*ray\.address=local"):
        ray_session(RayConfig(address=address)).__enter__()
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address}"):
        ray_session(RayConfig()).__enter__()


def test_where_no_head_answers_is_said_soon(no_ray, monkeypatch):
    monkeypatch.setattr(connecting, "ANSWER_S", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(RunError, match=f"RAY_ADDRESS={address}: no Ray cluster answers"):
            ray_session(RayConfig()).__enter__()
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(RunError, match="no head of a Ray cluster"):
            ray_session(RayConfig(address=f"127.0.0.1:{server.server_port}")).__enter__()
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("one bad value\nand more"), r"ValueError: one bad value\."),
        (RuntimeError("Version mismatch: 2.1 and 2.2\nmore"), "Version mismatch: 2.1 and 2.2"),
        (ConnectionError("nobody there"), "nobody there.*ray start --head"),
        (FileNotFoundError(2, "No such file", "/nonexistent/ray"), "/nonexistent/ray.*TMPDIR"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), "RAY_TMPDIR"),
        (Exception("processes did not come up"), "processes did not come up.*very busy"),
    ],
)
def test_whatever_ray_raises_is_explained(no_ray, monkeypatch, error, words):
    def fail(**unused):
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RunError, match=words) as told:
        ray_session(RayConfig(address="local")).__enter__()
    assert "\n" not in str(told.value)


def test_a_ray_that_does_not_come_up_is_waited_for_aloud_and_not_for_ever(
    no_ray, monkeypatch, caplog
):
    monkeypatch.setattr(ray, "init", lambda **unused: time.sleep(60))
    monkeypatch.setattr(connecting, "START_S", 0.5)
    monkeypatch.setattr(connecting, "SHOWN_EVERY_S", 0.2)
    monkeypatch.setattr(connecting.atexit, "register", lambda work: None)
    with pytest.raises(RunError, match=r"did not start on this machine within 0\.5 s"):
        ray_session(RayConfig()).__enter__()
    assert "Waiting for Ray to start on this machine" in caplog.text


def test_other_threads_keep_their_stderr_while_ray_starts(no_ray, monkeypatch, capfd):
    def start(**unused):
        os.write(2, b"a line of another thread\n[I 1] logging.cc:303: Set ray log level from ")
        os.write(2, b"environment variable RAY_BACKEND_LOG_LEVEL to 3\nand half of ano")
        raise ConnectionError("x")

    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(RunError):
        ray_session(RayConfig()).__enter__()
    os.write(2, b"ther\n")
    assert capfd.readouterr().err == "a line of another thread\nand half of another\n"


def test_a_handler_that_ray_has_put_in_the_place_of_ours_goes_again(monkeypatch):
    ours = signal.signal(signal.SIGTERM, lambda *unused: heard.append("ours"))
    heard = []
    try:
        connecting._take_sigterm_back()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["ours"]
    finally:
        signal.signal(signal.SIGTERM, ours)


def test_workers_of_a_ray_of_our_own_do_not_stand_back_and_it_may_start_slowly(no_ray, monkeypatch):
    names, seen = ("RAY_worker_niceness", "RAY_raylet_start_wait_time_s"), []

    def start(**unused):
        seen.append([os.environ.get(name) for name in names])
        raise ConnectionError("x")

    for name in names:
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(RunError):
        ray_session(RayConfig()).__enter__()
    assert seen == [["0", "300"]]


def test_work_beside_the_main_thread_gives_its_value_and_its_error():
    assert beside_main(lambda: 3) == 3
    assert beside_main(lambda: 4, limit_s=5) == 4
    with pytest.raises(KeyError):
        beside_main(lambda: {}["x"], limit_s=5)
    with pytest.raises(TimeoutError):
        beside_main(lambda: time.sleep(30), limit_s=0.1)


def test_a_wait_that_a_signal_ends_leaves_no_work_behind():
    stop, left = threading.Event(), []

    def end(thread):
        stop.set()
        thread.join(20)
        left.append(thread.is_alive())

    def interrupt(*unused):
        raise KeyboardInterrupt

    def work():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        stop.wait(60)

    before = signal.signal(signal.SIGUSR1, interrupt)  # test processes ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            beside_main(work, on_abandoned=end)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert left == [False]


DRIVER = """
import os, subprocess, sys, time
from pathlib import Path
from exreid.distributed import sentry, session
sentry.ALONE_S = 0.5
null = subprocess.DEVNULL
before = subprocess.Popen(["sleep", "300"], start_new_session=True, stdout=null, stderr=null)
with sentry.noting_death(Path(sys.argv[1])):
    guard = sentry.Sentry()
    with guard.watching():
        # A raylet starts agents and workers; it may be gone before they are.
        script = "sleep 300 > /dev/null & echo $!"
        raylet = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=null)
        print(before.pid, int(raylet.stdout.readline()), flush=True)
        if sys.argv[2] == "starting":
            print("so far", flush=True)
            time.sleep(600)
    if sys.argv[2] == "dismissed":
        guard.dismiss()
    if sys.argv[2] == "silenced":
        guard.silence()
    print("so far", flush=True)
    time.sleep(600)
"""


def _killed(tmp_path, how, *, status="running"):
    """A driver that is killed: what was said, its status, and its child's process."""
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"run_id": "r", "status": status}))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(file), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before, child = map(int, driver.stdout.readline().split())
    assert driver.stdout.readline() == "so far\n"
    time.sleep(1.0)  # the other process is up by then, mostly
    driver.send_signal(signal.SIGKILL)
    try:
        said = driver.communicate(timeout=120)[1]
        assert _runs(before), "it was there before Ray"
    finally:
        os.kill(before, signal.SIGKILL)
    return said, file, child


def _runs(pid):
    return pid in sentry._parents()


def test_who_is_killed_is_spoken_for_and_leaves_nothing_behind(tmp_path):
    said, file, child = _killed(tmp_path, "killed")
    assert "exreid: this process was ended from outside: killed, or memory was full" in said
    assert until(lambda: json.loads(file.read_text())["status"] == "failed")
    written = json.loads(file.read_text())
    assert written["run_id"] == "r"
    assert "What was finished is kept" in written["error"]
    assert until(lambda: not _runs(child))


def test_a_death_while_ray_starts_is_told_too(tmp_path):
    said, file, child = _killed(tmp_path, "starting")
    assert "exreid: this process was ended while Ray started" in said
    assert until(lambda: json.loads(file.read_text())["status"] == "failed")
    assert until(lambda: not _runs(child))


def test_who_has_said_it_himself_is_not_spoken_for(tmp_path):
    said, file, child = _killed(tmp_path, "silenced")
    assert said == ""
    assert until(lambda: json.loads(file.read_text())["status"] == "failed")
    assert until(lambda: not _runs(child))


LOST = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from exreid.distributed import head_watch, sentry
from exreid.errors import ClusterLostError
head = SimpleNamespace(gcs_address="127.0.0.1:1")  # nobody answers there
head_watch.ray = SimpleNamespace(get_runtime_context=lambda: head)
with sentry.noting_death(Path(sys.argv[1])):
    guard = sentry.Sentry()
    with guard.watching():
        pass
    try:
        with head_watch.head_watched(on_told=guard.silence):
            raise RuntimeError("a worker is gone")
    except ClusterLostError as error:
        if sys.argv[2] == "killed first":
            os.kill(os.getpid(), signal.SIGKILL)
        print(error, file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["told", "killed first"])
def test_a_lost_head_is_told_once_by_the_driver_or_else_by_the_sentry(tmp_path, how):
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"run_id": "r", "status": "running"}))
    command = [sys.executable, "-c", LOST, str(file), how]
    driver = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert driver.returncode == (1 if how == "told" else -signal.SIGKILL)
    (line,) = driver.stderr.splitlines()
    assert ("this process was ended from outside" in line) == (how == "killed first")
    assert ("its head is dead" in line) == (how == "told")
    assert until(lambda: json.loads(file.read_text())["status"] == "failed")


def test_a_process_without_its_mark_is_known_by_its_parent_also_when_that_is_gone():
    started = sentry.Started("a mark")
    script = "env -i sleep 300 > /dev/null & echo $!; sleep 300"
    raylet = subprocess.Popen(
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, sentry.MARK: "a mark"},
        start_new_session=True,
    )
    try:
        agent = int(raylet.stdout.readline())
        assert until(lambda: {raylet.pid, agent} <= set(started.running()))
        raylet.kill()
        raylet.wait()
        assert agent in started.running()
        # At its start, before it becomes another program, it still has the mark.
        assert until(lambda: agent not in sentry.Started("a mark").running())
    finally:
        os.killpg(raylet.pid, signal.SIGKILL)
    assert until(lambda: not started.running())


def test_a_finished_run_and_one_that_another_process_took_up_stay_as_they_are(tmp_path):
    from filelock import FileLock

    _, file, child = _killed(tmp_path, "killed", status="completed")
    assert until(lambda: not _runs(child))
    assert json.loads(file.read_text())["status"] == "completed"
    with FileLock(tmp_path / ".lock"):
        _, file, child = _killed(tmp_path, "killed")
        assert until(lambda: not _runs(child))
    assert json.loads(file.read_text())["status"] == "running"


def test_a_lock_that_the_dead_driver_holds_a_moment_longer_is_waited_for(tmp_path):
    from filelock import FileLock

    file = tmp_path / "result.json"
    file.write_text(json.dumps({"run_id": "r", "status": "running"}))
    lock = FileLock(tmp_path / ".lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    assert sentry._note(file, "it was killed")
    assert json.loads(file.read_text())["status"] == "failed"


def test_who_is_sent_away_ends_what_ray_has_left_and_says_nothing(tmp_path):
    said, file, child = _killed(tmp_path, "dismissed")
    assert said == ""
    assert json.loads(file.read_text())["status"] == "running"
    assert until(lambda: not _runs(child))


def test_a_start_that_is_given_up_leaves_stderr_to_say_so(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **options: time.sleep(3))
    monkeypatch.setattr(connecting, "ATTACH_S", 0.3)
    monkeypatch.setattr(connecting.atexit, "register", lambda call: None)
    before = os.fstat(2)
    with pytest.raises(RunError, match=r"did not attach to auto within 0\.3 s"):
        connecting._init("auto", verbose=False)
    assert (os.fstat(2).st_dev, os.fstat(2).st_ino) == (before.st_dev, before.st_ino)


def test_what_an_abandoned_start_still_starts_is_known_by_its_mark(monkeypatch):
    going_on = threading.Event()
    monkeypatch.setattr(ray, "init", lambda **options: going_on.wait(20))
    monkeypatch.setattr(connecting, "ATTACH_S", 0.3)
    monkeypatch.setattr(connecting.atexit, "register", lambda call: None)
    guard = sentry.Sentry()
    try:
        with pytest.raises(RunError):
            connecting._init("auto", verbose=False, watching=guard.watching)
        assert until(lambda: os.environ.get(sentry.MARK) == guard.mark)
        going_on.set()
        assert until(lambda: sentry.MARK not in os.environ)
    finally:
        going_on.set()
        guard.dismiss()


def test_a_process_of_rays_that_dies_while_it_starts_is_named_at_once(tmp_path):
    program = tmp_path / "gcs_server"  # a process is called as its file is
    shutil.copy(shutil.which("sleep"), program)
    early, late = connecting._StartedParts(), connecting._StartedParts()
    head = subprocess.Popen([program, "60"])
    while Path(f"/proc/{head.pid}/comm").read_text().strip() != "gcs_server":
        time.sleep(0.01)
    early.check(1.0)
    head.kill()
    head.wait()
    with pytest.raises(connecting._PartDiedError, match="gcs_server"):
        early.check(2.0)
    late.before |= {1}  # as if there were others
    late.check(2.0)  # not there yet
    with pytest.raises(connecting._PartDiedError, match="gcs_server"):
        late.check(connecting.HEAD_STARTS_S + 1)


def test_without_the_signals_of_linux_ray_is_refused_with_the_way_out(monkeypatch, no_ray):
    monkeypatch.delattr(signal, "SIGUSR2")
    with pytest.raises(RunError, match=r"WSL2.*ray\.num_actors=0"), ray_session(RayConfig()):
        pytest.fail("Ray was started")


WHILE_RAY_STARTS = """
import os, sys
from exreid.distributed.connect import CHATTER, without_chatter
with without_chatter():
    sys.stderr.write("bar on a terminal" if sys.stderr.isatty() else "bar")
    sys.stderr.flush()
    os.write(2, CHATTER + b"\\n")
    os.write(2, b"said by Ray\\n")
sys.stderr.write(" at the end")
"""


def test_while_ray_starts_a_bar_is_on_its_terminal_and_only_rays_chatter_goes():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", WHILE_RAY_STARTS]
    subprocess.run(words, stderr=theirs, env=environment, check=True, timeout=300)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # its end; a part may come later than the process ends
        while part := os.read(ours, 10_000):
            shown += part
    os.close(ours)
    shown = shown.decode()
    assert shown.startswith("bar on a terminal"), shown
    assert shown.split("terminal")[1].strip() == "said by Ray\r\n at the end", shown


@pytest.fixture
def told(monkeypatch):
    """What is started and ended, instead of Ray."""
    told = []

    @contextmanager
    def pretended(config, verbose):
        told.append("start")
        try:
            yield
        except RunError:
            told.append("failure")
            raise
        finally:
            told.append("end")

    monkeypatch.setattr(session, "_session", pretended)
    return told


def test_the_stages_of_a_run_start_ray_once_and_only_if_needed(told):
    with one_ray():
        told.append("first")
        for stage in ("second", "third"):
            with ray_session(RayConfig()), one_ray():
                told.append(stage)
        told.append("fourth")
    assert told == ["first", "start", "second", "third", "fourth", "end"]
    with one_ray():
        pass
    for _ in range(2):
        with ray_session(RayConfig()):
            pass
    assert told[6:] == ["start", "end", "start", "end"]


def test_ray_of_a_run_hears_of_the_failure_of_a_later_stage(told):
    with suppress(RunError), one_ray():
        with ray_session(RayConfig()):
            pass
        raise RunError("a stage without Ray")
    assert told == ["start", "failure", "end"]
    with ray_session(RayConfig()):
        assert told[3:] == ["start"]
