"""Warnings of Ray's workers, logged by the driver: nobody reads a worker's own log.

They go through the key-value store of the cluster's head, a key for each text: the same warning of
many actors is logged once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.experimental import internal_kv

from exreid.distributed.head_watch import head_is_lost

OURS = logging.getLogger("exreid")
NAMESPACE = "exreid-warnings"
ASK_EVERY_S = 2.0
LAST_WITHIN_S = 10.0
"""Seconds for the last ones at the end of a session: a dead head answers nobody."""


class _ToDriver(logging.StreamHandler):  # type: ignore[type-arg]  # stderr, the worker's own log
    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        content = json.dumps([record.name, record.levelno, record.getMessage()])
        key = f"{_job()} {hashlib.sha256(content.encode()).hexdigest()}"
        with suppress(Exception):  # whatever Ray raises: the work goes on
            internal_kv._internal_kv_put(key, content, overwrite=False, namespace=NAMESPACE)


def hand_warnings_on() -> None:
    """Called in a worker: from now on the driver logs its warnings."""
    if not any(isinstance(handler, _ToDriver) for handler in OURS.handlers):
        handler = _ToDriver()
        handler.setLevel(logging.WARNING)
        OURS.addHandler(handler)


@contextmanager
def workers_warnings_told() -> Iterator[None]:
    """Log what workers hand on during the with-block, within `ASK_EVERY_S`, each text once."""
    job, told, over = _job(), set[bytes](), threading.Event()

    def tell() -> None:
        for key in internal_kv._internal_kv_list(job, namespace=NAMESPACE):
            content = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
            if content is not None and key not in told:
                told.add(key)
                name, level, text = json.loads(content)
                logging.getLogger(name).log(level, "%s", text)

    def watch() -> None:
        with suppress(Exception):  # a head that dies is told by who watches it
            while not over.wait(ASK_EVERY_S):
                tell()
            tell()
            for key in told:
                internal_kv._internal_kv_del(key, namespace=NAMESPACE)

    thread = threading.Thread(target=watch, daemon=True, name="workers-warnings")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(0.0 if head_is_lost() else LAST_WITHIN_S)


def _job() -> str:
    return str(ray.get_runtime_context().get_job_id())
