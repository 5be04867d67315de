"""Starting Ray or attaching to a cluster: each failure is explained, each wait has a limit."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from exreid.distributed.head_watch import exit_failed
from exreid.distributed.sentry import Sentry, answers, children
from exreid.distributed.threads import beside_main
from exreid.errors import ConfigError, NoClusterError

log = logging.getLogger(__name__)

LOCAL = "local"
CHATTER = b"Set ray log level from environment variable"
ANSWER_S = 10.0
"""Seconds within which a head has to answer."""
START_S, ATTACH_S = 300.0, 90.0
"""Seconds that Ray may take to start here, and to attach to a head that answers."""
SHOWN_EVERY_S, LOOK_EVERY_S = 20.0, 1.0
HEAD_STARTS_S = 30.0
"""Seconds after which the head's process, the first that Ray starts, must run."""
WITHOUT = "Without Ray: ray.num_actors=0 (probes), ray.num_workers=0 (training)."


def connect(address: str | None, *, verbose: bool) -> Sentry:
    """Attach to the cluster of ``ray.address`` or else RAY_ADDRESS, or start Ray on this machine;
    returns the sentry that watches over it.

    ConfigError for a malformed address, NoClusterError where Ray does not come up.
    """
    key = "ray.address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if address not in (LOCAL, "auto"):
        _check_address(address, key)
        _check_head(address, key)
    sentry = Sentry()
    try:
        _init(address, verbose=verbose, watching=sentry.watching)
    except BaseException:
        atexit.register(sentry.silence)  # by then the error was printed
        raise
    _take_sigterm_back()
    return sentry


def _take_sigterm_back() -> None:
    """Restore this process's handler of SIGTERM, which Ray's C++ side has replaced."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def raylet_address() -> str | None:
    """HOST:PORT of the raylet of this machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own:
            return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    return None


def _check_address(address: str, key: str) -> None:
    host, _, port = address.rpartition(":")
    remedy = "To run on this machine, set ray.address=local."
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{key}={address}: that is Ray's dashboard, which takes jobs and not programs: "
            f"ray job submit --address {address} --working-dir . -- python jobs/probe.py ... "
            f"{remedy}"
        )
    if "://" in address:
        raise ConfigError(
            f"{key}={address}: Ray Client can neither train nor stream data. On a machine of the "
            "cluster, set it to HOST:PORT of the head (its port is 6379, unless it was chosen); "
            f"from elsewhere, use ray job submit. {remedy}"
        )
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{key}={address}: an address is HOST:PORT of the head (its port is 6379, unless it "
            f"was chosen), auto, or local. {remedy}"
        )


def _check_head(address: str, key: str) -> None:
    """NoClusterError where no head of a cluster answers: Ray itself would try for a quarter of an
    hour, without a message."""
    start_s = time.monotonic()
    while not answers(address):
        if time.monotonic() - start_s > ANSWER_S:
            raise NoClusterError(
                f"{key}={address}: no Ray cluster answers there. Start one with 'ray start --head' "
                "and take the address that it prints, or set ray.address=local to run on this "
                "machine."
            )
        time.sleep(0.5)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
        except grpc.FutureTimeoutError as error:
            raise NoClusterError(
                f"{key}={address}: something answers there, but it is no head of a Ray cluster. "
                "Take the address that 'ray start --head' prints; its port is 6379, unless it was "
                "chosen."
            ) from error


def _init(
    address: str,
    *,
    verbose: bool,
    watching: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    import ray

    # Ray's own loggers print tracebacks of what is raised as well.
    level = logging.INFO if verbose else logging.CRITICAL
    options = {"include_dashboard": False} if address == LOCAL else {}
    if address == LOCAL:
        # After its own 60 s without an answer from what it starts, Ray would end this process, and
        # after 30 s without its raylet give up: on a busy machine that is up a minute later.
        for name in ("gcs_rpc_server_reconnect_timeout_s", "raylet_start_wait_time_s"):
            os.environ.setdefault(f"RAY_{name}", f"{START_S:.0f}")
    limit_s = START_S if address == LOCAL else ATTACH_S
    what = "start on this machine" if address == LOCAL else f"attach to {address}"
    parts, shown_s = _StartedParts(), 0.0

    def look(waited_s: float) -> None:
        nonlocal shown_s
        if address == LOCAL:
            parts.check(waited_s)
        if waited_s - shown_s >= SHOWN_EVERY_S:
            shown_s = waited_s
            words = "Waiting for Ray to %s: %.0f of at most %g s."
            log.warning(words, what, waited_s, limit_s, extra={"passing": True})

    def start() -> None:
        # In the thread: an abandoned start may go on, and start more processes.
        with watching():
            ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)

    try:
        # Outside the thread: an abandoned start must not leave stderr redirected.
        with contextlib.nullcontext() if verbose else without_chatter():
            beside_main(start, limit_s=limit_s, every_s=LOOK_EVERY_S, on_wait=look, stay=True)
    except TimeoutError as error:
        # What is left behind may never return, and Ray would wait for it when this process ends.
        atexit.register(exit_failed)
        raise NoClusterError(
            f"Ray did not {what} within {limit_s:g} s. Is this machine very busy, or out of "
            f"memory? {WITHOUT}"
        ) from error
    except _PartDiedError as error:
        atexit.register(exit_failed)
        raise NoClusterError(
            f"Ray cannot {what}: its process {error} ended while it started. Is memory full? "
            f"{WITHOUT}"
        ) from None
    except ConnectionError as error:
        raise NoClusterError(
            f"Ray cannot {what}: {_first_line(error)} Start a cluster with 'ray start --head', or "
            "leave ray.address unset to run on this machine."
        ) from error
    except Exception as error:  # Ray raises whatever its parts raise
        raise NoClusterError(f"Ray cannot {what}: {_first_line(error)} {_advice(error)}") from error


class _PartDiedError(Exception):
    """The name of a process of Ray's that ended."""


class _StartedParts:
    """The processes of Ray's that this one starts, by name."""

    def __init__(self) -> None:
        self.before = children(os.getpid())
        self.seen: set[str] = set()

    def check(self, waited_s: float) -> None:
        """Raise where one has ended: Ray itself waits for minutes."""
        running = set()
        for pid in children(os.getpid()) - self.before:
            with contextlib.suppress(OSError):
                running.add(Path(f"/proc/{pid}/comm").read_text().strip())
        wanted = self.seen | ({"gcs_server"} if waited_s > HEAD_STARTS_S and self.before else set())
        for name in sorted(wanted - running):
            raise _PartDiedError(name)
        self.seen |= running & {"gcs_server", "raylet"}


@contextmanager
def without_chatter() -> Iterator[None]:
    """Drop lines with `CHATTER` from file descriptor 2 during the block; others pass.

    Ray's C++ side announces its log level there, whatever that level is. What Python writes to a
    terminal goes there directly: a bar is no whole line, and has to know that it is on a terminal.
    """
    kept = os.dup(2)
    out, into = os.pipe()
    with contextlib.ExitStack() as stack:
        if os.isatty(2) and _writes_to(sys.stderr, 2):
            terminal = stack.enter_context(os.fdopen(os.dup(kept), "w", buffering=1))
            stack.enter_context(contextlib.redirect_stderr(terminal))
        os.dup2(into, 2)
        os.close(into)

        def pass_on() -> None:
            with os.fdopen(out, "rb") as lines, os.fdopen(kept, "wb", buffering=0) as stderr:
                for line in lines:
                    if CHATTER not in line:
                        stderr.write(line)

        reader = threading.Thread(target=pass_on, daemon=True, name="pass-on-stderr")
        reader.start()
        try:
            yield
        finally:
            os.dup2(kept, 2)  # which closes the pipe's end; a child that holds it too is read on
            reader.join(timeout=1.0)


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # none, one of a test or a notebook, or closed
        return False


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    # Of these two and of a bare Exception, the text says it all.
    plain = text and (
        isinstance(error, (RuntimeError, ConnectionError)) or type(error) is Exception
    )
    return f"{text}." if plain else f"{type(error).__name__}: {text}."


def _advice(error: BaseException) -> str:
    text = str(error)
    if "AF_UNIX" in text or "socket path" in text.lower() or "unix domain" in text.lower():
        return "Set RAY_TMPDIR to a folder with a short path, such as /tmp."
    if isinstance(error, OSError):
        return f"Ray keeps its files below TMPDIR (or RAY_TMPDIR) and HOME. {WITHOUT}"
    return f"Is this machine very busy, or out of memory? {WITHOUT}"
